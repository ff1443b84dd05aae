"""Controls: seeded bugs and an unsynced disk, each caught by the scenario that claims to."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tests import zoo
from tests.campaign import scenarios
from tests.campaign.trial import Trial

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TRIES_MAX: Final = 8
AT_ONCE: Final = 3
# What brings a bug out, and the scenario in which it happens.
CLAIMS: Final = {
    "requests": "network",
    "at once": "network",
    "two processes": "pair",
    "restart": "processes",
    "commit error": "errors",
    "crash": "calls",
}


class Control(NamedTuple):
    """Something wrong, how to serve with it, and the scenario that must find it."""

    name: str
    wrong: str
    command: Sequence[str]
    scenario: str


UNSYNCED: Final = Control(
    "synchronous=OFF",
    "COMMIT does not wait for the disk.",
    (sys.executable, "-m", "tests.campaign.unsynced"),
    "power",
)
ALL: Final = (
    UNSYNCED,
    *(
        Control(bug.name, bug.wrong, zoo.command(bug.name), CLAIMS[bug.needs])
        for bug in zoo.ZOO.values()
    ),
)


async def hunt(
    seconds: float, seed: int, say: Callable[[str], None]
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Play every control until it is caught: a table of them, and those that were not caught."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(control: Control) -> dict[str, Any]:
        async with places:
            row = await _hunted(control, seconds, seed)
            say(f"{control.name} in {control.scenario}: trial {row['caught in trial']}")
            return row

    rows = await asyncio.gather(*(one(control) for control in ALL))
    missed = [
        {
            "what": f"the control {row['control']} was not caught by {row['scenario']}",
            "repeat": f"uv run python -m tests.campaign controls --seed {seed} "
            f"--seconds {seconds:g}",
        }
        for row in rows
        if not row["caught in trial"]
    ]
    return list(rows), missed


async def _hunted(control: Control, seconds: float, seed: int) -> dict[str, Any]:
    row: dict[str, Any] = {"control": control.name, "wrong": control.wrong}
    row |= {"scenario": control.scenario, "caught in trial": 0, "by": "nothing"}
    for number in range(1, TRIES_MAX + 1):
        trial = Trial(
            scenarios.BY_NAME[control.scenario],
            "sqlite",
            seed + number - 1,
            seconds,
            command=control.command,
            hunting=True,
        )
        await trial.run()
        # A trial that could not be played to its end has shown nothing by that.
        found = trial.broken[1:] if trial.failed else trial.broken
        if found:
            why = " ".join(found[0].split())
            return row | {"caught in trial": number, "by": why[:120].replace("|", "/")}
    return row

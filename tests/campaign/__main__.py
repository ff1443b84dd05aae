"""``python -m tests.campaign``: break it, as long as you like, and say what broke."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from tests import postgres_server
from tests.bench import machine
from tests.campaign import controls, peers, scenarios
from tests.campaign.report import Report, repeat
from tests.campaign.trial import ENGINES, Trial
from tests.postgres_server import PostgresServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.campaign.trial import Scenario

console = Console(stderr=True)
SECONDS: Final = 10.0
CONTROL_SECONDS: Final = 3.0
OTHERS: Final = ("controls", "peers")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument(
    "names", metavar="[NAME]...", type=click.Choice([*scenarios.BY_NAME, *OTHERS]), nargs=-1
)
@click.option(
    "--minutes", type=click.FloatRange(0), help="Go on for so long; once round unless given."
)
@click.option("--seconds", type=click.FloatRange(0.5), default=SECONDS, show_default=True,
              help="Of load in each trial.")  # fmt: skip
@click.option("--seed", type=int, help="Of the first trial of each scenario; drawn unless given.")
@click.option(
    "--without",
    multiple=True,
    type=click.Choice([*scenarios.BY_NAME, *OTHERS]),
    help="Leave this out; may be given again.",
)
@click.option("--engine", type=click.Choice([*ENGINES, "both"]), default="both", show_default=True)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("campaign-results"),
    show_default=True,
    help="Where campaign.md and campaign.json go.",
)
def main(
    *,
    names: tuple[str, ...],
    minutes: float | None,
    seconds: float,
    seed: int | None,
    without: tuple[str, ...],
    engine: str,
    output: Path,
) -> None:
    """Load ledgers while everything fails, and hold each against its clients' own logs.

    NAME is a scenario, "controls" (seeded bugs that must be caught) or "peers" (the benchmark's
    contestants, whose violations are counted and not judged). All unless some are named.
    A seed repeats the schedule of a trial; what the threads make of it differs a little.
    Exit status: 0 nothing broke and every control was caught, 3 otherwise.
    """
    if lacking := machine.missing(("strace",)):
        console.print(lacking[0])
        sys.exit(2)
    for name in [name for name in os.environ if name.startswith("TELLER_")]:
        del os.environ[name]
    names = tuple(name for name in names or (*OTHERS, *scenarios.BY_NAME) if name not in without)
    chosen = [scenarios.BY_NAME[name] for name in names if name not in OTHERS]
    engines = ENGINES if engine == "both" else (engine,)
    first = seed if seed is not None else random.SystemRandom().randrange(10**6)
    with tempfile.TemporaryDirectory() as folder:
        report = Report({**machine.facts(Path(folder)), "first seed": first})
    with ExitStack() as stack:
        postgres = _postgres(stack) if "postgresql" in engines else None
        say = stack.enter_context(_progress(minutes))
        began_s = time.monotonic()
        end_s = None if minutes is None else began_s + minutes * 60
        if "controls" in names:
            rows, missed = asyncio.run(controls.hunt(min(seconds, CONTROL_SECONDS), first, say))
            report.tables["controls"], report.violations = rows, missed
        if "peers" in names and find_spec("idemkit") is None:
            report.skipped["peers"] = "uv run --group bench python -m tests.campaign peers"
        elif "peers" in names:
            report.tables["peers"] = peers.tried(seconds, first, say)
        for scenario, on, number in _plan(chosen, engines, first):
            if (number > first) if end_s is None else (time.monotonic() >= end_s):
                break
            say(f"{scenario.name} on {on}, seed {number}")
            trial = Trial(scenario, on, number, seconds, postgres=postgres)
            asyncio.run(trial.run())
            report.add(trial)
            for why in trial.broken:
                console.print(f"BROKEN: {why}\n  {repeat(trial)}", highlight=False, markup=False)
        report.facts["minutes"] = round((time.monotonic() - began_s) / 60, 1)
    click.echo(report.write(output))
    sys.exit(0 if report.holds() else 3)


def _plan(
    chosen: list[Scenario], engines: tuple[str, ...], first: int
) -> Iterator[tuple[Scenario, str, int]]:
    """Each scenario on each of its engines, again and again, the seed one higher each time."""
    seed = first
    while chosen:
        for scenario in chosen:
            for engine in engines:
                if engine in scenario.engines:
                    yield scenario, engine, seed
        seed += 1


def _postgres(stack: ExitStack) -> PostgresServer:
    binaries, data = stack.enter_context(postgres_server.binaries())
    server = PostgresServer(binaries, data / "campaign")
    server.make()
    server.start()
    stack.callback(server.stop)
    return server


@contextmanager
def _progress(minutes: float | None) -> Iterator[Callable[[str], None]]:
    """Say what is at work: in a bar on a terminal, else in lines."""
    began_s = time.monotonic()
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("starting", total=None if minutes is None else minutes * 60)

        def say(said: str) -> None:
            passed_s = time.monotonic() - began_s
            progress.update(task, description=said, completed=passed_s)
            if not console.is_terminal:
                console.print(f"{passed_s:7.1f} s  {said}", highlight=False)

        yield say


if __name__ == "__main__":
    main()

"""``python -m tests.delivery``: act out the releases and their accidents, write what was seen."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import pytest
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.delivery import backup, expand, identity, plots, releases, report, retries
from tests.delivery.found import Found, Place, UnexpectedError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

SCENARIOS: Final[dict[str, Callable[[Place], Coroutine[Any, Any, Found]]]] = {
    **{build: functools.partial(releases.release, build) for build in releases.EXPECTED},
    "expand": expand.expand,
    "retries": retries.retries,
    "identity": identity.identity,
    "backup": backup.sqlite,
    "backup-postgresql": backup.postgresql,
}
# Those that every change must pass.
QUICK: Final = ("good", "errors", "compares-otherwise", "retries", "identity", "backup")
HERE: Final = Path(__file__).parent
README: Final = HERE.parents[1] / "chart" / "README.md"

console = Console(stderr=True)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", metavar="[SCENARIO]...", type=click.Choice(list(SCENARIOS)), nargs=-1)
@click.option(
    "--publish", is_flag=True, help="Write into tests/delivery/results and the chart's README."
)
@click.option("--quick", is_flag=True, help=f"Only {', '.join(QUICK)}.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("delivery-results"),
    show_default=True,
    help="Where the results go; scenarios not run keep what is there.",
)
def main(*, names: tuple[str, ...], quick: bool, publish: bool, output: Path) -> None:
    """Release Teller as the chart would, with real parts; all scenarios unless some are named.

    Exit status: 0 each ended as it must, 1 one did not, 2 a part is missing.
    """
    # Whatever was started ends with this.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    output = HERE / "results" if publish else output
    chosen = names or (QUICK if quick else tuple(SCENARIOS))
    found: dict[str, Found] = {}
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task("starting", total=len(chosen))

        def say(said: str) -> None:
            progress.update(task, description=said)
            if not console.is_terminal:
                console.print(said, highlight=False)

        for name in chosen:
            try:
                found[name] = _run(name, say)
            except (pytest.skip.Exception, pytest.fail.Exception) as lacking:
                console.print(str(lacking), highlight=False)
                sys.exit(2)
            progress.advance(task)
    facts = {"date": time.strftime("%Y-%m-%d"), "processors": os.cpu_count()}
    results = report.merged(output / "results.json", facts, found)
    click.echo(report.write(output, results, list(SCENARIOS)))
    plots.draw(output, results)
    if publish:
        README.write_text(report.into(README.read_text(), results, list(SCENARIOS)))
    wrong = [name for name, one in found.items() if one.problem]
    # One line that says how many scenarios were run.
    click.echo(f"{len(found) - len(wrong)} passed, {len(wrong)} failed")
    sys.exit(1 if wrong else 0)


def _run(name: str, say: Callable[[str], None]) -> Found:
    with tempfile.TemporaryDirectory(prefix="teller-delivery-") as folder:
        try:
            return asyncio.run(SCENARIOS[name](Place(Path(folder), say)))
        except UnexpectedError as error:
            say(f"{name}: {error}")
            error.found.problem = str(error)
            return error.found


main()

"""``python -m tests.bench``: start every contestant, load them in turn, write what was seen."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.bench import (
    durability,
    machine,
    overload,
    pair,
    plots,
    postgres,
    report,
    soak,
    throughput,
    trial,
    variants,
)
from tests.bench.audit import WrongLedgerError
from tests.bench.targets import Plan
from tests.bench.wrk import WrongAnswersError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.targets import Found

BENCHES: Final[dict[str, Callable[[Plan], Found]]] = {
    "throughput": throughput.compared,
    "trial": trial.compared,
    "durability": durability.compared,
    "telemetry": variants.telemetry,
    "large-ledger": variants.large_ledger,
    "hot-account": variants.hot_account,
    "replays": variants.replays,
    "overload": overload.measure,
    "memory": soak.memory,
    "two-processes": pair.compared,
    "start": soak.start,
    "postgres": postgres.compared,
}

console = Console(stderr=True)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", metavar="[BENCH]...", type=click.Choice(list(BENCHES)), nargs=-1)
@click.option("--quick", is_flag=True, help="Two minutes: one short round of everything.")
@click.option("--rounds", type=click.IntRange(1, 100), default=5, show_default=True)
@click.option("--seconds", type=click.IntRange(1, 600), default=4, show_default=True)
@click.option(
    "--accounts",
    type=click.IntRange(1_000),
    default=1_000_000,
    show_default=True,
    help="Of the large ledger, with ten movements each.",
)
@click.option(
    "--ledgers",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep the large ledgers here, and take them from here in the next run.",
)
@click.option("--soak", "soak_s", type=click.IntRange(1), default=120, show_default=True)
@click.option(
    "--kills",
    type=click.IntRange(1, 100),
    default=3,
    show_default=True,
    help="Of each contestant in its exactly-once trial.",
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("bench-results"),
    show_default=True,
    help="Where the results go; benches not run keep what is there.",
)
def main(
    *,
    names: tuple[str, ...],
    quick: bool,
    rounds: int,
    seconds: int,
    accounts: int,
    ledgers: Path | None,
    soak_s: int,
    kills: int,
    output: Path,
) -> None:
    """Measure Teller beside its peers; all benches unless some are named."""
    lacking = machine.missing()
    for line in lacking:
        console.print(line)
    if lacking:
        sys.exit(2)
    chosen = names or tuple(BENCHES)
    if quick:
        rounds, seconds, accounts, soak_s, kills = 1, 1, 2_000, 4, 1
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

        plan = Plan(
            rounds=rounds,
            seconds=seconds,
            connections=(1, 64) if quick else (1, 64, 256),
            accounts=accounts,
            ledgers=ledgers,
            soak_s=soak_s,
            kills=kills,
            say=say,
        )
        for name in chosen:
            try:
                found[name] = BENCHES[name](plan)
            except (WrongAnswersError, WrongLedgerError) as error:
                console.print(f"[bold]{name}: wrong answers.[/] {error}")
                sys.exit(1)
            progress.advance(task)
    with tempfile.TemporaryDirectory() as folder:
        facts = machine.facts(Path(folder))
    facts |= {"rounds": rounds, "seconds": seconds, "quick": quick}
    results = report.merged(output / "results.json", facts, found)
    click.echo(report.write(output, results))
    plots.draw(output, results)


main()

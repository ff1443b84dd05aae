"""``python -m tests.bench``: start every contestant, load them in turn, write what was seen."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tests.bench import contestants, machine, throughput

console = Console(stderr=True)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="Two minutes: one short round of everything.")
@click.option("--rounds", type=click.IntRange(1, 100), default=5, show_default=True)
@click.option("--seconds", type=click.IntRange(1, 600), default=5, show_default=True)
@click.option("--connections", "-c", type=int, multiple=True, default=(1, 64, 256))
@click.option("--only", multiple=True, help="Only these contestants.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("bench-results"),
    show_default=True,
)
def main(
    *,
    quick: bool,
    rounds: int,
    seconds: int,
    connections: tuple[int, ...],
    only: tuple[str, ...],
    output: Path,
) -> None:
    """Measure Teller beside its peers."""
    for line in (lacking := machine.missing(("wrk", "taskset"))):
        console.print(line)
    if lacking:
        sys.exit(2)
    if quick:
        rounds, seconds = 1, 2
    chosen = [one for one in contestants.MAIN if not only or one.name in only]
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    ) as progress:
        task = progress.add_task("throughput", total=rounds * len(chosen) * len(connections))

        def advance(said: str) -> None:
            progress.update(task, advance=1, description=said)
            if not console.is_terminal:
                console.print(said)

        table = throughput.measure(
            chosen, connections=connections, rounds=rounds, seconds=seconds, advance=advance
        )
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        found = {"machine": machine.facts(Path(folder)), "throughput": table.as_json()}
    (output / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    lines = ["| contestant | " + " | ".join(f"c={c}" for c in connections) + " |"]
    lines.append("|---" * (len(connections) + 1) + "|")
    for one in chosen:
        cells = []
        for c in connections:
            p99 = table.percentile_ms(one.name, c, "99")
            cpu = table.median_cpu_us(one.name, c)
            cells.append(f"{table.per_s(one.name, c):,.0f}/s, {cpu:.0f} us, p99 {p99:.1f} ms")
        lines.append(f"| {one.title} | " + " | ".join(cells) + " |")
    (output / "results.md").write_text("\n".join(lines) + "\n")
    click.echo("\n".join(lines))


main()

"""``python -m tests.bench.publish``: the committed results into README.md and NOTES.md.

Each has a place for them between two comments; the same results give the same text.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any, Final

from tests.bench import report, verdict

ROOT: Final = Path(__file__).parents[2]
RESULTS: Final = Path(__file__).parent / "results"
BEGIN: Final = "<!-- bench: python -m tests.bench.publish writes from here -->"
END: Final = "<!-- bench: to here -->"
CONNECTIONS: Final = 64


def published(document: str, text: str) -> str:
    """The document with that text in its place.

    Raises:
        ValueError: the document has no such place, or more than one.
    """
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in after:
        raise ValueError(f"The document needs one place between {BEGIN!r} and {END!r}.")
    return f"{before}{BEGIN}\n{text.strip()}\n{END}{after}"


def short(results: dict[str, Any]) -> str:
    """README's table: each contestant at 64 connections, and what its trial found."""
    benches = results["benches"]
    rows = {
        row["contestant"]: row
        for row in benches["throughput"]["data"]["table"]
        if row["connections"] == CONNECTIONS
    }
    trials = verdict.total(benches["trial"]["data"]["trials"])
    lines = [
        "| | deposits/s | p99 | on disk before the answer | keys that went wrong |",
        "|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        contestant = report.CONTESTANTS[name]
        keys, wrong, _ = trials.get(name, (0, 0, ""))
        faults = f"{wrong} of {keys:,}" if keys else ""
        lines.append(
            f"| {contestant.title} | {statistics.median(row['per_s']):,.0f} "
            f"| {row['percentiles_ms']['99']:.0f} ms | {'yes' if contestant.durable else 'no'} "
            f"| {faults} |"
        )
    return "\n".join(lines)


def whole(results: dict[str, Any]) -> str:
    """Every table, and the machine that each bench ran on."""
    runs: dict[str, list[str]] = {}
    for name, bench in results["benches"].items():
        facts = bench["machine"]
        run = (
            f"{facts['rounds']} rounds of {facts['seconds']} s, {facts['cores']} cores, "
            f"{facts['system']}, Python {facts['python']}, SQLite {facts['sqlite']}, load "
            f"average {facts['load_average_1m']:g} at the end"
        )
        runs.setdefault(run, []).append(name)
    said = "\n".join(f"- {', '.join(names)}: {run}." for run, names in runs.items())
    return f"{said}\n\n{report.tables(results)}"


def main() -> None:
    results = json.loads((RESULTS / "results.json").read_text())
    for name, text in (("README.md", short(results)), ("NOTES.md", whole(results))):
        path = ROOT / name
        path.write_text(published(path.read_text(), text))


if __name__ == "__main__":
    main()

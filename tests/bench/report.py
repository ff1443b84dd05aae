"""The results as JSON, as a Markdown table, and as plots."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from tests.bench import verdict
from tests.bench.contestants import ALL
from tests.bench.targets import TARGETS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.bench.targets import Found

SIDES: Final = ("telemetry", "large-ledger")
CONTESTANTS: Final = {one.name: one for one in ALL}
TITLES: Final = {one.name: one.title for one in ALL}


def merged(path: Path, facts: dict[str, Any], found: dict[str, Found]) -> dict[str, Any]:
    """This run's results laid over those already in the file, bench by bench."""
    results = json.loads(path.read_text()) if path.exists() else {"benches": {}}
    for name, one in found.items():
        results["benches"][name] = {
            "machine": facts,
            "measured": [asdict(measured) for measured in one.measured],
            "data": one.data,
        }
    return results


def table(results: dict[str, Any]) -> str:
    """Every target with its measured value beside the first and the final aim."""
    lines = [
        "| # | what | measured | of rounds | first | goal | reached | beside |",
        "|---|---|---|---|---|---|---|---|",
    ]
    values = {
        one["target"]: one for bench in results["benches"].values() for one in bench["measured"]
    }
    for name, target in TARGETS.items():
        sign = "≥" if target.at_least else "≤"
        aims = f"{sign} {target.first:g}{target.unit} | {sign} {target.goal:g}{target.unit}"
        one = values.get(name)
        if one is None:
            lines.append(f"| {name} | {target.what} | not run | | {aims} | | |")
            continue
        low, high = one["spread"]
        lines.append(
            f"| {name} | {target.what} | **{one['value']:.2f}**{target.unit} | "
            f"{low:.2f} to {high:.2f} | {aims} | {target.reached(one['value'])} | {one['note']} |"
        )
    return "\n".join(lines) + "\n"


def contestants(results: dict[str, Any]) -> str:
    """Each contestant's speed beside its durability and its faults; nothing where not run."""
    benches = results["benches"]
    rows = benches.get("throughput", {}).get("data", {}).get("table", [])
    trials = verdict.total(benches.get("trial", {}).get("data", {}).get("trials", {}))
    syncs = benches.get("durability", {}).get("data", {}).get("syncs", {})
    many = sorted({row["connections"] for row in rows})
    by_place = {(row["contestant"], row["connections"]): row for row in rows}
    if not rows and not trials and not syncs:
        return ""
    heads = [f"{one} connection{'s' * (one > 1)}" for one in many]
    heads += ["syncs an answer: before, after", "exactly-once violations"]
    lines = ["| contestant | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for name, title in TITLES.items():
        if not (
            {name} & (trials.keys() | syncs.keys()) or any((name, c) in by_place for c in many)
        ):
            continue
        cells = [_speed(by_place.get((name, connections))) for connections in many]
        cells.append(_syncs(syncs.get(name)))
        keys, wrong, words = trials.get(name, (0, 0, ""))
        cells.append(f"{wrong} of {keys} keys" + (f": {words}" if words else "") if keys else "–")
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def sides(results: dict[str, Any], bench: str) -> str:
    """The sides of a bench that compares Teller with itself: speed and cost of each."""
    data = results["benches"].get(bench, {}).get("data", {})
    if "cpu_us" not in data:
        return ""
    last_per_s, last_us = (list(data[what].values())[-1] for what in ("per_s", "cpu_us"))
    lines = [f"| {bench} | deposits/s | ÷ last | processor time | above last |", "|---" * 5 + "|"]
    for name, per_s in data["per_s"].items():
        cpu_us = statistics.median(data["cpu_us"][name])
        ratios = [one / two for one, two in zip(per_s, last_per_s, strict=True)]
        lines.append(
            f"| {name} | {statistics.median(per_s):,.0f} | {statistics.median(ratios):.2f} | "
            f"{cpu_us:.0f} µs | {cpu_us - statistics.median(last_us):+.0f} µs |"
        )
    return "\n".join(lines) + "\n"


def _speed(row: dict[str, Any] | None) -> str:
    if row is None:
        return "–"
    per_s, cpu_us = statistics.median(row["per_s"]), statistics.median(row["cpu_us"])
    return f"{per_s:,.0f}/s, {cpu_us:.0f} µs, p99 {row['percentiles_ms']['99']:.1f} ms"


def _syncs(one: dict[str, Any] | None) -> str:
    if one is None:
        return "–"
    return f"{one['before'] / one['answers']:.1f}, {one['after'] / one['answers']:.1f}"


def tables(results: dict[str, Any]) -> str:
    """Every table there is something for."""
    parts = (table(results), contestants(results), *(sides(results, one) for one in SIDES))
    return "\n".join(part for part in parts if part)


def write(folder: Path, results: dict[str, Any]) -> str:
    """Write results.json and results.md; returns the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    text = tables(results)
    (folder / "results.md").write_text(text)
    return text

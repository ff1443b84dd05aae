"""The results as JSON, as a Markdown table, and as plots."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from tests.bench.contestants import ALL
from tests.bench.targets import TARGETS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.bench.targets import Found

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
    """Requests a second and p99 of each contestant; nothing where that bench was not run."""
    rows = results["benches"].get("throughput", {}).get("data", {}).get("table", [])
    many = sorted({row["connections"] for row in rows})
    if not rows:
        return ""
    lines = ["| contestant | " + " | ".join(f"{one} connections" for one in many) + " |"]
    lines.append("|---" * (len(many) + 1) + "|")
    for name in dict.fromkeys(row["contestant"] for row in rows):
        cells = []
        for row in sorted(
            (row for row in rows if row["contestant"] == name), key=lambda row: row["connections"]
        ):
            per_s = sorted(row["per_s"])[len(row["per_s"]) // 2]
            cpu_us = sorted(row["cpu_us"])[len(row["cpu_us"]) // 2]
            p99_ms = row["percentiles_ms"]["99"]
            cells.append(f"{per_s:,.0f}/s, {cpu_us:.0f} µs, p99 {p99_ms:.1f} ms")
        lines.append(f"| {TITLES[name]} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def write(folder: Path, results: dict[str, Any]) -> str:
    """Write results.json and results.md; returns the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    text = table(results) + "\n" + contestants(results)
    (folder / "results.md").write_text(text)
    return text

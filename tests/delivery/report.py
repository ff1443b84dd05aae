"""The report: JSON, a Markdown table, and what is real in it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from tests.delivery import plots

if TYPE_CHECKING:
    from pathlib import Path

    from tests.delivery.found import Found

REAL: Final = """\
Real here: helm and the chart, Envoy (the gateway, a proxy in each pod), Prometheus, Litestream,
PostgreSQL, the smoke Job's script, and Teller, two processes on one file. Standing in:

- for Argo Rollouts' controller, `rollout.py` and `analysis.py`, which act out the rendered steps
  and judge by the rendered queries and conditions: an abort is their verdict;
- for istiod, `mesh.py`, which writes Envoy's configuration from the rendered objects, but for
  mutual TLS;
- for Istio's telemetry, Envoy's own counters under Istio's names;
- for Kubernetes, addresses of the loopback as pods, and a file as discovery.

The real ones run on a cluster: the workflow's end-to-end job on kind.
"""
_COLUMNS: Final = (
    "scenario",
    "steps reached, %",
    "requests",
    "resent by clients",
    "retried by Envoy",
    "replays",
    "violations",
    "caught by",
)


def merged(path: Path, facts: dict[str, Any], found: dict[str, Found]) -> dict[str, Any]:
    """This run's scenarios laid over those already in the file."""
    results = json.loads(path.read_text()) if path.exists() else {"scenarios": {}}
    for name, one in found.items():
        said = asdict(one)
        if name not in plots.SHOWN:
            said["data"].pop("series", None)
        results["scenarios"][name] = {**facts, **said}
    return results


def table(results: dict[str, Any], order: list[str]) -> str:
    """A row for each scenario that was run."""
    lines = ["| " + " | ".join(_COLUMNS) + " |", "|---" * len(_COLUMNS) + "|"]
    for name in order:
        one = results["scenarios"].get(name)
        if one is None:
            continue
        figures = [
            "" if one[it] is None else f"{one[it]:,}"
            for it in ("requests", "resent", "retries", "replays", "violations")
        ]
        caught = one["problem"] and f"**NOT AS IT MUST BE**: {one['problem']}"
        cells = [name, one["steps"], *figures, caught or one["caught_by"]]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def into(readme: str, results: dict[str, Any], order: list[str]) -> str:
    """The document with the table of these results between its marks."""
    head, begin, rest = readme.partition("<!-- delivery: begin -->\n")
    _, end, tail = rest.partition("<!-- delivery: end -->")
    return f"{head}{begin}\n{table(results, order)}\n{end}{tail}"


def write(folder: Path, results: dict[str, Any], order: list[str]) -> str:
    """Write results.json and results.md; returns the table."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, ensure_ascii=False) + "\n")
    text = table(results, order)
    seen = ""
    for name in order:
        one = results["scenarios"].get(name)
        if one is not None and one["seen"]:
            seen += f"\n**{name}**\n\n" + "".join(f"- {line}\n" for line in one["seen"])
    (folder / "results.md").write_text(f"{text}\n{REAL}{seen}")
    return text

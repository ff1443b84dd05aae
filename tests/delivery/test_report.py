"""What the chart's README says was seen is what was seen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

HERE = Path(__file__).parent
RESULTS = json.loads((HERE / "results" / "results.json").read_text())
README = (HERE.parents[1] / "chart" / "README.md").read_text()


def test_the_charts_readme_shows_the_results() -> None:
    pytest.importorskip("matplotlib", reason="uv sync --group delivery")
    from tests.delivery import report  # noqa: PLC0415 - once it is known that it can be

    shown = report.into(README, RESULTS, list(RESULTS["scenarios"]))
    assert shown == README, "write it: uv run --group delivery python -m tests.delivery --publish"


def test_every_scenario_ended_as_it_must_without_a_violation() -> None:
    ended = {
        name: (one["problem"], one["violations"]) for name, one in RESULTS["scenarios"].items()
    }
    assert ended == dict.fromkeys(
        (
            *("good", "errors", "slow", "slow-lock", "replay-re-executes", "refusal-not-stored"),
            *("compares-otherwise", "expand", "retries", "identity", "backup", "backup-postgresql"),
        ),
        ("", 0),
    )

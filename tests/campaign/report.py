"""What a campaign saw, as JSON and as Markdown."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from pathlib import Path

    from tests.campaign.trial import Trial

COUNTED: Final = ("requests", "keys", "unknown_answers", "keys_once_unknown", "unknowns_settled")


def repeat(trial: Trial) -> str:
    """The command that plays this trial again."""
    return (
        f"uv run python -m tests.campaign {trial.scenario.name} --engine {trial.engine} "
        f"--seed {trial.seed} --seconds {trial.seconds:g}"
    )


class Report:
    """Trials added up by scenario and engine, and everything that was found broken."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self.facts = facts
        self._rows: dict[tuple[str, str], dict[str, Any]] = {}
        self.violations: list[dict[str, str]] = []
        self.skipped: dict[str, str] = {}
        self.tables: dict[str, list[dict[str, Any]]] = {}

    def add(self, trial: Trial) -> None:
        """Count a trial in."""
        if trial.skipped:
            self.skipped[trial.scenario.name] = trial.skipped
            return
        row = self._rows.setdefault(
            (trial.scenario.name, trial.engine),
            {"scenario": trial.scenario.name, "engine": trial.engine, "what": trial.scenario.what}
            | {"trials": 0, "seconds": 0.0, "transactions": 0, "violations": 0}
            | dict.fromkeys(COUNTED, 0)
            | {"faults": Counter(), "statuses": Counter(), "figures": []},
        )
        row["trials"] += 1
        row["seconds"] += trial.duration_s
        row["transactions"] += trial.rows
        row["violations"] += len(trial.broken)
        row["faults"].update(trial.injected)
        row["statuses"].update(trial.figures.pop("statuses", {}))
        for name in COUNTED:
            row[name] += trial.figures.pop(name, 0)
        if trial.figures:
            row["figures"].append(trial.figures)
        for why in trial.broken:
            self.violations.append({"what": why, "repeat": repeat(trial)})

    @property
    def rows(self) -> list[dict[str, Any]]:
        return list(self._rows.values())

    def holds(self) -> bool:
        """Whether nothing was found broken."""
        return not self.violations

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return {
            "facts": self.facts,
            "totals": self.totals(),
            "scenarios": self.rows,
            "violations": self.violations,
            "skipped": self.skipped,
            **self.tables,
        }

    def totals(self) -> dict[str, Any]:
        """The sums over all scenarios."""
        names = ("trials", "seconds", *COUNTED, "transactions", "violations")
        return {name: sum(row[name] for row in self.rows) for name in names}

    def as_markdown(self) -> str:
        """For people: totals, scenarios, faults by class, controls, what broke."""
        facts = self.facts
        lines = [
            "# A reliability campaign",
            "",
            " ".join(f"{name}: {value}." for name, value in facts.items()),
            "",
            *_scenarios(self.rows, self.totals()),
            *_faults(self.rows),
            *_figures(self.rows),
        ]
        for title, rows in self.tables.items():
            lines += [f"## {title.capitalize()}", "", *_table(rows), ""]
        lines += ["## Broken", ""]
        lines += [f"- {one['what']}\n  `{one['repeat']}`" for one in self.violations] or [
            "Nothing."
        ]
        lines += [f"- Not run: {name}: {why}" for name, why in self.skipped.items()]
        return "\n".join(lines) + "\n"

    def write(self, folder: Path) -> str:
        """Write campaign.json and campaign.md; returns the Markdown."""
        folder.mkdir(parents=True, exist_ok=True)
        text = self.as_markdown()
        said = json.dumps(self.as_json(), indent=1, ensure_ascii=False)
        (folder / "campaign.json").write_text(said + "\n")
        (folder / "campaign.md").write_text(text)
        return text


def _scenarios(rows: list[dict[str, Any]], totals: dict[str, Any]) -> list[str]:
    shown = [
        {
            "scenario": f"{row['scenario']}: {row['what']}",
            "engine": row["engine"],
            "trials": row["trials"],
            "faults": sum(row["faults"].values()),
            **{name.replace("_", " "): row[name] for name in COUNTED},
            "transactions": row["transactions"],
            "violations": row["violations"],
        }
        for row in rows
    ]
    if not shown:
        return []
    last = {"scenario": "**all**", "engine": "", "trials": totals["trials"]}
    last["faults"] = sum(sum(row["faults"].values()) for row in rows)
    last |= {name.replace("_", " "): totals[name] for name in COUNTED}
    last |= {"transactions": totals["transactions"], "violations": totals["violations"]}
    return ["## Scenarios", "", *_table([*shown, last]), ""]


def _faults(rows: list[dict[str, Any]]) -> list[str]:
    classes: dict[str, Counter[str]] = {}
    for row in rows:
        for name, many in row["faults"].items():
            classes.setdefault(name, Counter())[row["engine"]] += many
    if not classes:
        return []
    shown = [
        {"fault": name, "SQLite": found["sqlite"], "PostgreSQL": found["postgresql"]}
        for name, found in sorted(classes.items())
    ]
    return ["## Faults by class", "", *_table(shown), ""]


def _figures(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        f"- {row['scenario']}, {row['engine']}: "
        + ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in figures.items())
        for row in rows
        for figures in row["figures"]
    ]
    return ["## Figures", "", *lines, ""] if lines else []


def _table(rows: list[dict[str, Any]]) -> list[str]:
    names = list(rows[0]) if rows else ["nothing"]
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    for row in rows:
        cells = (f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row.values())
        lines.append("| " + " | ".join(cells) + " |")
    return lines

"""NOTES.md keeps its word: the tests that it names are there, and its arithmetic holds."""

from __future__ import annotations

import math
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
NOTES = (ROOT / "NOTES.md").read_text()
SECURITY = NOTES.partition("\n## Security\n")[2].partition("\n## Scale\n")[0]
SCALE = NOTES.partition("\n## Scale\n")[2]


def test_every_test_that_the_notes_name_is_there() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(test_\w+))?`", NOTES)
    missing = [
        (path, name)
        for path, name in named
        if not (ROOT / path).exists()
        or (name and not re.search(rf"def {name}\(", (ROOT / path).read_text()))
    ]
    assert len(named) >= 30
    assert missing == []


def test_every_command_that_the_notes_name_as_a_proof_is_there() -> None:
    modules = set(re.findall(r"`python -m (tests\.\w+)`", SECURITY))
    assert modules == {"tests.campaign", "tests.cluster", "tests.delivery"}
    for module in modules:
        assert (ROOT / module.replace(".", "/") / "__main__.py").exists()


def test_every_threat_says_what_stops_it_and_what_shows_it() -> None:
    table = SECURITY.partition("| Threat |")[2].partition("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table]
    assert len(rows) >= 20
    # What nothing here shows says so by name.
    unshown = [name for name, _, shown in rows if "`" not in shown]
    assert unshown == ["A stolen token"]


def number(text: str) -> float:
    found = re.match(r"[\d,.]+", text)
    assert found is not None
    return float(found[0].replace(",", ""))


def test_the_inputs_of_the_arithmetic_stand_where_it_says() -> None:
    for name, value, quoted in re.findall(
        r'^\| (\w) \| ([\d,.]+) [^|]*\|[^|]*"(.+?)" \|$', SCALE, re.MULTILINE
    ):
        section = NOTES.partition(f": {quoted}\n")[2].partition("\n### ")[0]
        short = value.replace(",000", "")  # 29 k
        assert short in section, (name, quoted)


def test_the_arithmetic_of_scale_follows_from_its_inputs() -> None:
    given = dict(re.findall(r"^\| (\w) \| ([\d,.]+) ", SCALE, re.MULTILINE))
    assert given.keys() == set("RCQABmrkf")
    of = {name: number(value) for name, value in given.items()}
    rows = re.findall(r"^\| ([\d,]+) \| (.+) \|$", SCALE, re.MULTILINE)
    assert len(rows) == 4
    for users, cells in rows:
        day = number(users) * of["m"]
        peak = day * of["k"] / 86_400
        cores = peak * (of["C"] + of["r"] * of["Q"]) / 1e6
        assert cells.split(" | ") == [
            f"{peak:,.0f}/s",
            f"{cores:,.1f}",
            f"{math.ceil(peak / (of['f'] * of['R'])):,}",
            f"{day * 365 * of['B'] / 1e9:,.0f} GB",
            f"{day * 365 / of['A'] / 3_600:,.1f} h",
        ]

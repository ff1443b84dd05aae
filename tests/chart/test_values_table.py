"""The chart's README says of each value what values.yaml says."""

from __future__ import annotations

import re

from tests.chart import values_table
from tests.chart.helm import CHART, VARIANTS


def test_the_readmes_table_is_that_of_the_comments() -> None:
    shown = values_table.README.read_text().split(values_table.BEGIN)[1].split(values_table.END)[0]
    assert shown == f"\n{values_table.table()}\n"


def test_a_comment_goes_on_over_lines_and_ends_with_its_key() -> None:
    text = "a:\n  # -- One,\n  # two.\n  b: 1\n  c: 2\n# -- Last.\nd: {e: 3}\n"
    assert values_table.written(text) == [("a.b", "One, two."), ("d", "Last.")]


def test_every_template_value_is_a_value() -> None:
    import yaml

    values = yaml.safe_load(values_table.VALUES.read_text())
    for template in sorted((CHART / "templates").rglob("*.*")):
        for path in re.findall(r"\.Values((?:\.[a-zA-Z]\w*)+)", template.read_text()):
            here = values
            for name in path.lstrip(".").split("."):
                if name in {"body_timeout_ms", "answer_timeout_ms"}:  # the user's own settings
                    break
                assert name in here, f"{template.name}: {path}"
                here = here[name]


def test_the_variants_are_those_that_are_wanted() -> None:
    assert VARIANTS == ("full", "no-mesh", "postgresql", "postgresql-scaled", "sqlite")

"""The dashboards by their structure, their queries by the grammars; nothing is rendered here."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, Final

import promql_parser
import pytest

from tests.parts import part
from tests.telemetry.queries import BOARDS, board, queries

LOGQL: Final = Path(__file__).parent / "logql"
IDS: Final = [path.stem for path in BOARDS]


def test_there_is_a_board_for_each_question() -> None:
    assert IDS == ["canary", "cluster", "logs", "overview", "slo", "writer"]
    uids = [board(path)["uid"] for path in BOARDS]
    titles = [board(path)["title"] for path in BOARDS]
    assert len(set(uids)) == len(set(titles)) == 6


@pytest.mark.parametrize("path", BOARDS, ids=IDS)
def test_panels_have_ids_of_their_own_and_places_that_do_not_overlap(path: Path) -> None:
    panels = board(path)["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert at["x"] + at["w"] <= 24
        assert taken.isdisjoint(cells), panel["title"]
        taken |= cells


@pytest.mark.parametrize("path", BOARDS, ids=IDS)
def test_every_data_source_is_a_variable_of_its_kind(path: Path) -> None:
    found = board(path)
    variables = {one["name"]: one for one in found["templating"]["list"]}
    assert "namespace" in variables
    sources = {f"${{{name}}}": v["query"] for name, v in variables.items() if is_source(v)}
    used = [panel["datasource"] for panel in found["panels"] if "datasource" in panel]
    used += [
        target["datasource"] for panel in found["panels"] for target in panel.get("targets", [])
    ]
    used += [v["datasource"] for v in variables.values() if "datasource" in v]
    assert used
    for source in used:
        assert sources[source["uid"]] == source["type"]


def is_source(variable: dict[str, Any]) -> bool:
    return bool(variable["type"] == "datasource")


@pytest.mark.parametrize("path", BOARDS, ids=IDS)
def test_every_panel_but_a_row_asks_something_in_a_unit(path: Path) -> None:
    for panel in board(path)["panels"]:
        if panel["type"] == "row":
            continue
        assert panel["targets"], panel["title"]
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs)
        assert panel["type"] == "logs" or panel["fieldConfig"]["defaults"]["unit"]


def test_every_promql_query_parses() -> None:
    found = queries("prometheus")
    assert len(found) > 60
    for query in found:
        promql_parser.parse(query.expr)


def test_every_logql_query_is_of_the_grammar() -> None:
    node = part("node", "apt-get install nodejs npm")
    if not (LOGQL / "node_modules").exists():
        part("Grafana's LogQL grammar", "npm ci --prefix tests/telemetry/logql")
    asked = [query.expr for query in queries("loki")]
    assert len(asked) == 7
    # The last two are not LogQL: the grammar must be seen to refuse.
    wrong = ['{app="teller"', "sum by ("]
    done = subprocess.run(
        [node, LOGQL / "parse.js"],
        input=json.dumps([*asked, *wrong]),
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert json.loads(done.stdout) == wrong


def test_log_lines_link_to_their_trace() -> None:
    [logs] = [board(path) for path in BOARDS if path.stem == "logs"]
    lines = [panel for panel in logs["panels"] if panel["type"] == "logs"]
    assert len(lines) == 3
    for panel in lines:
        [link] = panel["fieldConfig"]["defaults"]["links"]
        assert "${__data.fields.trace_id}" in link["url"]
        assert "${tempo}" in link["url"]

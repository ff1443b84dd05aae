"""The chart's dashboards as data: their panels and queries."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final, NamedTuple

BOARDS: Final = sorted((Path(__file__).parents[2] / "chart" / "dashboards").glob("*.json"))
# Series of the cluster, not of Teller: no test here can have them but as recorded samples.
CLUSTER: Final = re.compile(r"\b(kube|container|kubelet|node|istio|rollout|litestream)_\w+")


class Query(NamedTuple):
    """One query of one panel."""

    board: str
    panel: str
    language: str
    expr: str


def board(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def queries(language: str) -> list[Query]:
    """All queries in that language, ``prometheus`` or ``loki``, with Grafana's variables set."""
    return [
        Query(path.stem, panel["title"], language, _filled(target["expr"]))
        for path in BOARDS
        for panel in board(path)["panels"]
        for target in panel.get("targets", [])
        if target["datasource"]["type"] == language
    ]


def _filled(expr: str) -> str:
    for variable, value in (
        ("$__rate_interval", "30s"),
        ("$__range", "5m"),
        ("$__auto", "1m"),
        ("$namespace", "bank"),
    ):
        expr = expr.replace(variable, value)
    return expr

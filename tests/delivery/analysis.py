"""The AnalysisTemplates' own queries and conditions, measured and judged as Argo Rollouts does.

It stands in for the analysis controller of Argo Rollouts (1.9: analysis.go and evaluate.go), as far
as the chart's templates go; what they do not use is refused.
"""

from __future__ import annotations

import ast
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from tests.delivery.rendered import seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tests.chart.manifests import Manifest

Phase = Literal["Running", "Successful", "Failed", "Inconclusive", "Error"]

# What Argo Rollouts takes where a metric does not say.
CONSECUTIVE_ERROR_LIMIT: Final = 4
_KNOWN: Final = frozenset(
    {
        *("name", "interval", "initialDelay", "count", "failureLimit", "inconclusiveLimit"),
        *("successCondition", "failureCondition", "provider"),
    }
)
_COMPARED: Final[dict[type[ast.cmpop], Callable[[Any, Any], bool]]] = {
    ast.Gt: lambda a, b: a > b,
    ast.GtE: lambda a, b: a >= b,
    ast.Lt: lambda a, b: a < b,
    ast.LtE: lambda a, b: a <= b,
    ast.Eq: lambda a, b: a == b,
    ast.NotEq: lambda a, b: a != b,
}


def holds(condition: str, result: Sequence[float]) -> bool:
    """Whether a condition in the chart's part of the expr language is true of a result.

    Its words are ``result[N]``, ``len(result)``, numbers, comparisons, ``&&`` and ``||``.

    Raises:
        IndexError: it reads an element that is not there.
        ValueError: it says something else.
    """
    text = condition.replace("&&", " and ").replace("||", " or ")
    return bool(_value(ast.parse(text.strip(), mode="eval").body, result))


def _value(node: ast.expr, result: Sequence[float]) -> Any:
    match node:
        case ast.BoolOp(op=ast.And(), values=values):
            return all(_value(it, result) for it in values)
        case ast.BoolOp(op=ast.Or(), values=values):
            return any(_value(it, result) for it in values)
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            return _COMPARED[type(op)](_value(left, result), _value(right, result))
        case ast.Call(func=ast.Name(id="len"), args=[ast.Name(id="result")]):
            return len(result)
        case ast.Subscript(value=ast.Name(id="result"), slice=ast.Constant(value=int(index))):
            return result[index]
        case ast.Constant(value=int() | float() as number):
            return number
    raise ValueError(f"not understood: {ast.unparse(node)}")


@dataclass(slots=True)
class Measurement:
    """One look at a metric."""

    at_s: float
    phase: Phase
    values: list[float]
    message: str = ""


@dataclass(slots=True)
class Metric:
    """One metric of a run: its measurements and where it stands."""

    spec: Manifest
    query: str
    measurements: list[Measurement] = field(default_factory=list)
    phase: Phase = "Running"

    @property
    def name(self) -> str:
        name: str = self.spec["name"]
        return name

    def due(self, now_s: float, started_s: float) -> bool:
        """Whether it is to be measured now: after its delay, then at its interval."""
        count = self.spec.get("count", 0)
        if self.phase != "Running" or (count and len(self.measurements) >= count):
            return False
        if not self.measurements:
            return now_s >= started_s + seconds(self.spec.get("initialDelay", "0s"))
        return now_s > self.measurements[-1].at_s + seconds(self.spec["interval"])

    def measure(self, ask: Callable[[str], list[float]], now_s: float) -> None:
        """Ask, judge the answer, and then the metric."""
        try:
            found = ask(self.query)
            measured = Measurement(now_s, self._judged(found), found)
        except (IndexError, ValueError) as error:
            measured = Measurement(now_s, "Error", [], str(error))
        self.measurements.append(measured)
        self.phase = self._assessed()

    def _judged(self, found: list[float]) -> Phase:
        if holds(self.spec["failureCondition"], found):
            return "Failed"
        return "Successful" if holds(self.spec["successCondition"], found) else "Inconclusive"

    def _assessed(self) -> Phase:
        phases = [it.phase for it in self.measurements]
        if phases.count("Failed") > self.spec.get("failureLimit", 0):
            return "Failed"
        if phases.count("Inconclusive") > self.spec.get("inconclusiveLimit", 0):
            return "Inconclusive"
        last = phases[-(CONSECUTIVE_ERROR_LIMIT + 1) :]
        if len(last) > CONSECUTIVE_ERROR_LIMIT and set(last) == {"Error"}:
            return "Error"
        count = self.spec.get("count", 0)
        done = count and len([it for it in phases if it != "Error"]) >= count
        return "Successful" if done else "Running"


class Run:
    """An AnalysisRun of Prometheus metrics: started once, stepped until it is over."""

    def __init__(
        self, template: Manifest, arguments: Mapping[str, str], ask: Callable[[str], list[float]]
    ) -> None:
        wanted = {it["name"] for it in template["spec"]["args"]}
        assert wanted == arguments.keys()
        self._ask = ask
        self.started_s = time.monotonic()
        self.metrics = []
        for metric in template["spec"]["metrics"]:
            assert metric.keys() <= _KNOWN, f"not judged: {metric.keys() - _KNOWN}"
            query = metric["provider"]["prometheus"]["query"]
            for name, value in arguments.items():
                query = query.replace(f"{{{{args.{name}}}}}", value)
            self.metrics.append(Metric(metric, query))

    def step(self) -> None:
        """Take the measurements that are due."""
        for metric in self.metrics:
            if metric.due(time.monotonic(), self.started_s):
                metric.measure(self._ask, time.monotonic())

    @property
    def worst(self) -> Metric | None:
        """The metric that decides against the release, if one does; Inconclusive pauses it."""
        for phase in ("Failed", "Error", "Inconclusive"):
            for metric in self.metrics:
                if metric.phase == phase:
                    return metric
        return None

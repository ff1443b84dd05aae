"""The evaluator judges as Argo Rollouts does."""

from __future__ import annotations

from typing import Any

import pytest

from tests.delivery.analysis import Metric, Phase, holds

NAN = float("nan")
SUCCESS = "len(result) > 0 && result[0] >= 0.99"
FAILURE = "len(result) > 0 && result[0] < 0.99"
AUDIT = "len(result) == 0 || result[0] != 0"


def metric(**fields: Any) -> Metric:
    spec = {"name": "m", "interval": "2s", "successCondition": SUCCESS, "failureCondition": FAILURE}
    return Metric({**spec, **fields}, "up")


def judged(answers: list[list[float]], **fields: Any) -> Phase:
    found = metric(**fields)
    for number, answer in enumerate(answers):
        if found.phase == "Running":
            found.measure({"up": answer}.__getitem__, float(number))
    return found.phase


@pytest.mark.parametrize(
    ("condition", "result", "true"),
    [
        (SUCCESS, [0.99], True),
        (SUCCESS, [0.98], False),
        (SUCCESS, [], False),
        (SUCCESS, [NAN], False),
        (FAILURE, [NAN], False),
        (AUDIT, [], True),
        (AUDIT, [0.0], False),
        (AUDIT, [NAN], True),
    ],
)
def test_conditions_are_read_as_the_chart_writes_them(
    condition: str, result: list[float], *, true: bool
) -> None:
    assert holds(condition, result) is true


def test_an_element_that_is_not_there_is_an_error() -> None:
    with pytest.raises(IndexError):
        holds("result[0] > 0", [])


@pytest.mark.parametrize("condition", ["true", "all(result, {# > 0})", "result.x == 0"])
def test_what_it_does_not_know_it_refuses(condition: str) -> None:
    with pytest.raises((ValueError, SyntaxError)):
        holds(condition, [1.0])


def test_more_failures_than_the_limit_fail() -> None:
    assert judged([[0.5]], failureLimit=1) == "Running"
    assert judged([[0.5], [1.0], [0.5]], failureLimit=1) == "Failed"
    assert judged([[0.5]], failureLimit=0) == "Failed"


def test_more_measurements_without_an_answer_than_the_limit_are_inconclusive() -> None:
    assert judged([[NAN], []], failureLimit=1, inconclusiveLimit=1) == "Inconclusive"
    assert judged([[NAN]], failureLimit=1, inconclusiveLimit=1) == "Running"


def test_five_errors_in_a_row_are_an_error() -> None:
    fields = {"failureCondition": "result[0] < 0.99", "successCondition": "result[0] >= 0.99"}
    assert judged([[]] * 4, **fields) == "Running"
    assert judged([[]] * 4 + [[1.0]] + [[]] * 4, **fields) == "Running"
    assert judged([[]] * 5, **fields) == "Error"


def test_a_count_ends_it() -> None:
    assert judged([[1.0], [1.0]], count=2) == "Successful"
    assert judged([[1.0]], count=2) == "Running"


def test_it_is_first_due_after_its_delay_and_then_at_its_interval() -> None:
    found = metric(initialDelay="10s")
    assert not found.due(109.0, 100.0)
    assert found.due(110.0, 100.0)
    found.measure(lambda _query: [1.0], 110.0)
    assert not found.due(112.0, 100.0)
    assert found.due(112.1, 100.0)

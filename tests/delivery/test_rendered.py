"""Only times differ between the chart that is acted out and the chart as it is by default."""

from __future__ import annotations

from typing import Any

import pytest

from tests.chart import helm
from tests.delivery import rendered

WHERE_TIMES_STAND = {
    ("AnalysisTemplate", "teller-canary"): {"initialDelay", "interval", "query"},
    ("PodMonitor", "teller"): {"interval"},
    ("Rollout", "teller"): {"duration"},
}


@pytest.fixture(autouse=True)
def _parts() -> None:
    helm.needed()


def differences(one: Any, other: Any, name: str = "") -> set[tuple[str, Any, Any]]:
    """The leaves in which two trees differ, by the name of their field."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        pairs = [(key, one[key], other[key]) for key in one]
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = [(name, *pair) for pair in zip(one, other, strict=True)]
    else:
        return {(name, one, other)} if one != other else set()
    return set().union(*(differences(a, b, key) for key, a, b in pairs))


def test_only_times_differ_from_the_defaults() -> None:
    short = rendered.chart(jwks='{"keys": []}').objects
    defaults = rendered.chart(jwks='{"keys": []}', values={}).objects
    found: dict[tuple[str, str], set[str]] = {}
    for one, other in zip(short, defaults, strict=True):
        named = (one["kind"], one["metadata"]["name"])
        assert named == (other["kind"], other["metadata"]["name"])
        for name, ours, theirs in differences(one, other):
            found.setdefault(named, set()).add(name)
            if name == "query":
                assert ours.replace("[10s]", "[2m]") == theirs
    assert found == WHERE_TIMES_STAND


def test_the_times_have_the_proportions_of_the_defaults() -> None:
    assert rendered.SHORT == {
        "rollout.analysis.window": "10s",
        "rollout.analysis.interval": "2s",
        "rollout.stepPause": "15s",
        "rollout.finalPause": "12s",
        "observability.podMonitor.interval": "1s",
    }
    # Two measurements fall into each step, as two fall into 5m after 2m at every 30s and more.
    short = {name.rpartition(".")[2]: rendered.seconds(it) for name, it in rendered.SHORT.items()}
    assert short["window"] + 2 * short["interval"] < short["stepPause"]

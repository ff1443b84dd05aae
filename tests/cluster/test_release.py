"""What is read of a Rollout and a VirtualService."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cluster.release import State, state


def rollout(**status: Any) -> dict[str, Any]:
    """The parts of a Rollout of Argo Rollouts 1.9 that matter here."""
    return {"metadata": {"name": "teller", "generation": 7}, "status": status}


def service(percent: int) -> dict[str, Any]:
    route = [
        {"destination": {"host": "teller-stable"}, "weight": 100 - percent},
        {"destination": {"host": "teller-canary"}, "weight": percent},
    ]
    return {"spec": {"http": [{"name": "keyed-post", "route": route}]}}


IN_FLIGHT = rollout(
    phase="Paused",
    message="CanaryPauseStep",
    stableRS="6f7c9d8b5",
    currentPodHash="7b8d5c4f9",
    currentStepIndex=3,
    observedGeneration="7",
)
HEALTHY = rollout(
    phase="Healthy", stableRS="7b8d5c4f9", currentPodHash="7b8d5c4f9", observedGeneration="7"
)
ABORTED = rollout(
    phase="Degraded",
    message='RolloutAborted: metric "success-rate" assessed Failed',
    abort=True,
    stableRS="6f7c9d8b5",
    currentPodHash="7b8d5c4f9",
    observedGeneration="7",
)


def test_a_canary_with_a_quarter_of_the_traffic_is_in_flight() -> None:
    now = state(IN_FLIGHT, service(25))
    assert now == State(
        phase="Paused",
        message="CanaryPauseStep",
        aborted=False,
        stable="6f7c9d8b5",
        current="7b8d5c4f9",
        step=3,
        canary_percent=25,
    )
    assert now.in_flight
    assert not now.settled


def test_a_canary_that_became_stable_is_settled_once_the_weights_are_back() -> None:
    assert state(HEALTHY, service(0)).settled
    assert not state(HEALTHY, service(100)).settled
    assert not state(HEALTHY, service(0)).in_flight


def test_an_aborted_canary_is_neither_in_flight_nor_settled() -> None:
    now = state(ABORTED, service(0))
    assert (now.aborted, now.in_flight, now.settled) == (True, False, False)
    assert "success-rate" in now.message


@pytest.mark.parametrize("told", [HEALTHY, ABORTED])
def test_a_status_of_the_change_before_says_nothing_of_this_one(told: dict[str, Any]) -> None:
    later = {**told, "metadata": {"generation": 8}}
    now = state(later, service(0))
    assert (now.phase, now.aborted, now.settled) == ("Progressing", False, False)


def test_a_release_that_no_controller_has_seen_is_progressing() -> None:
    now = state({"metadata": {"generation": 1}}, service(0))
    assert (now.phase, now.settled) == ("Progressing", False)


def test_a_virtual_service_without_the_route_is_an_error_not_a_weight() -> None:
    with pytest.raises(LookupError, match="keyed-post"):
        state(HEALTHY, {"spec": {"http": [{"name": "read", "route": []}]}})

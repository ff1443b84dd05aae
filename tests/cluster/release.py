"""What a Rollout and its VirtualService say of a release in flight; pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

# The route that the canary's weight is read from; Argo Rollouts moves all of them together.
ROUTE = "keyed-post"


class State(NamedTuple):
    """A release at one moment. ``canary_percent`` is the share of the traffic, 0 to 100."""

    phase: str
    message: str
    aborted: bool
    stable: str
    current: str
    step: int | None
    canary_percent: int

    @property
    def in_flight(self) -> bool:
        """Whether a canary is there that is neither promoted nor aborted."""
        return self.stable != self.current and not self.aborted

    @property
    def settled(self) -> bool:
        """Whether one version has all of the traffic."""
        return self.phase == "Healthy" and self.stable == self.current and not self.canary_percent


def state(rollout: Mapping[str, Any], virtual_service: Mapping[str, Any]) -> State:
    """The state from the two objects as the API server gives them.

    Raises LookupError if the VirtualService has no such route, or the route no canary.
    """
    status = rollout.get("status", {})
    # A controller that has not seen the last change tells of the one before.
    seen = str(status.get("observedGeneration", ""))
    stale = seen != str(rollout["metadata"].get("generation", ""))
    return State(
        "Progressing" if stale else status.get("phase", "Progressing"),
        status.get("message", ""),
        bool(status.get("abort")) and not stale,
        status.get("stableRS", ""),
        status.get("currentPodHash", ""),
        status.get("currentStepIndex"),
        _canary_percent(virtual_service),
    )


def _canary_percent(virtual_service: Mapping[str, Any]) -> int:
    for route in virtual_service["spec"]["http"]:
        if route.get("name") == ROUTE:
            for target in route["route"]:
                if target["destination"]["host"].endswith("-canary"):
                    return int(target.get("weight", 0))
    raise LookupError(f"the VirtualService has no route {ROUTE} with a canary")

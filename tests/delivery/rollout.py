"""The rendered Rollout's own steps, acted out: it stands in for Argo Rollouts' controller.

A pod of the new release; the smoke Job; weight after weight with its pause, while the analysis runs
in the background from its starting step on; at the end the Services change over and the old pod
goes. A metric that fails aborts: all weight goes back to stable at once. The delays after which old
or aborted pods are scaled down are not waited for.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tests.delivery import analysis
from tests.delivery.rendered import seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.delivery.cluster import Cluster
    from tests.delivery.pods import Pod

TICK_S: Final = 0.2
BY_HAND: Final = "hand"
_ANALYSIS: Final = {"templates", "args", "startingStep"}


@dataclass(slots=True)
class Told:
    """How a release went."""

    build: str
    weights: list[tuple[float, int]] = field(default_factory=list)  # (unix seconds, percent)
    reached: list[int] = field(default_factory=list)
    ended: str = ""  # promoted, aborted or paused
    caught_by: str = ""
    caught_at_percent: int | None = None
    caught_after_s: float | None = None
    why: str = ""
    canary_requests: int = 0
    measurements: dict[str, dict[str, int]] = field(default_factory=dict)


class Rollout:
    """One release of a build, from its first pod to its end.

    ``aborted_at`` is the weight after whose pause somebody aborts it by hand.
    """

    def __init__(
        self,
        cluster: Cluster,
        build: str,
        say: Callable[[str], None],
        *,
        aborted_at: int | None = None,
    ) -> None:
        self._aborted_at = aborted_at
        self._cluster = cluster
        self._say = say
        self._chart = cluster.charts["canary"]
        self._strategy = self._chart.canary
        self.told = Told(build)
        self._run: analysis.Run | None = None
        self._canary: Pod | None = None
        self._first_weight_s = 0.0
        self._sent_before: int | None = None  # of the smoke Job

    async def release(self) -> Told:
        """Go through the steps to the last, or to an abort."""
        steps = self._strategy["steps"]
        background = self._strategy["analysis"]
        assert background.keys() <= _ANALYSIS
        for index, step in enumerate(steps):
            if index >= background["startingStep"] and self._run is None:
                self._run = self._background(background)
            if not await self._step(step):
                break
        else:
            await self._promote()
        await self._note_requests()
        return self.told

    # -- steps ----------------------------------------------------------------------------------

    async def _step(self, step: dict[str, Any]) -> bool:
        """Do one step; whether the release goes on."""
        ((what, how),) = step.items()
        match what:
            case "setCanaryScale":
                assert how == {"replicas": 1}
                await self._new_pod()
            case "analysis":
                return await self._smoke(how)
            case "setWeight":
                await self._weigh(how)
            case "pause":
                return await self._pause(seconds(how["duration"]))
            case _:
                raise AssertionError(f"not acted out: {step}")
        return True

    async def _new_pod(self) -> None:
        self._say(f"{self.told.build}: a canary without traffic")
        cluster = self._cluster
        self._canary = await asyncio.to_thread(cluster.start_pod, "canary", build=self.told.build)
        await asyncio.to_thread(cluster.point, "canary", self._canary.host)
        cluster.prometheus.scrape(cluster.pods)

    async def _smoke(self, how: dict[str, Any]) -> bool:
        (named,) = how["templates"]
        template = self._chart.one("AnalysisTemplate", named["templateName"])
        (metric,) = template["spec"]["metrics"]
        job = metric["provider"]["job"]["spec"]
        passed, line = await asyncio.to_thread(
            self._cluster.smoke,
            job["template"],
            self._chart.pod_hash,
            timeout_s=job["activeDeadlineSeconds"],
        )
        if not passed:
            await self._abort("smoke", line)
        return passed

    async def _weigh(self, percent: int) -> None:
        weights = {"stable": 100 - percent, "canary": percent}
        if percent and not self.told.reached:
            self._sent_before = await asyncio.to_thread(self._sent)
        await asyncio.to_thread(self._cluster.route, weights)
        self.told.weights.append((time.time(), percent))
        if percent and percent not in self.told.reached:
            self._first_weight_s = self._first_weight_s or time.monotonic()
            self.told.reached.append(percent)
        self._say(f"{self.told.build}: {percent} % to the canary")

    async def _pause(self, duration_s: float) -> bool:
        end_s = time.monotonic() + duration_s
        while time.monotonic() < end_s:
            if self._run is not None:
                await asyncio.to_thread(self._run.step)
                worst = self._run.worst
                if worst is not None:
                    await self._judge(worst)
                    return False
            await asyncio.sleep(TICK_S)
        if self.told.reached[-1] == self._aborted_at:
            await self._abort(BY_HAND, "kubectl argo rollouts abort")
            return False
        return True

    # -- analysis -------------------------------------------------------------------------------

    def _background(self, how: dict[str, Any]) -> analysis.Run:
        hashes = {
            "Latest": self._chart.pod_hash,
            "Stable": self._cluster.chart.pod_hash,
        }
        arguments = {
            it["name"]: hashes[it["valueFrom"]["podTemplateHashValue"]] for it in how["args"]
        }
        (named,) = how["templates"]
        template = self._chart.one("AnalysisTemplate", named["templateName"])
        return analysis.Run(template, arguments, self._cluster.prometheus.values)

    async def _judge(self, worst: analysis.Metric) -> None:
        last = worst.measurements[-1]
        found = ", ".join(f"{it:.3g}" for it in last.values) or last.message or "no answer"
        why = f"{worst.phase.lower()} at {found}"
        if worst.phase == "Inconclusive":
            self.told.ended, self.told.caught_by, self.told.why = "paused", worst.name, why
            return
        await self._abort(worst.name, why)

    async def _abort(self, by: str, why: str) -> None:
        told = self.told
        told.ended, told.caught_by, told.why = "aborted", by, why
        told.caught_at_percent = told.reached[-1] if told.reached else 0
        if self._first_weight_s:
            told.caught_after_s = round(time.monotonic() - self._first_weight_s, 1)
        await self._weigh(0)
        self._say(f"{told.build}: aborted by {by} at {told.caught_at_percent} %")

    # -- the end --------------------------------------------------------------------------------

    async def _promote(self) -> None:
        """The canary is stable now: the Services change over, and the old pod goes."""
        cluster, canary = self._cluster, self._canary
        assert canary is not None
        await asyncio.to_thread(cluster.point, "stable", canary.host)
        await self._weigh(0)
        status = await asyncio.to_thread(cluster.remove, cluster.stable)
        assert status == 0, "the old pod did not drain"
        cluster.stable = canary
        self.told.ended = "promoted"

    def _sent(self) -> int:
        """Requests that the gateway has sent to the canary."""
        return self._cluster.gateway.counters("cluster.teller-canary.")["upstream_rq_total"]

    async def _note_requests(self) -> None:
        """What the canary was sent by the weights, and what each metric was found to be."""
        if self._sent_before is not None:
            self.told.canary_requests = await asyncio.to_thread(self._sent) - self._sent_before
        for metric in self._run.metrics if self._run else ():
            phases = [it.phase for it in metric.measurements]
            self.told.measurements[metric.name] = {it: phases.count(it) for it in set(phases)}

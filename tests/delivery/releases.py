"""One release of one build, under load from its first moment to its last, and its verdict."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tests.delivery import cluster as clusters
from tests.delivery import verdict
from tests.delivery.found import Found, Place, UnexpectedError
from tests.delivery.plots import WINDOW_S
from tests.delivery.rollout import Rollout

if TYPE_CHECKING:
    from tests.delivery.cluster import Cluster
    from tests.delivery.rollout import Told

# Traffic before the canary comes, and after the release has ended.
BEFORE_S: Final = 6
AFTER_S: Final = 5
SERVER_ERROR: Final = 500
ATTEMPTS_MAX: Final = 3
OF_TIME: Final = ("latency-p99-ratio", "transaction-time-ratio")
_ASKED: Final = 'http_server_request_duration_seconds_count{http_route!~"/livez|/readyz"}'
_FAILED: Final = _ASKED.replace("{", '{http_response_status_code=~"5..",')
_VERSION: Final = "rollouts_pod_template_hash"


class Expected(NamedTuple):
    """How a release of a build must end; ``caught_by`` one of these, at one of these weights."""

    ended: str
    reached: tuple[int, ...]
    caught_by: tuple[str, ...] = ()


ALL: Final = (5, 25, 50, 100)
EXPECTED: Final = {
    "good": Expected("promoted", ALL),
    "errors": Expected("aborted", (5,), ("success-rate", "mesh-success-rate")),
    "slow": Expected("aborted", (5,), ("latency-p99-ratio",)),
    "slow-lock": Expected("aborted", (5,), ("transaction-time-ratio",)),
    "replay-re-executes": Expected("aborted", (), ("smoke",)),
    "refusal-not-stored": Expected("aborted", (), ("smoke",)),
    "compares-otherwise": Expected("aborted", (5,), ("key-mismatch-rate",)),
}


async def release(build: str, place: Place) -> Found:
    """Release that build under load; what does not end as it must is a problem.

    A few hundred milliseconds that a busy machine takes from a canary with a few requests a second
    are its p99: an abort by a time that was not the build's is told of, and acted out again.
    """
    aborts: list[str] = []
    for attempt in range(1, ATTEMPTS_MAX + 1):
        folder = place.folder / f"{attempt}"
        await asyncio.to_thread(folder.mkdir)
        found, told = await _acted_out(build, Place(folder, place.say))
        if not found.problem or found.violations or told.caught_by not in OF_TIME:
            break
        aborts.append(
            f"aborted by {told.caught_by} at {told.caught_at_percent} % ({told.why}) with "
            f"{os.getloadavg()[0]:.1f} processes at work on {os.cpu_count()} processors: again"
        )
    found.seen = aborts + found.seen
    return found


async def _acted_out(build: str, place: Place) -> tuple[Found, Told]:
    place.say(f"{build}: starting")
    with clusters.running(place.folder) as cluster:
        clients = cluster.clients()
        stop = asyncio.Event()
        started_s = time.time()
        load = asyncio.create_task(clients.run(stop))
        await asyncio.sleep(BEFORE_S)
        told = await Rollout(cluster, build, place.say).release()
        await asyncio.sleep(AFTER_S)
        stop.set()
        await load
        ended_s = time.time()
        counters = cluster.gateway.counters("cluster.teller-")
        seen = await verdict.of(cluster.url, clients, place.folder, cluster.teller)
        series = _series(cluster, started_s, ended_s)
    series["weights"] = [[round(at_s - started_s, 1), it] for at_s, it in told.weights]
    failed = [at_s for at_s, status in clients.moments if status >= SERVER_ERROR or not status]
    series["clients_failed"] = _per_second(failed, started_s, ended_s)
    found = Found(
        steps=", ".join(map(str, told.reached)) or "0",
        requests=clients.seen.total(),
        resent=clients.resent,
        retries=sum(it for name, it in counters.items() if name.endswith(".upstream_rq_retry")),
        replays=clients.replays,
        violations=seen.violations,
        caught_by=_caught(told),
        data={
            "told": asdict(told),
            "verdict": asdict(seen),
            "answers": {str(status): many for status, many in sorted(clients.seen.items())},
            "duration_s": round(ended_s - started_s, 1),
            "series": series,
        },
    )
    found.seen.append(str(seen))
    _judge(found, told, EXPECTED[build])
    return found, told


def _caught(told: Told) -> str:
    if not told.caught_by:
        return ""
    at = f"{told.caught_by} at {told.caught_at_percent} %"
    if told.caught_after_s is None:
        return at
    return f"{at}, {told.caught_after_s} s after the first weight, {told.canary_requests} requests"


def _judge(found: Found, told: Told, expected: Expected) -> None:
    if told.why:
        found.seen.append(f"{told.caught_by}: {told.why}")
    found.seen.append(f"requests to the canary by its weight: {told.canary_requests}")
    for name, phases in told.measurements.items():
        many = ", ".join(f"{number} {phase.lower()}" for phase, number in sorted(phases.items()))
        found.seen.append(f"{name}: {many}")
    try:
        found.expect("the release ended", told.ended, expected.ended)
        # A measurement may come just after the weight has risen.
        reached = tuple(told.reached)
        if reached not in {expected.reached, ALL[: len(expected.reached) + bool(expected.reached)]}:
            raise UnexpectedError(f"it reached {reached}, not {expected.reached}", found)
        if expected.caught_by and told.caught_by not in expected.caught_by:
            raise UnexpectedError(f"{told.caught_by} caught it first", found)
        found.expect("violations", found.violations, 0)
    except UnexpectedError as error:
        found.problem = f"{error} ({told.why})"


def _series(cluster: Cluster, start_s: float, end_s: float) -> dict[str, Any]:
    """Requests and errors a second of each version, as Prometheus has them."""
    names = {chart.pod_hash: name for name, chart in cluster.charts.items()}
    found: dict[str, Any] = {}
    for what, metric in (("requests", _ASKED), ("errors", _FAILED)):
        query = f"sum by ({_VERSION}) (rate({metric}[{WINDOW_S}s]))"
        by_hash = cluster.prometheus.series(query, start_s, end_s, _VERSION)
        found[what] = {
            names[it]: [[round(at_s, 1), round(value, 2)] for at_s, value in points]
            for it, points in by_hash.items()
        }
    return found


def _per_second(moments: list[float], start_s: float, end_s: float) -> list[int]:
    many = [0] * (int(end_s - start_s) + 1)
    for at_s in moments:
        many[int(at_s - start_s)] += 1
    return many

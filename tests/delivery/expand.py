"""A schema change in the middle of a release, and the way back to the code before it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from service import schema
from tests.delivery import cluster as clusters
from tests.delivery import verdict
from tests.delivery.found import Found
from tests.delivery.rollout import BY_HAND, Rollout
from tests.migration.ledgers import NEWER, ask

if TYPE_CHECKING:
    from tests.delivery.cluster import Cluster
    from tests.delivery.found import Place
    from tests.delivery.pods import Pod

BUILD: Final = "expands"
ABORTED_AT: Final = 25
BEFORE_S: Final = 4
AFTER_S: Final = 5
WROTE: Final = "sum by (rollouts_pod_template_hash) (increase(teller_movements_total[20s])) > 0"


async def expand(place: Place) -> Found:
    """Migrate under load, write with both versions, go back, and restart the old one."""
    place.say(f"{BUILD}: starting")
    found = Found()
    with clusters.running(place.folder) as cluster:
        clients, stop = cluster.clients(), asyncio.Event()
        load = asyncio.create_task(clients.run(stop))
        await asyncio.sleep(BEFORE_S)
        found.expect("revision before", await _revision(cluster), schema.REVISION)
        told = await Rollout(cluster, BUILD, place.say, aborted_at=ABORTED_AT).release()
        found.steps = ", ".join(map(str, told.reached))
        found.caught_by = "aborted by hand, as part of it"
        found.expect("aborted by", told.caught_by, BY_HAND)
        found.expect("revision after", await _revision(cluster), NEWER)
        await _both_wrote(found, cluster)
        old = cluster.stable
        (canary,) = [pod for pod in cluster.pods if pod is not old]
        await _leave(found, cluster, canary, "the canary")
        place.say(f"{BUILD}: the old code restarts on the new schema")
        again = await asyncio.to_thread(cluster.start_pod, "stable")
        await asyncio.to_thread(cluster.point, "stable", again.host)
        await _leave(found, cluster, old, "the old pod")
        warned = again.served.events("database is ahead of this release")
        found.expect("the old code says that the schema is ahead", len(warned), 1)
        await asyncio.sleep(AFTER_S)
        stop.set()
        await load
        seen = await verdict.of(cluster.url, clients, place.folder, cluster.teller)
        found.seen.append(str(seen))
    found.requests, found.resent = clients.seen.total(), clients.resent
    found.replays, found.violations = clients.replays, seen.violations
    found.expect("statuses", set(clients.seen) <= {200, 201, 402}, wanted=True)
    found.expect("violations", seen.violations, 0)
    return found


async def _revision(cluster: Cluster) -> str:
    ((revision,),) = await ask(cluster.url, "SELECT version_num FROM alembic_version")
    return str(revision)


async def _both_wrote(found: Found, cluster: Cluster) -> None:
    """While the schema was new: rows of the old version, and of the new one with its new table."""
    names = {chart.pod_hash: name for name, chart in cluster.charts.items()}
    series = await asyncio.to_thread(cluster.prometheus.labelled, WROTE)
    found.expect(
        "versions that wrote movements in the last 20 s",
        sorted(names[hashed] for hashed in series),
        ["canary", "stable"],
    )
    ((devices,),) = await ask(cluster.url, "SELECT COUNT(*) FROM devices")
    found.expect("the new version wrote its new table", devices > 0, wanted=True)


async def _leave(found: Found, cluster: Cluster, pod: Pod, name: str) -> None:
    status = await asyncio.to_thread(cluster.remove, pod)
    found.expect(f"{name} drained and ended with", status, 0)

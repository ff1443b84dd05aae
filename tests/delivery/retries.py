"""What Envoy retries, as the chart configures it, when connections are cut under its requests."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from tests.delivery import cluster as clusters
from tests.delivery import envoy, saboteur, verdict
from tests.delivery.clients import ThroughGateway
from tests.delivery.found import Found
from tests.delivery.pods import Network
from tests.migration.ledgers import ask

if TYPE_CHECKING:
    from tests.clients import Reply
    from tests.delivery.cluster import Cluster
    from tests.delivery.found import Place
    from tests.delivery.saboteur import Saboteur

USER: Final = "user-00"
LOAD_S: Final = 15
CUT_EVERY_S: Final = 0.15
# Longer than TELLER_BUSY_TIMEOUT_MS: a batch gives up, and Teller answers 503.
HOLD: Final = (
    "import sqlite3, sys, time; db = sqlite3.connect(sys.argv[1], isolation_level=None); "
    "db.execute('BEGIN IMMEDIATE'); print('held', flush=True); sys.stdin.read(); db.rollback()"
)


class Caller:
    """Sends one request at a time through the gateway, and says what Envoy did for it."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._host = cluster.chart.one("VirtualService")["spec"]["hosts"][0]
        self._token = cluster.issuer.token(USER)
        self.requests = 0
        self.replays = 0

    async def send(
        self, method: str, path: str, key: str | None, amount: str | None = None
    ) -> Reply:
        fields = {"authorization": f"Bearer {self._token}"}
        body = b""
        if key is not None:
            fields["idempotency-key"] = key
        if amount is not None:
            fields["content-type"] = "application/json"
            body = json.dumps({"amount": amount}).encode()
        address = (self._cluster.gateway.host, envoy.GATEWAY_PORT)
        self.requests += 1
        async with ThroughGateway(f"http://{self._host}", address) as wire:
            reply = await wire.request(method, path, body, fields)
        self.replays += reply.fields.get("idempotent-replayed") == "true"
        return reply

    def retried(self) -> int:
        """How often the gateway has sent something again, ever."""
        return self._cluster.gateway.counters("cluster.teller-stable.")["upstream_rq_retry"]

    async def rows(self, key: str) -> int:
        """How many rows the ledger has under a key."""
        ((many,),) = await ask(
            self._cluster.url, "SELECT COUNT(*) FROM movements WHERE key = ?", (key,)
        )
        return int(many)


async def retries(place: Place) -> Found:
    """Cut connections under each kind of request, singly and under load."""
    found, network = Found(steps="-"), Network()
    place.say("retries: starting")
    async with (
        saboteur.between(network.address()) as outer,
        saboteur.between(network.address()) as inner,
    ):
        with clusters.running(place.folder, network=network, upstream=inner.host) as cluster:
            outer.target, inner.target = cluster.stable.host, cluster.stable.application
            await asyncio.to_thread(cluster.point, "stable", outer.host)
            caller = Caller(cluster)
            place.say("retries: cuts between the proxies")
            await _keyed(found, caller, outer)
            await _others(found, caller, outer)
            place.say("retries: a cut behind the pod's proxy")
            await _behind(found, caller, inner)
            place.say("retries: Teller sheds")
            await _shed(found, caller, cluster, inner)
            before = await ask(cluster.url, "SELECT key FROM movements WHERE key LIKE 'retry-%'")
            place.say("retries: cuts under load")
            await _under_load(found, cluster, outer, place, [key for (key,) in before])
            found.requests = (found.requests or 0) + caller.requests
            found.replays = (found.replays or 0) + caller.replays
            found.retries = caller.retried()
    return found


async def _keyed(found: Found, caller: Caller, outer: Saboteur) -> None:
    for when in ("request", "answer"):
        key, before = f"retry-{when}", caller.retried()
        outer.cut(when)
        reply = await caller.send("POST", "/deposit", key, "10")
        seen = (reply.status, reply.fields["idempotent-replayed"], caller.retried() - before)
        # Cut before the request, the second attempt is the first that Teller sees.
        replayed = "false" if when == "request" else "true"
        found.expect(
            f"a keyed POST whose {when} is cut: status, replayed, retries", seen, (201, replayed, 1)
        )
        found.expect("rows under its key", await caller.rows(key), 1)
    key, before = "retry-thrice", caller.retried()
    outer.cut("answer", 3)
    reply = await caller.send("POST", "/deposit", key, "10")
    twice = (reply.status, caller.retried() - before)
    found.expect("a keyed POST cut three times: status, retries", twice, (503, 2))
    reply = await caller.send("POST", "/deposit", key, "10")
    again = (reply.status, reply.fields["idempotent-replayed"])
    found.expect("the client's own retry of it: status, replayed", again, (201, "true"))
    found.expect("rows under its key", await caller.rows(key), 1)


async def _others(found: Found, caller: Caller, outer: Saboteur) -> None:
    cases: tuple[tuple[str, str, str, str | None, str | None, tuple[int, int, int]], ...] = (
        ("an unkeyed POST", "POST", "/deposit", None, "10", (503, 0, 1)),
        ("a burn (DELETE)", "DELETE", "/operation", "retry-burn", None, (503, 0, 1)),
        ("a GET", "GET", "/balance", None, None, (200, 1, 2)),
    )
    for what, method, path, key, amount, wanted in cases:
        before, arrived = caller.retried(), len(outer.heads)
        outer.cut("answer")
        reply = await caller.send(method, path, key, amount)
        seen = (reply.status, caller.retried() - before, len(outer.heads) - arrived)
        found.expect(f"{what} whose answer is cut: status, retries, times sent", seen, wanted)


async def _behind(found: Found, caller: Caller, inner: Saboteur) -> None:
    """The pod's proxy answers 503 for a cut behind it: no reset any more for the gateway."""
    before, arrived = caller.retried(), len(inner.heads)
    inner.cut("answer")
    reply = await caller.send("POST", "/deposit", "retry-behind", "10")
    seen = (reply.status, caller.retried() - before, len(inner.heads) - arrived)
    found.expect("a cut behind the pod's proxy: status, retries, times sent", seen, (503, 0, 1))
    told = b"outcome" in reply.body
    found.expect("that 503 names an outcome, as Teller's own do", told, wanted=False)
    reply = await caller.send("POST", "/deposit", "retry-behind", "10")
    again = (reply.status, reply.fields["idempotent-replayed"])
    found.expect("the client's own retry of it: status, replayed", again, (201, "true"))


async def _shed(found: Found, caller: Caller, cluster: Cluster, inner: Saboteur) -> None:
    """Another process holds the ledger's write lock, for longer than Teller waits."""
    holder = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        HOLD,
        f"{cluster.ledger}/teller.db",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    await holder.stdout.readline()
    before, arrived = caller.retried(), len(inner.heads)
    reply = await caller.send("POST", "/deposit", "retry-shed", "10")
    holder.stdin.close()
    await holder.wait()
    seen = (reply.status, caller.retried() - before, len(inner.heads) - arrived)
    found.expect("a 503 of Teller's: status, retries, times sent", seen, (503, 0, 1))
    said: dict[str, Any] = reply.json()
    found.expect("it says", (said["code"], said["retry"]), ("unavailable", "same_key"))
    found.expect("it has Retry-After", "retry-after" in reply.fields, wanted=True)
    reply = await caller.send("POST", "/deposit", "retry-shed", "10")
    found.expect("the client's own retry of it: status", reply.status, 201)


async def _under_load(
    found: Found, cluster: Cluster, outer: Saboteur, place: Place, earlier: list[str]
) -> None:
    clients, stop = cluster.clients(), asyncio.Event()
    load = asyncio.create_task(clients.run(stop))
    cuts = outer.cuts
    for number in range(int(LOAD_S / CUT_EVERY_S)):
        outer.cut("request" if number % 2 else "answer")
        await asyncio.sleep(CUT_EVERY_S)
    outer.cut("request", 0)
    stop.set()
    await load
    ignored = [f"--ignore-key={key}" for key in earlier]
    seen = await verdict.of(cluster.url, clients, place.folder, cluster.teller, *ignored)
    found.seen.append(str(seen))
    found.seen.append(f"cuts under load: {outer.cuts - cuts}")
    found.expect("statuses under load", set(Counter(clients.seen)) <= {200, 201, 402}, wanted=True)
    found.requests, found.resent = clients.seen.total(), clients.resent
    found.replays, found.violations = clients.replays, seen.violations
    found.expect("violations", seen.violations, 0)

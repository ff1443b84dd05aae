"""Who is asking, through two proxies in a row: the token's subject, whatever a client says.

A recorder between the pod's proxy and Teller sees what Teller is given.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import httpx

from tests.chart.manifests import of_kind
from tests.delivery import cluster as clusters
from tests.delivery import envoy, saboteur, verdict
from tests.delivery.found import Found
from tests.delivery.issuer import Issuer
from tests.delivery.pods import Network
from tests.delivery.rendered import ISSUER

if TYPE_CHECKING:
    from tests.delivery.cluster import Cluster
    from tests.delivery.found import Place
    from tests.delivery.saboteur import Saboteur

ALICE: Final = "user-00"
MALLORY: Final = "user-01"
# Every spelling by which somebody might try to be somebody else.
CLAIMED: Final = (
    [("user_id", ALICE)],
    [("x-user-id", ALICE)],
    [("user_id", ALICE), ("x-user-id", ALICE)],
    [("User_Id", ALICE), ("X-USER-ID", ALICE)],
    [("user_id", MALLORY), ("user_id", ALICE)],
    [("user_id", f"{MALLORY}, {ALICE}")],
    [("x-jwt-payload", ALICE), ("user_id", ALICE)],
    [("connection", "user_id, x-user-id, authorization"), ("user_id", ALICE)],
)
OPEN: Final = ("/problems", "/problems/key-reused", "/docs", "/openapi.json")
# What looks open, and is not.
NOT_OPEN: Final = (
    ("POST", "/problems"),
    ("DELETE", "/problems/operation"),
    ("GET", "/problems/../balance"),
    ("GET", "/problems/%2e%2e/balance"),
    ("GET", "//balance"),
    ("GET", "/balance"),
    ("GET", "/transactions"),
    ("GET", "/livez"),
)


class Seen(NamedTuple):
    """An answer, and the user headers that Teller was given for it; None if it was not asked."""

    status: int
    users: list[tuple[str, str]] | None

    def __str__(self) -> str:
        if self.users is None:
            return f"{self.status}, Teller not asked"
        users = ", ".join(f"{name}: {value}" for name, value in self.users) or "no user"
        return f"{self.status}, Teller given {users}"


class Way:
    """A way in: through the gateway, or straight to the pod from inside the mesh."""

    def __init__(self, found: Found, name: str, url: str, host: str, recorder: Saboteur) -> None:
        self.name = name
        self._found = found
        self._url = url
        self._host = host
        self._recorder = recorder

    async def ask(
        self, headers: list[tuple[str, str]], method: str = "GET", path: str = "/balance"
    ) -> Seen:
        """One request, its path sent as it is."""
        before = len(self._recorder.heads)
        self._found.requests = (self._found.requests or 0) + 1
        async with httpx.AsyncClient(timeout=10) as client:
            request = client.build_request(
                method,
                self._url,
                headers=[("host", self._host), *headers],
                extensions={"target": path.encode()},
            )
            answer = await client.send(request)
        heads = self._recorder.heads[before:]
        return Seen(answer.status_code, _users(heads[-1]) if heads else None)


def _users(head: bytes) -> list[tuple[str, str]]:
    pairs = [line.partition(b":") for line in head.split(b"\r\n")[1:]]
    return sorted(
        (name.decode().lower(), value.strip().decode())
        for name, _, value in pairs
        if name.lower().replace(b"-", b"_") in {b"user_id", b"x_user_id"}
    )


async def identity(place: Place) -> Found:
    """Try to be somebody else, on both ways."""
    found, network = Found(steps="-", requests=0), Network()
    place.say("identity: starting")
    async with saboteur.between(network.address()) as recorder:
        with clusters.running(place.folder, network=network, upstream=recorder.host) as cluster:
            recorder.target = cluster.stable.application
            host = cluster.chart.one("VirtualService")["spec"]["hosts"][0]
            gateway = f"http://{cluster.gateway.host}:{envoy.GATEWAY_PORT}"
            pod = cluster.stable.host
            ways = (
                Way(found, "gateway", gateway, host, recorder),
                Way(found, "pod", f"http://{pod}:8000", pod, recorder),
            )
            for way in ways:
                place.say(f"identity: through the {way.name}")
                await _claims(found, way, cluster)
                await _tokens(found, way, cluster)
                await _open(found, way)
            await _metrics(found, cluster)
            await _helm_test(found, cluster)
            # Nobody's money but the smoke test's own moved, and that nets to zero.
            seen = await verdict.of(cluster.url, cluster.clients(), place.folder, cluster.teller)
            found.seen.append(str(seen))
            found.violations = seen.violations
            found.expect(
                "rows, and the sum of all balances", (seen.rows, seen.balances_minor), (3, 0)
            )
            found.expect("violations", seen.violations, 0)
    return found


async def _claims(found: Found, way: Way, cluster: Cluster) -> None:
    """With Mallory's token and every claim to be Alice, Teller sees Mallory alone."""
    token = ("authorization", f"Bearer {cluster.issuer.token(MALLORY)}")
    mallory = [("user_id", MALLORY), ("x-user-id", MALLORY)]
    got: dict[str, Seen] = {}
    for claimed in CLAIMED:
        got[str(claimed)] = await way.ask([*claimed, token])
        got[f"late {claimed}"] = await way.ask([token, *claimed])
    # A hop-by-hop token is gone before it is read: nobody is asking then.
    refused = {name for name in got if "connection" in name}
    others = [seen for name, seen in got.items() if name not in refused]
    found.expect(f"{way.name}: requests with a token and a claim to be another", len(others), 14)
    found.expect("each of them", _one(others), str(Seen(200, mallory)))
    found.expect(
        f"{way.name}: claims that name the token hop-by-hop: alice seen",
        any(ALICE in str(got[name].users) for name in refused),
        wanted=False,
    )
    alone = [await way.ask(claimed) for claimed in CLAIMED]
    found.expect(f"{way.name}: claims without a token", len(alone), 8)
    found.expect("each of them", _one(alone), str(Seen(403, None)))


def _one(seen: list[Seen]) -> str:
    """What all of them were, or all that they were."""
    return " / ".join(sorted({str(it) for it in seen}))


async def _tokens(found: Found, way: Way, cluster: Cluster) -> None:
    issuer = cluster.issuer
    forged = {
        "another key": Issuer().token(ALICE),
        "another issuer": issuer.token(ALICE, iss="https://evil.example"),
        "expired": issuer.token(ALICE, exp=1),
        "not yet": issuer.token(ALICE, nbf=2**33),
        "no signature": _made(ALICE, "none"),
        "HS256 with the public key": _made(ALICE, "HS256", issuer.jwks.encode()),
        "rubbish": "x.y.z",
    }
    for what, token in forged.items():
        seen = await way.ask([("authorization", f"Bearer {token}")])
        found.expect(f"{way.name}: a token, {what}", str(seen), str(Seen(401, None)))
    subjects: tuple[tuple[str, str | None], ...] = (("no subject", None), ("an empty subject", ""))
    for what, subject in subjects:
        token = issuer.token(subject)
        headers = [("user_id", ALICE), ("authorization", f"Bearer {token}")]
        seen = await way.ask(headers)
        found.expect(f"{way.name}: a token with {what}", str(seen), str(Seen(403, None)))


def _made(user: str, algorithm: str, secret: bytes = b"") -> str:
    """A token that no library would make."""
    parts = ({"alg": algorithm, "typ": "JWT"}, {"iss": ISSUER, "sub": user})
    said = b".".join(_coded(json.dumps(it).encode()) for it in parts)
    signature = hmac.digest(secret, said, "sha256") if secret else b""
    return b".".join([said, _coded(signature)]).decode()


def _coded(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).strip(b"=")


async def _open(found: Found, way: Way) -> None:
    """What anybody may read, and what only looks like it."""
    claim = [("user_id", ALICE), ("x-user-id", ALICE)]
    seen = [await way.ask(claim, path=path) for path in OPEN]
    found.expect(f"{way.name}: {', '.join(OPEN)} without a token", _one(seen), str(Seen(200, [])))
    seen = [await way.ask(claim, method, path) for method, path in NOT_OPEN]
    paths = ", ".join(f"{method} {path}" for method, path in NOT_OPEN)
    found.expect(f"{way.name}: {paths} without a token", _one(seen), str(Seen(403, None)))


async def _metrics(found: Found, cluster: Cluster) -> None:
    """The metrics' port: GET /metrics and nothing else."""
    # The scrape of the metrics goes through the pod's proxy to a port that the recorder lacks.
    url = f"http://{cluster.stable.host}:9090"
    async with httpx.AsyncClient(timeout=10) as client:
        statuses = [
            (await client.get(f"{url}/")).status_code,
            (await client.post(f"{url}/metrics")).status_code,
            (await client.get(f"{url}/metrics")).status_code,
        ]
    found.expect("the metrics' port: /, POST, past the policy", statuses, [403, 403, 503])


async def _helm_test(found: Found, cluster: Cluster) -> None:
    """The chart's own `helm test` pods."""
    objects: list[Any] = of_kind(cluster.chart.objects, "Pod")
    for pod in objects:
        passed, line = await asyncio.to_thread(cluster.smoke, pod, "test", timeout_s=120)
        if not passed:
            found.seen.append(line)
        found.expect(f"helm test {pod['metadata']['name']} passes", passed, wanted=True)
    found.expect("helm tests", len(objects), 2)

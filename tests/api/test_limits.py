"""At its limits the service says so at once, with what to do; and bugs are answered too."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from service.app import create_app
from service.teller import opened
from tests.conftest import client_of, headers
from tests.stores import gated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import httpx
    from starlette.types import Message

    from service.settings import Settings
    from service.teller import Teller
    from tests.stores import GatedStore

ONE = b'{"amount": "1"}'
Post = asyncio.Task["httpx.Response"]


async def post(client: httpx.AsyncClient, key: str, user: str = "alice") -> httpx.Response:
    return await client.post("/deposit", content=ONE, headers=headers(key, user))


class Held:
    """A service whose first movement stands at the gate before the database."""

    def __init__(self, client: httpx.AsyncClient, teller: Teller, gate: GatedStore) -> None:
        self.client = client
        self.gate = gate
        self.committer = teller.committer

    async def wait_for(self, depth: int) -> None:
        while self.committer.depth < depth:  # noqa: ASYNC110 - the product has no event for it
            await asyncio.sleep(0)


@asynccontextmanager
async def held(settings: Settings) -> AsyncIterator[Held]:
    async with opened(settings) as teller, client_of(teller) as client:
        await teller.store.open_accounts(["alice", "bob"])
        gate = gated(teller)
        first = asyncio.create_task(post(client, "first"))
        await gate.reached()
        yield Held(client, teller, gate)
        gate.open.set()
        assert (await first).status_code == 201


async def test_one_users_crowd_gets_429_while_another_user_is_served(
    make_settings: Callable[..., Settings],
) -> None:
    async with held(make_settings(queue_depth_per_user_max=2)) as service:
        waiting = [asyncio.create_task(post(service.client, f"k{i}")) for i in range(2)]
        await service.wait_for(2)
        refused = await post(service.client, "k2")
        problem = refused.json()
        assert (refused.status_code, problem["code"]) == (429, "too-many-in-flight")
        assert (problem["outcome"], problem["retry"]) == ("unknown", "same_key")
        assert "This attempt was not executed." in problem["detail"]
        assert refused.headers["retry-after"] == "1"
        bobs = asyncio.create_task(post(service.client, "k2", "bob"))
        await service.wait_for(3)
        service.gate.open.set()
        assert [(await answer).status_code for answer in (*waiting, bobs)] == [201] * 3
        again = await post(service.client, "k2")
        assert (again.status_code, again.json()["transaction"]) == (201, 4)


async def test_a_full_queue_is_a_503_for_everyone_and_the_key_runs_later(
    make_settings: Callable[..., Settings],
) -> None:
    async with held(make_settings(queue_depth_max=1)) as service:
        waiting = asyncio.create_task(post(service.client, "k0"))
        await service.wait_for(1)
        for user in ("alice", "bob"):
            shed = await post(service.client, "k1", user)
            problem = shed.json()
            assert (shed.status_code, problem["code"]) == (503, "overloaded")
            assert (problem["outcome"], problem["retry"]) == ("unknown", "same_key")
            assert "This attempt was not executed." in problem["detail"]
            assert shed.headers["retry-after"] == "1"
        service.gate.open.set()
        assert (await waiting).status_code == 201
        again = await post(service.client, "k1")
        assert (again.status_code, again.headers["idempotent-replayed"]) == (201, "false")


async def test_a_database_too_slow_is_a_503_and_the_key_then_replays(
    make_settings: Callable[..., Settings],
) -> None:
    async with opened(make_settings(answer_timeout_ms=1)) as teller, client_of(teller) as client:
        await teller.store.open_accounts(["alice"])
        gate = gated(teller)
        late = await post(client, "k")
        problem = late.json()
        assert (late.status_code, problem["code"]) == (503, "unavailable")
        assert (problem["outcome"], problem["retry"]) == ("unknown", "same_key")
        assert "may still be applied" in problem["detail"]
        assert late.headers["retry-after"] == "1"
        gate.open.set()
        while (again := await post(client, "k")).status_code == 503:
            pass
        assert (again.status_code, again.json()["transaction"]) == (201, 1)


async def test_a_thousand_posts_of_one_key_leave_another_user_undisturbed(
    client: httpx.AsyncClient,
) -> None:
    crowd = [asyncio.create_task(post(client, "k")) for _ in range(1_000)]
    bobs = await post(client, "k", "bob")
    assert (bobs.json()["balance"], bobs.headers["idempotent-replayed"]) == ("1.00", "false")
    receipts = {(answer.status_code, answer.content) for answer in await asyncio.gather(*crowd)}
    assert len(receipts) == 1
    assert receipts.pop()[0] == 201


class Trickle:
    """A client at the wire: it sends these pieces of a body, and then falls silent."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)
        self.answer: list[Message] = []

    async def receive(self) -> Message:
        if self.pieces:
            return {"type": "http.request", "body": self.pieces.pop(0), "more_body": True}
        await asyncio.Event().wait()
        raise AssertionError

    async def send(self, message: Message) -> None:
        self.answer.append(message)

    def fields(self) -> dict[bytes, bytes]:
        return dict(self.answer[0]["headers"])


def scope(path: str, key: str) -> dict[str, Any]:
    fields = headers(key).items()
    return {
        "type": "http",
        "method": "POST",
        "path": path,
        "query_string": b"",
        "headers": [(name.lower().encode(), value.encode()) for name, value in fields],
    }


@pytest.mark.parametrize("path", ["/deposit", "/withdraw"])
@pytest.mark.parametrize("pieces", [(), (b'{"amount"',), (b'{"amount": "1"}',)])
async def test_a_body_that_does_not_arrive_in_time_is_a_408_and_stores_nothing(
    make_settings: Callable[..., Settings], path: str, pieces: tuple[bytes, ...]
) -> None:
    async with opened(make_settings(body_timeout_ms=20)) as teller, client_of(teller) as client:
        await teller.store.open_accounts(["alice"])
        trickle = Trickle(*pieces)
        await create_app(teller)(scope(path, "k"), trickle.receive, trickle.send)
        assert trickle.answer[0]["status"] == 408
        assert trickle.fields()[b"connection"] == b"close"
        body = trickle.answer[1]["body"]
        for words in (
            b'"code": "request-timeout"',
            b'"outcome": "unknown"',
            b'"retry": "same_key"',
            b"this attempt was not executed",
        ):
            assert words in body
        again = await post(client, "k")
        assert (again.status_code, again.json()["transaction"]) == (201, 1)


async def test_a_bug_is_a_500_without_a_stack_trace_and_the_key_runs_later(
    client: httpx.AsyncClient, teller: Teller
) -> None:
    gate = gated(teller, ZeroDivisionError("division by zero"))
    gate.open.set()
    answer = await post(client, "k")
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (500, "internal")
    assert (problem["outcome"], problem["retry"]) == ("unknown", "same_key")
    assert problem["trace_id"] == answer.headers["x-request-id"]
    assert "ZeroDivision" not in answer.text
    assert "Traceback" not in answer.text
    gate.error = None
    assert (await post(client, "k")).json()["transaction"] == 1


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/deposit"), ("GET", "/readyz"), ("GET", "/livez")]
)
async def test_a_bug_in_any_route_is_a_500_problem(
    client: httpx.AsyncClient,
    teller: Teller,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    path: str,
) -> None:
    monkeypatch.setattr("service.movements._check_media_type", None)
    monkeypatch.setattr("service.probes._verdict", None)
    answer = await client.request(method, path, headers=headers("k"))
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["code"], problem["instance"]) == ("internal", path)
    assert problem["trace_id"] == answer.headers["x-request-id"]
    assert "NoneType" not in answer.text

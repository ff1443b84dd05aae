"""Cancelled at every step: no lock and no guard is left, no movement is lost or doubled."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from service.app import create_app
from service.ledger import Movement, Recorded
from service.sqlite import file_of
from service.teller import opened
from tests.conftest import headers
from tests.faults.locks import assert_no_guard_is_held, assert_no_lock_is_held
from tests.faults.seeded import Gate, seeded

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import httpx
    from starlette.types import Message

    from service.settings import Settings
    from service.teller import Teller

pytestmark = pytest.mark.engines(
    "sqlite", reason="the faults are seeded in SQLite's driver connection"
)

BODY = b'{"amount": "1"}'


async def post(app: Any, key: str, *, gone: asyncio.Event | None = None) -> list[Message]:
    """One deposit straight into the application; what it sent. ``gone``: the client hangs up."""
    sent: list[Message] = []
    body: list[Message] = [{"type": "http.request", "body": BODY, "more_body": False}]

    async def receive() -> Message:
        if body:
            await asyncio.sleep(0)  # the body takes a step of its own to arrive
            return body.pop()
        if gone:
            await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if gone and gone.is_set():
            raise OSError
        sent.append(message)
        await asyncio.sleep(0)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": "/deposit",
        "raw_path": b"/deposit",
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "server": ("teller.test", 80),
        "headers": [(k.lower().encode(), v.encode()) for k, v in headers(key).items()],
    }
    await app(scope, receive, send)
    return sent


async def settled(client: httpx.AsyncClient, key: str) -> httpx.Response:
    answer = await client.post("/deposit", content=BODY, headers=headers(key))
    assert answer.status_code == 201, answer.text
    return answer


async def test_a_request_cancelled_after_any_number_of_steps_leaves_no_lock_and_no_orphan(
    teller: Teller, client: httpx.AsyncClient
) -> None:
    app = create_app(teller)
    keys: list[str] = []
    finished = 0
    cancelled = 0
    steps = 0
    # Until cancelling comes too late, three times in a row; on a busy machine that is soon.
    while finished < 3 or len(keys) <= 24:
        keys.append(f"after-{steps}")
        request = asyncio.create_task(post(app, keys[-1]))
        for _ in range(steps):
            await asyncio.sleep(0)
        finished = finished + 1 if request.done() else 0
        cancelled += not request.done()
        request.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await request
        steps += 1 if steps < 24 else steps // 8
    assert cancelled > 3
    first = {key: await settled(client, key) for key in keys}
    again = {key: await settled(client, key) for key in keys}
    assert {k: a.content for k, a in first.items()} == {k: a.content for k, a in again.items()}
    assert {a.headers["idempotent-replayed"] for a in again.values()} == {"true"}
    assert sorted(a.json()["transaction"] for a in first.values()) == [*range(1, len(keys) + 1)]
    assert teller.committer.depth == 0
    await asyncio.to_thread(assert_no_lock_is_held, file_of(teller.settings.database_url))


@pytest.mark.parametrize("verb", ["BEGIN", "SELECT", "INSERT", "UPDATE", "COMMIT"])
@pytest.mark.parametrize("side", ["before", "after"])
async def test_a_request_cancelled_at_any_statement_is_carried_out_and_its_key_replays(
    teller: Teller, client: httpx.AsyncClient, verb: str, side: str
) -> None:
    gate = Gate(verb)
    with seeded(teller, **{side: gate}):
        request = asyncio.create_task(post(create_app(teller), "k1"))
        await gate.reached()
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        gate.open()
        answer = await settled(client, "k1")
    assert answer.headers["idempotent-replayed"] == "true"
    assert answer.json()["balance"] == "1.00"


async def test_a_client_that_hangs_up_during_the_commit_finds_its_receipt_later(
    teller: Teller, client: httpx.AsyncClient
) -> None:
    gate, gone = Gate("COMMIT"), asyncio.Event()
    with seeded(teller, before=gate):
        request = asyncio.create_task(post(create_app(teller), "k1", gone=gone))
        await gate.reached()
        gone.set()
        gate.open()
        with contextlib.suppress(OSError):
            await request
    answer = await settled(client, "k1")
    assert answer.headers["idempotent-replayed"] == "true"
    assert answer.json()["transaction"] == 1


async def test_a_service_cancelled_after_any_number_of_steps_leaves_no_lock_and_no_guard(
    make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    async def live(settings: Settings) -> Recorded:
        async with opened(settings) as teller:
            await teller.store.open_accounts(["alice"])
            answer = await teller.committer.submit(Movement("alice", "k1", "deposit", 100, None))
            assert isinstance(answer, Recorded), answer
            return answer

    lives, steps, replayed = 0, 1, []
    while True:
        # A new file for each, so that the migration is cut short too.
        path = tmp_path / f"after-{steps}.db"
        settings = make_settings(
            database_url=f"sqlite+aiosqlite:///{path}",
            busy_timeout_ms=2_000,
            answer_timeout_ms=8_000,
        )
        life = asyncio.create_task(live(settings))
        for _ in range(steps):
            await asyncio.sleep(0)
        if life.done():
            break
        life.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await life
        assert_no_guard_is_held(path)
        replayed.append((await live(settings)).replayed)
        steps, lives = steps + max(1, steps // 2), lives + 1
    assert lives > 15
    assert replayed[0] is False
    await asyncio.to_thread(assert_no_lock_is_held, path)

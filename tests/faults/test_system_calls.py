"""Real services whose system calls fail, hang, or are their last."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from service.sqlite import file_of
from tests.clients import Reply, Wire, request
from tests.conftest import headers
from tests.faults.locks import assert_no_guard_is_held
from tests.faults.strace import injected
from tests.processes import serving

if TYPE_CHECKING:
    from tests.processes import Served

pytestmark = pytest.mark.engines("sqlite", reason="the service itself writes and syncs only a file")

ENV = {"TELLER_ACCOUNT_OPENING": "on_first_deposit", "TELLER_REQUEST_LOG": "false"}
ONE = b'{"amount": "1"}'
USERS = 3


async def deposit(server: Served, key: str, user: str = "alice") -> Reply:
    async with Wire(server.url) as wire:
        return await wire.post("/deposit", ONE, headers(key, user))


async def deposit_each(server: Served, key: str) -> dict[str, bytes]:
    """Deposit for several users at once; the receipts of those that were answered 201."""
    users = [f"user-{n}" for n in range(USERS)]
    answers = await asyncio.gather(
        *(deposit(server, key, user) for user in users), return_exceptions=True
    )
    receipts = {}
    for user, answer in zip(users, answers, strict=True):
        if isinstance(answer, Reply):
            assert answer.status in {201, 503}, answer.body
            if answer.status == 201:
                receipts[user] = answer.body
        else:
            assert isinstance(answer, ConnectionError)
    return receipts


def assert_problem(reply: Reply, code: str) -> None:
    problem = json.loads(reply.body)
    assert (reply.status, problem["code"]) == (503, code)
    assert (problem["outcome"], problem["retry"]) == ("unknown", "same_key")
    assert reply.fields["retry-after"] == "1"


@pytest.mark.parametrize("fault", ["fdatasync,fsync:error=EIO:when=1", "pwrite64:error=EIO:when=2"])
async def test_an_io_error_at_commit_is_outcome_unknown_exits_1_and_the_row_tells_the_truth(
    database_url: str, fault: str
) -> None:
    with serving(database_url, env=ENV) as server:
        assert (await deposit(server, "before")).status == 201
        with injected(server, fault):
            assert_problem(await deposit(server, "k1"), "outcome-unknown")
            assert await asyncio.to_thread(server.wait) == 1
        assert server.events("stopped for a restart")
    assert_no_guard_is_held(file_of(database_url))
    with serving(database_url, env=ENV) as server:
        first, again = await deposit(server, "k1"), await deposit(server, "k1")
        assert (first.status, again.status) == (201, 201)
        assert first.body == again.body
        assert again.fields["idempotent-replayed"] == "true"
        assert first.json()["transaction"] == 2 and first.json()["balance"] == "2.00"


async def test_a_full_disk_at_commit_is_unavailable_and_recovers_unaided(database_url: str) -> None:
    with serving(database_url, env=ENV) as server:
        assert (await deposit(server, "before")).status == 201
        for call in (1, 2, 3):
            with injected(server, f"pwrite64:error=ENOSPC:when={call}"):
                assert_problem(await deposit(server, f"k{call}"), "unavailable")
                assert (await request(server.url, "GET", "/readyz")).status == 200
            settled = await deposit(server, f"k{call}")
            assert settled.fields["idempotent-replayed"] == "false"
            assert settled.json()["transaction"] == 1 + call
        assert server.terminate() == 0


@pytest.mark.parametrize("fault", ["pwrite64:error=ENOSPC", "fdatasync,fsync:error=EIO"])
async def test_a_checkpoint_that_fails_is_nobody_s_trouble(database_url: str, fault: str) -> None:
    with serving(database_url, env={**ENV, "TELLER_WAL_ROWS_MAX": "1"}) as server:
        assert (await deposit(server, "before")).status == 201
        # A commit writes to the log alone, a checkpoint to the file itself.
        with injected(server, fault, only=file_of(database_url)):
            assert (await deposit(server, "k1")).status == 201
            assert (await deposit(server, "k2")).status == 201
        assert (await deposit(server, "k3")).json()["transaction"] == 4
        assert server.events("checkpoint failed")
        assert server.terminate() == 0


@pytest.mark.parametrize("call", ["pwrite64", "fdatasync,fsync", "fcntl", "sendto,write"])
async def test_kill_9_at_any_call_of_a_commit_keeps_what_was_answered_and_doubles_nothing(
    database_url: str, call: str
) -> None:
    receipts: dict[str, dict[str, bytes]] = {}
    when, step, killed = 1, 1, True
    while killed:  # until the commit has no call of that number
        key = f"k{when}"
        with serving(database_url, env=ENV) as server:
            with injected(server, f"{call}:signal=SIGKILL:when={when}"):
                receipts[key] = await deposit_each(server, key)
            killed = len(receipts[key]) < USERS
            if killed:
                assert await asyncio.to_thread(server.wait) == -signal.SIGKILL
            else:
                server.kill()
        assert_no_guard_is_held(file_of(database_url))
        when, step = when + step, step + 1
    with serving(database_url, env=ENV) as server:
        for key, known in receipts.items():
            settled = await deposit_each(server, key)
            assert known.items() <= settled.items()
            assert len(settled) == USERS
        last = json.loads((await deposit_each(server, "last"))["user-0"])
        assert last["transaction"] == len(receipts) + 1
        assert last["balance"] == f"{len(receipts) + 1}.00"


async def test_a_commit_written_but_never_synced_is_durable_before_its_replay_is_answered(
    database_url: str,
) -> None:
    with serving(database_url, env=ENV) as server:
        assert (await deposit(server, "before")).status == 201
        with injected(server, "fdatasync,fsync:signal=SIGKILL:when=1"):
            with pytest.raises(ConnectionError):
                await deposit(server, "k1")
            await asyncio.to_thread(server.wait)
    with serving(database_url, env=ENV) as server:
        # The kernel still knows the log that nobody synced: the movement is there.
        replay = await deposit(server, "k1")
        assert replay.fields["idempotent-replayed"] == "true"
        server.kill()
    # The power goes, and with it any log that is in no database file yet.
    path = file_of(database_url)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink()
    with serving(database_url, env=ENV) as server:
        again = await deposit(server, "k1")
        assert again.fields["idempotent-replayed"] == "true"
        assert again.body == replay.body


async def test_a_disk_that_never_answers_does_not_outlast_the_drain_limit(
    database_url: str,
) -> None:
    env = {**ENV, "TELLER_DRAIN_TIMEOUT_S": "1"}
    with serving(database_url, env=env) as server:
        assert (await deposit(server, "before")).status == 201
        with injected(server, "fdatasync,fsync:delay_enter=60000000:when=1"):
            stuck = asyncio.create_task(deposit(server, "k1"))
            await asyncio.sleep(0.3)
            assert (await request(server.url, "GET", "/livez")).status == 200
            server.process.send_signal(signal.SIGTERM)
            answer = await stuck
            assert_problem(answer, "unavailable")
            assert "may still be applied" in answer.json()["detail"]
            # It has ended; only the thread that strace holds is not buried yet.
            async with asyncio.timeout(20):
                while not has_ended(server.process.pid):  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.05)
        assert await asyncio.to_thread(server.wait) == 1
        assert server.events("stopped at the drain limit with a commit unfinished")
    with serving(database_url, env=ENV) as server:
        assert (await deposit(server, "k1")).json()["balance"] == "2.00"


def has_ended(pid: int) -> bool:
    """Whether the process's first thread has ended: it has left for good."""
    status = Path(f"/proc/{pid}/status")
    return not status.exists() or "\nState:\tZ" in status.read_text()

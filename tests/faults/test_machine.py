"""A machine that runs out of disk or of file descriptors, and starts that meet each other."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING

from tests.clients import Wire, request
from tests.conftest import headers
from tests.faults.disks import fill, resize, small_disk
from tests.faults.strace import injected
from tests.processes import serving, started

if TYPE_CHECKING:
    from pathlib import Path

    from tests.clients import Reply
    from tests.processes import Served

ENV = {"TELLER_ACCOUNT_OPENING": "on_first_deposit", "TELLER_REQUEST_LOG": "false"}
BODY = json.dumps({"amount": "1", "reference": "r" * 140}).encode()


async def deposit(server: Served, key: str) -> Reply:
    return await request(server.url, "POST", "/deposit", BODY, headers(key))


async def test_a_full_disk_stores_nothing_keeps_reading_and_recovers_unaided(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path) as disk:
        ballast = disk / "ballast"
        with serving(f"sqlite+aiosqlite:///{disk / 'ledger.db'}", env=ENV) as server:
            assert (await deposit(server, "first")).status == 201
            fill(ballast)
            stored, refused = ["first"], list[str]()
            async with Wire(server.url) as wire:
                for i in range(200):
                    reply = await wire.post("/deposit", BODY, headers(f"k{i}"))
                    (stored if reply.status == 201 else refused).append(f"k{i}")
                    if reply.status != 201:
                        problem = reply.json()
                        assert (reply.status, problem["code"]) == (503, "unavailable")
                        assert reply.fields["retry-after"] == "1"
                    if len(refused) == 3:
                        break
            assert len(refused) == 3
            balance = await request(server.url, "GET", "/balance", b"", {"user_id": "alice"})
            assert balance.json()["balance"] == f"{len(stored)}.00"
            assert (await request(server.url, "GET", "/readyz")).status == 200
            ballast.unlink()
            for key in refused:
                reply = await deposit(server, key)
                assert reply.fields["idempotent-replayed"] == "false"
            for key in stored:
                reply = await deposit(server, key)
                assert reply.fields["idempotent-replayed"] == "true"
            assert server.terminate() == 0


async def test_a_log_that_filled_its_disk_is_emptied_into_what_is_freed_and_does_not_take_it(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path, size_mib=2) as disk:
        log = disk / "ledger.db-wal"
        env = {**ENV, "TELLER_WAL_ROWS_MAX": "1000000"}
        with serving(f"sqlite+aiosqlite:///{disk / 'ledger.db'}", env=env) as server:
            async with Wire(server.url) as wire:
                stored = 0
                while (await wire.post("/deposit", BODY, headers(f"k{stored}"))).status == 201:
                    stored += 1
                assert stored > 20
                filled = log.stat().st_size
                # Too little for the rows of the log in the file itself.
                resize(disk, kib=2048 + 8)
                for number in range(20):
                    reply = await wire.post("/deposit", BODY, headers(f"more{number}"))
                    assert (reply.status, reply.json()["code"]) == (503, "unavailable")
                assert log.stat().st_size == filled
                resize(disk, kib=4096)
                reply = await wire.post("/deposit", BODY, headers("more0"))
                assert (reply.status, reply.json()["balance"]) == (201, f"{stored + 1}.00")
            assert server.terminate() == 0


async def test_without_file_descriptors_every_client_is_answered_or_cut_off_and_then_settles(
    database_url: str,
) -> None:
    keys = [f"k{i}" for i in range(60)]
    with serving(database_url, env=ENV) as server:
        assert (await deposit(server, "first")).status == 201
        pid = server.process.pid
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        in_use = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (in_use + 10, limits[1]))
        answers = await asyncio.gather(
            *(asyncio.wait_for(deposit(server, key), 20) for key in keys), return_exceptions=True
        )
        for answer in answers:
            assert isinstance(answer, ConnectionError) or (
                not isinstance(answer, BaseException) and answer.status == 201
            ), answer
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        settled = [(await deposit(server, key)).json()["transaction"] for key in keys]
        assert sorted(settled) == [*range(2, 62)]
        assert server.terminate() == 0


async def test_services_that_start_at_once_on_a_new_file_all_serve_one_ledger(
    database_url: str,
) -> None:
    with ExitStack() as stack:
        servers = [stack.enter_context(started(database_url, env=ENV)) for _ in range(3)]
        for server in servers:
            server.wait_until_serving()
        replies = await asyncio.gather(*(deposit(server, "k1") for server in servers))
        assert [reply.status for reply in replies] == [201, 201, 201]
        assert len({reply.body for reply in replies}) == 1


async def test_a_start_killed_while_it_makes_the_ledger_is_made_good_by_the_next(
    tmp_path: Path,
) -> None:
    for when in (1, 4, 16):
        database_url = f"sqlite+aiosqlite:///{tmp_path / f'{when}.db'}"
        with started(database_url, env=ENV) as server:
            server.process.send_signal(signal.SIGSTOP)  # until strace counts its calls
            with injected(server, f"pwrite64:signal=SIGKILL:when={when}"):
                server.process.send_signal(signal.SIGCONT)
                assert await asyncio.to_thread(server.wait) == -signal.SIGKILL
        with serving(database_url, env=ENV) as server:
            assert (await deposit(server, "k1")).json()["transaction"] == 1

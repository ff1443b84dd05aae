"""Real processes: killed, stopped, and two at once on one file."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import TYPE_CHECKING

import httpx

from tests.conftest import headers
from tests.processes import serving, started

if TYPE_CHECKING:
    from tests.processes import Served

OPEN = {"TELLER_ACCOUNT_OPENING": "on_first_deposit", "TELLER_REQUEST_LOG": "false"}
ONE = b'{"amount": "1"}'
# `teller` on the standard library's SQLite, as on a machine without a wheel of Teller's own.
UNFIXED = (
    "import sys; sys.modules['pysqlite3'] = None; import service.sqlite as s; "
    "s.wal_reset_fixed = lambda version: False; from service.cli import main; main()"
)


async def send(urls: list[str], keys: list[str]) -> dict[str, bytes]:
    """Deposit 1 under each key at every address, 16 at a time; the receipts of those answered."""
    receipts: dict[str, bytes] = {}

    async def keep_sending(client: httpx.AsyncClient, url: str, waiting: list[str]) -> None:
        # A few workers and no crowd before the pool: httpx's pool searches all who wait.
        while waiting:
            key = waiting.pop()
            try:
                answer = await client.post(f"{url}/deposit", content=ONE, headers=headers(key))
            except httpx.TransportError:
                continue
            assert answer.status_code == 201, answer.text
            assert receipts.setdefault(key, answer.content) == answer.content

    async with httpx.AsyncClient(timeout=20) as client, asyncio.TaskGroup() as workers:
        for url in urls:
            waiting = keys[::-1]
            for _ in range(16):
                workers.create_task(keep_sending(client, url, waiting))
    return receipts


async def kill_soon(server: Served, delay_s: float) -> None:
    await asyncio.sleep(delay_s)
    server.process.send_signal(signal.SIGKILL)


async def test_kill_9_under_load_loses_nothing_acknowledged_and_doubles_nothing(
    database_url: str,
) -> None:
    known: dict[str, bytes] = {}
    keys: list[str] = []
    for round_ in range(4):
        keys += [f"r{round_}-{i}" for i in range(400)]
        with serving(database_url, env=OPEN) as server:
            answered, _ = await asyncio.gather(
                send([server.url], keys), kill_soon(server, 0.15 + 0.1 * round_)
            )
        for key, receipt in answered.items():
            assert known.setdefault(key, receipt) == receipt
    with serving(database_url, env=OPEN) as server:
        settled = await send([server.url], keys)
        assert known.items() <= settled.items()
        last = await send([server.url], ["last"])
        assert b'"transaction":1601,' in last["last"]
        assert b'"balance":"1601.00"' in last["last"]
        assert server.terminate() == 0


async def test_two_processes_on_one_file_share_keys_exactly_once(database_url: str) -> None:
    keys = [f"k{i}" for i in range(1_000)]
    with (
        serving(database_url, env=OPEN) as one,
        serving(database_url, env=OPEN) as two,
    ):
        assert len(await send([one.url, two.url], keys)) == 1_000
        last = await send([two.url], ["last"])
        assert b'"balance":"1001.00"' in last["last"]


async def test_sigterm_under_load_keeps_every_receipt_and_exits_0(database_url: str) -> None:
    keys = [f"k{i}" for i in range(1_000)]
    with serving(database_url, env=OPEN) as server:
        load = asyncio.create_task(send([server.url], keys))
        await asyncio.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        answered = await load
        assert server.wait() == 0
    with serving(database_url, env=OPEN) as server:
        assert answered.items() <= (await send([server.url], keys)).items()


def test_with_an_unfixed_library_the_second_process_refuses_and_says_why(
    database_url: str,
) -> None:
    command = (sys.executable, "-c", UNFIXED)
    with serving(database_url), started(database_url, command=command) as second:
        assert second.wait() == 1
        assert "the WAL-reset bug, fixed in 3.51.3" in second.output()

"""Real processes: killed, stopped, and two at once on one file."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from itertools import count
from typing import TYPE_CHECKING

import psutil
import pytest

from service.sqlite import file_of
from tests.clients import Wire, request
from tests.conftest import headers
from tests.faults.locks import assert_no_guard_is_held, assert_no_lock_is_held
from tests.processes import serving, started

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.processes import Served

OPEN = {"TELLER_ACCOUNT_OPENING": "on_first_deposit", "TELLER_REQUEST_LOG": "false"}
ONE = b'{"amount": "1"}'
USERS = 4
# `teller` on the standard library's SQLite, as on a machine without a wheel of Teller's own.
UNFIXED = (
    "import sys; sys.modules['pysqlite3'] = None; import service.sqlite as s; "
    "s.wal_reset_fixed = lambda version: False; from service.cli import main; main()"
)

# `teller` whose patience with clients that read nothing is short.
IMPATIENT = "import service.cli as c; c.UNREAD_TIMEOUT_MS = 500; c.main()"


class Clients:
    """Clients of one or more services: what they asked, and every receipt that they were given."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.receipts: dict[int, bytes] = {}
        self.unanswered: set[int] = set()

    async def send(self, urls: list[str], numbers: Iterable[int]) -> None:
        """Deposit 1 under each number's key at each address, 16 at a time, while it answers."""
        async with asyncio.TaskGroup() as workers:
            for url in urls:
                waiting = iter(numbers)
                for _ in range(16):
                    workers.create_task(self._send(url, waiting))

    async def _send(self, url: str, waiting: Iterable[int]) -> None:
        try:
            async with Wire(url) as wire:
                for number in waiting:
                    self.asked.append(number)
                    self.unanswered.add(number)
                    fields = headers(f"k{number}", user=f"user-{number % USERS}")
                    reply = await wire.post("/deposit", ONE, fields)
                    assert reply.status == 201, reply.body
                    assert self.receipts.setdefault(number, reply.body) == reply.body
                    self.unanswered.discard(number)
        except ConnectionError:
            return

    async def settle(self, url: str) -> None:
        """Ask everything again: each gets the receipt it had, and every account is gapless."""
        asked = sorted(set(self.asked))
        await self.send([url], asked)
        assert not self.unanswered
        for user in range(USERS):
            receipts = [json.loads(self.receipts[n]) for n in asked if n % USERS == user]
            receipts.sort(key=lambda receipt: receipt["transaction"])
            expected = [*range(1, len(receipts) + 1)]
            assert [receipt["transaction"] for receipt in receipts] == expected
            assert [receipt["balance"] for receipt in receipts] == [f"{n}.00" for n in expected]


async def signal_after(
    receipts: int, clients: Clients, server: Served, number: signal.Signals
) -> None:
    """Send the signal once the clients have that many receipts more."""
    wanted = len(clients.receipts) + receipts
    while len(clients.receipts) < wanted:  # noqa: ASYNC110 - a test may look now and then
        await asyncio.sleep(0.001)
    server.process.send_signal(number)


async def test_kill_9_under_load_loses_nothing_acknowledged_and_doubles_nothing(
    database_url: str,
) -> None:
    clients, numbers = Clients(), count()
    for receipts in (1, 20, 50, 120, 300, 700):
        with serving(database_url, env=OPEN) as server:
            await asyncio.gather(
                clients.send([server.url], numbers),
                signal_after(receipts, clients, server, signal.SIGKILL),
            )
            assert server.wait() == -signal.SIGKILL
        assert clients.unanswered, "the kill met no request at work"
        if "sqlite" in database_url:
            assert_no_guard_is_held(file_of(database_url))
    if "sqlite" in database_url:
        assert_no_lock_is_held(file_of(database_url))
    with serving(database_url, env=OPEN) as server:
        await clients.settle(server.url)
        assert server.terminate() == 0


async def test_two_processes_on_one_database_share_keys_exactly_once(database_url: str) -> None:
    clients = Clients()
    with (
        serving(database_url, env=OPEN) as one,
        serving(database_url, env=OPEN) as two,
    ):
        await clients.send([one.url, two.url], range(2_000))
        assert len(clients.asked) == 4_000
        assert len(clients.receipts) == 2_000
        await clients.settle(two.url)


async def test_of_two_processes_the_killed_one_leaves_the_other_at_work(database_url: str) -> None:
    clients = Clients()
    with serving(database_url, env=OPEN) as other, serving(database_url, env=OPEN) as killed:
        await asyncio.gather(
            clients.send([killed.url], count(250)),
            clients.send([other.url], range(500)),
            signal_after(300, clients, killed, signal.SIGKILL),
        )
        assert killed.wait() == -signal.SIGKILL
        assert clients.receipts.keys() >= {*range(500)}
        await clients.settle(other.url)


async def test_sigterm_under_load_keeps_every_receipt_and_exits_0(database_url: str) -> None:
    clients, numbers = Clients(), count()
    with serving(database_url, env=OPEN) as server:
        await asyncio.gather(
            clients.send([server.url], numbers),
            signal_after(300, clients, server, signal.SIGTERM),
        )
        assert server.wait() == 0
        assert server.events("stopped")
    with serving(database_url, env=OPEN) as server:
        await clients.settle(server.url)


@pytest.mark.engines("sqlite", reason="the guard is of the SQLite library")
def test_with_an_unfixed_library_the_second_process_refuses_and_says_why(
    database_url: str,
) -> None:
    command = (sys.executable, "-c", UNFIXED)
    with serving(database_url), started(database_url, command=command) as second:
        assert second.wait() == 1
        assert "the WAL-reset bug, fixed in 3.51.3" in second.output()


@pytest.mark.engines("sqlite", reason="the connection is the client's, whatever the engine")
@pytest.mark.skipif(sys.platform != "linux", reason="TCP_USER_TIMEOUT is Linux's")
async def test_a_client_that_reads_none_of_its_answers_is_cut_off(database_url: str) -> None:
    command = (sys.executable, "-c", IMPATIENT)
    with serving(database_url, env=OPEN, command=command) as server, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
        service = psutil.Process(server.process.pid)
        mine = client.getsockname()[1]

        def connected() -> bool:
            return any(one.raddr and one.raddr.port == mine for one in service.net_connections())

        async with asyncio.timeout(60):
            while not connected():  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
            # Its answers are many times what the kernel keeps for a client that reads nothing.
            client.sendall(b"GET /openapi.json HTTP/1.1\r\nhost: teller\r\n\r\n" * 400)
            while connected():  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.05)
        assert (await request(server.url, "GET", "/livez")).status == 200

"""Clients of several services, and their log for the checker: all they sent and all they heard."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from service import checker, evidence, history
from service.settings import Settings
from tests.clients import Wire
from tests.conftest import headers

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from typing import Self

    from service.checker import Verdict
    from service.history import Event

PAUSE_S: Final = 0.05
TWICE: Final = 0.2  # of all operations: two services get the request at the same moment
PATIENCE_S: Final = 60
ANSWER_TIMEOUT_S: Final = 20
PATHS: Final = {"deposit": "/deposit", "withdrawal": "/withdraw"}


class Operation(NamedTuple):
    """What one key is for, in every send of it."""

    user: str
    key: str
    kind: str
    amount: str | None


class Traffic:
    """Deposits, withdrawals and burns, each sent with its key until it has a definite answer.

    Attributes:
        events: the log, as ``service.checker`` reads it.
        applied_s: when each 201 was sent for and came, by the monotonic clock, in seconds.
    """

    def __init__(self, addresses: Callable[[], Sequence[str]], *, users: int, seed: int) -> None:
        self.events: list[Event] = []
        self.applied_s: list[tuple[float, float]] = []
        self._addresses = addresses
        self._users = [f"user-{number}" for number in range(users)]
        self._seed = seed
        self._open: dict[Operation, None] = {}

    async def run(self, stop: asyncio.Event, *, clients: int) -> None:
        """Send until ``stop`` is set; what has no definite answer by then stays open."""
        async with asyncio.TaskGroup() as tasks:
            for number in range(clients):
                tasks.create_task(self._client(number, stop))

    async def applied(self, wanted: int, sending: asyncio.Task[None]) -> None:
        """Return once there have been so many answers 201; raise what ended ``sending``."""
        async with asyncio.timeout(PATIENCE_S):
            while len(self.applied_s) < wanted:
                if sending.done():
                    sending.result()
                await asyncio.sleep(0.005)

    async def settle(self) -> None:
        """Send what is open once more, until it is settled too."""
        async with asyncio.timeout(PATIENCE_S), _Wires() as wires:
            rng, never = random.Random(self._seed), asyncio.Event()
            for operation in list(self._open):
                await self._until_answered(operation, wires, rng, never)

    async def verdict(self, database_url: str) -> Verdict:
        """Hold the ledger against the log."""
        users = {event.user_id for event in self.events}
        settings = Settings.load(database_url=database_url)
        rows, balances = await evidence.of_database(settings, users, lambda _rows: None)
        return checker.check(self.events, rows, balances=balances)

    @property
    def in_flight(self) -> int:
        """Operations sent at least once that have no definite answer yet."""
        return len(self._open)

    def count(self, what: str) -> int:
        """How many lines of the log are of that kind."""
        return sum(event.what == what for event in self.events)

    async def _client(self, number: int, stop: asyncio.Event) -> None:
        rng, sent = random.Random(f"{self._seed}-{number}"), 0
        async with _Wires() as one, _Wires() as two:
            while not stop.is_set():
                kind = rng.choices(("deposit", "withdrawal", "burn"), (6, 3, 1))[0]
                amount = None if kind == "burn" else f"{rng.randint(1, 900) / 100:.2f}"
                sent += 1
                operation = Operation(rng.choice(self._users), f"{number}-{sent}", kind, amount)
                self._open[operation] = None
                twins = (one, two) if rng.random() < TWICE else (one,)
                await asyncio.gather(
                    *(self._until_answered(operation, wires, rng, stop) for wires in twins)
                )

    async def _until_answered(
        self, operation: Operation, wires: _Wires, rng: random.Random, stop: asyncio.Event
    ) -> None:
        while True:
            addresses = self._addresses()
            await wires.keep(addresses)
            event = await self._send(operation, wires, rng.choice(addresses))
            if event.what in {"ok", "refused"}:
                self._open.pop(operation, None)
                return
            assert event.what == "unknown", event
            if stop.is_set():
                return
            await asyncio.sleep(rng.uniform(0, PAUSE_S))

    async def _send(self, operation: Operation, wires: _Wires, address: str) -> Event:
        user, key, kind, amount = operation
        sent_s = time.monotonic()
        self.events.append(history.invoked(sent_s, user, key, kind, amount=amount))
        status, body = await wires.send(address, operation)
        answered_s = time.monotonic()
        event = history.answered(answered_s, user, key, status, body)
        self.events.append(event)
        if status == 201:
            self.applied_s.append((sent_s, answered_s))
        return event


class _Wires:
    """One client's connections, by address."""

    def __init__(self) -> None:
        self._wires: dict[str, Wire] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.keep(())

    async def keep(self, addresses: Collection[str]) -> None:
        """Close those to other addresses: their services are gone."""
        for address in self._wires.keys() - set(addresses):
            await self._wires.pop(address).__aexit__(None, None, None)

    async def send(self, address: str, operation: Operation) -> tuple[int | None, bytes | None]:
        """The status and body of the answer, or None and None where none came."""
        method, path, body = "DELETE", "/operation", b""
        if operation.amount is not None:
            method, path = "POST", PATHS[operation.kind]
            body = b'{"amount": "%s"}' % operation.amount.encode()
        try:
            wire = self._wires.get(address)
            if wire is None:
                wire = self._wires[address] = await Wire(
                    address, timeout_s=ANSWER_TIMEOUT_S
                ).__aenter__()
            reply: Any = await wire.request(
                method, path, body, headers(operation.key, user=operation.user)
            )
        except OSError:
            await self.keep(self._wires.keys() - {address})
            return None, None
        return reply.status, reply.body

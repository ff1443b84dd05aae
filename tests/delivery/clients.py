"""Clients that retry: each request logged before it is sent, each answer, each that never came."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from service import history
from tests.clients import Wire

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.clients import Reply

USERS: Final = tuple(f"user-{number:02}" for number in range(12))
RATE_PER_USER: Final = 6.0  # requests a second
PATIENCE_S: Final = 30
ANSWER_TIMEOUT_S: Final = 35.0  # above the route's
# A true retry, though its answer had come: a client that crashed before it noted it down.
AGAIN: Final = 0.3
READS: Final = 0.2


class ThroughGateway(Wire):
    """A wire to a host name whose address is known: the gateway's."""

    def __init__(self, url: str, address: tuple[str, int]) -> None:
        super().__init__(url, timeout_s=ANSWER_TIMEOUT_S)
        self._address = address

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection(*self._address)
        return self


@dataclass(slots=True)
class Operation:
    """A movement that a user wants, under its key; ``body`` as sent first."""

    user: str
    key: str
    path: str
    amount: str
    reference: str | None

    def body(self, generator: random.Random) -> bytes:
        """Another notation of the same request, now and then."""
        whole = self.amount.removesuffix(".00")
        amount: str = generator.choice([self.amount, whole])
        said = {"amount": amount}
        if self.reference is not None:
            said["reference"] = self.reference
        return json.dumps(said).encode()


class Receipt(NamedTuple):
    """The first answer that said what became of a key, and when (monotonic seconds)."""

    operation: Operation
    status: int
    body: bytes
    at_s: float


@dataclass
class Clients:
    """One client a user, with a connection of its own; the log of all of them."""

    url: str
    address: tuple[str, int]
    identify: Callable[[str], dict[str, str]]
    seed: int = 1
    patience_s: float = PATIENCE_S
    events: list[history.Event] = field(default_factory=list)
    # By status, 0 for none: what the clients saw, every attempt counted.
    seen: Counter[int] = field(default_factory=Counter)
    replays: int = 0
    resent: int = 0
    moments: list[tuple[float, int]] = field(default_factory=list)
    receipts: dict[tuple[str, str], Receipt] = field(default_factory=dict)
    unsettled: list[Operation] = field(default_factory=list)

    async def run(self, stop: asyncio.Event) -> None:
        """Ask until told to stop, then settle what is open."""
        async with asyncio.TaskGroup() as group:
            for number, user in enumerate(USERS):
                group.create_task(self._run(user, random.Random(self.seed + number), stop))

    async def send(self, operations: list[Operation]) -> dict[tuple[str, str], Reply | None]:
        """Send each of them once; what was answered, by user and key."""
        found: dict[tuple[str, str], Reply | None] = {}

        async def one(user: str) -> None:
            client = Client(self, user, random.Random(self.seed))
            for operation in [it for it in operations if it.user == user]:
                found[user, operation.key] = await client.repeat(operation)
            client.close()

        async with asyncio.TaskGroup() as group:
            for user in USERS:
                group.create_task(one(user))
        return found

    async def _run(self, user: str, generator: random.Random, stop: asyncio.Event) -> None:
        client = Client(self, user, generator)
        try:
            await asyncio.sleep(generator.random() / RATE_PER_USER)
            while not stop.is_set():
                await client.turn()
            await client.settle()
        finally:
            client.close()

    def write_log(self, path: Path) -> None:
        with path.open("w") as file:
            file.writelines(history.line(event) + "\n" for event in self.events)


class Client:
    """One user's app: one request at a time, at its pace."""

    def __init__(self, clients: Clients, user: str, generator: random.Random) -> None:
        self._all = clients
        self._user = user
        self._generator = generator
        self._fields = clients.identify(user)
        self._numbers = 0
        self._wire: ThroughGateway | None = None
        self._open: list[Operation] = []
        self._past: list[Operation] = []
        self._next_s = time.monotonic()
        self._last: Reply | None = None

    def close(self) -> None:
        if self._wire is not None:
            self._wire._writer.close()

    async def turn(self) -> None:
        """One thing that a user does."""
        chance = self._generator.random()
        if chance < READS:
            await self._send("GET", "/balance", b"", {})
        elif self._past and chance < READS + AGAIN:
            await self._ask(self._generator.choice(self._past[-20:]))
        else:
            operation = self._wanted()
            if await self._settled(operation, attempts=4):
                self._past.append(operation)
            else:
                self._open.append(operation)

    async def settle(self) -> None:
        """Ask for what is open until it is answered, or patience ends."""
        end_s = time.monotonic() + self._all.patience_s
        while self._open and time.monotonic() < end_s:
            self._open = [it for it in self._open if not await self._settled(it, attempts=1)]
        self._all.unsettled += self._open

    async def repeat(self, operation: Operation) -> Reply | None:
        """Send it once, at no pace."""
        self._next_s = 0.0
        await self._ask(operation)
        return self._last

    def _wanted(self) -> Operation:
        self._numbers += 1
        number = self._numbers
        deposits = self._generator.random() < 0.55
        amount = f"{self._generator.randint(1, 40)}.00"
        reference = self._generator.choice([None, f"order {number}", f"Order {number}"])
        path = "/deposit" if deposits else "/withdraw"
        key = f"{self._user}-{self._all.seed}-{number}"
        return Operation(self._user, key, path, amount, reference)

    async def _settled(self, operation: Operation, *, attempts: int) -> bool:
        """Send it until an answer says what became of it."""
        for attempt in range(attempts):
            if attempt:
                self._all.resent += 1
            if await self._ask(operation) in {"ok", "refused"}:
                return True
        return False

    async def _ask(self, operation: Operation) -> str:
        """Send it once, log both lines; what the second says."""
        clients, user, key = self._all, self._user, operation.key
        kind = "deposit" if operation.path == "/deposit" else "withdrawal"
        clients.events.append(
            history.invoked(
                *(time.monotonic(), user, key, kind),
                amount=operation.amount,
                reference=operation.reference,
            )
        )
        fields = {"idempotency-key": key, "content-type": "application/json"}
        reply = await self._send("POST", operation.path, operation.body(self._generator), fields)
        self._last = reply
        status, body = (None, None) if reply is None else (reply.status, reply.body)
        event = history.answered(time.monotonic(), user, key, status, body)
        clients.events.append(event)
        if reply is not None and reply.fields.get("idempotent-replayed") == "true":
            clients.replays += 1
        if reply is not None and event.what in {"ok", "refused"}:
            receipt = Receipt(operation, reply.status, reply.body, event.at_s)
            clients.receipts.setdefault((user, key), receipt)
        return event.what

    async def _send(
        self, method: str, path: str, body: bytes, fields: dict[str, str]
    ) -> Reply | None:
        """One attempt, at the client's pace; None where no answer came."""
        self._next_s = max(self._next_s + 1 / RATE_PER_USER, time.monotonic() - 1)
        await asyncio.sleep(self._next_s - time.monotonic())
        fields = {**self._fields, **fields}
        reply: Any = None
        try:
            if self._wire is None:
                wire = ThroughGateway(self._all.url, self._all.address)
                self._wire = await wire.__aenter__()
            reply = await self._wire.request(method, path, body, fields)
        except OSError:
            self.close()
            self._wire = None
        status = 0 if reply is None else reply.status
        self._all.seen[status] += 1
        self._all.moments.append((time.time(), status))
        return reply  # type: ignore[no-any-return]

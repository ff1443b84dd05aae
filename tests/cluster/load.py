"""Clients that never give up on a key, and write down every request before it is sent."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from service.history import answered, invoked, line
from tests.clients import Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TextIO

    from service.history import Event
    from tests.clients import Reply

ANSWER_TIMEOUT_S: Final = 35.0
RETRY_PAUSE_S: Final = 0.5
# What a client does next: a new deposit, a new withdrawal, one that is too large, an old key again.
CHOICES: Final = ("deposit", "withdrawal", "overdraft", "again")
SHARES: Final = (60, 25, 5, 10)
SETTLED: Final = frozenset({"ok", "refused"})


@dataclass(frozen=True, slots=True)
class Request:
    """One movement as it is sent, as often as need be."""

    user: str
    key: str
    kind: str
    amount: str

    @property
    def path(self) -> str:
        return "/deposit" if self.kind == "deposit" else "/withdraw"

    @property
    def body(self) -> bytes:
        return json.dumps({"amount": self.amount}).encode()


@dataclass(slots=True)
class Load:
    """Clients with a user each, one request at a time each.

    Args:
        url: where they send to.
        host: the Host that they ask for; the URL's own unless given.
        identity: a user's header fields.
        log: takes a line an event, as ``teller check-log`` reads it.
        clients: how many there are.
        pause_s: of each client after each answer.
        seed: of what they choose.
        run: goes into every user's name and every key.
    """

    url: str
    host: str | None
    identity: Callable[[str], Mapping[str, str]]
    log: TextIO
    clients: int = 8
    pause_s: float = 0.05
    seed: int = 0
    run: str = "load"
    answers: Counter[str] = field(default_factory=Counter)
    unsettled: int = 0
    _end: asyncio.Event = field(default_factory=asyncio.Event)
    _loop: asyncio.AbstractEventLoop | None = None

    def stop(self) -> None:
        """No new keys; what was begun is still settled. May be called from any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._end.set)

    async def drive(self, *, settle_timeout_s: float) -> None:
        """Send until stopped; then settle each key, within that time for all of them."""
        self._loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._client(i)) for i in range(self.clients)]
            await self._end.wait()
            _, late = await asyncio.wait(tasks, timeout=settle_timeout_s)
            self.unsettled = len(late)
            for task in late:
                task.cancel()

    async def _client(self, number: int) -> None:
        user = f"{self.run}-{number}"
        chance = random.Random(f"{self.seed}/{number}")
        asked: list[Request] = []
        wire: Wire | None = None
        while not self._end.is_set():
            request = self._next(user, chance, asked)
            while True:
                wire, settled = await self._sent(wire, request)
                if settled:
                    break
                await asyncio.sleep(RETRY_PAUSE_S)
            await asyncio.sleep(self.pause_s)
        await _closed(wire)

    def _next(self, user: str, chance: random.Random, asked: list[Request]) -> Request:
        (choice,) = chance.choices(CHOICES, SHARES)
        if choice == "again" and asked:
            return chance.choice(asked)
        kind = "deposit" if choice in {"deposit", "again"} else "withdrawal"
        cents = 10**9 if choice == "overdraft" else chance.randrange(1, 1_000)
        amount = f"{cents // 100}.{cents % 100:02d}"
        request = Request(user, f"{self.run}-{len(asked)}", kind, amount)
        asked.append(request)
        return request

    async def _sent(self, wire: Wire | None, request: Request) -> tuple[Wire | None, bool]:
        """Send once. Returns the wire to go on with, and whether the key is settled."""
        user, key = request.user, request.key
        event = invoked(time.monotonic(), user, key, request.kind, amount=request.amount)
        self._write(event)
        reply: Reply | None = None
        try:
            if wire is None:
                wire = await Wire(self.url, timeout_s=ANSWER_TIMEOUT_S, name=self.host).__aenter__()
            fields = {
                "content-type": "application/json",
                "idempotency-key": key,
                **self.identity(user),
            }
            reply = await wire.post(request.path, request.body, fields)
        except (OSError, asyncio.IncompleteReadError):
            await _closed(wire)
            wire = None
        status, body = (None, None) if reply is None else (reply.status, reply.body)
        event = answered(time.monotonic(), user, key, status, body)
        self._write(event)
        self.answers["no answer" if status is None else str(status)] += 1
        return wire, event.what in SETTLED

    def _write(self, event: Event) -> None:
        self.log.write(line(event) + "\n")


async def _closed(wire: Wire | None) -> None:
    if wire is not None:
        await wire.__aexit__(None, None, None)

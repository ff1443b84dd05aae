"""Clients that never give up a key: each send and answer in their own log, before and after."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from service import history
from service.evidence import quoted
from tests.clients import Reply, Wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from random import Random

    from service.history import Event

CLIENTS: Final = 12  # of a ledger at once
ANSWER_TIMEOUT_S: Final = 5.0
CONNECT_TIMEOUT_S: Final = 2.0
RETRIES_MAX: Final = 3
RETRY_AFTER_S: Final = (0.01, 0.3)
THINKING_S: Final = 0.012
SETTLING_TIMEOUT_S: Final = 60.0
HUNTING_TIMEOUT_S: Final = 10.0
SETTLING_AT_ONCE: Final = 16
ASKED_AGAIN_MAX: Final = 300
USERS: Final = ("u0", "u1", "u2", "u3", "u4")
WHALE: Final = "u5"  # moves amounts that no float holds
SHED: Final = frozenset({429, 503})
PATHS: Final = {"deposit": "/deposit", "withdrawal": "/withdraw", "burn": "/operation"}
NO_ANSWER: Final = Reply(0, {}, b"")
KEPT_MAX: Final = 50
LONG: Final = "0123456789abcdef" * 4  # of a key whose end alone tells it from others
PAGES: Final = 3


class Operation(NamedTuple):
    """What a user wants, under its key; ``amount`` and ``reference`` as they are sent."""

    user: str
    key: str
    kind: str
    amount: str | None
    reference: str | None


class Line:
    """One connection to one address, made anew when it is needed."""

    def __init__(self) -> None:
        self._wire: Wire | None = None
        self._url = ""

    async def request(
        self, url: str, method: str, path: str, body: bytes, fields: dict[str, str]
    ) -> Reply:
        """One request; NO_ANSWER when no whole answer came, for whatever reason."""
        if self._url != url:
            await self.close()
        try:
            if self._wire is None:
                wire = Wire(url, timeout_s=ANSWER_TIMEOUT_S)
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    self._wire = await wire.__aenter__()
                self._url = url
            return await self._wire.request(method, path, body, fields)
        except (OSError, TimeoutError):
            await self.close()
            return NO_ANSWER

    async def close(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            await wire.__aexit__(None, None, None)


class Crowd:
    """Users at work on one ledger, several clients for each, and what they saw.

    Attributes:
        log: every send and every answer, in the order of their times.
        broken: what an answer by itself shows to be wrong, in words; at most KEPT_MAX.
        statuses: the answers by status; 0 is none.
    """

    def __init__(self, urls: Sequence[str], rng: Random, *, users: Sequence[str] = USERS) -> None:
        self.urls = list(urls)
        self.log: list[Event] = []
        self.settling_timeout_s = SETTLING_TIMEOUT_S
        self.hunting = False  # for a seeded bug: the first sign is enough
        self.broken: list[str] = []
        self.statuses: Counter[int] = Counter()
        self.latencies_ms: list[float] = []
        self.operations: dict[tuple[str, str], Operation] = {}
        self.unsettled: set[tuple[str, str]] = set()
        self.ever_unknown: set[tuple[str, str]] = set()
        self.users = [*users, WHALE]
        self.rng = rng
        self._numbers: Counter[str] = Counter()
        self.settled: list[tuple[str, str]] = []
        self._receipts: dict[tuple[str, str], bytes] = {}
        self._first: set[tuple[str, str]] = set()
        self._seen: dict[str, int] = {}

    # -- working ----------------------------------------------------------------------------

    async def open(self) -> None:
        """A first deposit of every user, sent until it is answered."""
        for user in self.users:
            self._note(Operation(user, self._key(user), "deposit", "100.00", None))
        await self.settle()

    async def work(self, clients: int, until: asyncio.Event) -> None:
        """So many clients, one request at a time each, until the event."""
        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(self._client(until))

    async def _client(self, until: asyncio.Event) -> None:
        lines = Line(), Line()
        while not until.is_set():
            await asyncio.sleep(self.rng.random() * THINKING_S)
            await self.turn(lines, until)
        for line in lines:
            await line.close()

    async def turn(self, lines: tuple[Line, Line], until: asyncio.Event) -> None:
        """One thing that a client does: mostly a new operation, carried through its retries."""
        line, other = lines
        chance = self.rng.random()
        if chance < 0.70 or not self.settled:
            await self.carry(line, self.new_operation(), until)
        elif chance < 0.78:  # an answer of long ago, asked for again
            await self.send(line, self.operations[self.rng.choice(self.settled)])
        elif chance < 0.82:  # two devices of one user send the same at once
            operation = self.new_operation()
            await asyncio.gather(self.send(line, operation), self.send(other, operation))
        elif chance < 0.86:  # given up while it is on its way
            operation = self.new_operation()
            burn = operation._replace(kind="burn", amount=None, reference=None)
            await asyncio.gather(self.send(line, operation), self.send(other, burn))
        elif chance < 0.89:  # a bug in an app: the key of something else
            await self.send(line, self._otherwise(self.rng.choice(self.settled)), odd=True)
        elif chance < 0.91:  # never carried out, so its key is of no operation
            wrong = Operation(self.rng.choice(self.users), *self._foreign())
            await self.send(line, wrong, more=',"currency":"EUR"', odd=True)
        elif chance < 0.94:
            await self._read_balance(line)
        elif chance < 0.97:
            await self._read_operation(line)
        else:
            await self._read_pages(line)

    async def carry(self, line: Line, operation: Operation, until: asyncio.Event) -> None:
        for _ in range(1 + RETRIES_MAX):
            event = await self.send(line, operation)
            if event.what != "unknown" or until.is_set():
                return
            await asyncio.sleep(self.rng.uniform(*RETRY_AFTER_S))

    def new_operation(self, user: str | None = None) -> Operation:
        """A deposit or a withdrawal under a new key; other users have the same keys."""
        rng = self.rng
        user = user or rng.choice(self.users)
        kind = "deposit" if rng.random() < 0.66 else "withdrawal"
        minor = rng.randint(1, 999 if kind == "deposit" else 2_500)
        amount = f"{minor // 100}.{minor % 100:02d}"
        if user == WHALE:
            amount = f"{rng.randint(90_000_000_000, 99_999_999_999)}{amount[-4:]:0>5}"
        reference = None if rng.random() < 0.5 else f"№ {rng.randint(0, 9_999)}"
        operation = Operation(user, self._key(user), kind, amount, reference)
        self._note(operation)
        return operation

    def _otherwise(self, place: tuple[str, str]) -> Operation:
        known = self.operations[place]
        if known.kind == "deposit" and self.rng.random() < 0.4:
            return known._replace(reference="another")
        amount = f"{self.rng.randint(10_000, 20_000)}.{self.rng.randint(10, 99)}"
        return known._replace(kind="deposit", amount=amount)

    def _foreign(self) -> tuple[str, str, str, None]:
        self._numbers["EUR"] += 1
        return f"eur{self._numbers['EUR']}", "deposit", "3.50", None

    def _key(self, user: str) -> str:
        self._numbers[user] += 1
        number = self._numbers[user]
        return f"k{number}" if number % 5 else f"{LONG}{number}"

    def _note(self, operation: Operation) -> None:
        self.operations[operation.user, operation.key] = operation
        self.unsettled.add((operation.user, operation.key))

    # -- one request ------------------------------------------------------------------------

    async def send(
        self,
        line: Line,
        operation: Operation,
        *,
        url: str | None = None,
        more: str = "",
        odd: bool = False,
    ) -> Event:
        """Send once and log both ends; ``odd``: it must never be carried out."""
        self.log.append(invocation(operation))
        path, body = PATHS[operation.kind], self.body(operation, more)
        method = "DELETE" if operation.kind == "burn" else "POST"
        began_s = time.monotonic()
        to = url or self.rng.choice(self.urls)
        reply = await line.request(to, method, path, body, fields_of(operation))
        event = self.took(operation, reply, odd=odd)
        if event.what == "ok":
            self.latencies_ms.append((event.at_s - began_s) * 1000)
        return event

    def took(self, operation: Operation, reply: Reply, *, odd: bool = False) -> Event:
        """Log an answer, and look at what it shows by itself."""
        user, key = place = (operation.user, operation.key)
        status = reply.status or None
        event = history.answered(time.monotonic(), user, key, status, reply.body)
        self.log.append(event)
        self.statuses[reply.status] += 1
        self._check(operation, reply, event, odd=odd)
        if event.what in {"ok", "refused"}:
            self._seen[user] = max(self._seen.get(user, 0), event.body["transaction"])
            if place in self.unsettled:
                self.unsettled.discard(place)
                self.settled.append(place)
        elif event.what == "unknown" and place in self.operations:
            self.ever_unknown.add(place)
        return event

    def body(self, operation: Operation, more: str = "") -> bytes:
        """The same request is not always the same bytes."""
        if operation.kind == "burn":
            return b""
        amount = operation.amount or ""
        chance = self.rng.random()
        if chance < 0.2:
            amount = amount.rstrip("0").rstrip(".")
        said = f'"{amount}"' if chance < 0.9 else amount
        if operation.reference is not None:
            more += f',"reference":{json.dumps(operation.reference)}'
        return f'{{"amount": {said}{more}}}'.encode()

    def _check(self, operation: Operation, reply: Reply, event: Event, *, odd: bool) -> None:
        """What no answer may say, whatever the ledger holds."""
        place = (operation.user, operation.key)
        if reply.status in SHED and "retry-after" not in reply.fields:
            self.accuse(f"{reply.status} without Retry-After: {reply.body!r}")
        if event.what in {"ok", "refused"} and reply.fields.get("idempotent-replayed") == "false":
            if place in self._first and operation.kind != "burn" and reply.status != 409:
                self.accuse(f"{place} was answered twice as the first of its key")
            self._first.add(place)
        if reply.status != 201:
            return
        told = event.body
        if odd:
            self.accuse(f"{place} was answered 201 to what must never be carried out")
        elif (
            told.get("type") != operation.kind
            or Decimal(str(told.get("amount"))) != Decimal(operation.amount or 0)
            or told.get("reference") != operation.reference
        ):
            self.accuse(f"{place} asked for {operation} and was answered {told}")
        if self._receipts.setdefault(place, reply.body) != reply.body:
            self.accuse(f"{place} has two receipts: {reply.body!r}, {self._receipts[place]!r}")

    def accuse(self, why: str) -> None:
        """Keep a broken promise that no ledger is needed to see."""
        if len(self.broken) < KEPT_MAX:
            self.broken.append(why)

    # -- reading ----------------------------------------------------------------------------

    async def _read_balance(self, line: Line) -> None:
        user = self.rng.choice(self.users)
        seen = self._seen.get(user, 0)
        url = self.rng.choice(self.urls)
        reply = await line.request(url, "GET", "/balance", b"", {"user_id": user})
        if reply.status == 200 and reply.json()["transaction"] < seen:
            self.accuse(f"{user} was told of transaction {seen}, then read {reply.body!r}")

    async def _read_operation(self, line: Line) -> None:
        user, key = place = self.rng.choice(self.settled)
        fields = {"user_id": user, "Idempotency-Key": quoted(key)}
        url = self.rng.choice(self.urls)
        reply = await line.request(url, "GET", "/operation", b"", fields)
        if reply.status == 404:
            self.accuse(f"{place} was answered, then GET /operation knew nothing of it")
        elif reply.status == 200 and self._receipts.get(place, reply.body) != reply.body:
            self.accuse(f"{place} has the receipt {self._receipts[place]!r}, not {reply.body!r}")

    async def _read_pages(self, line: Line) -> None:
        user, path = self.rng.choice(self.users), "/transactions?limit=7"
        url = self.rng.choice(self.urls)
        numbers: list[int] = []
        for _ in range(PAGES):
            reply = await line.request(url, "GET", path, b"", {"user_id": user})
            if reply.status != 200:
                return
            page = reply.json()
            numbers += [one["transaction"] for one in page["transactions"]]
            if page["next"] is None:
                break
            path = f"/transactions?limit=7&cursor={page['next']}"
        if numbers and numbers != [*range(numbers[0], numbers[0] - len(numbers), -1)]:
            self.accuse(f"{user}'s pages have the transactions {numbers}")

    # -- the end ----------------------------------------------------------------------------

    async def settle(self, *, url: str | None = None) -> None:
        """Send every key without an answer until it has one, then some others once more."""
        if self.hunting and self.broken:
            return
        timeout_s = HUNTING_TIMEOUT_S if self.hunting else self.settling_timeout_s
        deadline_s = time.monotonic() + timeout_s
        while self.unsettled and time.monotonic() < deadline_s:
            await self._send_each(sorted(self.unsettled), url=url)
            if self.unsettled:
                await asyncio.sleep(0.05)
        for place in sorted(self.unsettled)[:3]:
            self.accuse(f"{place} did not settle within {timeout_s:.0f} s of retries")
        chosen = self.rng.sample(self.settled, min(ASKED_AGAIN_MAX, len(self.settled)))
        await self._send_each(chosen, url=url)

    async def _send_each(self, places: Iterable[tuple[str, str]], *, url: str | None) -> None:
        waiting = iter(places)

        async def some() -> None:
            line = Line()
            for place in waiting:
                await self.send(line, self.operations[place], url=url)
            await line.close()

        await asyncio.gather(*(some() for _ in range(SETTLING_AT_ONCE)))


def invocation(operation: Operation, clock: Callable[[], float] = time.monotonic) -> Event:
    """The log's line of a request about to be sent."""
    return history.invoked(
        clock(),
        operation.user,
        operation.key,
        operation.kind,
        amount=operation.amount,
        reference=operation.reference,
    )


def fields_of(operation: Operation) -> dict[str, str]:
    """The header fields of an operation's request."""
    fields = {"user_id": operation.user, "Idempotency-Key": operation.key}
    return fields if operation.kind == "burn" else {**fields, "Content-Type": "application/json"}


def p99(latencies: list[float]) -> float:
    """The 99th percentile, 0 of none."""
    return sorted(latencies)[int(len(latencies) * 0.99)] if latencies else 0.0


def facts(crowd: Crowd) -> dict[str, Any]:
    """What a crowd did, in numbers."""
    asked = Counter(event.what for event in crowd.log)
    return {
        "requests": asked["invoked"],
        "keys": len(crowd.operations),
        "unknown_answers": asked["unknown"],
        "keys_once_unknown": len(crowd.ever_unknown),
        "unknowns_settled": len(crowd.ever_unknown - crowd.unsettled),
        "statuses": {str(status): many for status, many in sorted(crowd.statuses.items())},
    }

"""The exactly-once part of the campaign against the benchmark's peers, by the same checker.

They know deposits alone, so deposits alone are sent: the same network, the same kill -9.
"""

from __future__ import annotations

import asyncio
import json
import signal
import tempfile
import time
from collections import Counter
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

from service import checker
from service.history import Event
from tests.bench.contestants import DURABLE, grounded
from tests.bench.trial import Service
from tests.campaign.clients import CLIENTS, Crowd, Line, Operation, facts
from tests.campaign.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.bench.contestants import Contestant
    from tests.clients import Reply

MISDEEDS: Final = 0.3
BETWEEN_KILLS_S: Final = (0.6, 1.6)
SETTLING_TIMEOUT_S: Final = 12.0  # several of the leases that a peer's claims outlive it by
SHOWN_MAX: Final = 6


class Depositors(Crowd):
    """The campaign's clients, reduced to what every contestant understands."""

    async def turn(self, lines: tuple[Line, Line], until: asyncio.Event) -> None:
        line, other = lines
        chance = self.rng.random()
        if chance < 0.75 or not self.settled:
            await self.carry(line, self.new_operation(), until)
        elif chance < 0.9:
            await self.send(line, self.operations[self.rng.choice(self.settled)])
        else:
            operation = self.new_operation()
            await asyncio.gather(self.send(line, operation), self.send(other, operation))

    def new_operation(self, user: str | None = None) -> Operation:
        """A deposit without a reference."""
        operation = super().new_operation(user)._replace(kind="deposit", reference=None)
        self.operations[operation.user, operation.key] = operation
        return operation

    def took(self, operation: Operation, reply: Reply, *, odd: bool = False) -> Event:
        """Log an answer: 201 with a receipt is a yes, and all else is no answer for good."""
        assert not odd, "nothing odd is sent"
        user, key = place = (operation.user, operation.key)
        self.statuses[reply.status] += 1
        what, body = "unknown", {}
        if reply.status == 201:
            told = json.loads(reply.body, parse_float=Decimal)
            what = "ok"
            body = {"outcome": "applied", "transaction": told["transaction"]}
            # Written in whatever way: 1.5 and 1.50 are one.
            body |= {name: f"{Decimal(told[name]):.2f}" for name in ("amount", "balance")}
        event = Event(what, time.monotonic(), user, key, body)  # type: ignore[arg-type]
        self.log.append(event)
        if what == "unknown":
            self.ever_unknown.add(place)
        elif place in self.unsettled:
            self.unsettled.discard(place)
            self.settled.append(place)
        return event


def tried(seconds: float, seed: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Every durable contestant's trial: a table of what the checker found."""
    rows = []
    for contestant in DURABLE:
        say(f"peer {contestant.title}")
        with tempfile.TemporaryDirectory(prefix="teller-campaign-") as fresh:
            folder = Path(fresh)
            with grounded(contestant, folder) as ground:
                service = Service(contestant, folder, ground)
                rows.append(asyncio.run(_tried(contestant, service, seconds, Random(seed))))
    return rows


async def _tried(
    contestant: Contestant, service: Service, seconds: float, rng: Random
) -> dict[str, Any]:
    injected: Counter[str] = Counter()
    await asyncio.to_thread(service.start)
    try:
        crowd = Depositors([service.url], Random(rng.getrandbits(64)))
        crowd.settling_timeout_s = SETTLING_TIMEOUT_S
        await crowd.open()
        port = int(service.url.rpartition(":")[2])
        proxy = Proxy(port, Random(rng.getrandbits(64)), injected, share=MISDEEDS)
        until = asyncio.Event()
        async with proxy.running(), asyncio.TaskGroup() as group:
            crowd.urls = [proxy.url]
            group.create_task(crowd.work(CLIENTS, until))
            end_s = time.monotonic() + seconds
            while time.monotonic() < end_s:
                await asyncio.sleep(rng.uniform(*BETWEEN_KILLS_S))
                await asyncio.to_thread(service.stop, signal.SIGKILL)
                await asyncio.to_thread(service.start)
                injected["kill -9"] += 1
            until.set()
        crowd.urls = [service.url]
        await crowd.settle()
    finally:
        await asyncio.to_thread(service.stop)
    counts = await asyncio.to_thread(_judged, contestant, service, crowd)
    told = facts(crowd)
    return {
        "contestant": contestant.title,
        "faults": injected.total(),
        "requests": told["requests"],
        "keys": told["keys"],
        "unknowns settled": told["unknowns_settled"],
        "violations": sum(counts.values()),
        "which": ", ".join(f"{name} {many}" for name, many in counts.most_common(SHOWN_MAX)) or "-",
    }


def _judged(contestant: Contestant, service: Service, crowd: Depositors) -> Counter[str]:
    """The one checker on the contestant's rows, numbered by account as Teller's are."""
    number = "movements.seq" if contestant.app is None else "movements.id"
    found = service.asked(
        f"SELECT user_id, key, {number}, amount_minor, balance_after_minor FROM movements "  # noqa: S608
        f"JOIN accounts ON accounts.id = movements.account_id ORDER BY 3"
    )
    numbers: Counter[str] = Counter()
    places: dict[tuple[str, int], int] = {}
    rows: list[checker.Row] = []
    for user, key, raw, amount_minor, balance_minor in found:
        numbers[user] += 1
        places[user, raw] = numbers[user]
        told = _text(amount_minor), _text(balance_minor)
        rows.append(checker.Row(user, key, numbers[user], "deposit", "applied", None, *told, None))
    balances = service.asked("SELECT user_id, balance_minor FROM accounts")
    verdict = checker.check(
        _renumbered(crowd.log, places),
        rows,
        balances={user: _text(minor) for user, minor in balances},
    )
    counts: Counter[str] = Counter({str(kind): many for kind, many in verdict.counts.items()})
    if crowd.unsettled:
        counts["never settled"] += len(crowd.unsettled)
    return counts


def _renumbered(log: Sequence[Event], places: dict[tuple[str, int], int]) -> list[Event]:
    """The answers' transactions as the account's own; one that has no row keeps its number."""
    return [
        event
        if event.what != "ok"
        else event._replace(
            body=event.body
            | {
                "transaction": places.get(
                    (event.user_id, event.body["transaction"]), event.body["transaction"]
                )
            }
        )
        for event in log
    ]


def _text(minor: int) -> str:
    return f"{minor // 100}.{minor % 100:02d}"

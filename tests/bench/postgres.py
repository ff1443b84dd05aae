"""Teller on PostgreSQL beside a service of one transaction a request, on one server."""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

import psutil

from tests import postgres_server
from tests.bench import wrk
from tests.bench.audit import WrongLedgerError
from tests.bench.contestants import ASYNCPG, TELLER_POSTGRES, alone, running
from tests.bench.machine import split_cores
from tests.bench.targets import Found, Measured
from tests.bench.throughput import WARM_UP_S
from tests.postgres_server import PostgresServer

if TYPE_CHECKING:
    from tests.bench.contestants import Running
    from tests.bench.targets import Plan
    from tests.bench.wrk import Slice

# By service and load: each round's slice, and the processor time of a request in microseconds, in
# the service and in the server.
Slices = dict[tuple[str, str], list[tuple["Slice", list[float]]]]

HOT_CONNECTIONS: Final = 64
BOTH: Final = (TELLER_POSTGRES, ASYNCPG)
_SUMS: Final = """
SELECT (SELECT count(*) FROM movements), (SELECT sum(amount_minor) FROM movements)
     = (SELECT sum(balance_minor) FROM accounts)
"""


def compared(plan: Plan) -> Found:
    """Both services on databases of their own, load by load in turn, round by round.

    The server syncs each commit to its disk, as both services ask for, and runs on any core; the
    services share one, wrk has the other.
    """
    loads = [*((str(many), many, wrk.ACCOUNTS) for many in plan.connections)]
    loads.append(("hot", HOT_CONNECTIONS, 1))
    slices: Slices = {}
    with postgres_server.binaries() as (binaries, data):
        for round_ in range(plan.rounds):
            server = PostgresServer(binaries, data / f"round-{round_}")
            server.make(shared_buffers="'256MB'", max_wal_size="'4GB'")
            server.start()
            try:
                _round(plan, server, loads, slices, turned=bool(round_ % 2))
            finally:
                server.stop()
    return _found(loads, slices)


def _round(
    plan: Plan,
    server: PostgresServer,
    loads: list[tuple[str, int, int]],
    slices: Slices,
    *,
    turned: bool,
) -> None:
    cores, others = split_cores()
    with ExitStack() as stack:
        at_work: list[tuple[Running, str]] = []
        for contestant in BOTH:
            url = stack.enter_context(server.database())
            service = running(contestant, cores=cores, database=url)
            at_work.append((stack.enter_context(service), url))
        sent: dict[str, int] = {}
        for one, _ in at_work:
            warm = wrk.load(one.url, connections=16, seconds=WARM_UP_S, prefix="warm", cores=others)
            sent[one.contestant.name] = warm.requests
        for name, many, users in loads:
            for one, _ in reversed(at_work) if turned else at_work:
                with alone(one, [other for other, _ in at_work]):
                    before_s = one.cpu_s(), _cpu_s(server)
                    slice_ = wrk.load(
                        one.url,
                        connections=many,
                        seconds=plan.seconds,
                        prefix=f"{name}-",
                        cores=others,
                        users=users,
                    )
                    after_s = one.cpu_s(), _cpu_s(server)
                cpu_us = [
                    (after - before) * 1e6 / slice_.requests
                    for before, after in zip(before_s, after_s, strict=True)
                ]
                slices.setdefault((one.contestant.name, name), []).append((slice_, cpu_us))
                sent[one.contestant.name] += slice_.requests
                plan.say(f"{one.contestant.title} at {name}: {slice_.per_s:,.0f}/s")
        for one, url in at_work:
            _check(server, url, sent[one.contestant.name], 16 + sum(many for _, many, _ in loads))


def _check(server: PostgresServer, url: str, answered: int, unanswered_max: int) -> None:
    """Every deposit answered is one row, and the balances are their sum, in either service."""
    rows, equal = server.psql(url.rpartition("/")[2], _SUMS).split("|")
    if equal != "t" or not answered <= int(rows) <= answered + unanswered_max:
        raise WrongLedgerError(
            f"{answered} answered and at most {unanswered_max} unanswered, but {rows} rows stand; "
            f"the balances are their sum: {equal}"
        )


def _found(loads: list[tuple[str, int, int]], slices: Slices) -> Found:
    teller, peer = (one.name for one in BOTH)
    measured, table = [], []
    for name, _, _ in loads:
        pairs = zip(slices[teller, name], slices[peer, name], strict=True)
        ratios = [one.per_s / two.per_s for (one, _), (two, _) in pairs]
        notes = []
        for who in (teller, peer):
            rounds = [one for one, _ in slices[who, name]]
            service_us, server_us = (
                statistics.median(cpu_us[part] for _, cpu_us in slices[who, name])
                for part in (0, 1)
            )
            per_s = statistics.median(one.per_s for one in rounds)
            notes.append(f"{per_s:,.0f}/s ({service_us:.0f} + {server_us:.0f} µs)")
            table.append(
                {
                    "contestant": who,
                    "load": name,
                    "per_s": [round(one.per_s, 1) for one in rounds],
                    "service_cpu_us": round(service_us, 1),
                    "server_cpu_us": round(server_us, 1),
                    **{
                        f"p{p}_ms": round(
                            statistics.median(one.percentiles_ms[p] for one in rounds), 3
                        )
                        for p in ("50", "99")
                    },
                }
            )
        spread = (min(ratios), max(ratios))
        note = " and ".join(notes)
        measured.append(Measured(f"PG-{name}", statistics.median(ratios), spread, note))
    return Found(measured, {"table": table})


def _cpu_s(server: PostgresServer) -> float:
    """Processor time of all the server's processes so far; all connections are kept open."""
    root = psutil.Process(server.pid)
    times = [one.cpu_times() for one in (root, *root.children())]
    return float(sum(one.user + one.system for one in times))

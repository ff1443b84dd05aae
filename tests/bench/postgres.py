"""Teller on PostgreSQL beside a service of one transaction a request, each on its own server."""

from __future__ import annotations

import statistics
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Final, NamedTuple

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
    from collections.abc import Iterable, Iterator

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
    """Both services on servers of their own, load by load in turn, round by round.

    A server syncs each commit to its disk, as both services ask for, and runs on any core; the
    services share one, wrk has the other.
    """
    loads = [*((str(many), many, wrk.ACCOUNTS) for many in plan.connections)]
    loads.append(("hot", HOT_CONNECTIONS, 1))
    slices: Slices = {}
    with postgres_server.binaries() as (binaries, data):
        for round_ in range(plan.rounds):
            with ExitStack() as stack:
                servers = []
                for contestant in BOTH:
                    server = PostgresServer(binaries, data / f"{contestant.name}-{round_}")
                    server.make(shared_buffers="'256MB'", max_wal_size="'4GB'")
                    server.start()
                    stack.callback(server.stop)
                    servers.append(server)
                _round(plan, servers, loads, slices, turned=bool(round_ % 2))
    return _found(loads, slices)


class _Side(NamedTuple):
    """A service, its server, and its database's URL there."""

    one: Running
    server: PostgresServer
    url: str


def _round(
    plan: Plan,
    servers: list[PostgresServer],
    loads: list[tuple[str, int, int]],
    slices: Slices,
    *,
    turned: bool,
) -> None:
    cores, others = split_cores()
    with ExitStack() as stack:
        sides: list[_Side] = []
        for contestant, server in zip(BOTH, servers, strict=True):
            url = stack.enter_context(server.database())
            service = running(contestant, cores=cores, database=url)
            sides.append(_Side(stack.enter_context(service), server, url))
        sent: dict[str, int] = {}
        for one, _, _ in sides:
            warm = wrk.load(one.url, connections=16, seconds=WARM_UP_S, prefix="warm", cores=others)
            sent[one.contestant.name] = warm.requests
        for name, many, users in loads:
            for one, server, _ in reversed(sides) if turned else sides:
                with alone(one, [side.one for side in sides]), _halted(servers, but=server):
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
        unanswered_max = 16 + sum(many for _, many, _ in loads)
        for one, server, url in sides:
            _check(server, url, sent[one.contestant.name], unanswered_max)


@contextmanager
def _halted(servers: Iterable[PostgresServer], *, but: PostgresServer) -> Iterator[None]:
    """Halt the other servers: each contestant's vacuuming is done in its own time."""
    halted: list[psutil.Process] = []
    for server in servers:
        if server is not but:
            root = psutil.Process(server.pid)
            root.suspend()  # it starts no others meanwhile
            halted += [root, *root.children()]
    for one in halted:
        with suppress(psutil.NoSuchProcess):
            one.suspend()
    try:
        yield
    finally:
        for one in halted:
            with suppress(psutil.NoSuchProcess):
                one.resume()


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

"""A primary and its standby, two real servers: what a failover between them leaves behind."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tests.clients import request
from tests.postgres.rotation import ENVIRONMENT, at_service
from tests.postgres.traffic import Traffic
from tests.postgres_server import SUPERUSER, PostgresServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from service.checker import Verdict
    from tests.processes import Served

CLIENTS: Final = 24
USERS: Final = 8
STANDBY: Final = "standby"
DATABASE: Final = "ledger"
PATIENCE_S: Final = 60


@dataclass(frozen=True)
class Pair:
    """Two servers with one ledger; the standby has what the primary has acknowledged."""

    primary: PostgresServer
    standby: PostgresServer

    @property
    def url(self) -> str:
        """Of both, in the order in which a service tries them."""
        hosts = "&".join(f"host=127.0.0.1:{one.port}" for one in (self.primary, self.standby))
        return f"postgresql+asyncpg://{SUPERUSER}@/{DATABASE}?{hosts}"


@contextmanager
def paired(binaries: Path, data: Path, *, synchronous: bool = True) -> Iterator[Pair]:
    """Start both, with an empty database."""
    primary = PostgresServer(binaries, data / f"primary-{time.monotonic_ns()}")
    standby = PostgresServer(binaries, data / f"standby-{time.monotonic_ns()}")
    primary.make()
    primary.start()
    try:
        primary.psql("postgres", f"CREATE DATABASE {DATABASE}")
        standby.follow(primary, name=STANDBY)
        standby.start()
        if synchronous:
            primary.psql("postgres", f"ALTER SYSTEM SET synchronous_standby_names = '{STANDBY}'")
            primary.psql("postgres", "SELECT pg_reload_conf()")
        wanted = "sync" if synchronous else "async"
        deadline = time.monotonic() + PATIENCE_S
        while primary.psql("postgres", "SELECT sync_state FROM pg_stat_replication") != wanted:
            assert time.monotonic() < deadline, primary.log()
            time.sleep(0.02)
        yield Pair(primary, standby)
    finally:
        primary.kill()  # it may be frozen
        standby.stop()


@dataclass(frozen=True)
class FailedOver:
    """What became of a failover under load.

    Attributes:
        recovered_s: from the primary's end to the first 201 that only the new one can have given.
        promoted_s: of these, until the standby had been promoted.
        in_flight: operations that the end met without an answer.
        unknown: sends that never got a definite one, and were sent again.
        verdict: the checker's, on the promoted standby.
    """

    recovered_s: float
    promoted_s: float
    in_flight: int
    unknown: int
    verdict: Verdict


async def failed_over(
    pair: Pair,
    *,
    end: Callable[[Pair], object],
    applied: int = 300,
    services: int = 2,
    env: Mapping[str, str] | None = None,
    seed: int = 1,
) -> FailedOver:
    """Load services on both servers, end the primary, promote the standby, settle, check.

    Args:
        pair: the servers; the primary is gone afterwards.
        end: ends the primary.
        applied: answers 201 before that, and again after it.
        services: at work at once, untouched by all this.
        env: more variables of theirs.
        seed: of what is sent.
    """
    stop = asyncio.Event()
    async with AsyncExitStack() as stack:
        environment = {**ENVIRONMENT, **(env or {})}
        at_work = [
            await stack.enter_async_context(at_service(pair.url, environment))
            for _ in range(services)
        ]
        traffic = Traffic(lambda: [one.url for one in at_work], users=USERS, seed=seed)
        sending = asyncio.create_task(traffic.run(stop, clients=CLIENTS))
        await _read(at_work)
        await traffic.applied(applied, sending)
        begun_s, in_flight = time.monotonic(), traffic.in_flight
        await asyncio.to_thread(end, pair)
        ended_s = time.monotonic()
        await asyncio.to_thread(pair.standby.promote)
        promoted_s = time.monotonic() - begun_s
        await traffic.applied(len(traffic.applied_s) + applied, sending)
        await _read(at_work)
        stop.set()
        await sending
        await traffic.settle()
    return FailedOver(
        recovered_s=next(came for sent, came in traffic.applied_s if sent > ended_s) - begun_s,
        promoted_s=promoted_s,
        in_flight=in_flight,
        unknown=traffic.count("unknown"),
        verdict=await traffic.verdict(pair.standby.url(DATABASE)),
    )


async def _read(at_work: list[Served]) -> None:
    """Return once each service answers several reads at once, over all its connections."""
    for one in at_work:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                path, fields = "/transactions", {"user_id": "user-0"}
                replies = await asyncio.gather(
                    *(request(one.url, "GET", path, fields=fields) for _ in range(8))
                )
                if all(reply.status in {200, 404} for reply in replies):
                    break
                await asyncio.sleep(0.05)

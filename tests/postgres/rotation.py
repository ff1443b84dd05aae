"""Several services on one database, one of them killed every few seconds and replaced."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tests.postgres.traffic import Traffic
from tests.processes import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from service.checker import Verdict
    from tests.processes import Served

CLIENTS: Final = 24
USERS: Final = 8
KILLS_MIN: Final = 3
APPLIED_MIN: Final = 30  # answers 201 between two kills
ENVIRONMENT: Final = {
    "TELLER_ACCOUNT_OPENING": "on_first_deposit",
    "TELLER_REQUEST_LOG": "false",
}


@dataclass(frozen=True)
class Rotated:
    """What became of it.

    Attributes:
        kills: services killed.
        unknown: sends that got no definite answer, mostly because of a kill.
        applied: answers 201, replays among them.
        verdict: the checker's, on all that was sent.
    """

    kills: int
    unknown: int
    applied: int
    verdict: Verdict


async def rotated(
    database_url: str, *, seconds: float, every_s: float = 2, services: int = 3, seed: int = 1
) -> Rotated:
    """Load services that share keys, and kill -9 one of them again and again.

    Args:
        database_url: of an empty database.
        seconds: how long, before what is open is settled; longer on a machine so slow that there
            would be fewer than KILLS_MIN kills.
        every_s: between two kills.
        services: at work at once.
        seed: of who is killed, and of what is sent.
    """
    rng, stop, kills = random.Random(seed), asyncio.Event(), 0
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        ends = [await stack.enter_async_context(AsyncExitStack()) for _ in range(services)]
        at_work = [await end.enter_async_context(at_service(database_url)) for end in ends]
        traffic = Traffic(lambda: [one.url for one in at_work], users=USERS, seed=seed)
        sending = asyncio.create_task(traffic.run(stop, clients=CLIENTS))
        end_s = loop.time() + seconds
        while loop.time() + every_s < end_s or kills < KILLS_MIN:
            wanted = len(traffic.applied_s) + APPLIED_MIN
            await asyncio.sleep(every_s)
            await traffic.applied(wanted, sending)
            place = rng.randrange(services)
            await asyncio.to_thread(at_work[place].kill)
            kills += 1
            await ends[place].aclose()
            # Its clients are refused until the next one is there, as behind a slow proxy.
            at_work[place] = await ends[place].enter_async_context(at_service(database_url))
        await asyncio.sleep(max(0, end_s - loop.time()))
        stop.set()
        await sending
        await traffic.settle()
    verdict = await traffic.verdict(database_url)
    return Rotated(kills, traffic.count("unknown"), len(traffic.applied_s), verdict)


@asynccontextmanager
async def at_service(
    database_url: str, env: Mapping[str, str] = ENVIRONMENT
) -> AsyncIterator[Served]:
    """A service that answers, started and ended beside the loop."""
    service = serving(database_url, env=env)
    server = await asyncio.to_thread(service.__enter__)
    try:
        yield server
    finally:
        await asyncio.to_thread(service.__exit__, None, None, None)

"""One trial: a fresh ledger, services on it, clients at work, faults meanwhile, a verdict."""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.campaign import clients
from tests.campaign.clients import CLIENTS, Crowd
from tests.campaign.judge import judge
from tests.campaign.proxy import Proxy
from tests.campaign.site import Site
from tests.faults.disks import small_disk

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from tests.campaign.faults import Fault
    from tests.postgres_server import PostgresServer

ENGINES: Final = ("sqlite", "postgresql")
BETWEEN_FAULTS_S: Final = (0.05, 0.8)
SMALL_DISK_MIB: Final = 16
TELLER: Final = (sys.executable, "-m", "service")


@dataclass(frozen=True)
class Scenario:
    """What befalls the ledger of a trial, and what for.

    Attributes:
        name: on the command line and in the report.
        what: in a few words.
        faults: drawn from at random, one after another, while the clients work.
        aside: what goes on beside the clients until they end; it returns what it did, counted.
        misdeeds: the share of the requests that the network does something to.
        environment: of the services, made in the trial's folder.
        play: another course than the usual one.
    """

    name: str
    what: str
    faults: tuple[Fault, ...] = ()
    aside: Callable[[Trial, asyncio.Event], Awaitable[None]] | None = None
    engines: tuple[str, ...] = ENGINES
    processes: int = 1
    misdeeds: float = 0.0
    small_disk: bool = False
    environment: Callable[[Path], Mapping[str, str]] | None = None
    play: Callable[[Trial], Awaitable[None]] | None = None


@dataclass
class Trial:
    """A scenario on one engine with one seed: what was done in it, and what was found broken.

    ``hunting``: a bug is seeded, and its first sign ends the trial.
    """

    scenario: Scenario
    engine: str
    seed: int
    seconds: float
    postgres: PostgresServer | None = None
    command: Sequence[str] = ()
    hunting: bool = False
    injected: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    rows: int = 0
    duration_s: float = 0.0
    skipped: str = ""
    failed: bool = False

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.folder = Path()
        self.site: Site
        self.crowd: Crowd

    def part(self) -> random.Random:
        """A source of its own for what runs beside others, so that none disturbs another's."""
        return random.Random(self.rng.getrandbits(64))

    async def run(self) -> None:
        """Play it to the end; what breaks is in ``broken``, never raised."""
        began_s = time.monotonic()
        try:
            with ExitStack() as stack:
                made = tempfile.TemporaryDirectory(prefix="teller-campaign-")
                self.folder = Path(stack.enter_context(made))
                if self.scenario.small_disk:
                    stack.enter_context(small_disk(self.folder, size_mib=SMALL_DISK_MIB))
                url = self._database(stack)
                await self._on(url)
        except pytest.skip.Exception as error:  # the machine lacks a part
            self.skipped = str(error)
        self.duration_s = time.monotonic() - began_s

    def _database(self, stack: ExitStack) -> str:
        if self.engine == "sqlite":
            return f"sqlite+aiosqlite:///{self.folder / 'ledger.db'}"
        assert self.postgres is not None
        return stack.enter_context(self.postgres.database())

    async def _on(self, url: str) -> None:
        scenario = self.scenario
        self.site = Site(
            url,
            processes=scenario.processes,
            env=scenario.environment(self.folder) if scenario.environment else None,
            # With an environment of its own it cannot be forked from a process that runs.
            command=self.command or (TELLER if scenario.environment else ()),
            postgres=self.postgres if self.engine == "postgresql" else None,
        )
        self.crowd = Crowd(self.site.urls, self.part())
        self.crowd.hunting = self.hunting
        try:
            if scenario.play is None:
                await self.usual()
            else:
                await scenario.play(self)
        except Exception as error:  # noqa: BLE001 - whatever ends a trial is a finding with a seed
            self.broken.append("".join(traceback.format_exception(error)))
            self.failed = True
        finally:
            await asyncio.to_thread(self.site.close)
        self.broken += self.crowd.broken
        self.figures |= clients.facts(self.crowd)

    # -- the usual course -------------------------------------------------------------------

    async def usual(self) -> None:
        """Work under faults for the trial's time, settle what is unknown, judge."""
        await asyncio.to_thread(self.site.start)
        await self.crowd.open()
        until = asyncio.Event()
        async with AsyncExitStack() as stack:
            if self.scenario.misdeeds:
                share = self.scenario.misdeeds
                proxies = [
                    Proxy(port, self.part(), self.injected, share=share) for port in self.site.ports
                ]
                for proxy in proxies:
                    await stack.enter_async_context(proxy.running())
                self.crowd.urls = [proxy.url for proxy in proxies]
            async with asyncio.TaskGroup() as group:
                group.create_task(self.crowd.work(CLIENTS, until))
                if self.scenario.aside is not None:
                    group.create_task(_awaited(self.scenario.aside(self, until)))
                try:
                    await self._disturb()
                finally:
                    until.set()
        await self.end()

    async def _disturb(self) -> None:
        """Bring about every fault once and then any, each mended before the next."""
        rng = self.part()
        faults = self.scenario.faults
        waiting = rng.sample(faults, len(faults))
        end_s = time.monotonic() + self.seconds
        while waiting or time.monotonic() < end_s:
            if self.hunting and self.crowd.broken:
                return
            await asyncio.sleep(rng.uniform(*BETWEEN_FAULTS_S))
            if not faults:
                continue
            fault = waiting.pop() if waiting else rng.choice(faults)
            done = await asyncio.to_thread(fault, self.site, rng)
            if done is not None:
                self.injected[done] += 1
            await asyncio.to_thread(self.site.mend)

    async def end(self) -> None:
        """Settle every key with a service in good health, stop it, and judge what it left."""
        await asyncio.to_thread(self.site.mend)
        self.crowd.urls = self.site.urls
        await self.crowd.settle()
        statuses = await asyncio.to_thread(self.site.stop)
        if any(statuses):
            self.broken.append(f"the services ended with {statuses}")
        await self.judge()

    async def judge(self) -> None:
        """Hold the ledger, which nobody serves now, against the clients' log."""
        found = await judge(self.site.database_url, self.crowd.log, self.crowd.users)
        self.rows += found.rows
        self.broken += found.broken


async def _awaited(work: Awaitable[None]) -> None:
    await work

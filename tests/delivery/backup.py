"""A node dies under load, its files gone: what a restore brings back, and what retries find."""

from __future__ import annotations

import asyncio
import shutil
import time
from typing import TYPE_CHECKING, Any, Final

from service import checker, evidence
from service.settings import Settings
from tests import processes
from tests.delivery import cluster as clusters
from tests.delivery import commands, litestream, rendered, verdict
from tests.delivery.clients import USERS, Clients
from tests.delivery.found import Found
from tests.postgres_server import PostgresServer, binaries

if TYPE_CHECKING:
    from pathlib import Path

    from tests.delivery.commands import Ended
    from tests.delivery.found import Place
    from tests.processes import Served

LOAD_S: Final = 8
AFTER_S: Final = 5
# PostgreSQL hands over a segment of its log that is not full after this long.
ARCHIVE_TIMEOUT_S: Final = 1


async def sqlite(place: Place) -> Found:
    """Litestream by the chart: killed once, then the node with everything on it."""
    place.say("backup: starting")
    found = Found(steps="-")
    replica = place.folder / "replica"
    values = litestream.values(replica)
    with clusters.running(place.folder, values=values) as cluster:
        chart, ledger = cluster.chart, cluster.ledger
        clients, stop = cluster.clients(patience_s=0), asyncio.Event()
        with litestream.replicating(chart, ledger) as first:
            load = asyncio.create_task(clients.run(stop))
            await asyncio.sleep(LOAD_S)
            place.say("backup: kill -9 of the replicator")
            first.kill()
            first.wait()
            await _clean_prefix(found, cluster, place.folder / "elsewhere")
        with litestream.replicating(chart, ledger) as second:
            await asyncio.sleep(LOAD_S)
            place.say("backup: the node dies")
            died_s = time.monotonic()
            second.kill()
            cluster.stable.served.kill()
            stop.set()
            await load
        shutil.rmtree(ledger)
        ledger.mkdir()
        cluster.pods.clear()
        place.say("backup: restored on another")
        started_s = time.monotonic()
        await asyncio.to_thread(litestream.restore, chart, ledger)
        found.seen.append(f"the init container took {time.monotonic() - started_s:.2f} s")
        interval_s = rendered.seconds(_sync_interval(chart))
        restored = Restored(found, cluster.url, clients, place.folder)
        await restored.judge_loss(died_s, interval_s)
        again = cluster.start_pod("stable")
        await asyncio.to_thread(cluster.point, "stable", again.host)
        with litestream.replicating(chart, ledger):
            later = cluster.clients(seed=2)
            await restored.judge_keys(later)
            await restored.go_on(later)
    return found


def _sync_interval(chart: rendered.Chart) -> str:
    config = chart.file(f"{chart.name}-litestream-config", "litestream.yml")
    (line,) = [it for it in config.splitlines() if "sync-interval" in it]
    return line.partition(":")[2].strip()


async def _clean_prefix(found: Found, cluster: clusters.Cluster, elsewhere: Path) -> None:
    """What the killed replicator left restores to a sound ledger."""
    await asyncio.to_thread(elsewhere.mkdir)
    await asyncio.to_thread(litestream.restore, cluster.chart, elsewhere)
    url = f"sqlite+aiosqlite:///{elsewhere}/teller.db"
    audited = commands.teller("audit", "--json", env={"TELLER_DATABASE_URL": url})
    found.expect("after kill -9 of the replicator, its replica audits with", audited.status, 0)


# -- what both engines are asked ------------------------------------------------------------------


class Restored:
    """A ledger that was restored, beside what its clients had been told before."""

    def __init__(self, found: Found, url: str, before: Clients, folder: Path) -> None:
        self._found = found
        self._url = url
        self._before = before
        self._folder = folder
        self.lost: set[tuple[str, str]] = set()

    def _teller(self, *arguments: str) -> Ended:
        return commands.teller(*arguments, env={"TELLER_DATABASE_URL": self._url})

    async def judge_loss(self, died_s: float, interval_s: float) -> None:
        """It is a sound prefix of what was acknowledged, and not much shorter."""
        found, before = self._found, self._before
        audited = await asyncio.to_thread(self._teller, "audit", "--json")
        found.expect("the restored ledger audits with", audited.status, 0)
        settings = Settings.load(database_url=self._url)
        rows, balances = await evidence.of_database(settings, set(USERS), lambda _rows: None)
        judged = checker.check(before.events, rows, balances=balances)
        found.expect("findings but for what came too late", set(judged.counts) - {"lost"}, set())
        held = {(row.user_id, row.key) for row in rows}
        self.lost = {key for key in before.receipts if key not in held}
        ages_s = [died_s - before.receipts[key].at_s for key in self.lost]
        oldest_s = max(ages_s, default=0.0)
        found.data |= {"rpo_s": round(oldest_s, 3), "lost": len(self.lost)}
        found.seen.append(
            f"of {len(before.receipts)} acknowledged the node took {len(self.lost)} with it, the "
            f"oldest {oldest_s:.2f} s old (the RPO measured; the interval is {interval_s:g} s)"
        )

    async def judge_keys(self, later: Clients) -> None:
        """Every key is asked again: a replay where its row came back, a first attempt if not."""
        asked = [it.operation for it in self._before.receipts.values()]
        # Those that the node took the answer of with it, too.
        await later.send(self._before.unsettled)
        answers = await later.send(asked)
        same = firsts = 0
        for key, reply in answers.items():
            assert reply is not None, "a restored service answers"
            replayed, before = reply.fields["idempotent-replayed"], self._before.receipts[key]
            as_before = (reply.status, reply.body) == (before.status, before.body)
            same += key not in self.lost and replayed == "true" and as_before
            firsts += key in self.lost and replayed == "false"
        kept = len(answers) - len(self.lost)
        self._found.seen.append(f"keys that came back, asked again: {kept}")
        self._found.expect("of these not answered byte for byte as before", kept - same, 0)
        taken = len(self.lost) - firsts
        self._found.expect("of the lost ones not answered as first attempts", taken, 0)

    async def go_on(self, later: Clients) -> None:
        """The clients go on; everything but what was lost with the node is judged together."""
        found, before = self._found, self._before
        stop = asyncio.Event()
        load = asyncio.create_task(later.run(stop))
        await asyncio.sleep(AFTER_S)
        stop.set()
        await load
        kept = [event for event in before.events if (event.user_id, event.key) not in self.lost]
        later.events = [*kept, *later.events]
        seen = await verdict.of(self._url, later, self._folder, self._teller)
        found.seen.append(str(seen))
        found.requests = before.seen.total() + later.seen.total()
        found.resent = before.resent + later.resent
        found.replays = before.replays + later.replays
        found.violations = seen.violations
        found.expect("violations once it went on", found.violations, 0)


# -- PostgreSQL -----------------------------------------------------------------------------------


async def postgresql(place: Place) -> Found:
    """A base backup and the archived log, of a server whose files are gone."""
    place.say("backup-postgresql: starting")
    found = Found(steps="-")
    with binaries() as (programs, data):
        archive = data / "archive"
        primary = PostgresServer(programs, data / "primary")
        primary.make(
            archive_mode="on",
            archive_timeout=f"'{ARCHIVE_TIMEOUT_S}s'",
            archive_command=f"'test ! -f {archive}/%f && cp %p {archive}/%f'",
        )
        primary.make_folder(archive)
        primary.start()
        try:
            primary.psql("postgres", "CREATE DATABASE teller")
            with _teller(primary.url("teller")) as served:
                clients, stop = _clients(served), asyncio.Event()
                clients.patience_s = 0
                load = asyncio.create_task(clients.run(stop))
                await asyncio.sleep(2)
                await asyncio.to_thread(primary.back_up, data / "base")
                await asyncio.sleep(LOAD_S)
                place.say("backup-postgresql: the server dies")
                died_s = time.monotonic()
                primary.kill()
                served.kill()
                stop.set()
                await load
        finally:
            primary.stop()
        shutil.rmtree(primary.folder)
        other = PostgresServer(programs, data / "base")
        other.recover(restore_command=f"'cp {archive}/%f %p'")
        place.say("backup-postgresql: restored")
        try:
            await _after_recovery(found, place, other, clients, died_s)
        finally:
            other.stop()
    return found


async def _after_recovery(
    found: Found, place: Place, server: PostgresServer, clients: Clients, died_s: float
) -> None:
    url = server.url("teller")
    restored = Restored(found, url, clients, place.folder)
    await restored.judge_loss(died_s, ARCHIVE_TIMEOUT_S)
    with _teller(url) as served:
        later = _clients(served)
        later.seed = 2
        await restored.judge_keys(later)
        await restored.go_on(later)


def _teller(url: str) -> Any:
    ended = commands.teller("migrate", env={"TELLER_DATABASE_URL": url})
    assert ended.status == 0, ended.output
    ended = commands.teller("users", "add", *USERS, env={"TELLER_DATABASE_URL": url})
    assert ended.status == 0, ended.output
    return processes.serving(url)


def _clients(served: Served) -> Clients:
    """Clients of a Teller without proxies before it."""
    host, _, port = served.url.removeprefix("http://").partition(":")
    return Clients(served.url, (host, int(port)), lambda user: {"user_id": user})

"""A ledger moved from SQLite to PostgreSQL, page by page, and the proof that both are equal."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import func, select

from service import database, migrations, postgres, schema
from service.errors import StartError
from service.ledger import Entry
from service.reader import Reader
from service.replay import Replay
from service.scan import Scan
from service.store import revision_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextlib import AbstractContextManager

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from service.ledger import Account
    from service.scan import Page
    from service.settings import Settings

    Progress = Callable[[str, int], AbstractContextManager[Callable[[int], object]]]

ROWS_PER_PAGE: Final = 5_000
_ACCOUNT_COLUMNS: Final = ("id", "user_id", "balance_minor", "seq", "chain", "opened_at_us")
_MOVEMENT_COLUMNS: Final = ("account_id", *Entry._fields)


@dataclass(slots=True)
class Tally:
    """What two equal ledgers have in common.

    ``counts`` and ``sums_minor`` are by kind, outcome and reason; ``balances_minor`` is over all
    accounts. ``heads`` is SHA-256 over every account's id, user, opening time, balance, sequence
    number and chain value, which covers the content of every row before it.
    """

    accounts: int = 0
    rows: int = 0
    balances_minor: int = 0
    counts: Counter[tuple[str, ...]] = field(default_factory=Counter)
    sums_minor: Counter[tuple[str, ...]] = field(default_factory=Counter)
    heads: Any = field(default_factory=sha256)

    def row(self, _head: Account, entry: Entry) -> None:
        """Add a row."""
        what = (entry.kind, entry.outcome, entry.reason or "")
        self.rows += 1
        self.counts[what] += 1
        self.sums_minor[what] += entry.amount_minor or 0

    def account(self, head: Account, opened_at_us: int) -> None:
        """Add an account once all its rows are added."""
        self.accounts += 1
        self.balances_minor += head.balance_minor
        form = f"{head.id}\n{head.user_id}\n{head.balance_minor}\n{head.seq}\n{opened_at_us}\n"
        self.heads.update(form.encode() + head.chain)

    def differences(self, other: Tally) -> list[str]:
        """What is not equal, in words; empty if the ledgers are."""
        pairs = {
            "accounts": (self.accounts, other.accounts),
            "transactions": (self.rows, other.rows),
            "balances": (self.balances_minor, other.balances_minor),
            "counts": (self.counts, other.counts),
            "sums": (self.sums_minor, other.sums_minor),
            "chain heads": (self.heads.hexdigest(), other.heads.hexdigest()),
        }
        return [name for name, (one, another) in pairs.items() if one != another]


@dataclass(frozen=True, slots=True)
class Relocated:
    """A finished copy: its proof, and how long copying and proving took, in seconds."""

    tally: Tally
    copied_s: float
    proven_s: float


@contextmanager
def _silent(_label: str, _rows_total: int) -> Iterator[Callable[[int], object]]:
    yield lambda _rows: None


async def relocate(
    source: Settings,
    target: Settings,
    *,
    progress: Progress = _silent,
) -> Relocated:
    """Copy a SQLite ledger that nobody serves into an empty PostgreSQL database, and prove it.

    Until the proof holds the target is marked, and every release of Teller refuses to serve it. A
    target that an earlier copy left so is cleared first.

    Args:
        source: of the file; it is only read.
        target: of the database; its role may make tables there.
        progress: gives, for a label and how many rows there are, what is told of those done.

    Raises:
        StartError: why nothing was copied, or what became of the copy and what to do.
    """
    if database.engine_of(source) != "sqlite" or database.engine_of(target) != "postgresql":
        raise StartError("A ledger is copied from a SQLite file (--from) to PostgreSQL (--to).")
    async with (
        database.opened_to_read(source, alone=True) as from_engine,
        Reader(from_engine).running() as reader,
        postgres.opened(target) as to_engine,
        _alone(to_engine),
    ):
        await _check_source(reader)
        currency = await Scan(reader).currency()
        await migrations.prepare_copy(to_engine, currency)
        rows_total = await Scan(reader).rows_total()
        started_s = time.monotonic()
        try:
            with progress("Copying", rows_total) as advance:
                wanted = await _copy(reader, to_engine, advance)
            copied_s = time.monotonic() - started_s
            with progress("Reading back", rows_total) as advance:
                await _prove(wanted, target, advance)
            await migrations.finish_copy(to_engine)
        except StartError as error:
            raise StartError(
                f"{error} The copy is not complete: its target stays marked as unusable. Mend the "
                "cause and run the same command again; it starts over."
            ) from error
        return Relocated(wanted, copied_s, time.monotonic() - started_s - copied_s)


@asynccontextmanager
async def _alone(engine: AsyncEngine) -> AsyncIterator[None]:
    """Keep other copies into this database away, for as long as this process's connection lives."""
    async with engine.connect() as connection:
        if not await connection.scalar(select(func.pg_try_advisory_lock(_ADVISORY_LOCK))):
            raise StartError("Another copy into this database is at work.")
        # Out of the transaction, which would be ended for its idleness; the lock is the session's.
        await connection.commit()
        yield


_ADVISORY_LOCK: Final = 835538  # beside the migrations' own


async def _check_source(reader: Reader) -> None:
    found = (await revision_of(reader.engine)).revision
    if found != schema.REVISION:
        raise StartError(
            f"The source is at revision {found}; this release copies revision {schema.REVISION}. "
            "Bring it there with the release that fits it: teller migrate"
        )


async def _copy(reader: Reader, engine: AsyncEngine, progress: Callable[[int], object]) -> Tally:
    """Write every page as it is read, and replay it on the way: a broken ledger is not copied."""
    tally = Tally()
    async with engine.connect() as connection:
        raw = await connection.get_raw_connection()
        driver: Any = raw.driver_connection
        last_id = -1
        async for page, times in _replayed(reader, tally):
            heads = [head for head in page.heads if head.id > last_id]
            await driver.copy_records_to_table(
                schema.accounts.name,
                columns=_ACCOUNT_COLUMNS,
                records=[
                    (h.id, h.user_id, h.balance_minor, h.seq, h.chain, times[h.id]) for h in heads
                ],
            )
            await driver.copy_records_to_table(
                schema.movements.name,
                columns=_MOVEMENT_COLUMNS,
                records=[(row.account_id, *row.entry) for row in page.rows],
            )
            last_id = heads[-1].id if heads else last_id
            progress(len(page.rows))
        await driver.execute(
            "SELECT setval(pg_get_serial_sequence('accounts', 'id'), greatest(max(id), 1)) "
            "FROM accounts"
        )
    return tally


async def _prove(wanted: Tally, target: Settings, progress: Callable[[int], object]) -> None:
    """Read everything back, replay it, and compare."""
    found = Tally()
    async with database.opened_to_read(target) as engine, Reader(engine).running() as reader:
        async for page, _times in _replayed(reader, found):
            progress(len(page.rows))
    differences = wanted.differences(found)
    if differences:
        raise StartError(f"The target differs from the source in its {', '.join(differences)}.")


async def _replayed(reader: Reader, tally: Tally) -> AsyncIterator[tuple[Page, dict[int, int]]]:
    """The pages of a ledger, each once its rows are checked and tallied.

    With each come the times, by id, at which its accounts were opened.
    """
    scan = Scan(reader)
    replay = Replay(await scan.currency())
    times: dict[int, int] = {}
    replay.on_row = tally.row
    replay.on_account = lambda head: tally.account(head, times[head.id])
    async for page in scan.pages(rows_max=ROWS_PER_PAGE):
        # The last account of the page before may end only now.
        times = dict(list(times.items())[-1:]) | await _opening_times(reader, page)
        replay.page(page.heads, page.rows)
        if not replay.findings.sound:
            break
        yield page, times
    findings = replay.finish()
    if not findings.sound:
        first = findings.violations[0]
        which = "source" if reader.engine.dialect.name == "sqlite" else "target"
        raise StartError(
            f"The {which} is not sound: account {first.user_id}, transaction {first.seq}: "
            f"{first.detail} All of it: teller audit."
        )


async def _opening_times(reader: Reader, page: Page) -> dict[int, int]:
    if not page.heads:
        return {}
    accounts = schema.accounts.c
    asked = (
        select(accounts.id, accounts.opened_at_us)
        .where(accounts.id.between(page.heads[0].id, page.heads[-1].id))
        .order_by(accounts.id)
    )

    async def read(connection: AsyncConnection) -> dict[int, int]:
        return {row.id: row.opened_at_us for row in await connection.execute(asked)}

    return await reader.read(read)

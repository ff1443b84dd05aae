"""The SQLite store: one file, one writing connection, one transaction and one fsync a batch."""

from __future__ import annotations

import json
import logging
import sqlite3 as stdlib_sqlite
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote

import aiosqlite
import portalocker
from sqlalchemy import select, text
from sqlalchemy.dialects.sqlite.aiosqlite import AsyncAdapt_aiosqlite_dbapi
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import create_async_engine

from service import schema
from service.errors import OutcomeUnknownError, StartError, UnavailableError
from service.ledger import Account, Entry, fold, genesis
from service.store import Revision, now_us

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from service.ledger import Decision, Movement
    from service.money import Currency
    from service.settings import Settings

# Teller's own SQLite library where there is a wheel of it; it must be the only one that ever
# opens the file in this process (NOTES.md, "One process, one SQLite library").
try:
    from pysqlite3 import dbapi2 as driver
except ImportError:
    driver = stdlib_sqlite

VERSION_NEEDED: Final = (3, 38, 0)  # STRICT tables and the ->> operator
WAL_BYTES_KEPT: Final = 64 * 2**20

log = logging.getLogger(__name__)
Result = TypeVar("Result")

# -- the library and its guard --------------------------------------------------------------


def wal_reset_fixed(version: tuple[int, ...]) -> bool:
    """Whether that SQLite version has the fix of the WAL-reset bug.

    Versions 3.7.0 to 3.51.2 can lose a commit when one connection checkpoints while another
    commits; fixed in 3.51.3, 3.50.7 and 3.44.6; 3.52.0 was withdrawn
    (https://sqlite.org/wal.html#walresetbug).
    """
    if version[:2] == (3, 44):
        return version >= (3, 44, 6)
    if version[:2] == (3, 50):
        return version >= (3, 50, 7)
    return version >= (3, 51, 3) and version[:3] != (3, 52, 0)


@asynccontextmanager
async def guarded(path: Path) -> AsyncIterator[None]:
    """Hold the start guard of a ledger file: many processes with fixed libraries, or one without.

    Raises:
        StartError: another process makes it unsafe to open the file, or the folder is not there.
    """
    version = driver.sqlite_version
    if driver.sqlite_version_info < VERSION_NEEDED:
        raise StartError(f"SQLite {version} is too old: Teller needs 3.38 or newer.")
    fixed = wal_reset_fixed(driver.sqlite_version_info)
    mode = portalocker.LockFlags.SHARED if fixed else portalocker.LockFlags.EXCLUSIVE
    try:
        guard = Path(f"{path}.lock").open("a")  # noqa: ASYNC230, SIM115 - once, at start
    except OSError as error:
        raise StartError(
            f"The ledger's folder {path.parent} cannot be written: {error.strerror}. "
            "Make it, or set TELLER_DATABASE_URL."
        ) from error
    with guard:
        try:
            portalocker.lock(guard, mode | portalocker.LockFlags.NON_BLOCKING)
        except portalocker.exceptions.LockException as error:
            raise StartError(_guard_refusal(path, version, fixed=fixed)) from error
        if not fixed:
            log.warning("sqlite library has the wal-reset bug", extra={"sqlite": version})
        yield


def _guard_refusal(path: Path, version: str, *, fixed: bool) -> str:
    if fixed:
        return (
            f"Another process has {path} open with an SQLite library that can lose commits when "
            "two processes share a file (the WAL-reset bug). Stop that process, or give it a "
            "fixed library (pip install pysqlite3), then start this one again."
        )
    return (
        f"Another process has {path} open, and this one's SQLite {version} can lose commits when "
        "two processes share a file (the WAL-reset bug, fixed in 3.51.3: "
        "https://sqlite.org/wal.html#walresetbug). Install a fixed library "
        "(pip install pysqlite3), or stop the other process."
    )


# -- connections ----------------------------------------------------------------------------


class _Dbapi(AsyncAdapt_aiosqlite_dbapi):
    """SQLAlchemy's aiosqlite driver over Teller's library, its error classes included."""

    def _init_dbapi_attributes(self) -> None:
        # Left to itself SQLAlchemy takes these from the standard library's module, and an error
        # of ours would pass unwrapped.
        for name in (
            *("DatabaseError", "Error", "IntegrityError", "NotSupportedError"),
            *("OperationalError", "ProgrammingError", "sqlite_version", "sqlite_version_info"),
            *("PARSE_COLNAMES", "PARSE_DECLTYPES", "Binary"),
        ):
            setattr(self, name, getattr(self.sqlite, name))


class _Connection(aiosqlite.Connection):
    """A connection that can also run one function in its thread: one hop for a whole batch."""

    async def run(self, function: Callable[..., Result], *args: Any) -> Result:
        result: Result = await self._execute(function, self._conn, *args)
        return result


def file_of(database_url: str) -> Path:
    """The path of a SQLite ledger's file, absolute."""
    return Path(make_url(database_url).database or "").absolute()


def engine(path: Path, *, busy_timeout_ms: int, read_only: bool = False) -> AsyncEngine:
    """The one way to open a ledger file: an engine of one writer, or of a few readers."""

    def connect() -> Any:
        mode = "ro" if read_only else "rwc"
        connection = driver.connect(
            f"file:{quote(str(path))}?mode={mode}",
            uri=True,
            isolation_level=None,  # transactions are begun by name: BEGIN IMMEDIATE
            timeout=busy_timeout_ms / 1000,
            check_same_thread=False,
        )
        for pragma in _READER if read_only else _WRITER:
            connection.execute(f"PRAGMA {pragma}")
        return connection

    def creator(*_args: Any, **_kwargs: Any) -> _Connection:
        connection = _Connection(connect, iter_chunk_size=64)
        # A thread stuck in a dead disk's fsync must not keep the process from ending.
        connection._thread.daemon = True  # noqa: SLF001
        return connection

    return create_async_engine(
        URL.create("sqlite+aiosqlite", database=str(path)),
        module=_Dbapi(aiosqlite, driver),
        async_creator=creator,
        pool_size=2 if read_only else 1,
        max_overflow=0,
    )


_WRITER: Final = (
    "journal_mode = WAL",
    "synchronous = FULL",  # a commit is in the log and synced before COMMIT returns
    "fullfsync = ON",  # macOS: fsync alone does not reach the platter
    "checkpoint_fullfsync = ON",
    "wal_autocheckpoint = 0",  # between batches instead, by the committer
    f"journal_size_limit = {WAL_BYTES_KEPT}",
    "foreign_keys = ON",
    "recursive_triggers = ON",  # REPLACE would otherwise pass the delete triggers
    "trusted_schema = OFF",
)
_READER: Final = ("query_only = ON", "trusted_schema = OFF")


@asynccontextmanager
async def opened(settings: Settings, *, read_only: bool = False) -> AsyncIterator[AsyncEngine]:
    """An engine on the settings' file, closed at the end."""
    made = engine(
        file_of(settings.database_url),
        busy_timeout_ms=settings.busy_timeout_ms,
        read_only=read_only,
    )
    try:
        yield made
    finally:
        await made.dispose()


# -- the store ------------------------------------------------------------------------------

_LOOK_UP: Final = """
SELECT json_group_array(json_array(
    asked.value ->> 0, asked.value ->> 1,
    a.id, a.balance_minor, a.seq, hex(a.chain),
    m.seq, m.kind, m.outcome, m.reason, m.amount_minor, m.balance_after_minor, m.reference,
    m.created_at_us, hex(m.chain)))
FROM json_each(?) AS asked
JOIN accounts AS a ON a.user_id = asked.value ->> 0
LEFT JOIN movements AS m ON m.account_id = a.id AND m.key = asked.value ->> 1
"""

# chain values travel beside the JSON as one BLOB, 32 bytes a row: JSON has no bytes.
_INSERT_ACCOUNTS: Final = """
INSERT INTO accounts (user_id, balance_minor, seq, chain, opened_at_us)
SELECT value, 0, 0, substr(?2, 1 + 32 * key, 32), ?3 FROM json_each(?1)
RETURNING id, user_id
"""

_INSERT_MOVEMENTS: Final = """
INSERT INTO movements (account_id, seq, key, kind, outcome, reason, amount_minor,
                       balance_after_minor, reference, created_at_us, chain)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5,
       value ->> 6, value ->> 7, value ->> 8, value ->> 9, substr(?2, 1 + 32 * key, 32)
FROM json_each(?1)
"""

_UPDATE_ACCOUNTS: Final = """
UPDATE accounts
SET balance_minor = head.value ->> 1, seq = head.value ->> 2,
    chain = substr(?2, 1 + 32 * head.key, 32)
FROM json_each(?1) AS head
WHERE accounts.id = head.value ->> 0
"""


class SqliteStore:
    """The ledger in one SQLite file. See ``Store`` for the promises."""

    def __init__(
        self,
        writer: _Connection,
        readers: AsyncEngine,
        *,
        currency: Currency,
        balance_max_minor: int,
        open_on_first: bool,
        clock_us: Callable[[], int] = now_us,
    ) -> None:
        self._writer = writer
        self._readers = readers
        self._currency = currency
        self._balance_max_minor = balance_max_minor
        self._open_on_first = open_on_first
        self._clock_us = clock_us

    async def commit(self, movements: Sequence[Movement]) -> list[Decision]:
        """See ``Store.commit``: the whole batch is one function in the connection's thread."""
        return await self._writer.run(self._in_transaction, self._decide_and_write, movements)

    async def open_accounts(self, users: Sequence[str]) -> list[str]:
        """See ``Store.open_accounts``."""
        return await self._writer.run(self._in_transaction, self._open_missing, users)

    async def checkpoint(self) -> None:
        """Copy the write-ahead log into the database file as far as readers allow."""
        try:
            _busy, frames, copied = await self._writer.run(_checkpoint)
        except driver.Error as error:
            log.warning("checkpoint failed", extra={"error": str(error)})
            return
        log.debug("checkpoint", extra={"wal_frames": frames, "copied_frames": copied})

    async def revision(self) -> Revision:
        """See ``Store.revision``."""
        async with self._readers.connect() as connection:
            revision = await connection.scalar(text("SELECT version_num FROM alembic_version"))
            runs_from = await connection.scalar(select(schema.ledger.c.runs_from))
        return Revision(str(revision), str(runs_from))

    def _in_transaction(
        self, connection: Any, work: Callable[[Any, Any], Result], argument: Any
    ) -> Result:
        """Run ``work`` inside BEGIN IMMEDIATE and COMMIT, in the connection's thread."""
        try:
            connection.execute("BEGIN IMMEDIATE")
            result = work(connection, argument)
        except driver.Error as error:
            _roll_back(connection)
            if _primary_code(error) in _REASONS:
                raise _unavailable(error) from error
            raise
        except BaseException:
            _roll_back(connection)
            raise
        try:
            connection.execute("COMMIT")
        except driver.Error as error:
            if _primary_code(error) == _FULL:
                # SQLite has undone it, or will now: nothing of it is there afterwards.
                _roll_back(connection)
                raise _unavailable(error) from error
            raise OutcomeUnknownError(_UNKNOWN.format(error)) from error
        return result

    def _decide_and_write(self, connection: Any, movements: Sequence[Movement]) -> list[Decision]:
        execute = connection.execute
        now = self._clock_us()
        asked = json.dumps([(m.user_id, m.key) for m in movements])
        accounts: dict[str, Account] = {}
        firsts: dict[tuple[str, str], Entry] = {}
        for row in json.loads(execute(_LOOK_UP, (asked,)).fetchone()[0]):
            user_id, key, account_id, balance_minor, seq, chain, *first = row
            if user_id not in accounts:
                accounts[user_id] = Account(
                    account_id, user_id, balance_minor, seq, bytes.fromhex(chain)
                )
            if first[0] is not None:
                firsts[user_id, key] = Entry(
                    first[0], key, *first[1:8], bytes.fromhex(first[8])
                )
        if self._open_on_first:
            missing = {m.user_id: None for m in movements if m.user_id not in accounts}
            accounts.update(self._open(connection, list(missing), now))
        folded = fold(
            movements,
            accounts=accounts,
            firsts=firsts,
            balance_max_minor=self._balance_max_minor,
            now_us=now,
        )
        if folded.entries:
            rows = [(account.id, *entry[:-1]) for account, entry in folded.entries]
            chains = b"".join(entry.chain for _, entry in folded.entries)
            written = execute(_INSERT_MOVEMENTS, (json.dumps(rows), chains)).rowcount
            heads = [(a.id, a.balance_minor, a.seq) for a in folded.accounts]
            chains = b"".join(a.chain for a in folded.accounts)
            moved = execute(_UPDATE_ACCOUNTS, (json.dumps(heads), chains)).rowcount
            if (written, moved) != (len(rows), len(heads)):
                raise AssertionError(f"{written} of {len(rows)} rows, {moved} of {len(heads)} heads")
        return folded.decisions

    def _open_missing(self, connection: Any, users: Sequence[str]) -> list[str]:
        wanted = list(dict.fromkeys(users))
        there = {
            row[0]
            for row in connection.execute(
                "SELECT user_id FROM accounts WHERE user_id IN (SELECT value FROM json_each(?))",
                (json.dumps(wanted),),
            )
        }
        missing = [user for user in wanted if user not in there]
        self._open(connection, missing, self._clock_us())
        return missing

    def _open(self, connection: Any, users: list[str], now: int) -> dict[str, Account]:
        if not users:
            return {}
        chains = {user: genesis(user, self._currency) for user in users}
        rows = connection.execute(
            _INSERT_ACCOUNTS, (json.dumps(users), b"".join(chains.values()), now)
        ).fetchall()
        return {user: Account(id_, user, 0, 0, chains[user]) for id_, user in rows}


@asynccontextmanager
async def store(
    settings: Settings, writers: AsyncEngine, *, clock_us: Callable[[], int] = now_us
) -> AsyncIterator[SqliteStore]:
    """The store on a migrated file, with its one writing connection held until the end."""
    async with opened(settings, read_only=True) as readers, writers.connect() as connection:
        raw = await connection.get_raw_connection()
        writer = raw.driver_connection
        assert isinstance(writer, _Connection)  # noqa: S101 - made by engine() above
        yield SqliteStore(
            writer,
            readers,
            currency=settings.money(),
            balance_max_minor=settings.balance_max_minor(),
            open_on_first=settings.account_opening == "on_first_deposit",
            clock_us=clock_us,
        )


_UNKNOWN: Final = (
    "The database failed at the commit ({}): the movement is stored once or not at all. "
    "The service restarts and reads the truth from disk. Retry with the same key."
)


def _checkpoint(connection: Any) -> tuple[int, int, int]:
    row: tuple[int, int, int] = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return row


def _roll_back(connection: Any) -> None:
    # On some errors SQLite has rolled back by itself (sqlite.org/lang_transaction.html).
    if not connection.in_transaction:
        return
    try:
        connection.execute("ROLLBACK")
    except driver.Error as error:
        # The connection is stuck in a transaction: only a restart from disk is safe.
        raise OutcomeUnknownError(_UNKNOWN.format(error)) from error


def _primary_code(error: Any) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _unavailable(error: Any) -> UnavailableError:
    log.error("database unavailable", extra={"error": str(error), "name": error.sqlite_errorname})
    return UnavailableError(
        f"The database {_REASONS[_primary_code(error)]}; this attempt was not executed. "
        "Retry with the same key after the pause in Retry-After."
    )


_FULL: Final = 13

# Primary result codes (sqlite.org/rescode.html) that speak of the machine, not of a movement.
_REASONS: Final = {
    5: "is busy with another process's write",
    6: "is busy with another connection's write",
    7: "ran out of memory",
    8: "is read-only",
    9: "was interrupted",
    10: "could not read or write its disk",
    11: "is damaged",
    _FULL: "or its disk is full",
    14: "could not be opened",
    15: "could not get its locks",
    26: "is not a database",
}

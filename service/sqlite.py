"""The one SQLite library of the process, its guard, and the one way to open a ledger file."""

from __future__ import annotations

import contextvars
import logging
import sqlite3 as stdlib_sqlite  # noqa: TID251 - where there is no wheel of our own
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote

import aiosqlite
import portalocker
from sqlalchemy.dialects.sqlite.aiosqlite import AsyncAdapt_aiosqlite_dbapi
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import create_async_engine

from service.errors import StartError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sqlalchemy.ext.asyncio import AsyncEngine

    from service.settings import Settings

# Teller's own SQLite library where there is a wheel of it; it must be the only one that ever
# opens the file in this process (NOTES.md, "one process, one SQLite library").
try:
    from pysqlite3 import dbapi2 as _library
except ImportError:
    _library = stdlib_sqlite
driver: Final[Any] = _library

VERSION_NEEDED: Final = (3, 38, 0)  # STRICT tables and the ->> operator
WAL_BYTES_KEPT: Final = 64 * 2**20
WAL_RETRY_S: Final = 0.01
BUSY: Final = 5  # SQLITE_BUSY, the primary result code

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
async def guarded(path: Path, *, alone: bool = False) -> AsyncIterator[None]:
    """Hold the start guard of a ledger file: many processes with fixed libraries, or one without.

    Args:
        path: of the ledger file.
        alone: let no other process in, whatever its library.

    Raises:
        StartError: another process makes it unsafe to open the file, or the folder is not there.
    """
    version = driver.sqlite_version
    if driver.sqlite_version_info < VERSION_NEEDED:
        raise StartError(f"SQLite {version} is too old: Teller needs 3.38 or newer.")
    fixed = wal_reset_fixed(driver.sqlite_version_info)
    mode = portalocker.LockFlags.SHARED if fixed and not alone else portalocker.LockFlags.EXCLUSIVE
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
            if alone:
                raise StartError(
                    f"Another process has {path} open. Stop it first: teller copy moves a ledger "
                    "that nobody writes to."
                ) from error
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


class WriterConnection(aiosqlite.Connection):
    """A connection that can also run one function in its thread: one hop for a whole batch."""

    async def run(self, function: Callable[..., Result], *args: Any) -> Result:
        """Run ``function(connection, *args)`` on the driver's own connection."""
        # In the caller's context: a log line of that thread belongs to the caller's trace.
        run = contextvars.copy_context().run
        result: Result = await self._execute(run, function, self._conn, *args)  # type: ignore[no-untyped-call]
        return result


def file_of(database_url: str) -> Path:
    """The path of a SQLite ledger's file, absolute."""
    url = make_url(database_url)
    assert url.get_backend_name() == "sqlite"  # noqa: S101 - another's name is no file
    return Path(url.database or "").absolute()


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
        try:
            if not read_only:
                _use_wal(connection, busy_timeout_ms=busy_timeout_ms)
            for pragma in _READER if read_only else _WRITER:
                connection.execute(f"PRAGMA {pragma}")
        except BaseException:
            connection.close()
            raise
        return connection

    def creator(*_args: Any, **_kwargs: Any) -> WriterConnection:
        connection = WriterConnection(connect, iter_chunk_size=64)
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


def _use_wal(connection: Any, *, busy_timeout_ms: int) -> None:
    """Switch the file to a write-ahead log, once in its life.

    SQLite takes the write lock for this while it reads, and does not wait there: of two processes
    that start at once on a new file, one would be told that the database is locked.
    """
    tries_end_s = time.monotonic() + busy_timeout_ms / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except driver.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != BUSY or time.monotonic() > tries_end_s:
                raise
            time.sleep(WAL_RETRY_S)
        else:
            return


_WRITER: Final = (
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

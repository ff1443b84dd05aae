"""A writing connection to PostgreSQL: transactions whose end is known, or said to be in doubt."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, NoReturn, Protocol, TypeVar

import asyncpg

from service import postgres
from service.errors import OutcomeUnknownError, UnavailableError
from service.store import Timing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

# Before the next batch tries the servers again, so that an outage is not a storm of logins.
AWAY_PAUSE_S: Final = 0.1

log = logging.getLogger(__name__)
Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)

_DRIVER_ERRORS: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError)

UNKNOWN: Final = (
    "The connection to the database ended at the commit: the movement is stored once or not at "
    "all, and its row tells which. Retry with the same key."
)


class Decided(NamedTuple, Generic[Result_co]):
    """What a transaction comes to, and the statement that it ends in.

    ``locked_ns`` is when it held its locks, in nanoseconds since 1970 UTC; None if it waited for
    none.
    """

    result: Result_co
    locked_ns: int | None
    write: Callable[[], Awaitable[object]]


class Work(Protocol[Result_co]):
    """What a transaction does before its last statement."""

    async def __call__(self, driver: Any, *, locking: bool) -> Decided[Result_co]:
        """Read and decide on the driver's connection; ``locking`` as ``Writer.transaction`` has."""


class Writer:
    """One connection, opened by its first transaction and again after it was lost.

    Args:
        engine: opens connections.
        silence_max_s: hang up after so many seconds of one transaction.
    """

    def __init__(self, engine: AsyncEngine, silence_max_s: float) -> None:
        self._engine = engine
        self._silence_max_s = silence_max_s
        self._held: AsyncConnection | None = None
        self._warnings: list[str] = []
        self.driver: Any = None

    async def close(self) -> None:
        """Give the connection back."""
        held, self._held, self.driver = self._held, None, None
        if held is not None:
            await held.close()

    async def transaction(
        self, work: Work[Result], in_doubt: list[Result], *, locking: bool
    ) -> tuple[Result, Timing]:
        """Run ``work`` and the statement that it ends in; its result, and when it came how far.

        Args:
            work: reads and decides.
            in_doubt: takes the result if the commit never answered.
            locking: all of it stands between BEGIN and COMMIT, so that ``work`` may lock and
                write; if not, the last statement is the transaction.

        Raises:
            ConflictError, LostError, StatementError, UnavailableError: nothing is stored.
            OutcomeUnknownError: all of it is stored, or nothing is.
        """
        driver = await self._connected()
        # Not the driver's own time limit: it would cancel the statement, and a cancelled COMMIT
        # is there without the standby's having it. Hanging up leaves the server waiting instead.
        guard = asyncio.get_running_loop().call_later(self._silence_max_s, driver.terminate)
        try:
            began_ns = time.time_ns()
            try:
                if locking:
                    await driver.execute("BEGIN")
                result, locked_ns, write = await work(driver, locking=locking)
                if locking:
                    await write()
                decided_ns = time.time_ns()
            except _DRIVER_ERRORS as error:
                await self._undo(driver, error, locking=locking)
            except BaseException as error:
                await self._roll_back(driver, error, locking=locking)
                raise
            self._warnings.clear()
            try:
                done = await (driver.execute("COMMIT") if locking else write())
            except _DRIVER_ERRORS as error:
                if not _in_doubt(driver, error, locking=locking):
                    await self._undo(driver, error, locking=locking)
                in_doubt.append(result)
                await self._hang_up(error)
                raise OutcomeUnknownError(UNKNOWN, restart=False) from error
        finally:
            guard.cancel()
        if locking and done != "COMMIT":
            raise AssertionError(f"COMMIT was answered by {done}")
        if self._warnings:
            # "The transaction has already committed locally, but might not have been replicated":
            # somebody cancelled the wait for the standby.
            in_doubt.append(result)
            await self._hang_up(self._warnings[0])
            raise OutcomeUnknownError(UNKNOWN, restart=False)
        return result, Timing(began_ns, locked_ns or began_ns, decided_ns, time.time_ns())

    async def _connected(self) -> Any:
        if self.driver is not None and not self.driver.is_closed():
            return self.driver
        if self._held is not None:
            await self._hang_up("closed by the server")
        try:
            held = await self._engine.connect()
        except OSError as error:
            await asyncio.sleep(AWAY_PAUSE_S)
            raise unavailable(error) from error
        raw = await held.get_raw_connection()
        self._held, self.driver = held, raw.driver_connection
        self.driver.add_log_listener(self._hear)
        return self.driver

    def _hear(self, _connection: Any, message: Any) -> None:
        if message.severity_en == "WARNING":
            self._warnings.append(message.message)

    async def _undo(self, driver: Any, error: Exception, *, locking: bool) -> NoReturn:
        """Roll back, and raise what an error means after which nothing is stored."""
        await self._roll_back(driver, error, locking=locking)
        if getattr(error, "sqlstate", None) in postgres.CONFLICTS:
            raise ConflictError from error
        if _gone(driver, error):
            raise LostError from error
        if postgres.reason(error) is not None:
            raise unavailable(error) from error
        raise StatementError(_in_short(error)) from None

    async def _roll_back(self, driver: Any, error: BaseException, *, locking: bool) -> None:
        if _gone(driver, error):
            await self._hang_up(error)
            return
        try:
            if locking:
                await driver.execute("ROLLBACK")
        except _DRIVER_ERRORS as failure:
            await self._hang_up(failure)

    async def _hang_up(self, why: object) -> None:
        """Close the connection without a word to the server, which rolls back what is open."""
        log.warning("database connection lost", extra={"error": str(why)})
        held, driver = self._held, self.driver
        self._held, self.driver = None, None
        if driver is not None:
            driver.terminate()
        if held is not None:
            await held.invalidate()
            await held.close()


class ConflictError(Exception):
    """Rolled back because of another process's transaction; the same one may pass now."""


class LostError(Exception):
    """The connection ended before COMMIT: nothing of the transaction is stored."""


class StatementError(Exception):
    """A bug, or a movement that the database refuses."""


def _gone(driver: Any, error: BaseException) -> bool:
    return driver.is_closed() or postgres.lost(error)


def _in_doubt(driver: Any, error: BaseException, *, locking: bool) -> bool:
    """Whether what is stored is unknown after that error of the commit.

    A statement that is the transaction fails whole, as long as the server is there to say so.
    """
    state = getattr(error, "sqlstate", None)
    if state in postgres.CONFLICTS:
        return False
    if locking or driver.is_closed() or state == postgres.COMPLETION_UNKNOWN:
        return True
    return state != postgres.READ_ONLY and postgres.lost(error)


def _in_short(error: BaseException) -> str:
    """The error without its details: they show the row, and the log must not."""
    parts = [type(error).__name__]
    for name in ("sqlstate", "table_name", "constraint_name"):
        value = getattr(error, name, None)
        if value:
            parts.append(f"{name}={value}")
    return " ".join(parts)


def unavailable(error: BaseException) -> UnavailableError:
    """What a request is told of an error after which nothing is stored; it is logged too."""
    log.error(
        "database unavailable",
        extra={"error": str(error), "error_name": getattr(error, "sqlstate", None) or "connection"},
    )
    why = postgres.reason(error) or "is busy with another process's write"
    return UnavailableError(
        f"The database {why}; this attempt was not executed. "
        "Retry with the same key after the pause in Retry-After.",
        cause=getattr(error, "sqlstate", None) or "connection",
    )

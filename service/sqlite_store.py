"""The SQLite store: one writing connection, one transaction and one fsync a batch."""

from __future__ import annotations

import json
import logging
import time
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING, Any, Final, TypeVar

from service import sqlite
from service.errors import DiskFullError, OutcomeUnknownError, StartError, UnavailableError
from service.ledger import Account, Entry, fold, genesis
from service.sqlite import WriterConnection, driver
from service.store import Checkpoint, Timing, now_us, revision_of
from service.turn import Turn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from service.ledger import Decision, Movement
    from service.money import Currency
    from service.settings import Settings
    from service.store import Revision

log = logging.getLogger(__name__)
Result = TypeVar("Result")

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
        writer: WriterConnection,
        readers: AsyncEngine,
        turn: Turn,
        *,
        currency: Currency,
        balance_max_minor: int,
        open_on_first: bool,
        clock_us: Callable[[], int] = now_us,
    ) -> None:
        self._writer = writer
        self._turn = turn
        self.readers: Final = readers
        self._currency = currency
        self._balance_max_minor = balance_max_minor
        self._open_on_first = open_on_first
        self._clock_us = clock_us
        self.batches_max: Final = 1
        self.timing: Timing | None = None

    async def commit(self, movements: Sequence[Movement]) -> list[Decision]:
        """See ``Store.commit``: the whole batch is one function in the connection's thread."""
        return await self._writer.run(self._in_transaction, self._decide_and_write, movements)

    async def open_accounts(self, users: Sequence[str]) -> list[str]:
        """See ``Store.open_accounts``."""
        return await self._writer.run(self._in_transaction, self._open_missing, users)

    async def checkpoint(self) -> Checkpoint | None:
        """Copy the write-ahead log into the database file as far as readers allow."""
        try:
            _busy, frames, copied = await self._writer.run(_checkpoint)
        except driver.Error as error:
            log.warning("checkpoint failed", extra={"error": str(error)})
            return None
        log.debug("checkpoint", extra={"wal_frames": frames, "copied_frames": copied})
        return Checkpoint(frames, copied)

    async def revision(self) -> Revision:
        """See ``Store.revision``."""
        return await revision_of(self.readers)

    def _in_transaction(
        self, connection: Any, work: Callable[[Any, Any], Result], argument: Any
    ) -> Result:
        """Run ``work`` inside BEGIN IMMEDIATE and COMMIT, in the connection's thread."""
        began_ns = time.time_ns()
        with self._turn.taken():
            return self._in_turn(connection, work, argument, began_ns)

    def _in_turn(
        self,
        connection: Any,
        work: Callable[[Any, Any], Result],
        argument: Any,
        began_ns: int,
    ) -> Result:
        try:
            connection.execute("BEGIN IMMEDIATE")
            locked_ns = time.time_ns()
            result = work(connection, argument)
            decided_ns = time.time_ns()
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
            raise OutcomeUnknownError(_UNKNOWN) from error
        self.timing = Timing(began_ns, locked_ns, decided_ns, time.time_ns())
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
                seq, *middle, chain = first
                firsts[user_id, key] = Entry(seq, key, *middle, bytes.fromhex(chain))  # type: ignore[call-arg]
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
                raise AssertionError(
                    f"{written} of {len(rows)} rows, {moved} of {len(heads)} heads"
                )
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
async def opened(
    settings: Settings, writers: AsyncEngine, *, clock_us: Callable[[], int] = now_us
) -> AsyncIterator[SqliteStore]:
    """The store on a migrated file, with its one writing connection held until the end."""
    path = sqlite.file_of(settings.database_url)
    async with sqlite.opened(settings, read_only=True) as readers, writers.connect() as connection:
        raw = await connection.get_raw_connection()
        writer = raw.driver_connection
        assert isinstance(writer, WriterConnection)  # noqa: S101 - made by engine() above
        await writer.run(_settle_log)
        with closing(Turn(path, timeout_s=settings.busy_timeout_ms / 1000)) as turn:
            yield SqliteStore(
                writer,
                readers,
                turn,
                currency=settings.money(),
                balance_max_minor=settings.balance_max_minor(),
                open_on_first=settings.account_opening == "on_first_deposit",
                clock_us=clock_us,
            )


_UNKNOWN: Final = (
    "The database failed at the commit: the movement is stored once or not at all. "
    "The service restarts and reads the truth from disk. Retry with the same key."
)


def _checkpoint(connection: Any) -> tuple[int, int, int]:
    row: tuple[int, int, int] = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return row


def _settle_log(connection: Any) -> None:
    """Bring what a killed process left in the write-ahead log into the database file, synced.

    It may have written a commit that it never synced. Read back from the kernel's cache that row
    looks stored, and its retry would be answered as a replay: it has to be durable first.
    """
    try:
        busy, frames, copied = connection.execute("PRAGMA wal_checkpoint(FULL)").fetchone()
    except driver.Error as error:
        if _primary_code(error) != _FULL:
            raise StartError(
                f"The ledger's write-ahead log could not be synced: {error}. Nothing is lost; "
                "mend the disk, then start again."
            ) from error
        # The log itself is synced before its pages are copied, which took the space.
        log.warning("checkpoint failed", extra={"error": str(error)})
        return
    if busy:
        # Another process works on the file, so that none of its log was ever left behind.
        log.info("checkpoint left to another process")
    elif frames > 0:
        log.info("log settled", extra={"wal_frames": frames, "copied_frames": copied})


def _roll_back(connection: Any) -> None:
    # On some errors SQLite has rolled back by itself (sqlite.org/lang_transaction.html).
    if not connection.in_transaction:
        return
    try:
        connection.execute("ROLLBACK")
    except driver.Error as error:
        # The connection is stuck in a transaction: only a restart from disk is safe.
        raise OutcomeUnknownError(_UNKNOWN) from error


def _primary_code(error: Any) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _unavailable(error: Any) -> UnavailableError:
    log.error(
        "database unavailable", extra={"error": str(error), "error_name": error.sqlite_errorname}
    )
    kind = DiskFullError if _primary_code(error) == _FULL else UnavailableError
    return kind(
        f"The database {_REASONS[_primary_code(error)]}; this attempt was not executed. "
        "Retry with the same key after the pause in Retry-After.",
        cause=error.sqlite_errorname,
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

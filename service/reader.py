"""What reads ask of a database, whichever engine it is: short, read-only, never the writer."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from contextvars import Context
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from sqlalchemy import and_, bindparam, select
from sqlalchemy.exc import SQLAlchemyError

from service.errors import InternalError, OperatingError, OverloadedError, UnavailableError
from service.ledger import Account, Entry
from service.schema import accounts, movements

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from sqlalchemy import Row
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

    from service.ledger import Kind, Outcome

READ_TIMEOUT_S: Final = 5.0
READS_WAITING_MAX: Final = 4096
ACCOUNTS_TOGETHER_MAX: Final = 256
# One page looks at so many sequence numbers at most, however few of them a filter keeps: a
# reader that stays long keeps the write-ahead log from being checkpointed.
PAGE_WINDOW_ROWS: Final = 10_000

_NOTHING_MOVED: Final = "Nothing moved: this request only reads. Send it again."

log = logging.getLogger(__name__)
Result = TypeVar("Result")

_USER: Final = accounts.c.user_id == bindparam("user_id")
_OWNED: Final = movements.c.account_id == accounts.c.id
# In the order of Entry's fields.
ENTRY_COLUMNS: Final = tuple(movements.c[name] for name in Entry._fields)

_HEADS: Final = select(
    accounts.c.id, accounts.c.user_id, accounts.c.balance_minor, accounts.c.seq, accounts.c.chain
)
_ACCOUNT: Final = _HEADS.where(_USER)
_ACCOUNTS: Final = _HEADS.where(accounts.c.user_id.in_(bindparam("users", expanding=True)))
_ENTRY: Final = select(*ENTRY_COLUMNS).join_from(
    accounts, movements, and_(_OWNED, movements.c.seq == bindparam("seq"))
)
_ENTRY_OF_KEY: Final = select(*ENTRY_COLUMNS).join_from(
    accounts, movements, and_(_OWNED, movements.c.key == bindparam("key"))
)
_ENTRIES: Final = (
    select(*ENTRY_COLUMNS)
    .where(
        movements.c.account_id == bindparam("account_id"),
        movements.c.seq < bindparam("before_seq"),
        movements.c.seq >= bindparam("from_seq"),
    )
    .order_by(movements.c.seq.desc())
    .limit(bindparam("limit"))
)


class Page(NamedTuple):
    """Entries, newest first, and the sequence number before which the next page begins.

    ``next_before_seq`` is None on the last page. With a filter a page may hold fewer entries
    than were asked for, even none, and still not be the last.
    """

    entries: list[Entry]
    next_before_seq: int | None


class Reader:
    """The reads of one ledger, each in a connection of its own for one or two statements.

    A read runs in a task of its own, which a request only awaits: a request that is cancelled
    cannot leave a connection in the middle of a statement.

    Args:
        engine: read-only connections in autocommit, so that no snapshot outlives a statement.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine: Final = engine
        self._tasks: set[asyncio.Task[object]] = set()
        self._asked: list[tuple[str, asyncio.Future[Account | OperatingError | None]]] = []
        self._asking: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Reader]:
        """At the end, wait for what is being read."""
        try:
            yield self
        finally:
            tasks = self._tasks if self._asking is None else {*self._tasks, self._asking}
            if tasks:
                await asyncio.wait(tasks, timeout=READ_TIMEOUT_S)

    async def account(self, user_id: str) -> Account | None:
        """The account's head, read after the call.

        Most of a small read is the way to the connection's thread and back, so that what is asked
        while another statement runs is asked together in the next.

        Raises:
            UnavailableError: the database did not answer, or not in READ_TIMEOUT_S.
            OverloadedError: READS_WAITING_MAX reads wait already.
        """
        if len(self._asked) >= READS_WAITING_MAX:
            raise OverloadedError(f"Too many reads wait. {_NOTHING_MOVED}")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Account | OperatingError | None] = loop.create_future()
        self._asked.append((user_id, future))
        if self._asking is None:
            # In a context of its own: it answers many requests, and none is its own.
            self._asking = asyncio.create_task(self._ask(), context=Context())
        await asyncio.wait({future}, timeout=READ_TIMEOUT_S)
        found = future.result() if future.done() else _too_slow()
        if isinstance(found, OperatingError):
            raise found
        return found

    async def _ask(self) -> None:
        """Answer the accounts asked for, many with one statement, until none is left."""
        try:
            while self._asked:
                asked = self._asked[:ACCOUNTS_TOGETHER_MAX]
                del self._asked[:ACCOUNTS_TOGETHER_MAX]
                heads: dict[str, Account] = {}
                failure: OperatingError | None = None
                try:
                    heads = await self._accounts(list(dict.fromkeys(user for user, _ in asked)))
                except OperatingError as error:
                    failure = error
                except Exception:  # a bug must not leave the others waiting
                    log.exception("reading accounts failed")
                    failure = InternalError(f"The read failed. {_NOTHING_MOVED}")
                for user, future in asked:
                    if not future.done():
                        future.set_result(failure or heads.get(user))
        finally:
            self._asking = None

    async def _accounts(self, users: list[str]) -> dict[str, Account]:
        # A few lengths only, so that the database prepares a few statements only.
        users += users[-1:] * ((1 << (len(users) - 1).bit_length()) - len(users))

        async def read(connection: AsyncConnection) -> dict[str, Account]:
            rows = await connection.execute(_ACCOUNTS, {"users": users})
            return {row.user_id: Account(*row) for row in rows}

        return await self.read(read)

    async def entry(self, user_id: str, seq: int) -> Entry | None:
        """The row of that sequence number. Raises as ``account`` does."""

        async def read(connection: AsyncConnection) -> Row | None:  # type: ignore[type-arg]
            asked = {"user_id": user_id, "seq": seq}
            return (await connection.execute(_ENTRY.where(_USER), asked)).one_or_none()

        row = await self.read(read)
        return None if row is None else Entry(*row)

    async def entry_of_key(self, user_id: str, key: str) -> Entry | None:
        """The row that holds that key. Raises as ``account`` does."""

        async def read(connection: AsyncConnection) -> Row | None:  # type: ignore[type-arg]
            asked = {"user_id": user_id, "key": key}
            return (await connection.execute(_ENTRY_OF_KEY.where(_USER), asked)).one_or_none()

        row = await self.read(read)
        return None if row is None else Entry(*row)

    async def page(
        self,
        user_id: str,
        *,
        before_seq: int | None,
        limit: int,
        kind: Kind | None = None,
        outcome: Outcome | None = None,
    ) -> Page | None:
        """A page of the user's rows, newest first; None if there is no account.

        Rows are only ever added above the first page, so that following ``next_before_seq`` gives
        every row that was there at the start exactly once.

        Args:
            user_id: whose rows.
            before_seq: only rows below this sequence number; from the newest if None.
            limit: rows at most, 1 or more.
            kind: only rows of this kind.
            outcome: only rows of this outcome.
        """
        statement = _ENTRIES
        if kind is not None:
            statement = statement.where(movements.c.kind == kind)
        if outcome is not None:
            statement = statement.where(movements.c.outcome == outcome)

        async def read(connection: AsyncConnection) -> Page | None:
            head = (await connection.execute(_ACCOUNT, {"user_id": user_id})).one_or_none()
            if head is None:
                return None
            newest = head.seq + 1
            before = newest if before_seq is None else min(before_seq, newest)
            start = max(1, before - PAGE_WINDOW_ROWS)
            asked = {
                "account_id": head.id,
                "before_seq": before,
                "from_seq": start,
                "limit": limit,
            }
            rows = (await connection.execute(statement, asked)).all()
            entries = [Entry(*row) for row in rows]
            lowest = entries[-1].seq if len(entries) == limit else start
            return Page(entries, lowest if lowest > 1 else None)

        return await self.read(read)

    async def read(
        self,
        work: Callable[[AsyncConnection], Awaitable[Result]],
        *,
        timeout_s: float = READ_TIMEOUT_S,
        snapshot: bool = False,
    ) -> Result:
        """Run ``work`` on a connection, and give that back whatever becomes of the caller.

        Args:
            work: only reads.
            timeout_s: how long to wait for it, in seconds.
            snapshot: whether all its statements see one moment of the database.

        Raises:
            UnavailableError: the database did not answer, or not in time.
            OverloadedError: READS_WAITING_MAX reads wait already.
        """
        if len(self._tasks) >= READS_WAITING_MAX:
            raise OverloadedError(f"Too many reads wait. {_NOTHING_MOVED}")
        task: asyncio.Task[Result] = asyncio.create_task(self._on_connection(work, snapshot))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # A statement that is late goes on by itself and gives its connection back.
        await asyncio.wait({task}, timeout=timeout_s)
        if not task.done():
            task.add_done_callback(_drop)
            raise _too_slow()
        return task.result()

    async def _on_connection(
        self,
        work: Callable[[AsyncConnection], Awaitable[Result]],
        snapshot: bool,  # noqa: FBT001 - passed on from read
    ) -> Result:
        try:
            async with self.engine.connect() as connection:
                if snapshot:
                    await _begin_snapshot(connection)
                return await work(connection)
        except (SQLAlchemyError, OSError) as error:
            log.error("database unavailable to a read", extra={"error": str(error)})  # noqa: TRY400 - an operating failure, not a bug
            raise UnavailableError(f"The database cannot be read now. {_NOTHING_MOVED}") from error


async def _begin_snapshot(connection: AsyncConnection) -> None:
    """Leave autocommit until the connection is given back, which rolls back."""
    if connection.dialect.name == "sqlite":
        await connection.exec_driver_sql("BEGIN")
    else:
        await connection.execution_options(isolation_level="REPEATABLE READ")


def _too_slow() -> UnavailableError:
    return UnavailableError(f"The database is too slow to read. {_NOTHING_MOVED}")


def _drop(task: asyncio.Task[object]) -> None:
    """Take the result of a task that nobody awaits any more."""
    if not task.cancelled():
        task.exception()

"""A writer cut off from its database in the middle of a transaction, as by kill -9."""

from __future__ import annotations

import asyncio
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from service.sqlite import driver
from service.sqlite_store import SqliteStore
from tests.faults.seeded import IOERR_FSYNC, _Seeded
from tests.postgres.seeded import lock_first

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from service.teller import Teller


class Cut:
    """From the first statement that begins with ``verb`` on, nothing reaches the database.

    Args:
        teller: whose writer it is.
        verb: BEGIN, INSERT, UPDATE or COMMIT; on PostgreSQL a batch of two statements has neither
            BEGIN nor COMMIT, so that these stand for a batch which locks first; INSERT stands for
            the WITH that writes and commits, and UPDATE for the SELECT before it.
        after: whether that statement still reaches it.
    """

    def __init__(self, teller: Teller, *, verb: str, after: bool) -> None:
        store: Any = teller.store
        self._store = store
        self._verb = verb
        self._after = after
        self.happened = threading.Event()
        self._on_file = isinstance(store, SqliteStore)
        if self._on_file:
            writer = store._writer
            true = writer._connection
            writer._connection = _Seeded(true, self._before_on_file, self._after_on_file)
        else:
            self._verb = {"INSERT": "WITH", "UPDATE": "SELECT"}.get(verb, verb)
            if self._verb == verb:
                lock_first(teller)
            for writer in store._writers:
                writer._connected = partial(self._cut_connection, writer._connected)

    def _matches(self, sql: str) -> bool:
        return sql.lstrip().startswith(self._verb)

    # -- a file: its disk is gone -----------------------------------------------------------

    def _before_on_file(self, sql: str, _parameters: tuple[Any, ...]) -> None:
        if not self._after and self._matches(sql):
            self.happened.set()
        self._fail_on_file()

    def _after_on_file(self, sql: str, _parameters: tuple[Any, ...]) -> None:
        if self._after and self._matches(sql):
            self.happened.set()
        self._fail_on_file()

    def _fail_on_file(self) -> None:
        if self.happened.is_set():
            error = driver.OperationalError("cut")
            error.sqlite_errorcode = IOERR_FSYNC
            error.sqlite_errorname = "CUT"
            raise error

    # -- a server: the connection is gone ---------------------------------------------------

    async def _cut_connection(self, connected: Callable[[], Awaitable[Any]]) -> Any:
        if self.happened.is_set():
            raise ConnectionResetError("cut")
        return _CutConnection(self, await connected())

    async def close(self) -> None:
        """Leave nothing open that a killed process would not."""
        if not self._on_file:
            for writer in self._store._writers:
                await writer._hang_up("cut")


class _CutConnection:
    def __init__(self, cut: Cut, connection: Any) -> None:
        self._cut = cut
        self._connection = connection

    async def _pass(self, method: str, sql: str, arguments: tuple[Any, ...]) -> Any:
        cut = self._cut
        matches = cut._matches(sql)
        if matches and not cut._after:
            cut.happened.set()
        if cut.happened.is_set():
            self._connection.terminate()
            raise RuntimeError("cut")
        done = await getattr(self._connection, method)(sql, *arguments)
        if matches:
            cut.happened.set()
            self._connection.terminate()
            raise RuntimeError("cut")
        return done

    async def execute(self, sql: str, *arguments: Any) -> Any:
        return await self._pass("execute", sql, arguments)

    async def fetch(self, sql: str, *arguments: Any) -> Any:
        return await self._pass("fetch", sql, arguments)

    async def fetchval(self, sql: str, *arguments: Any) -> Any:
        return await self._pass("fetchval", sql, arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


async def answers_before(cut: Cut, tasks: list[asyncio.Task[Any]]) -> list[Any]:
    """What was answered before the cut, None for the rest, which are cancelled."""
    while not cut.happened.is_set() and not all(task.done() for task in tasks):  # noqa: ASYNC110 - it is set by a thread
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.005)  # what was acknowledged already is on its way
    for task in tasks:
        task.cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    return [None if isinstance(answer, BaseException) else answer for answer in answers]

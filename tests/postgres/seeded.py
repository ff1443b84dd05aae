"""Faults seeded in the PostgreSQL store's connection, and a second hand on its rows."""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import asyncpg

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from service.teller import Teller

    Hook = Callable[[str, Any], Awaitable[None]]


class _Seeded:
    """The connection with a hook before and after each statement."""

    def __init__(self, connection: Any, before: Hook | None, after: Hook | None) -> None:
        self._true = connection
        self._before = before
        self._after = after

    async def _run(self, name: str, sql: str, *values: Any) -> Any:
        if self._before:
            await self._before(sql, self._true)
        result = await getattr(self._true, name)(sql, *values)
        if self._after:
            await self._after(sql, self._true)
        return result

    async def execute(self, sql: str, *values: Any) -> Any:
        return await self._run("execute", sql, *values)

    async def fetch(self, sql: str, *values: Any) -> Any:
        return await self._run("fetch", sql, *values)

    async def fetchval(self, sql: str, *values: Any) -> Any:
        return await self._run("fetchval", sql, *values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._true, name)


@contextmanager
def seeded(
    teller: Teller, *, before: Hook | None = None, after: Hook | None = None
) -> Iterator[None]:
    """Within the block every connection that the first writer opens, or has, passes the hooks."""
    writer: Any = teller.store._writers[0]  # type: ignore[attr-defined]
    true, connected = writer.driver, writer._connected

    async def wrapped() -> Any:
        driver = await connected()
        if not isinstance(driver, _Seeded):
            driver = writer.driver = _Seeded(driver, before, after)
        return driver

    writer._connected = wrapped
    try:
        yield
    finally:
        writer._connected = connected
        if isinstance(writer.driver, _Seeded):
            writer.driver = writer.driver._true
        elif writer.driver is not None:
            writer.driver = true


def at(verb: str, act: Callable[[Any], Awaitable[None]]) -> Hook:
    """A hook that acts on the connection at statements that begin with ``verb``."""

    async def hook(sql: str, connection: Any) -> None:
        if sql.lstrip().startswith(verb):
            await act(connection)

    return hook


def lock_first(teller: Teller) -> None:
    """Have all the batches to come lock their accounts before they read."""
    teller.store._contention._left = 1_000_000  # type: ignore[attr-defined]


@asynccontextmanager
async def second_hand(database_url: str) -> AsyncIterator[Any]:
    """A connection beside the service's, such as an operator's."""
    connection = await asyncpg.connect(database_url.replace("+asyncpg", ""))
    try:
        yield connection
    finally:
        await connection.close()

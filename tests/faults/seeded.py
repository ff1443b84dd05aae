"""Faults seeded behind the store's public face: its connection fails or waits where it is told."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from service.sqlite import driver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from service.teller import Teller

    Hook = Callable[[str, tuple[Any, ...]], None]

# Extended result codes (sqlite.org/rescode.html).
IOERR_FSYNC: Final = 1034
READONLY: Final = 8
FULL: Final = 13
PATIENCE_S: Final = 20


class _Seeded:
    """The driver's connection with a hook before and after each statement, in its own thread."""

    def __init__(self, connection: Any, before: Hook | None, after: Hook | None) -> None:
        self._true = connection
        self._before = before
        self._after = after

    def execute(self, sql: str, *parameters: Any) -> Any:
        if self._before:
            self._before(sql, parameters)
        result = self._true.execute(sql, *parameters)
        if self._after:
            self._after(sql, parameters)
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._true, name)


@contextmanager
def seeded(
    teller: Teller, *, before: Hook | None = None, after: Hook | None = None
) -> Iterator[None]:
    """Within the block, the writer's statements pass the hooks; one that raises is a fault."""
    writer: Any = getattr(teller.store, "_writer")  # noqa: B009 - behind the Protocol
    true = writer._connection
    writer._connection = _Seeded(true, before, after)
    try:
        yield
    finally:
        writer._connection = true


def failing(verb: str, code: int, *, text: str = "seeded") -> Hook:
    """A hook that raises SQLite's error at statements that begin with ``verb``."""

    def fail(sql: str, _parameters: tuple[Any, ...]) -> None:
        if sql.lstrip().startswith(verb):
            error = driver.OperationalError(text)
            error.sqlite_errorcode = code
            error.sqlite_errorname = f"SEEDED_{code}"
            raise error

    return fail


class Gate:
    """A hook at which the writer waits, before or after statements that begin with ``verb``."""

    def __init__(self, verb: str) -> None:
        self._verb = verb
        self._reached = threading.Event()
        self._opened = threading.Event()

    def __call__(self, sql: str, _parameters: tuple[Any, ...]) -> None:
        if sql.lstrip().startswith(self._verb):
            self._reached.set()
            assert self._opened.wait(PATIENCE_S)

    async def reached(self) -> None:
        """Return once the writer stands at the gate."""
        assert await asyncio.to_thread(self._reached.wait, PATIENCE_S)

    def open(self) -> None:
        self._opened.set()

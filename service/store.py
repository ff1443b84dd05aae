"""What the committer and the reads ask of a database, whichever engine it is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from service.ledger import Decision, Movement


class Revision(NamedTuple):
    """Which schema a database has: its revision, and the oldest one whose code may run on it."""

    revision: str
    runs_from: str


class Store(Protocol):
    """One ledger in one database."""

    @property
    def readers(self) -> AsyncEngine:
        """Read-only connections, apart from the writer's: all that ``reader.Reader`` needs.

        They are in autocommit (a statement is a snapshot, and none outlives it), a few at most,
        and the database itself refuses to write through them.
        """
        ...

    async def commit(self, movements: Sequence[Movement]) -> list[Decision]:
        """Decide and store a batch in one transaction; return only once it is durable.

        Args:
            movements: at least one, oldest first.

        Returns:
            A decision for each movement, in order.

        Raises:
            UnavailableError: nothing of the batch is stored (busy, full, away).
            OutcomeUnknownError: COMMIT failed; all of the batch is stored, or nothing is.
            Exception: a bug or a poison movement; nothing of the batch is stored.
        """
        ...

    async def open_accounts(self, users: Sequence[str]) -> list[str]:
        """Open an account with balance zero for each user without one; return those opened."""
        ...

    async def checkpoint(self) -> None:
        """Do the engine's housekeeping between batches. Never raises for a slow or full disk."""
        ...

    async def revision(self) -> Revision:
        """The schema's revision, by a read that never waits for the writer."""
        ...


def now_us() -> int:
    """The time, in microseconds since 1970 UTC."""
    return time.time_ns() // 1000

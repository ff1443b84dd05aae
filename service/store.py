"""What the committer and the reads ask of a database, whichever engine it is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple, Protocol

from sqlalchemy import select, text

from service import schema

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy.ext.asyncio import AsyncEngine

    from service.ledger import Decision, Movement


class Revision(NamedTuple):
    """Which schema a database has: its revision, and the oldest one whose code may run on it.

    Empty where the database does not say.
    """

    revision: str
    runs_from: str


class Timing(NamedTuple):
    """When a committed transaction reached its steps, in nanoseconds since 1970 UTC.

    One that waits for no lock before it reads has it from the beginning. On PostgreSQL the
    statement that writes may be the one that commits: its time is all COMMIT's.
    """

    began_ns: int
    locked_ns: int
    decided_ns: int
    committed_ns: int

    @property
    def lock_s(self) -> float:
        """How long it waited for the write lock, in seconds."""
        return max(self.locked_ns - self.began_ns, 0) / 1e9

    @property
    def decide_s(self) -> float:
        """How long it read, decided and wrote, in seconds."""
        return max(self.decided_ns - self.locked_ns, 0) / 1e9

    @property
    def commit_s(self) -> float:
        """How long COMMIT took, the disk's sync in it, in seconds."""
        return max(self.committed_ns - self.decided_ns, 0) / 1e9


class Checkpoint(NamedTuple):
    """What a checkpoint of a write-ahead log found and did, in its frames (pages)."""

    frames: int
    copied: int

    @property
    def complete(self) -> bool:
        """Whether all of the log is in the database file now."""
        return self.copied >= self.frames


class Store(Protocol):
    """One ledger in one database."""

    @property
    def timing(self) -> Timing | None:
        """The steps of the last transaction that committed, for metrics and traces."""
        ...

    @property
    def batches_max(self) -> int:
        """How many calls of ``commit`` are worth having at a time."""
        ...

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
            UnavailableError: nothing of the batch is stored (busy, away; DiskFullError: full).
            OutcomeUnknownError: COMMIT failed; all of the batch is stored, or nothing is.
            Exception: a bug or a poison movement; nothing of the batch is stored.
        """
        ...

    async def open_accounts(self, users: Sequence[str]) -> list[str]:
        """Open an account with balance zero for each user without one; return those opened."""
        ...

    async def checkpoint(self) -> Checkpoint | None:
        """Do the engine's housekeeping between batches; None if it failed.

        Never raises for a slow or full disk.
        """
        ...

    async def revision(self) -> Revision:
        """The schema's revision, by a read that never waits for the writer."""
        ...


async def revision_of(engine: AsyncEngine) -> Revision:
    """The schema's revision in a migrated database of either engine."""
    async with engine.connect() as connection:
        revision = await connection.scalar(text("SELECT version_num FROM alembic_version"))
        runs_from = await connection.scalar(select(schema.ledger.c.runs_from))
    return Revision(revision or "", runs_from or "")


def now_us() -> int:
    """The time, in microseconds since 1970 UTC."""
    return time.time_ns() // 1000

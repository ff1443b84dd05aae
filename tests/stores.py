"""A real store behind a gate, for the tests that must see what waits while a batch is at work."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.ledger import Decision, Movement
    from service.store import Store
    from service.teller import Teller

PATIENCE_S: Final = 20


class GatedStore:
    """The store it is given, with a gate before each transaction, and a note of the batches."""

    def __init__(self, store: Store, error: Exception | None = None) -> None:
        self.store = store
        self.error = error
        self.open = asyncio.Event()
        self.batches: list[list[str]] = []
        self._reached = asyncio.Event()

    async def commit(self, movements: Sequence[Movement]) -> list[Decision]:
        """Note the batch, wait for the gate, then fail if told so, or commit."""
        self.batches.append([movement.key for movement in movements])
        self._reached.set()
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self.open.wait()
        except TimeoutError:
            self.open.set()  # the test has failed: the rest of it shall not wait as long again
            raise
        if self.error is not None:
            raise self.error
        return await self.store.commit(movements)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    async def reached(self) -> None:
        """Return once a batch waits at the gate."""
        await self._reached.wait()


def gated(teller: Teller, error: Exception | None = None) -> GatedStore:
    """Put a gate between that teller's committer and its store; it is closed at first."""
    gate = GatedStore(teller.store, error)
    teller.committer._store = gate
    return gate

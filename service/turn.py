"""Whose turn it is to write: a fair queue of processes before SQLite's write lock."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

POLL_S: Final = 0.000_2


class Turn:
    """A turn at the write lock, kept in two lock files beside the ledger's.

    SQLite's lock is the safety; its busy handler sleeps up to 100 ms between attempts, so a busy
    process starves the other one. Here a process first queues for ``next`` and holds it while it
    waits for ``now``: whoever has just written finds ``next`` taken and comes after it. The
    kernel frees both when their holder dies (flock(2)).
    """

    def __init__(self, path: Path, *, timeout_s: float) -> None:
        self._next = path.with_name(f"{path.name}.next").open("a")
        self._now = path.with_name(f"{path.name}.now").open("a")
        self._timeout_s = timeout_s

    def close(self) -> None:
        """Give up both files."""
        self._next.close()
        self._now.close()

    @contextmanager
    def taken(self) -> Iterator[bool]:
        """Hold the turn for a block, in the writing thread; gives whether it is held.

        Waits at most the timeout and then goes on without: whoever keeps the turn is stuck, and
        SQLite's own lock says whether a transaction is open.
        """
        deadline = time.monotonic() + self._timeout_s
        queued = _locked(self._next.fileno(), deadline)
        held = queued and _locked(self._now.fileno(), deadline)
        if queued:
            _unlock(self._next.fileno())
        try:
            yield held
        finally:
            if held:
                _unlock(self._now.fileno())


def _locked(file: int, deadline: float) -> bool:
    while not _lock(file):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


if sys.platform != "win32":

    def _lock(file: int) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _unlock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_UN)

else:  # there is no flock: SQLite's own busy handler is the queue

    def _lock(_file: int) -> bool:
        return True

    def _unlock(_file: int) -> None:
        pass

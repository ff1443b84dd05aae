"""Whether anybody holds a ledger's write lock or its start guard, asked from outside."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import portalocker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# Other processes, so that this one keeps one SQLite library and one way to the file.
_OPEN = """
import sys
from pysqlite3 import dbapi2
connection = dbapi2.connect(sys.argv[1], isolation_level=None, timeout=0)
connection.execute("BEGIN IMMEDIATE")
"""
_HOLD = (
    _OPEN
    + """
print("locked", flush=True)
sys.stdin.read()
"""
)


def assert_no_lock_is_held(path: Path) -> None:
    """Another process gets the write lock without waiting."""
    done = subprocess.run(
        [sys.executable, "-c", _OPEN, str(path)],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr


def assert_no_guard_is_held(path: Path) -> None:
    """Whoever wants the file for itself gets it without waiting."""
    with path.with_name(path.name + ".lock").open("a") as guard:
        portalocker.lock(
            guard, portalocker.LockFlags.EXCLUSIVE | portalocker.LockFlags.NON_BLOCKING
        )


@contextmanager
def locked_by_another_process(path: Path) -> Iterator[None]:
    """Within the block another process stands in the middle of a write."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as locker:
        assert locker.stdout is not None
        assert locker.stdout.readline() == b"locked\n"
        yield
        locker.communicate()

"""Builds of Teller other than the released one: ``python -m tests.delivery.builds NAME serve``.

``good`` is marked and else the same, ``expands`` a later release; each of the others has one bug,
and so has each of the zoo's.
"""

from __future__ import annotations

import asyncio
import atexit
import itertools
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import service
from service import ledger, migrations, movements, schema, sqlite_store
from service.cli import main
from tests.migration.ledgers import EXPAND, NEWER, folder_with
from tests.zoo import ZOO

if TYPE_CHECKING:
    from collections.abc import Callable

MARK: Final = "+canary"


def good() -> None:
    """The released code under another version."""


def errors() -> None:
    """After its commit, every fifth movement is answered 500: the money moved, nobody is told."""
    carry_out, numbers = movements._carry_out, itertools.count(1)

    async def broken(*arguments: Any) -> Any:
        answer = await carry_out(*arguments)
        if next(numbers) % 5 == 0:
            raise RuntimeError("a bug of this build")
        return answer

    _swap(movements, "_carry_out", broken)


def slow() -> None:
    """Every movement takes 200 ms longer, before it is committed."""
    carry_out = movements._carry_out

    async def delayed(*arguments: Any) -> Any:
        await asyncio.sleep(0.2)
        return await carry_out(*arguments)

    _swap(movements, "_carry_out", delayed)


def slow_lock() -> None:
    """Every transaction takes 100 ms longer, and holds the file's write lock meanwhile."""
    decide = sqlite_store.SqliteStore._decide_and_write

    def delayed(*arguments: Any) -> Any:
        time.sleep(0.1)
        return decide(*arguments)

    _swap(sqlite_store.SqliteStore, "_decide_and_write", delayed)


def compares_otherwise() -> None:
    """References are folded to lower case before they are compared, not when they are stored."""
    differs = ledger.differs

    def folding(first: ledger.Entry, movement: ledger.Movement) -> tuple[str, ...]:
        reference = movement.reference
        folded = reference and reference.lower()
        return differs(first, movement._replace(reference=folded))

    _swap(ledger, "differs", folding)


def _swap(owner: Any, name: str, new: Any) -> None:
    assert hasattr(owner, name)
    setattr(owner, name, new)


def expands() -> None:
    """A later release: it knows one migration more, and writes the table that this one brings."""
    folder = Path(tempfile.mkdtemp(prefix="teller-migrations-"))
    atexit.register(shutil.rmtree, folder)
    versions = folder_with(EXPAND, folder)
    migrate, decide = migrations.migrate, sqlite_store.SqliteStore._decide_and_write

    async def to_newer(*arguments: Any) -> str:
        return await migrate(*arguments, folder=versions)

    def noting(self: Any, connection: Any, asked: Any) -> Any:
        connection.execute("INSERT INTO devices DEFAULT VALUES")
        return decide(self, connection, asked)

    _swap(schema, "REVISION", NEWER)
    _swap(migrations, "migrate", to_newer)
    _swap(sqlite_store.SqliteStore, "_decide_and_write", noting)


BUILDS: Final[dict[str, Callable[[], None]]] = {
    "good": good,
    "errors": errors,
    "slow": slow,
    "slow-lock": slow_lock,
    "compares-otherwise": compares_otherwise,
    "expands": expands,
}


def seed(name: str) -> None:
    """Make this process that build."""
    service.__version__ += MARK
    if name in ZOO:
        ZOO[name].release(setattr)
    else:
        BUILDS[name]()


if __name__ == "__main__":
    seed(sys.argv[1])
    main(sys.argv[2:], prog_name="teller")

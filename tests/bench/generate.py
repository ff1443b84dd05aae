"""A large ledger, quickly and validly: decided by the ledger's own fold, account by account.

Run as a process of its own: ``python -m tests.bench.generate FILE ACCOUNTS MOVEMENTS``.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any, Final

from service.ledger import Account, Movement, fold, genesis
from service.money import INT64_MAX, currency
from service.sqlite import driver
from tests.bench.contestants import prepare

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future
    from pathlib import Path

Row = tuple[Any, ...]
ACCOUNTS_A_TRANSACTION: Final = 10_000
AHEAD: Final = 2
DONE: Final = "whole"  # a file beside a ledger that is filled to the end
EPOCH_US: Final = 1_767_312_245_000_000

_ACCOUNT: Final = "INSERT INTO accounts VALUES (?, ?, ?, ?, ?, ?)"
_MOVEMENT: Final = "INSERT INTO movements VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


def fill(folder: Path, *, accounts: int, movements: int) -> None:
    """Make a ledger there: users u0, u1, …, as many movements in each."""
    prepare(folder, users=["seed"])
    command = [sys.executable, "-m", "tests.bench.generate", str(folder / "ledger.db")]
    subprocess.run([*command, str(accounts), str(movements)], check=True)
    (folder / DONE).touch()


def written(path: str, accounts: int, movements: int) -> None:
    """Fill the file; triggers are set aside meanwhile, every CHECK and key stays.

    One process decides and hashes while this one writes; without a journal, as a file that is
    not whole at the end is thrown away.
    """
    connection = driver.connect(path, isolation_level=None)
    for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -500000"):
        connection.execute(f"PRAGMA {pragma}")
    triggers = connection.execute(
        "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'"
    ).fetchall()
    for name, _ in triggers:
        connection.execute(f"DROP TRIGGER {name}")
    first = connection.execute("SELECT max(id) + 1 FROM accounts").fetchone()[0]
    with ProcessPoolExecutor(1) as pool:
        ahead: deque[Future[tuple[list[Row], list[Row]]]] = deque()
        for start in range(0, accounts + AHEAD * ACCOUNTS_A_TRANSACTION, ACCOUNTS_A_TRANSACTION):
            some = range(start, min(start + ACCOUNTS_A_TRANSACTION, accounts))
            if some:
                ahead.append(pool.submit(_decided, first, some, movements // accounts))
            if ahead and (len(ahead) > AHEAD or not some):
                heads, rows = ahead.popleft().result()
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany(_ACCOUNT, heads)
                connection.executemany(_MOVEMENT, rows)
                connection.execute("COMMIT")
    for _, sql in triggers:
        connection.execute(sql)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()


def _decided(first: int, some: range, movements: int) -> tuple[list[Row], list[Row]]:
    """The heads and the rows of these accounts, whose ids count from ``first``."""
    heads: list[Row] = []
    rows: list[Row] = []
    for n in some:
        head, entries = _account(first, n, movements)
        heads.append(head)
        rows.extend(entries)
    return heads, rows


def _account(first: int, n: int, movements: int) -> tuple[Row, list[Row]]:
    user = f"u{n}"
    account = Account(first + n, user, 0, 0, genesis(user, currency("USD")))
    folded = fold(
        list(_movements(user, movements)),
        accounts={user: account},
        firsts={},
        balance_max_minor=INT64_MAX,
        now_us=EPOCH_US,
    )
    head = (account.id, user, account.balance_minor, account.seq, account.chain, EPOCH_US)
    return head, [(account.id, *entry) for _, entry in folded.entries]


def _movements(user: str, many: int) -> Iterator[Movement]:
    for _ in range(many):
        yield Movement(user, f"{random.getrandbits(128):032x}", "deposit", 125, None)


if __name__ == "__main__":
    written(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))

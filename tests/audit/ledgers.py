"""Ledgers to audit, and the hand that damages them: always another process than this one."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from click.testing import CliRunner
from sqlalchemy.engine import make_url

from service.cli import main
from service.ledger import Movement
from service.teller import opened

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

    from service.settings import Settings
    from service.teller import Teller

# What a person with the file and any SQLite shell can do: triggers and checks are no obstacle.
_DAMAGE = """
import sys
try:
    from pysqlite3 import dbapi2 as sqlite3
except ImportError:
    import sqlite3
connection = sqlite3.connect(sys.argv[1], timeout=10)
connection.execute("PRAGMA ignore_check_constraints = ON")
triggers = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
for (name,) in connection.execute(triggers).fetchall():
    connection.execute(f'DROP TRIGGER "{name}"')
connection.executescript(sys.argv[2])
connection.commit()
connection.close()
"""


async def move(teller: Teller, user: str, key: str, kind: Any, amount_minor: int | None) -> None:
    await teller.committer.submit(Movement(user, key, kind, amount_minor, f"for {key}"))


async def fill(teller: Teller) -> None:
    """alice: deposit 100.00, withdrawal 30.00, a refusal, a burn, deposit 0.05; bob: two deposits.

    carol has no row. The ids are alice's 1, bob's 2, carol's 3.
    """
    await teller.store.open_accounts(["alice", "bob", "carol"])
    await move(teller, "alice", "d1", "deposit", 10_000)
    await move(teller, "alice", "w1", "withdrawal", 3_000)
    await move(teller, "alice", "w2", "withdrawal", 900_000)
    await move(teller, "alice", "b1", "burn", None)
    await move(teller, "alice", "d2", "deposit", 5)
    await move(teller, "bob", "d1", "deposit", 500)
    await move(teller, "bob", "d2", "deposit", 700)


async def fill_more(teller: Teller) -> None:
    """On a teller with alice and bob: carol's account without a row, and a row of bob's."""
    await teller.store.open_accounts(["carol"])
    await move(teller, "bob", "d1", "deposit", 500)


async def filled(settings: Settings) -> None:
    """Make that ledger, and close it."""
    async with opened(settings) as teller:
        await fill(teller)


def damage(database_url: str, statements: str) -> None:
    """Run SQL on the file, in another process."""
    path = str(make_url(database_url).database)
    subprocess.run([sys.executable, "-c", _DAMAGE, path, statements], check=True, timeout=60)


def audit(database_url: str, *options: str | Path) -> Result:
    """Run `teller audit`."""
    arguments = ["audit", "--database", database_url, *map(str, options)]
    return CliRunner().invoke(main, arguments)


def report(database_url: str, *options: str | Path) -> tuple[int, dict[str, Any]]:
    """Run `teller audit --json`: its exit status and what it says."""
    result = audit(database_url, "--json", *options)
    assert result.exit_code in {0, 3}, result.output
    return result.exit_code, json.loads(result.stdout)

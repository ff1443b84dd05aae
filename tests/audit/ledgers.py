"""Ledgers to audit, and the hand that damages them: always another process than this one."""

from __future__ import annotations

import json
import re
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

# The same by a superuser: the role of a replica fires no trigger and checks no foreign key.
_DAMAGE_POSTGRESQL = """
import asyncio, sys
import asyncpg
CHECKS = (
    "SELECT conrelid::regclass AS of, conname FROM pg_constraint "
    "WHERE contype = 'c' AND conrelid = ANY('{accounts,movements}'::regclass[])"
)
async def damage():
    connection = await asyncpg.connect(sys.argv[1])
    await connection.execute("SET session_replication_role = replica")
    if await connection.fetchval("SELECT to_regclass('movements')"):
        for of, name in await connection.fetch(CHECKS):
            await connection.execute(f'ALTER TABLE {of} DROP CONSTRAINT "{name}"')
    await connection.execute(sys.argv[2])
    await connection.close()
asyncio.run(damage())
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
    """Run SQL, written for SQLite, on the database, in another process."""
    url = make_url(database_url)
    script, where = _DAMAGE, str(url.database)
    if url.get_backend_name() == "postgresql":
        script, where = (
            _DAMAGE_POSTGRESQL,
            url.set(drivername="postgresql").render_as_string(hide_password=False),
        )
        statements = statements.replace("PRAGMA foreign_keys = OFF;", "").replace(
            "zeroblob(32)", "decode(repeat('00', 32), 'hex')"
        )
        statements = re.sub(r"\bx'([0-9a-f]*)'", r"'\\x\1'", statements)
    subprocess.run([sys.executable, "-c", script, where, statements], check=True, timeout=60)


def audit(database_url: str, *options: str | Path) -> Result:
    """Run `teller audit`."""
    arguments = ["audit", "--database", database_url, *map(str, options)]
    return CliRunner().invoke(main, arguments)


def report(database_url: str, *options: str | Path) -> tuple[int, dict[str, Any]]:
    """Run `teller audit --json`: its exit status and what it says."""
    result = audit(database_url, "--json", *options)
    assert result.exit_code in {0, 3}, result.output
    return result.exit_code, json.loads(result.stdout)

"""What was written stays: SQLite itself refuses to change, remove or replace it.

test_postgres.py says the same in PostgreSQL's words.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy.exc import IntegrityError

from service.sqlite import driver
from tests.migration.ledgers import ask

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

COLUMNS = (
    "account_id, seq, key, kind, outcome, reason, amount_minor, balance_after_minor, reference,"
    " created_at_us, chain"
)
MOVEMENT = f"INTO movements ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
FIRST = (1, 1, "k1", "deposit", "applied", None, 100, 100, None, 7, bytes(32))
ACCOUNT = (
    "INTO accounts (id, user_id, balance_minor, seq, chain, opened_at_us)"
    " VALUES (1, 'alice', 100, 1, zeroblob(32), 5)"
)
LEDGER = (
    "INTO ledger (id, currency, currency_scale, runs_from, created_at_us)"
    " VALUES (1, 'EUR', 2, '0001', 5)"
)


@pytest.fixture(scope="module")
def database_url(ledger_file: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """One ledger for all that is refused: it is the same after each refusal."""
    path = tmp_path_factory.mktemp("written") / "ledger.db"
    shutil.copyfile(ledger_file, path)
    connection = driver.connect(path)
    connection.execute("UPDATE accounts SET balance_minor = 100, seq = 1 WHERE user_id = 'alice'")
    connection.execute(f"INSERT {MOVEMENT}", FIRST)
    connection.commit()
    connection.close()
    return f"sqlite+aiosqlite:///{path}"


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("UPDATE movements SET amount_minor = 1", "movements are append-only"),
        ("UPDATE movements SET reference = 'x' WHERE seq = 1", "movements are append-only"),
        ("DELETE FROM movements", "movements are append-only"),
        ("DELETE FROM movements WHERE seq = 1", "movements are append-only"),
        ("UPDATE accounts SET user_id = 'mallory'", "an account keeps its id, user"),
        ("UPDATE accounts SET id = 2", "an account keeps its id, user"),
        ("UPDATE accounts SET opened_at_us = 0", "an account keeps its id, user"),
        ("DELETE FROM accounts", "accounts are never deleted"),
        (f"INSERT OR REPLACE {ACCOUNT}", "accounts are never replaced"),
        ("UPDATE ledger SET currency = 'EUR'", "the ledger keeps its currency"),
        ("UPDATE ledger SET currency_scale = 3", "the ledger keeps its currency"),
        ("DELETE FROM ledger", "the ledger keeps its currency"),
        (f"INSERT OR REPLACE {LEDGER}", "the ledger keeps its currency"),
        (f"INSERT {LEDGER}", "the ledger keeps its currency"),
    ],
)
async def test_the_database_refuses(sql: str, message: str, database_url: str) -> None:
    with pytest.raises(IntegrityError, match=message):
        await ask(database_url, sql)


@pytest.mark.parametrize("verb", ["INSERT", "INSERT OR REPLACE", "REPLACE", "INSERT OR IGNORE"])
@pytest.mark.parametrize(
    "row",
    [FIRST, (1, 1, "k2", *FIRST[3:]), (1, 2, "k1", *FIRST[3:])],
    ids=["the same row", "its sequence number", "its key"],
)
async def test_no_kind_of_insert_takes_the_place_of_a_row(
    verb: str, row: Sequence[Any], database_url: str
) -> None:
    with pytest.raises(IntegrityError, match="movements are append-only"):
        await ask(database_url, f"{verb} {MOVEMENT}", row)


async def test_replace_is_refused_without_recursive_triggers_too(database_url: str) -> None:
    path = database_url.partition(":///")[2]
    foreign = driver.connect(path)
    try:
        assert foreign.execute("PRAGMA recursive_triggers").fetchone() == (0,)
        with pytest.raises(driver.IntegrityError, match="movements are append-only"):
            foreign.execute(f"REPLACE {MOVEMENT}", FIRST)
    finally:
        foreign.close()


@pytest.mark.parametrize(
    ("place", "value", "check"),
    [
        (1, 0, "ck_movements_seq"),
        (2, "", "ck_movements_key"),
        (2, "k" * 256, "ck_movements_key"),
        (3, "gift", "ck_movements_kind"),
        (4, "pending", "ck_movements_outcome"),
        (4, "burned", "ck_movements_burn_is_burned"),
        (4, "refused", "ck_movements_refusal_has_reason"),
        (5, "insufficient-funds", "ck_movements_refusal_has_reason"),
        (6, None, "ck_movements_burn_has_no_amount"),
        (6, 0, "ck_movements_amount_positive"),
        (6, -1, "ck_movements_amount_positive"),
        (7, -1, "ck_movements_never_overdrawn"),
        (8, "", "ck_movements_reference"),
        (8, "r" * 141, "ck_movements_reference"),
        (10, bytes(31), "ck_movements_chain"),
        (6, 1.5, "cannot store REAL value in INTEGER column movements.amount_minor"),
        (6, "x", "cannot store TEXT value in INTEGER column movements.amount_minor"),
        (7, 0.5, "cannot store REAL value in INTEGER column movements.balance_after_minor"),
        (0, 99, "FOREIGN KEY constraint failed"),
    ],
)
async def test_a_row_that_breaks_a_rule_is_refused(
    place: int, value: Any, check: str, database_url: str
) -> None:
    row: list[Any] = [1, 2, "k2", *FIRST[3:]]
    row[place] = value
    with pytest.raises(IntegrityError, match=check):
        await ask(database_url, f"INSERT {MOVEMENT}", row)


async def test_no_balance_goes_below_zero(database_url: str) -> None:
    with pytest.raises(IntegrityError, match="ck_accounts_never_overdrawn"):
        await ask(database_url, "UPDATE accounts SET balance_minor = -1")

"""The same on PostgreSQL: the catalogue as expected, and what was written stays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy.exc import DBAPIError, IntegrityError

from tests.migration.expected_postgres import EXPECTED_POSTGRESQL
from tests.migration.ledgers import ask, folder_up_to, migrated
from tests.migration.test_schema import REVISIONS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.postgres_server import PostgresServer

pytestmark = pytest.mark.engines("postgresql", reason="the words are PostgreSQL's")

# One line an object, as PostgreSQL itself would write it.
OBJECTS = """
SELECT table_name || '.' || column_name AS name, data_type || ' ' || is_nullable AS definition
FROM information_schema.columns WHERE table_schema = 'public'
UNION ALL
SELECT conrelid::regclass::text || ': ' || conname, pg_get_constraintdef(oid) FROM pg_constraint
WHERE connamespace = 'public'::regnamespace AND contype != 'n'
UNION ALL
SELECT indexname::text, indexdef FROM pg_indexes WHERE schemaname = 'public'
UNION ALL
SELECT tgname::text, pg_get_triggerdef(oid) || ' ' || tgenabled::text FROM pg_trigger
WHERE NOT tgisinternal
UNION ALL
SELECT proname::text, prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace
"""
FIRST = (
    "INSERT INTO movements VALUES (1, 1, 'k1', 'deposit', 'applied', NULL, 100, 100, NULL, 7, "
    "decode(repeat('00', 32), 'hex'))"
)
SECOND = {
    "account_id": "1",
    "seq": "2",
    "key": "'k2'",
    "kind": "'deposit'",
    "outcome": "'applied'",
    "amount_minor": "100",
    "balance_after_minor": "200",
    "created_at_us": "7",
    "chain": "decode(repeat('00', 32), 'hex')",
}
MOVEMENT = "INTO movements ({}) VALUES ({})"


@pytest.mark.parametrize("revision", REVISIONS)
async def test_every_column_constraint_index_and_trigger_is_as_expected_after(
    revision: str, database_url: str, tmp_path: Path
) -> None:
    assert await migrated(database_url, folder_up_to(revision, tmp_path)) == revision
    found = {name: text for name, text in await ask(database_url, OBJECTS) if "alembic" not in name}
    assert found == EXPECTED_POSTGRESQL[revision]


@pytest.fixture(scope="module")
def written(postgres: PostgresServer, ledger_database: str) -> Iterator[str]:
    """One ledger for all that is refused: it is the same after each refusal."""
    with postgres.database(ledger_database) as url:
        postgres.psql(url.rpartition("/")[2], FIRST)
        yield url


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("UPDATE movements SET amount_minor = 1", "movements are append-only"),
        ("UPDATE movements SET reference = 'x' WHERE seq = 9", "movements are append-only"),
        ("DELETE FROM movements", "movements are append-only"),
        ("TRUNCATE movements", "movements are append-only"),
        ("TRUNCATE accounts CASCADE", "(accounts are never deleted|movements are append-only)"),
        (f"{FIRST} ON CONFLICT (account_id, seq) DO UPDATE SET key = 'k2'", "append-only"),
        (FIRST, "pk_movements"),
        (FIRST.replace("(1, 1,", "(1, 2,"), "uq_movements_account_id_key"),
        ("UPDATE accounts SET user_id = 'mallory'", "an account keeps its id, user"),
        ("UPDATE accounts SET opened_at_us = 0", "an account keeps its id, user"),
        ("DELETE FROM accounts", "accounts are never deleted"),
        ("UPDATE accounts SET balance_minor = -1", "ck_accounts_never_overdrawn"),
        ("UPDATE ledger SET currency = 'EUR'", "the ledger keeps its currency"),
        ("DELETE FROM ledger", "the ledger keeps its currency"),
        ("TRUNCATE ledger", "the ledger keeps its currency"),
        ("INSERT INTO ledger VALUES (1, 'EUR', 2, '0001', 5)", "pk_ledger"),
        ("INSERT INTO ledger VALUES (2, 'EUR', 2, '0001', 5)", "ck_ledger_one_row"),
    ],
)
async def test_the_database_refuses(sql: str, message: str, written: str) -> None:
    with pytest.raises(DBAPIError, match=message):
        await ask(written, sql)


@pytest.mark.parametrize(
    ("column", "value", "check"),
    [
        ("account_id", "99", "fk_movements_account_id"),
        ("seq", "0", "ck_movements_seq"),
        ("key", "''", "ck_movements_key"),
        ("key", "repeat('k', 256)", "ck_movements_key"),
        ("kind", "'gift'", "ck_movements_kind"),
        ("outcome", "'pending'", "ck_movements_outcome"),
        ("outcome", "'burned'", "ck_movements_burn_is_burned"),
        ("outcome", "'refused'", "ck_movements_refusal_has_reason"),
        ("reason", "'insufficient-funds'", "ck_movements_refusal_has_reason"),
        ("amount_minor", "NULL", "ck_movements_burn_has_no_amount"),
        ("amount_minor", "0", "ck_movements_amount_positive"),
        ("balance_after_minor", "-1", "ck_movements_never_overdrawn"),
        ("reference", "''", "ck_movements_reference"),
        ("reference", "repeat('r', 141)", "ck_movements_reference"),
        ("chain", "decode('00', 'hex')", "ck_movements_chain"),
    ],
)
async def test_a_row_that_breaks_a_rule_is_refused(
    column: str, value: str, check: str, written: str
) -> None:
    row = SECOND | {column: value}
    with pytest.raises(IntegrityError, match=check):
        await ask(written, f"INSERT {MOVEMENT.format(', '.join(row), ', '.join(row.values()))}")

"""After every migration the database is what the expected list says, to the letter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from service import migrations, schema
from tests.migration.expected_schema import EXPECTED
from tests.migration.ledgers import ask, folder_up_to, migrated

if TYPE_CHECKING:
    from pathlib import Path

OBJECTS = "SELECT name, sql FROM sqlite_master WHERE tbl_name != 'alembic_version'"


def scripts() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(migrations.FOLDER))
    return ScriptDirectory.from_config(config)


REVISIONS = sorted(script.revision for script in scripts().walk_revisions())


def squeezed(sql: str | None) -> str | None:
    return sql and " ".join(sql.split())


@pytest.mark.engines("sqlite", reason="test_postgres.py asks PostgreSQL's catalogue")
@pytest.mark.parametrize("revision", REVISIONS)
async def test_every_table_check_index_and_trigger_is_as_expected_after(
    revision: str, database_url: str, tmp_path: Path
) -> None:
    assert await migrated(database_url, folder_up_to(revision, tmp_path)) == revision
    found = {name: squeezed(sql) for name, sql in await ask(database_url, OBJECTS)}
    assert found == {name: squeezed(sql) for name, sql in EXPECTED[revision].items()}


@pytest.mark.engines("sqlite", reason="PostgreSQL has no other tables than strict ones")
async def test_every_table_of_the_ledger_is_strict(database_url: str) -> None:
    await migrated(database_url)
    listed = await ask(database_url, "SELECT name, strict FROM pragma_table_list")
    kept = {n: strict for n, strict in listed if "sqlite" not in n and "alembic" not in n}
    assert kept == dict.fromkeys(schema.metadata.tables, 1)


def test_the_revision_this_code_knows_is_the_only_and_newest_migration() -> None:
    assert scripts().get_heads() == [schema.REVISION]


def test_revisions_are_four_digits_that_count_up() -> None:
    assert [f"{number:04}" for number in range(1, len(REVISIONS) + 1)] == REVISIONS


def test_the_migrations_are_no_package_that_would_shadow_alembic() -> None:
    assert not list(migrations.FOLDER.rglob("__init__.py"))


async def test_a_new_ledger_runs_from_its_first_revision_in_its_currency(database_url: str) -> None:
    await migrated(database_url)
    rows = await ask(database_url, "SELECT id, currency, currency_scale, runs_from FROM ledger")
    assert rows == [(1, "USD", 2, "0001")]

"""Ledgers for these tests: asked in SQL, migrated to any revision, newer than this code."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import inspect

from service import database, migrations, schema
from service.money import Currency
from service.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

USD: Final = Currency("USD", 2)

# The revision after the newest one, as a later release would bring it: it only adds.
NEWER: Final = f"{int(schema.REVISION) + 1:04}"
EXPAND: Final = f"""
import sqlalchemy as sa
from alembic import op

revision = "{NEWER}"
down_revision = "{schema.REVISION}"


def upgrade() -> None:
    op.add_column("movements", sa.Column("channel", sa.Text))
    op.create_table("devices", sa.Column("id", sa.Integer, primary_key=True), sqlite_strict=True)
"""


def expand_and(statement: str) -> str:
    """That migration, with one more statement at its end."""
    return f"{EXPAND}    {statement}\n"


CONTRACT: Final = expand_and(
    "op.execute(sa.text('UPDATE ledger SET runs_from = :r').bindparams(r=revision))"
)


async def ask(database_url: str, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """The rows of one statement, run and committed as the service's own connection would."""
    async with database.opened(Settings.load(database_url=database_url)) as engine:
        async with engine.connect() as connection:
            result = await connection.exec_driver_sql(sql, tuple(values))
            rows = [tuple(row) for row in result] if result.returns_rows else []
            await connection.commit()
        return rows


async def tables(database_url: str) -> list[str]:
    """The names of all tables."""
    async with (
        database.opened(Settings.load(database_url=database_url)) as engine,
        engine.connect() as connection,
    ):
        return sorted(await connection.run_sync(lambda sync: inspect(sync).get_table_names()))


async def migrated(database_url: str, folder: Path = migrations.FOLDER) -> str:
    """Bring a ledger in US dollars to the newest revision in that folder; return it."""
    async with database.opened(Settings.load(database_url=database_url)) as engine:
        return await migrations.migrate(engine, USD, folder=folder)


def folder_up_to(revision: str, tmp_path: Path) -> Path:
    """A copy of the migrations that ends with that one."""
    folder = tmp_path / f"up_to_{revision}"
    shutil.copytree(migrations.FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    for script in (folder / "versions").glob("*.py"):
        if script.name.partition("_")[0] > revision:
            script.unlink()
    return folder


def folder_with(script: str, tmp_path: Path) -> Path:
    """A copy of the migrations with one on top."""
    folder = folder_up_to(schema.REVISION, tmp_path)
    (folder / "versions" / f"{NEWER}_later.py").write_text(script)
    return folder

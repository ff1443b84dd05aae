"""Alembic's environment: inside Teller on Teller's own connection, else on one of its engines."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from alembic import context

from service import migrations, schema
from service.errors import StartError
from service.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Connection


def run(connection: Connection) -> None:
    """Run the migrations on a connection whose transaction has begun."""
    context.configure(
        connection=connection,
        target_metadata=schema.metadata,
        # SQLite's DDL is transactional; Alembic's default for it is not (it predates that use).
        transactional_ddl=True,
    )
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    raise SystemExit("Teller's migrations read the database; run them online (without --sql).")
given = context.config.attributes.get("connection")
if given is not None:
    run(given)
else:
    # uv run alembic upgrade head
    try:
        settings = Settings.load()
        context.config.attributes["currency"] = settings.money()
        asyncio.run(migrations.on_database(settings, run))
    except StartError as error:
        raise SystemExit(str(error)) from error

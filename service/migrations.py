"""The schema of a database against the schema of this code: migrate, serve, or refuse."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from sqlalchemy import func, inspect, select, text

from service import database, schema
from service.errors import StartError
from service.money import Currency
from service.store import Revision

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncEngine

    from service.settings import Settings

# In a checkout the migrations lie beside the package, in a wheel inside it.
_HERE: Final = Path(__file__).parent
FOLDER: Final = next(
    folder for folder in (_HERE / "alembic", _HERE.parent / "alembic") if folder.is_dir()
)

State = Literal["empty", "behind", "current", "ahead"]

log = logging.getLogger(__name__)


async def make_ready(engine: AsyncEngine, settings: Settings) -> Revision:
    """Bring the database to this code's schema, or say why not; return what it has now.

    Raises:
        StartError: the schema does not fit (the message names both revisions and the command),
            the file is no ledger, or the ledger keeps another currency.
    """
    async with engine.connect() as connection:
        state, found = await connection.run_sync(_state)
    if state in {"empty", "behind"}:
        if not settings.auto_migrate:
            raise StartError(
                f"The database is {_described(state, found)}; this release needs revision "
                f"{schema.REVISION}, and TELLER_AUTO_MIGRATE is false. Run: teller migrate"
            )
        await migrate(engine, settings.money())
    elif state == "ahead":
        log.warning(
            "database is ahead of this release",
            extra={"database_revision": found, "code_revision": schema.REVISION},
        )
    async with engine.connect() as connection:
        return await connection.run_sync(_checked, settings)


async def migrate(
    engine: AsyncEngine, currency: Currency, *, folder: Path = FOLDER, mark: str | None = None
) -> str:
    """Run what migrations the database lacks, in one transaction; return its revision.

    A database ahead of this code, and fit for it, is left as it is.

    Args:
        engine: an engine that may write.
        currency: what a new ledger will keep for ever.
        folder: the migrations; another one only in tests.
        mark: what to write in the place of the new revision.
    """
    from alembic import command  # noqa: PLC0415 - 0.1 s that only a migration pays
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.set_main_option("path_separator", "os")

    def upgrade(connection: Connection) -> None:
        _lock(connection)
        # Looked at again under the lock: another process may have migrated meanwhile.
        state, found = _state(connection)
        if state != "ahead":
            config.attributes["connection"] = connection
            config.attributes["currency"] = currency
            command.upgrade(config, "head")
        if mark is not None:
            connection.execute(_SET_VERSION, {"version": mark})
        _commit(connection)
        if state in {"empty", "behind"}:
            log.info("migrated", extra={"was": found})

    async with engine.connect() as connection:
        await connection.run_sync(upgrade)
        return str(await connection.scalar(text("SELECT version_num FROM alembic_version")))


async def prepare_copy(engine: AsyncEngine, currency: Currency) -> None:
    """Make the tables of a ledger that a copy will fill, marked so that no release serves it.

    What an earlier copy left unfinished is dropped first.

    Raises:
        StartError: the database holds a ledger, or something else.
    """

    def clear(connection: Connection) -> None:
        _lock(connection)
        tables = set(inspect(connection).get_table_names())
        if {"alembic_version", "ledger"} <= tables and _version(connection) == COPYING:
            for table in ("movements", "accounts", "ledger", "alembic_version"):
                connection.exec_driver_sql(f"DROP TABLE {table}")
            connection.exec_driver_sql("DROP FUNCTION teller_refuse")
            log.info("unfinished copy removed")
        elif tables:
            raise StartError(
                "The target is not empty. Make a new database for the copy, or name another."
            )
        _commit(connection)

    async with engine.connect() as connection:
        await connection.run_sync(clear)
    await migrate(engine, currency, mark=COPYING)


async def finish_copy(engine: AsyncEngine) -> None:
    """Take the mark off: from now on it is a ledger like any other."""

    def finish(connection: Connection) -> None:
        _lock(connection)
        connection.execute(_SET_VERSION, {"version": schema.REVISION})
        _commit(connection)

    async with engine.connect() as connection:
        await connection.run_sync(finish)


# In the place of the revision, where every release looks before it serves or migrates.
COPYING: Final = "copying"
_SET_VERSION: Final = text("UPDATE alembic_version SET version_num = :version")


def _version(connection: Connection) -> str | None:
    found: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return found


async def on_database(settings: Settings, run: Callable[[Connection], None]) -> None:
    """Run Alembic's own command on the settings' database, in one transaction."""

    def in_transaction(connection: Connection) -> None:
        _lock(connection)
        run(connection)
        _commit(connection)

    async with database.opened(settings) as engine, engine.connect() as connection:
        await connection.run_sync(in_transaction)


# Any number that nothing else in the database uses; "TELLER" on a telephone's keys.
_ADVISORY_LOCK: Final = 835537


def _lock(connection: Connection) -> None:
    """Begin a transaction that no other process's migration runs beside."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        return
    # Pods that start together wait for the one that migrates, as long as it takes; a table that
    # is in use is waited for no longer than a batch would be (lock_timeout), because everything
    # else queues behind such a wait.
    connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
    wait_ms = connection.scalar(text("SELECT current_setting('lock_timeout')"))
    connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
    connection.execute(select(func.pg_advisory_xact_lock(_ADVISORY_LOCK)))
    connection.execute(select(func.set_config("lock_timeout", wait_ms, True)))  # noqa: FBT003


def _commit(connection: Connection) -> None:
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("COMMIT")
    else:
        connection.commit()


def _state(connection: Connection) -> tuple[State, str | None]:
    """Where the database stands, and its revision. Raises StartError if it cannot be used."""
    tables = set(inspect(connection).get_table_names())
    if not tables:
        return "empty", None
    if not {"alembic_version", "ledger"} <= tables:
        raise StartError(
            "The database has tables, but it is not a Teller ledger. "
            "Set TELLER_DATABASE_URL to another one."
        )
    found = _version(connection)
    if found == COPYING:
        raise StartError(
            "The database is the target of a copy that is not complete. Run teller copy again, "
            "which starts over, or set TELLER_DATABASE_URL to another one."
        )
    if found is None or not found.isdigit():
        raise StartError(f"The database's revision {found!r} is not one of Teller's.")
    if found == schema.REVISION:
        return "current", found
    if found < schema.REVISION:
        return "behind", found
    runs_from = connection.scalar(select(schema.ledger.c.runs_from))
    if runs_from is None or runs_from > schema.REVISION:
        raise StartError(
            f"The database is at revision {found}, which runs from revision {runs_from} on; "
            f"this release knows revision {schema.REVISION}. Start a newer release of Teller."
        )
    return "ahead", found


def _checked(connection: Connection, settings: Settings) -> Revision:
    """Compare the ledger's currency with the settings'."""
    row = connection.execute(
        select(schema.ledger.c.currency, schema.ledger.c.currency_scale, schema.ledger.c.runs_from)
    ).one()
    kept, asked = Currency(row[0], row[1]), settings.money()
    if kept != asked:
        raise StartError(
            f"The ledger keeps {kept.code} with {kept.scale} decimals; the settings say "
            f"{asked.code} with {asked.scale}. A ledger keeps its currency: set "
            f"TELLER_CURRENCY={kept.code} and TELLER_CURRENCY_SCALE={kept.scale}, or use "
            "another database."
        )
    revision = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return Revision(str(revision), row[2])


def _described(state: State, found: str | None) -> str:
    return "empty" if state == "empty" else f"at revision {found}"

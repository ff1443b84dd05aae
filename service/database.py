"""Which engine keeps the ledger: chosen here, by the URL, and nowhere else."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from sqlalchemy.engine import make_url

from service import postgres, postgres_store, sqlite, sqlite_store
from service.errors import StartError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from sqlalchemy.ext.asyncio import AsyncEngine

    from service.settings import Settings
    from service.store import Store


def file_of(settings: Settings) -> Path | None:
    """The ledger's file on this machine, or None where a server keeps it."""
    if engine_of(settings) == "sqlite":
        return sqlite.file_of(settings.database_url)
    return None


def engine_of(settings: Settings) -> str:
    """The engine's name, as OpenTelemetry writes it: sqlite or postgresql."""
    return make_url(settings.database_url).get_backend_name()


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[AsyncEngine]:
    """An engine that may write, under the file's start guard where there is a file.

    Raises:
        StartError: it is not safe to open the file, or its folder or a TLS file is not there.
    """
    path = file_of(settings)
    if path is not None:
        async with sqlite.guarded(path), sqlite.opened(settings) as engine:
            yield engine
    else:
        async with postgres.opened(settings) as engine:
            yield engine


@asynccontextmanager
async def opened_to_read(settings: Settings, *, alone: bool = False) -> AsyncIterator[AsyncEngine]:
    """An engine that only reads, in autocommit, beside whatever service runs on the ledger.

    Args:
        settings: of the ledger.
        alone: with no other process on the ledger's file.

    Raises:
        StartError: there is no such file, or it is not safe to open.
    """
    path = file_of(settings)
    if path is None:
        async with postgres.opened(settings, read_only=True) as engine:
            yield engine
        return
    if not path.is_file():
        raise StartError(
            f"There is no ledger at {path}. Name it with --database or TELLER_DATABASE_URL."
        )
    async with (
        sqlite.guarded(path, alone=alone),
        sqlite.opened(settings, read_only=True) as engine,
    ):
        yield engine


@asynccontextmanager
async def store_on(settings: Settings, writers: AsyncEngine) -> AsyncIterator[Store]:
    """The store of a database that ``opened`` gave and that is migrated."""
    if file_of(settings) is not None:
        async with sqlite_store.opened(settings, writers) as file_store:
            yield file_store
    else:
        async with postgres_store.opened(settings, writers) as store:
            yield store

"""A PostgreSQL server of its own for a contestant; every commit is on its disk when it returns."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from tests import postgres_server
from tests.bench.process import Ground

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

DATABASE: Final = "BENCH_DATABASE"


@contextmanager
def postgres(_folder: Path, before: Sequence[str]) -> Iterator[Ground]:
    """Start it in a folder that it may enter, with one empty database; stopped at the end."""
    with postgres_server.binaries() as (binaries, data):
        server = postgres_server.PostgresServer(binaries, data / "server")
        server.make()
        server.start(before=before)
        try:
            with server.database() as url:
                yield Ground({DATABASE: url}, (server.pid,))
        finally:
            server.stop()


def ask_postgres(_folder: Path, env: Mapping[str, str], sql: str) -> list[tuple[Any, ...]]:
    """The rows of a statement in that database."""

    async def rows() -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(env[DATABASE].replace("+asyncpg", ""))
        try:
            return [tuple(row) for row in await connection.fetch(sql)]
        finally:
            await connection.close()

    return asyncio.run(rows())

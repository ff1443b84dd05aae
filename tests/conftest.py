"""What every tier shares: a clean environment, a database, a teller, a client."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from service.app import create_app
from service.settings import Settings
from service.teller import opened
from tests import postgres_server
from tests.postgres_server import PostgresServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from service.teller import Teller

ENGINES = ("sqlite", "postgresql")
JSON = {"Content-Type": "application/json"}


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No TELLER_ variable of the machine reaches a test, or a process that it starts."""
    for name in list(os.environ):
        if name.startswith("TELLER_"):
            monkeypatch.delenv(name)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every test that opens a database runs on both engines, unless it is marked otherwise."""
    if "engine_name" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("engines")
        metafunc.parametrize("engine_name", marker.args if marker else ENGINES)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One server for all tests; it never loses power, so it need not wait for its disk."""
    with postgres_server.binaries() as (binaries, data):
        server = PostgresServer(binaries, data / "shared")
        server.make(fsync="off")
        server.start()
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture
def database_url(engine_name: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """A new and empty database on each of the engines."""
    if engine_name == "sqlite":
        yield f"sqlite+aiosqlite:///{tmp_path / 'ledger.db'}"
    else:
        with request.getfixturevalue("postgres").database() as url:
            yield url


@pytest.fixture
def make_settings(database_url: str) -> Callable[..., Settings]:
    """Settings on this test's database; the log lines of requests are off unless asked for."""

    def make(**given: Any) -> Settings:
        return Settings.load(**{"database_url": database_url, "request_log": False, **given})

    return make


@pytest.fixture
async def teller(make_settings: Callable[..., Settings]) -> AsyncIterator[Teller]:
    """A teller at work on a fresh ledger in USD, with accounts for alice and bob."""
    async with opened(make_settings()) as teller:
        await teller.store.open_accounts(["alice", "bob"])
        yield teller


@pytest.fixture
async def client(teller: Teller) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the whole application, in process."""
    async with client_of(teller) as client:
        yield client


def client_of(teller: Teller) -> httpx.AsyncClient:
    """A client of an application around that teller."""
    transport = httpx.ASGITransport(app=create_app(teller), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://teller.test")


def headers(key: str, user: str = "alice") -> dict[str, str]:
    """The headers of a movement."""
    return {"user_id": user, "Idempotency-Key": key, **JSON}

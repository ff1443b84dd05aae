"""What every tier shares: a clean environment, a database, a teller, a client."""

from __future__ import annotations

import asyncio
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from hypothesis import settings as hypothesis_settings

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

# The same examples on every run: a failure here is a failure for everyone. No deadline: a busy
# machine is not a bug.
hypothesis_settings.register_profile("teller", derandomize=True, deadline=None, max_examples=100)
# New examples each time; --hypothesis-seed repeats them, and a failure prints how.
hypothesis_settings.register_profile("long", deadline=None, max_examples=5_000, print_blob=True)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--long",
        action="store_true",
        help="Search with new examples, far more of them, and kill for minutes.",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--hypothesis-profile") is None:
        hypothesis_settings.load_profile("long" if config.getoption("--long") else "teller")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked ``long`` are for the long search alone."""
    if not config.getoption("--long"):
        left_out = [item for item in items if item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture
def long(request: pytest.FixtureRequest) -> bool:
    """Whether the long search is asked for."""
    return bool(request.config.getoption("--long"))


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
        names = marker.args if marker else ENGINES
        if names:  # without names the test's own module says on which
            metafunc.parametrize("engine_name", names)


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
    """A new database on each of the engines: empty, or for a teller with its ledger made."""
    made = not {"teller", "made_ledger"}.isdisjoint(request.fixturenames)
    if engine_name == "sqlite":
        path = tmp_path / "ledger.db"
        if made:
            shutil.copyfile(request.getfixturevalue("ledger_file"), path)
        yield _url_of(path)
    else:
        template = request.getfixturevalue("ledger_database") if made else None
        with request.getfixturevalue("postgres").database(template) as url:
            yield url


@pytest.fixture
def made_ledger() -> None:
    """Asked for by a test that opens its tellers itself, on a ledger that is made."""


@pytest.fixture(scope="session")
def ledger_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger with its accounts, made once: to migrate a file for each test costs a minute."""
    path = tmp_path_factory.mktemp("template") / "ledger.db"
    _make_ledger(_url_of(path))
    return path


@pytest.fixture(scope="session")
def ledger_database(postgres: PostgresServer) -> Iterator[str]:
    """The same on the server: the name of a database to copy."""
    with postgres.database() as url:
        _make_ledger(url)
        yield url.rpartition("/")[2]


def _url_of(path: Path) -> str:
    return f"sqlite+aiosqlite:///{path}"


def _make_ledger(url: str) -> None:
    async def make() -> None:
        async with opened(Settings.load(database_url=url)) as teller:
            await teller.store.open_accounts(["alice", "bob"])

    # In a thread of its own: a fixture of an asynchronous test runs beside a loop.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, make()).result()


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

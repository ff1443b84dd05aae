"""What every tier shares: a clean environment, a database, a teller, a client."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from service.app import create_app
from service.settings import Settings
from service.teller import opened

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from service.teller import Teller

JSON = {"Content-Type": "application/json"}


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No TELLER_ variable of the machine reaches a test, or a process that it starts."""
    for name in list(os.environ):
        if name.startswith("TELLER_"):
            monkeypatch.delenv(name)


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path / 'ledger.db'}"


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

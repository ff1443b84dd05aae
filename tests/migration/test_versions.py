"""Which code may run on which schema: behind, current, ahead and fit, ahead and not."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import httpx
import pytest

from service import database, migrations, schema, sqlite
from service.errors import StartError
from service.sqlite import driver
from service.teller import opened
from tests import forkserver
from tests.conftest import headers
from tests.migration.ledgers import (
    CONTRACT,
    EXPAND,
    NEWER,
    ask,
    expand_and,
    folder_with,
    migrated,
    tables,
)
from tests.processes import serving, started

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from service.settings import Settings

OPEN = {"TELLER_ACCOUNT_OPENING": "on_first_deposit"}
CODE = schema.REVISION


def teller(*arguments: str) -> tuple[int, list[str]]:
    """Run a command: its exit status, and the lines it wrote that are not its log's."""
    if forkserver.AVAILABLE:
        process = forkserver.fork(arguments, os.environ)
        with process.stdout as stdout:
            text = stdout.read()
        return process.wait(60), words(text)
    command = [sys.executable, "-m", "service", *arguments]
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, words(done.stdout)


def words(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("{")]


def ready(url: str) -> httpx.Response:
    return httpx.get(f"{url}/readyz")


def deposit(url: str, key: str) -> httpx.Response:
    return httpx.post(f"{url}/deposit", content=b'{"amount": "1"}', headers=headers(key))


async def test_this_code_restarts_and_serves_on_an_expanded_schema_with_one_warning(
    database_url: str, tmp_path: Path
) -> None:
    with serving(database_url, env=OPEN) as before:
        first = deposit(before.url, "k1")
        assert first.status_code == 201
        assert before.terminate() == 0
    assert await migrated(database_url, folder_with(EXPAND, tmp_path)) == NEWER
    with serving(database_url, env=OPEN) as server:
        again = deposit(server.url, "k1")
        assert (again.content, again.headers["Idempotent-Replayed"]) == (first.content, "true")
        assert deposit(server.url, "k2").json()["balance"] == "2.00"
        assert ready(server.url).status_code == 200
        assert server.terminate() == 0
    warnings = [line for line in server.log if line["level"] != "INFO"]
    assert [line["message"] for line in warnings] == ["database is ahead of this release"]
    assert (warnings[0]["database_revision"], warnings[0]["code_revision"]) == (NEWER, CODE)


@pytest.mark.engines("sqlite", reason="it compares a file's bytes")
async def test_migrate_changes_nothing_of_a_database_ahead_and_exits_0(
    database_url: str, tmp_path: Path
) -> None:
    await migrated(database_url, folder_with(EXPAND, tmp_path))
    before = sqlite.file_of(database_url).read_bytes()
    assert teller("migrate", "--database", database_url) == (
        0,
        [f"The database is at revision {NEWER} (this release knows {CODE})."],
    )
    assert sqlite.file_of(database_url).read_bytes() == before


@pytest.mark.parametrize("command", ["serve", "migrate"])
async def test_a_schema_that_this_code_cannot_run_on_is_refused_naming_both(
    command: str, database_url: str, tmp_path: Path
) -> None:
    await migrated(database_url, folder_with(CONTRACT, tmp_path))
    message = (
        f"teller: The database is at revision {NEWER}, which runs from revision {NEWER} on; "
        f"this release knows revision {CODE}. Start a newer release of Teller."
    )
    assert teller(command, "--database", database_url) == (1, [message])


async def test_a_database_that_becomes_too_new_takes_readiness_away(
    database_url: str, tmp_path: Path
) -> None:
    with serving(database_url) as server:
        await migrated(database_url, folder_with(CONTRACT, tmp_path))
        answer = ready(server.url)
        assert answer.status_code == 503
        assert answer.json()["checks"]["schema"] is False


async def test_without_auto_migrate_an_empty_database_is_refused_with_the_command(
    make_settings: Callable[..., Settings], database_url: str
) -> None:
    with started(database_url, env={"TELLER_AUTO_MIGRATE": "false"}) as refused:
        assert refused.wait() == 1
    assert refused.output() == (
        f"teller: The database is empty; this release needs revision {CODE}, and "
        "TELLER_AUTO_MIGRATE is false. Run: teller migrate"
    )
    assert teller("migrate", "--database", database_url) == (
        0,
        [f"The database is at revision {CODE}."],
    )
    async with opened(make_settings(auto_migrate=False)) as teller_at_work:
        assert await teller_at_work.store.revision() == (CODE, CODE)


async def test_without_auto_migrate_a_database_behind_is_refused_with_the_command(
    make_settings: Callable[..., Settings],
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await migrated(database_url)
    monkeypatch.setattr(schema, "REVISION", NEWER)
    settings = make_settings(auto_migrate=False)
    async with database.opened(settings) as engine:
        with pytest.raises(StartError) as refused:
            await migrations.make_ready(engine, settings)
    assert str(refused.value) == (
        f"The database is at revision {CODE}; this release needs revision {NEWER}, and "
        "TELLER_AUTO_MIGRATE is false. Run: teller migrate"
    )


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"currency": "EUR"}, "the settings say EUR with 2."),
        ({"currency_scale": 3}, "the settings say USD with 3."),
        ({"currency": "JPY"}, "the settings say JPY with 0."),
    ],
)
async def test_another_currency_or_scale_than_the_ledgers_is_refused(
    asked: dict[str, str | int],
    said: str,
    make_settings: Callable[..., Settings],
    database_url: str,
) -> None:
    await migrated(database_url)
    settings = make_settings(**asked)
    async with database.opened(settings) as engine:
        with pytest.raises(StartError) as refused:
            await migrations.make_ready(engine, settings)
    assert str(refused.value) == (
        f"The ledger keeps USD with 2 decimals; {said} A ledger keeps its currency: set "
        "TELLER_CURRENCY=USD and TELLER_CURRENCY_SCALE=2, or use another database."
    )


async def test_another_applications_database_is_refused_and_left_alone(database_url: str) -> None:
    await ask(database_url, "CREATE TABLE notes (id INTEGER)")
    message = (
        "teller: The database has tables, but it is not a Teller ledger. "
        "Set TELLER_DATABASE_URL to another one."
    )
    assert teller("migrate", "--database", database_url) == (1, [message])
    assert await tables(database_url) == ["notes"]


async def test_a_migration_that_fails_leaves_the_database_as_it_was(
    database_url: str, tmp_path: Path
) -> None:
    await migrated(database_url)
    broken = expand_and("op.execute('SELECT 1 FROM nowhere')")
    with pytest.raises(Exception, match=r'no such table: nowhere|"nowhere" does not exist'):
        await migrated(database_url, folder_with(broken, tmp_path))
    assert await tables(database_url) == ["accounts", "alembic_version", "ledger", "movements"]
    assert await ask(database_url, "SELECT version_num FROM alembic_version") == [(CODE,)]


def test_two_processes_that_start_at_once_on_an_empty_database_both_serve(
    database_url: str,
) -> None:
    with started(database_url, env=OPEN) as one, started(database_url, env=OPEN) as two:
        one.wait_until_serving()
        two.wait_until_serving()
        assert deposit(one.url, "k1").status_code == 201
        assert deposit(two.url, "k1").headers["Idempotent-Replayed"] == "true"


@pytest.mark.engines("sqlite", reason="a server makes its databases itself")
async def test_opening_a_new_file_waits_for_the_process_that_is_making_it(
    database_url: str,
) -> None:
    # SQLite itself does not wait here: it would say at once that the database is locked.
    path = sqlite.file_of(database_url)
    maker = driver.connect(str(path), isolation_level=None, check_same_thread=False)
    try:
        maker.execute("CREATE TABLE a (id INTEGER)")
        maker.execute("BEGIN IMMEDIATE")
        threading.Timer(0.3, maker.execute, ("COMMIT",)).start()
        opened = asyncio.create_task(ask(database_url, "PRAGMA journal_mode"))
        assert await opened == [("wal",)]
    finally:
        maker.close()

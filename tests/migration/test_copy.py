"""`teller copy`: a ledger on the other engine that answers every key as before, or none at all."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from service import relocation
from service.errors import StartError
from service.settings import Settings
from service.teller import opened
from tests.audit import ledgers
from tests.conftest import client_of, headers
from tests.migration.ledgers import ask, tables
from tests.processes import serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.postgres_server import PostgresServer

BODY = b'{"amount": "30", "reference": "for w1"}'


@pytest.fixture
def source(tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path / 'source.db'}"


@pytest.fixture
def target(postgres: PostgresServer) -> Iterator[str]:
    with postgres.database() as url:
        yield url


def settings(url: str) -> Settings:
    return Settings.load(database_url=url, request_log=False, audit=False)


def copy(source: str, target: str) -> tuple[int, str]:
    """Run the command: its exit status and its words."""
    command = [sys.executable, "-m", "service", "copy", "--from", source, "--to", target]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


def at_work(label: str, act: Callable[[], object]) -> Any:
    """A progress that acts after the first page of that label."""

    @contextmanager
    def progress(now: str, _rows: int) -> Iterator[Callable[[int], object]]:
        yield lambda _rows: act() if now == label else None

    return progress


async def withdraw(url: str) -> tuple[str, bytes]:
    """alice's first withdrawal again: whether it was replayed, and its body."""
    async with opened(settings(url)) as teller, client_of(teller) as client:
        answer = await client.post("/withdraw", content=BODY, headers=headers("w1"))
        return answer.headers["idempotent-replayed"], answer.content


async def test_a_copied_ledger_answers_its_keys_byte_for_byte_and_goes_on(
    source: str, target: str
) -> None:
    await ledgers.filled(settings(source))
    before = await withdraw(source)
    done = await relocation.relocate(settings(source), settings(target))
    assert (done.tally.accounts, done.tally.rows, done.tally.balances_minor) == (3, 7, 8_205)
    assert await withdraw(target) == before == ("true", before[1])
    async with opened(settings(target)) as teller:
        assert await teller.store.open_accounts(["dave"]) == ["dave"]
        await ledgers.move(teller, "dave", "k", "deposit", 1)
    assert await ask(target, "SELECT id, seq FROM accounts WHERE user_id = 'dave'") == [(4, 1)]
    assert (await asyncio.to_thread(ledgers.report, target))[0] == 0


async def test_the_command_says_what_was_copied_and_that_it_is_equal(
    source: str, target: str
) -> None:
    async with opened(settings(source)) as teller:
        await ledgers.fill(teller)
    status, words = copy(source, target)
    assert status == 0, words
    assert "3 accounts and 7 transactions copied in " in words
    assert "Equal: accounts, transactions, balances, counts, sums and chain heads" in words


async def test_several_pages_and_accounts_without_rows_are_copied_whole(
    source: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ledgers.filled(settings(source))
    async with opened(settings(source)) as teller:
        await teller.store.open_accounts([f"empty{number}" for number in range(9)])
        for number in range(9):
            await ledgers.move(teller, "bob", f"more{number}", "deposit", 1)
    monkeypatch.setattr(relocation, "ROWS_PER_PAGE", 2)
    done = await relocation.relocate(settings(source), settings(target))
    assert (done.tally.accounts, done.tally.rows, done.tally.balances_minor) == (12, 16, 8_214)


async def test_an_interrupted_copy_is_served_by_nobody_and_starts_over(
    source: str, target: str
) -> None:
    await ledgers.filled(settings(source))

    def pull_the_plug() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await relocation.relocate(
            settings(source), settings(target), progress=at_work("Copying", pull_the_plug)
        )
    with pytest.raises(StartError, match="the target of a copy that is not complete"):
        await withdraw(target)
    done = await relocation.relocate(settings(source), settings(target))
    assert done.tally.rows == 7
    assert (await withdraw(target))[0] == "true"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("UPDATE movements SET reference = 'x' WHERE seq = 2", "does not give its chain value"),
        ("UPDATE accounts SET balance_minor = 1 WHERE id = 2", "its last row says 1200"),
        ("DELETE FROM movements WHERE account_id = 2 AND seq = 2", "is at transaction 2"),
        ("DELETE FROM accounts WHERE id = 3", "differs from the source in its accounts, chain"),
        ("UPDATE accounts SET opened_at_us = 0", "differs from the source in its chain heads"),
    ],
)
async def test_a_corrupted_target_is_refused_and_stays_marked(
    damage: str, said: str, source: str, target: str
) -> None:
    await ledgers.filled(settings(source))
    spoiled = at_work("Copying", lambda: ledgers.damage(target, damage))
    with pytest.raises(StartError, match=said) as refused:
        await relocation.relocate(settings(source), settings(target), progress=spoiled)
    assert "stays marked as unusable" in str(refused.value)
    with pytest.raises(StartError, match="the target of a copy that is not complete"):
        await withdraw(target)


async def test_an_unsound_source_is_not_copied(source: str, target: str) -> None:
    await ledgers.filled(settings(source))
    ledgers.damage(source, "UPDATE movements SET amount_minor = 1 WHERE seq = 1")
    with pytest.raises(StartError, match="The source is not sound: account alice, transaction 1"):
        await relocation.relocate(settings(source), settings(target))


async def test_a_source_that_is_served_is_not_copied(source: str, target: str) -> None:
    with serving(source), pytest.raises(StartError, match="Stop it first"):
        await relocation.relocate(settings(source), settings(target))
    assert await tables(target) == []


async def test_a_target_that_holds_something_is_left_alone(source: str, target: str) -> None:
    await ledgers.filled(settings(source))
    await ledgers.filled(settings(target))
    before = await withdraw(target)
    with pytest.raises(StartError, match="The target is not empty"):
        await relocation.relocate(settings(source), settings(target))
    assert await withdraw(target) == before


async def test_only_sqlite_is_copied_and_only_to_postgresql(source: str, target: str) -> None:
    for one, another in ((target, source), (source, source), (target, target)):
        with pytest.raises(StartError, match="from a SQLite file"):
            await relocation.relocate(settings(one), settings(another))

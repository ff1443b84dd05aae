"""The audit inside the service: new rows of every process within seconds, all rows in time."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from service import audit as auditing
from service import store as storing
from service.audit import Auditor, AuditState
from service.ledger import Movement
from service.scan import Run, Scan
from service.teller import opened
from tests.audit import ledgers

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.settings import Settings
    from service.teller import Teller

# As a broken release, or a hand, would write: the newest row of bob's copied to carol.
FORGED = (
    "INSERT INTO movements SELECT 3, 1, key, kind, outcome, reason, amount_minor, "
    "balance_after_minor, reference, {created_at_us}, chain FROM movements "
    "WHERE account_id = 2 AND seq = 1"
)


@pytest.fixture
def auditor(teller: Teller) -> Auditor:
    return Auditor(Scan(teller.reader), teller.currency, AuditState())


def forge(database_url: str, *, created_at_us: int) -> None:
    ledgers.damage(database_url, FORGED.format(created_at_us=created_at_us))


async def test_new_rows_are_checked_once_each(
    teller: Teller, auditor: Auditor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auditing, "TAIL_ROWS_PER_PAGE", 2)
    await auditor.check_new()
    assert auditor.state.rows_checked_total == 0
    for number in range(9):
        await ledgers.move(teller, "alice", f"k{number}", "deposit", 1)
    await auditor.check_new()
    assert auditor.state.violations == {}
    # Pages of one and of two rows, each but the first with the row before it read again.
    assert 9 <= auditor.state.rows_checked_total <= 18
    checked = auditor.state.rows_checked_total
    await auditor.check_new()
    assert auditor.state.rows_checked_total == checked
    await ledgers.move(teller, "alice", "k9", "deposit", 1)
    await auditor.check_new()
    assert auditor.state.rows_checked_total == checked + 2


async def test_a_long_backlog_is_checked_window_by_window_in_one_call(
    teller: Teller, auditor: Auditor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auditing, "TAIL_ROWS_PER_WINDOW", 2)
    for number in range(7):
        await ledgers.move(teller, ("alice", "bob")[number % 2], f"k{number}", "deposit", 1)
    await auditor.check_new()
    # Seven rows, each but its account's first with the one before it.
    assert auditor.state.rows_checked_total == 7 + 5
    assert auditor.state.violations == {}


async def test_rows_found_again_in_several_windows_are_checked_once(
    teller: Teller, auditor: Auditor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auditing, "TAIL_ROWS_PER_WINDOW", 2)
    for number in range(8):
        await ledgers.move(teller, "alice", f"k{number}", "deposit", 1)
    await auditor.check_new()
    checked = auditor.state.rows_checked_total
    for _ in range(2):
        await auditor.check_new()
        assert auditor.state.rows_checked_total == checked


def test_what_was_audited_of_an_account_grows_only_where_it_touches() -> None:
    known = auditing._Audited(6, 6, 10)
    assert known.with_(Run(1, 7, 9), 20) == (6, 9, 20)
    assert known.with_(Run(1, 5, 9), 20) == (5, 9, 20)
    assert known.with_(Run(1, 5, 5), 20) == (5, 6, 20)
    assert known.with_(Run(1, 6, 6), 5) == (6, 6, 10)
    assert known.with_(Run(1, 8, 9), 20) == (8, 9, 20)
    assert known.with_(Run(1, 3, 4), 20) == (3, 4, 20)


async def test_a_row_whose_clock_was_slow_is_checked_though_a_later_one_was(
    auditor: Auditor,
) -> None:
    auditor._audited[1] = auditing._Audited(6, 6, 10)
    assert auditor._unaudited(Run(1, 5, 5)) == (1, 5, 5)
    assert auditor._unaudited(Run(1, 5, 9)) == (1, 5, 9)
    assert auditor._unaudited(Run(1, 6, 9)) == (1, 7, 9)
    assert auditor._unaudited(Run(1, 6, 6)) is None
    assert auditor._unaudited(Run(2, 6, 6)) == (2, 6, 6)


async def test_rows_that_come_during_a_check_wait_for_the_next_so_that_load_cannot_hold_it(
    teller: Teller, auditor: Auditor, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = auditor._scan.new_runs
    calls = 0

    async def found_and_one_more(**asked: int) -> tuple[list[Run], int | None]:
        nonlocal calls
        calls += 1
        found = await find(**asked)
        await ledgers.move(teller, "alice", f"more-{calls}", "deposit", 1)
        return found

    monkeypatch.setattr(auditor._scan, "new_runs", found_and_one_more)
    await ledgers.move(teller, "alice", "first", "deposit", 1)
    async with asyncio.timeout(10):
        await auditor.check_new()
    assert calls == 1
    assert auditor.state.rows_checked_total == 1
    await auditor.check_new()
    assert auditor.state.rows_checked_total == 3


async def test_a_new_row_of_another_process_that_is_wrong_is_found(
    teller: Teller, auditor: Auditor, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    await ledgers.fill_more(teller)
    forge(database_url, created_at_us=storing.now_us())
    await auditor.check_new()
    assert auditor.state.violations == {"row-edited": 1, "head-wrong": 2}
    events = [record for record in caplog.records if record.message == "audit violation"]
    assert [(event.__dict__["kind"], event.__dict__["transaction"]) for event in events] == [
        ("row-edited", 1),
        ("head-wrong", None),
        ("head-wrong", None),
    ]
    await auditor.check_new()
    assert auditor.state.violations == {"row-edited": 1, "head-wrong": 2}


@pytest.mark.engines("sqlite", reason="zeroblob is SQLite's")
async def test_a_new_row_whose_forerunner_was_edited_is_found(
    teller: Teller, auditor: Auditor, database_url: str
) -> None:
    await ledgers.move(teller, "alice", "k1", "deposit", 100)
    await auditor.check_new()
    ledgers.damage(database_url, "UPDATE movements SET chain = zeroblob(32)")
    await ledgers.move(teller, "alice", "k2", "deposit", 100)
    await auditor.check_new()
    assert auditor.state.violations == {"row-edited": 1}


async def test_new_rows_are_found_after_the_clock_was_set_back(
    teller: Teller, auditor: Auditor, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = teller.store
    hour_us = 3_600_000_000
    for clock in (storing.now_us, lambda: storing.now_us() - hour_us):
        monkeypatch.setattr(store, "_clock_us", clock)
        monkeypatch.setattr(auditing, "now_us", clock)
        before = auditor.state.rows_checked_total
        await teller.committer.submit(Movement("bob", f"k{before}", "deposit", 1, None))
        await auditor.check_new()
        assert auditor.state.rows_checked_total > before


async def test_the_full_pass_finds_an_old_row_that_was_edited_and_forgets_it_when_mended(
    teller: Teller, auditor: Auditor, database_url: str
) -> None:
    assert auditor.state.last_pass_at_s is None
    await ledgers.move(teller, "alice", "k1", "deposit", 100)
    await ledgers.move(teller, "alice", "k2", "deposit", 100)
    await auditor.check_all()
    assert (auditor.state.violations, auditor.state.imbalance_minor) == ({}, 0)
    ledgers.damage(database_url, "UPDATE movements SET amount_minor = 103 WHERE seq = 1")
    await auditor.check_all()
    assert auditor.state.violations == {"row-edited": 1, "balance-wrong": 1}
    assert auditor.state.imbalance_minor == 3
    ledgers.damage(database_url, "UPDATE movements SET amount_minor = 100 WHERE seq = 1")
    await auditor.check_all()
    assert (auditor.state.violations, auditor.state.imbalance_minor) == ({}, 0)
    assert auditor.state.last_pass_at_s == pytest.approx(time.time(), abs=60)


async def test_a_violation_found_by_both_is_counted_once(
    teller: Teller, auditor: Auditor, database_url: str
) -> None:
    await ledgers.fill_more(teller)
    forge(database_url, created_at_us=storing.now_us())
    await auditor.check_new()
    found = auditor.state.violations
    await auditor.check_all()
    assert auditor.state.violations == found
    await auditor.check_all()
    assert auditor.state.violations == found


async def test_the_running_service_finds_another_process_row_within_ten_seconds(
    make_settings: Callable[..., Settings], database_url: str
) -> None:
    async with opened(make_settings()) as teller:
        await ledgers.fill(teller)
        forge(database_url, created_at_us=storing.now_us())
        async with asyncio.timeout(10):
            while not teller.audit.violations:  # noqa: ASYNC110 - the state has no event
                await asyncio.sleep(0.1)
        assert teller.audit.tail_age_s < 10


async def test_an_audit_that_cannot_read_goes_on_later(
    teller: Teller, auditor: Auditor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auditing, "TAIL_PERIOD_S", 0.01)
    failing = True

    async def check() -> None:
        nonlocal failing
        if failing:
            failing = False
            raise OSError("no more files")
        done.set()

    done = asyncio.Event()
    monkeypatch.setattr(auditor, "check_new", check)
    async with auditor.running(), asyncio.timeout(10):
        await done.wait()


async def test_the_audit_can_be_switched_off(make_settings: Callable[..., Settings]) -> None:
    async with opened(make_settings(audit=False)):
        assert [task.get_name() for task in asyncio.all_tasks() if "audit" in task.get_name()] == []
    async with opened(make_settings()):
        names = [task.get_name() for task in asyncio.all_tasks() if "audit" in task.get_name()]
        assert sorted(names) == ["audit-pass", "audit-tail"]

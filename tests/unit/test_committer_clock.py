"""The committer by a clock of the test's own: ages, time limits to the moment, housekeeping."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from service.errors import (
    DiskFullError,
    InternalError,
    OutcomeUnknownError,
    OverloadedError,
    TooManyInFlightError,
    UnavailableError,
)
from service.store import Checkpoint
from tests.stores import GatedStore
from tests.unit.test_committer import committer_of, deposit, recorded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.committer import Committer
    from service.errors import OperatingError
    from service.ledger import Decision, Movement
    from service.store import Store
    from service.teller import Teller

pytestmark = pytest.mark.engines("sqlite", reason="the committer knows no engine")

TICK_S = 0.02
TOO_SLOW = (
    "The database is too slow to reach this. This attempt was not executed. Retry with the same "
    "key."
)
MAYBE = (
    "The database has not finished in time; the movement may still be applied. Retry with the "
    "same key."
)


class Clock:
    """Seconds that pass only when the test says so."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("service.committer.monotonic", clock)
    monkeypatch.setattr("service.committer.TICK_S", TICK_S)
    return clock


@pytest.fixture
async def store(teller: Teller) -> Store:
    return teller.store


async def ticks(count: int = 2) -> None:
    """Let the committer look at its queue that often at least."""
    await asyncio.sleep(5 * count * TICK_S)


def detail_of(answer: Decision | OperatingError) -> str:
    assert isinstance(answer, UnavailableError)
    return answer.detail


async def at_the_gate(committer: Committer, gate: GatedStore) -> asyncio.Future[object]:
    future = committer.submit(deposit("k0"))
    await gate.reached()
    return future  # type: ignore[return-value]


async def test_the_age_of_the_oldest_counts_from_its_arrival_until_it_is_answered(
    store: Store, clock: Clock
) -> None:
    gate = GatedStore(store)
    committer = committer_of(gate)
    async with committer.running():
        assert (committer.oldest_age_s(), committer.oldest_age_seen_s()) == (0.0, 0.0)
        at_work = await at_the_gate(committer, gate)
        clock.now_s += 4
        queued = committer.submit(deposit("k1", "bob"))
        clock.now_s += 3.5
        assert committer.oldest_age_s() == 7.5
        await ticks()
        clock.now_s += 2
        # Another thread sees the oldest of the last tick, and how old it is by now.
        assert committer.oldest_age_seen_s() == 9.5
        gate.open.set()
        await asyncio.gather(at_work, queued)
        await ticks()
        assert (committer.oldest_age_s(), committer.oldest_age_seen_s()) == (0.0, 0.0)


async def test_the_oldest_may_be_one_that_waits_behind_nobody(store: Store, clock: Clock) -> None:
    committer = committer_of(store)
    waiting = [committer.submit(deposit("k0"))]
    clock.now_s += 3
    waiting.append(committer.submit(deposit("k0", "bob")))
    clock.now_s += 1
    assert committer.oldest_age_s() == 4.0
    async with committer.running():
        await asyncio.gather(*waiting)


async def test_an_answer_is_late_only_once_the_limit_has_passed(store: Store, clock: Clock) -> None:
    gate = GatedStore(store)
    committer = committer_of(gate, answer_timeout_ms=10_000)
    async with committer.running():
        at_work = await at_the_gate(committer, gate)
        queued = [committer.submit(deposit("k1", user)) for user in ("alice", "bob")]
        clock.now_s += 10
        await ticks()
        assert not at_work.done() and not any(answer.done() for answer in queued)
        assert committer.depth == 2
        clock.now_s += 0.001
        await ticks()
        assert at_work.done()
        assert detail_of(await at_work) == MAYBE  # type: ignore[arg-type]
        assert [detail_of(await answer) for answer in queued] == [TOO_SLOW, TOO_SLOW]
        assert committer.depth == 0
        # Who was turned away may come again, and is turned away again in time.
        younger = committer.submit(deposit("k2"))
        clock.now_s += 10.001
        late, in_time = committer.submit(deposit("k3")), committer.submit(deposit("k3", "bob"))
        await ticks()
        assert detail_of(await younger) == TOO_SLOW
        assert not late.done() and not in_time.done()
        gate.open.set()
        assert [recorded(await answer)[1] for answer in (late, in_time)] == [False, False]


async def test_cut_short_everybody_is_answered_at_once_and_nobody_new_is_taken(
    store: Store, clock: Clock
) -> None:
    gate = GatedStore(store)
    committer = committer_of(gate)
    async with committer.running():
        at_work = await at_the_gate(committer, gate)
        queued = committer.submit(deposit("k1"))
        committer.cut_short()
        assert committer.draining
        assert detail_of(await at_work) == MAYBE  # type: ignore[arg-type]
        assert detail_of(await queued) == TOO_SLOW
        turned_away = committer.submit(deposit("k2"))
        assert detail_of(await turned_away) == (
            "The service is stopping. This attempt was not executed. Retry with the same key."
        )
        gate.open.set()
    assert gate.batches == [["k0"]]


async def test_a_batch_is_late_also_when_nobody_waits_behind_it(store: Store, clock: Clock) -> None:
    gate = GatedStore(store)
    committer = committer_of(gate, answer_timeout_ms=10_000)
    async with committer.running():
        at_work = await at_the_gate(committer, gate)
        clock.now_s += 10.001
        await ticks()
        assert at_work.done()
        gate.open.set()


class Housekeeping(GatedStore):
    """A store that notes after how many batches a checkpoint was asked for."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.open.set()
        self.checkpoints: list[int] = []

    async def checkpoint(self) -> Checkpoint | None:
        self.checkpoints.append(len(self.batches))
        return await self.store.checkpoint()


async def test_a_checkpoint_comes_after_so_many_rows_and_again_after_as_many(
    store: Store, clock: Clock
) -> None:
    house = Housekeeping(store)
    committer = committer_of(house, wal_rows_max=3)
    async with committer.running():
        for number in range(8):
            await committer.submit(deposit(f"k{number}"))
        clock.now_s += 60
    assert house.checkpoints == [3, 6, 8]  # the last in the pause


async def test_an_idle_writer_checkpoints_once(store: Store, clock: Clock) -> None:
    house = Housekeeping(store)
    committer = committer_of(house)
    async with committer.running():
        await ticks()
        clock.now_s += 60
        await ticks()
        assert house.checkpoints == []  # there is nothing to copy
        await committer.submit(deposit("k0"))
        await ticks()
        clock.now_s += 60
        await ticks()
        clock.now_s += 60
        await ticks()
    assert house.checkpoints == [1]


class Full(Housekeeping):
    """A disk with room for neither a row nor a checkpoint, until it is told otherwise."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.room_for_rows = self.room_for_log = False

    async def commit(self, movements: Sequence[Movement]) -> list[Decision]:
        decisions = await super().commit(movements) if self.room_for_rows else None
        if decisions is None:
            raise DiskFullError("full")
        return decisions

    async def checkpoint(self) -> Checkpoint | None:
        await super().checkpoint()
        return Checkpoint(0, 0) if self.room_for_log else None


async def test_once_the_disk_was_full_the_log_is_emptied_before_anything_is_added_to_it(
    store: Store,
) -> None:
    full = Full(store)
    committer = committer_of(full)
    async with committer.running():
        assert isinstance(await committer.submit(deposit("k0")), DiskFullError)
        full.room_for_rows = True
        assert isinstance(await committer.submit(deposit("k1")), DiskFullError)
        assert isinstance(await committer.submit(deposit("k2")), DiskFullError)
        assert (full.batches, full.checkpoints) == ([], [0, 0])
        full.room_for_log = True
        assert recorded(await committer.submit(deposit("k1"))) == (1, False)
        assert recorded(await committer.submit(deposit("k2"))) == (2, False)
        assert full.checkpoints == [0, 0, 0]


async def test_who_is_turned_away_is_told_why_in_these_words(store: Store, clock: Clock) -> None:
    rest = "This attempt was not executed. Retry with the same key."
    full = committer_of(store, queue_depth_max=1, queue_depth_per_user_max=1)
    greedy = committer_of(store, queue_depth_per_user_max=1)
    for committer in (full, greedy):
        committer.submit(deposit("k0"))
    overloaded, too_many = await full.submit(deposit("k1")), await greedy.submit(deposit("k1"))
    assert isinstance(overloaded, OverloadedError)
    assert overloaded.detail == f"The service is at its limit. {rest}"
    assert isinstance(too_many, TooManyInFlightError)
    assert too_many.detail == f"Too many requests of this user wait. {rest}"
    for committer in (full, greedy):
        async with committer.running():
            pass


async def test_a_bug_is_told_as_one(store: Store, clock: Clock) -> None:
    gate = GatedStore(store, ZeroDivisionError())
    gate.open.set()
    async with committer_of(gate).running() as committer:
        failed = await committer.submit(deposit("k0"))
    assert isinstance(failed, InternalError)
    assert failed.detail == "The movement failed; it was not executed."


@pytest.mark.parametrize(
    ("error", "level", "message"),
    [
        (OutcomeUnknownError("fsync"), "CRITICAL", "commit outcome unknown"),
        (ZeroDivisionError(), "ERROR", "movement failed"),
    ],
)
async def test_a_failure_is_logged_in_these_words_with_its_traceback(
    *,
    store: Store,
    clock: Clock,
    error: Exception,
    level: str,
    message: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate = GatedStore(store, error)
    gate.open.set()
    async with committer_of(gate).running() as committer:
        await committer.submit(deposit("k0"))
    said = [record for record in caplog.records if record.name == "service.committer"]
    assert [(record.levelname, record.getMessage()) for record in said] == [(level, message)]
    assert said[0].exc_info is not None and said[0].exc_info[1] is error

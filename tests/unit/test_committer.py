"""The committer before a real SQLite store: turns, limits, time-outs, failures, the end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from service.committer import Committer
from service.errors import (
    InternalError,
    OutcomeUnknownError,
    OverloadedError,
    TooManyInFlightError,
    UnavailableError,
)
from service.ledger import Movement, Recorded
from tests.stores import PATIENCE_S, GatedStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.errors import OperatingError
    from service.ledger import Decision
    from service.store import Checkpoint, Store
    from service.teller import Teller


@pytest.fixture
async def store(teller: Teller) -> Store:
    """A real store; the committers of these tests are their own."""
    return teller.store


def committer_of(store: object, **given: int) -> Committer:
    limits = {
        "queue_depth_max": 100,
        "queue_depth_per_user_max": 100,
        "batch_size_max": 100,
        "answer_timeout_ms": 60_000,
        "wal_rows_max": 1_000,
        **given,
    }
    return Committer(store, **limits)  # type: ignore[arg-type]


def deposit(key: str, user: str = "alice") -> Movement:
    return Movement(user, key, "deposit", 100, None)


def recorded(answer: Decision | OperatingError) -> tuple[int, bool]:
    """The sequence number of an answer's row, and whether it is a replay."""
    assert isinstance(answer, Recorded)
    return answer.entry.seq, answer.replayed


async def test_users_take_turns_however_much_one_of_them_sends(store: Store) -> None:
    gate = GatedStore(store)
    gate.open.set()
    committer = committer_of(gate, batch_size_max=2)
    answers = [committer.submit(deposit(f"a{i}")) for i in range(4)]
    answers.append(committer.submit(deposit("b0", "bob")))
    async with committer.running():
        await asyncio.gather(*answers)
    assert gate.batches == [["a0", "b0"], ["a1", "a2"], ["a3"]]


async def test_one_users_movements_keep_their_order(store: Store) -> None:
    committer = committer_of(store, batch_size_max=3)
    answers = [committer.submit(deposit(f"k{i}")) for i in range(10)]
    async with committer.running():
        rows = [recorded(await answer) for answer in answers]
    assert rows == [(seq, False) for seq in range(1, 11)]


async def test_what_waits_is_committed_together_up_to_a_batch(store: Store) -> None:
    gate = GatedStore(store)
    committer = committer_of(gate, batch_size_max=4)
    async with committer.running():
        first = committer.submit(deposit("k"))
        await gate.reached()
        others = [committer.submit(deposit(f"k{i}")) for i in range(6)]
        assert committer.depth == 6
        gate.open.set()
        await asyncio.gather(first, *others)
    assert [len(batch) for batch in gate.batches] == [1, 4, 2]
    assert committer.depth == 0


async def test_a_users_share_is_bounded_and_another_user_is_not_turned_away(store: Store) -> None:
    gate = GatedStore(store)
    committer = committer_of(gate, queue_depth_per_user_max=2)
    async with committer.running():
        at_work = committer.submit(deposit("k0"))
        await gate.reached()
        waiting = [committer.submit(deposit(f"k{i}")) for i in (1, 2)]
        refused = await committer.submit(deposit("k3"))
        assert isinstance(refused, TooManyInFlightError)
        assert (refused.code.status, refused.retry_after_s) == (429, 1)
        assert "not executed" in refused.detail
        bobs = committer.submit(deposit("k3", "bob"))
        gate.open.set()
        assert recorded(await bobs) == (1, False)
        assert [recorded(await answer)[0] for answer in (at_work, *waiting)] == [1, 2, 3]
        # The refused one left nothing: its key runs as new.
        assert recorded(await committer.submit(deposit("k3"))) == (4, False)


async def test_the_queue_is_bounded(store: Store) -> None:
    gate = GatedStore(store)
    committer = committer_of(gate, queue_depth_max=2)
    async with committer.running():
        accepted = [committer.submit(deposit("k0"))]
        await gate.reached()
        accepted += [
            committer.submit(deposit(f"k{i}", user)) for i, user in ((1, "alice"), (2, "bob"))
        ]
        for user in ("alice", "bob"):
            shed = await committer.submit(deposit("k3", user))
            assert isinstance(shed, OverloadedError)
            assert (shed.code.status, shed.retry_after_s) == (503, 1)
        gate.open.set()
        await asyncio.gather(*accepted)
        assert recorded(await committer.submit(deposit("k3"))) == (3, False)


async def test_a_movement_that_waits_too_long_is_answered_unavailable_and_may_be_applied(
    store: Store,
) -> None:
    gate = GatedStore(store)
    committer = committer_of(gate, answer_timeout_ms=1)
    async with committer.running():
        at_work = committer.submit(deposit("k0"))
        await gate.reached()
        queued = committer.submit(deposit("k1"))
        for answer, words in ((at_work, "may still be applied"), (queued, "was not executed")):
            late = await answer
            assert isinstance(late, UnavailableError)
            assert words in late.detail
        assert committer.depth == 0
        # The batch at work is still the database's, and so still old.
        assert committer.oldest_age_s() > 0
        gate.open.set()
    # The one at work was committed all the same; the queued one was taken back.
    again = committer_of(store)
    async with again.running():
        assert recorded(await again.submit(deposit("k0"))) == (1, True)
        assert recorded(await again.submit(deposit("k1"))) == (2, False)


class PoisonedStore(GatedStore):
    """A store with a bug that one key meets."""

    async def commit(self, movements: Sequence[Movement]) -> list[Decision]:
        self.batches.append([movement.key for movement in movements])
        if any(movement.key == "poison" for movement in movements):
            raise ZeroDivisionError
        return await self.store.commit(movements)


async def test_a_poison_movement_fails_alone_and_the_rest_is_applied_once(store: Store) -> None:
    committer = committer_of(PoisonedStore(store))
    keys = ["k0", "k1", "poison", "k3", "k4"]
    answers = [committer.submit(deposit(key)) for key in keys]
    async with committer.running():
        outcomes = [await answer for answer in answers]
    failed = outcomes.pop(2)
    assert isinstance(failed, InternalError)
    assert [recorded(outcome) for outcome in outcomes] == [(n, False) for n in (1, 2, 3, 4)]


async def test_an_unavailable_database_fails_its_batch_and_the_next_one_runs(store: Store) -> None:
    gate = GatedStore(store, UnavailableError("full"))
    gate.open.set()
    committer = committer_of(gate)
    async with committer.running():
        assert await committer.submit(deposit("k")) is gate.error
        assert committer.alive
        gate.error = None
        assert recorded(await committer.submit(deposit("k"))) == (1, False)


async def test_an_unknown_commit_stops_the_writer_and_what_waits_was_not_executed(
    store: Store,
) -> None:
    gate = GatedStore(store, OutcomeUnknownError("fsync"))
    committer = committer_of(gate)
    async with committer.running():
        at_work = committer.submit(deposit("k0"))
        await gate.reached()
        queued = committer.submit(deposit("k1"))
        gate.open.set()
        assert await at_work is gate.error
        assert isinstance(await queued, UnavailableError)
        assert committer.failed.is_set()
        assert not committer.alive
        after = await committer.submit(deposit("k2"))
        assert isinstance(after, UnavailableError)
    assert gate.batches == [["k0"]]


async def test_after_a_halved_batch_fails_at_the_commit_the_other_half_is_not_tried(
    store: Store,
) -> None:
    class Failing(GatedStore):
        async def commit(self, movements: Sequence[Movement]) -> list[Decision]:
            self.batches.append([movement.key for movement in movements])
            raise ZeroDivisionError if len(movements) > 1 else OutcomeUnknownError("fsync")

    failing = Failing(store)
    committer = committer_of(failing)
    answers = [committer.submit(deposit(key)) for key in ("a", "b")]
    async with committer.running():
        first, second = [await answer for answer in answers]
    assert isinstance(first, OutcomeUnknownError)
    assert isinstance(second, UnavailableError)
    assert second.detail == "This attempt was not executed. Retry with the same key."
    assert failing.batches == [["a", "b"], ["a"]]


async def test_a_store_that_leaves_an_answer_out_ends_the_writer_and_nobody_waits(
    store: Store,
) -> None:
    class Short(GatedStore):
        async def commit(self, movements: Sequence[Movement]) -> list[Decision]:
            return (await self.store.commit(movements))[:-1]

    committer = committer_of(Short(store))
    answers = [committer.submit(deposit("k", user)) for user in ("alice", "bob")]
    async with committer.running():
        first, second = [await answer for answer in answers]
        assert committer.failed.is_set()
    assert recorded(first) == (1, False)
    assert isinstance(second, OutcomeUnknownError)


async def test_a_writer_that_dies_of_a_bug_asks_for_a_restart_and_turns_all_away(
    store: Store,
) -> None:
    class Broken(GatedStore):
        async def checkpoint(self) -> Checkpoint | None:
            raise ZeroDivisionError

    gate = Broken(store)
    gate.open.set()
    committer = committer_of(gate, wal_rows_max=1)
    async with committer.running():
        assert recorded(await committer.submit(deposit("k0"))) == (1, False)
        await asyncio.wait_for(committer.failed.wait(), 10)
        assert not committer.alive
        assert isinstance(await committer.submit(deposit("k1")), UnavailableError)


async def test_a_cancelled_request_is_carried_out_all_the_same(store: Store) -> None:
    gate = GatedStore(store)
    committer = committer_of(gate)
    async with committer.running():
        at_work = committer.submit(deposit("k0"))
        await gate.reached()
        queued = committer.submit(deposit("k1"))
        at_work.cancel()
        queued.cancel()
        gate.open.set()
        assert recorded(await committer.submit(deposit("k0"))) == (1, True)
        assert recorded(await committer.submit(deposit("k1"))) == (2, True)


async def test_the_end_answers_everything_accepted_and_turns_away_what_comes_later(
    store: Store,
) -> None:
    committer = committer_of(store, batch_size_max=1)
    async with committer.running():
        accepted = [committer.submit(deposit(f"k{i}")) for i in range(5)]
        committer.drain()
        late = committer.submit(deposit("late"))
    assert [recorded(answer.result())[0] for answer in accepted] == [1, 2, 3, 4, 5]
    assert isinstance(late.result(), UnavailableError)
    assert not committer.alive


async def test_a_retiring_committer_still_takes_movements(store: Store) -> None:
    committer = committer_of(store)
    states = [(committer.alive, committer.draining)]
    async with committer.running():
        states.append((committer.alive, committer.draining))
        committer.retire()
        states.append((committer.alive, committer.draining))
        assert states == [(False, False), (True, False), (True, True)]
        assert recorded(await committer.submit(deposit("k"))) == (1, False)


# -- a store that works on two batches at once ----------------------------------------------


class Two(GatedStore):
    """With a gate for each batch, by the number of it."""

    batches_max = 2

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.gates: list[asyncio.Event] = []
        self.fail: set[str] = set()

    async def commit(self, movements: Sequence[Movement]) -> list[Decision]:
        gate = asyncio.Event()
        self.gates.append(gate)
        if self.open.is_set():  # the test has failed: the rest of it shall not wait
            gate.set()
        self.batches.append([movement.key for movement in movements])
        async with asyncio.timeout(PATIENCE_S):
            await gate.wait()
        if self.fail & {movement.key for movement in movements}:
            raise ZeroDivisionError
        return await self.store.commit(movements)

    async def begun(self, batches: int) -> None:
        """Return once so many have begun, and it is clear that no more do."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while len(self.batches) < batches:  # noqa: ASYNC110 - a test's own patience
                    await asyncio.sleep(0.001)
            await asyncio.sleep(0.02)
            assert len(self.batches) == batches
        except BaseException:
            self.open.set()
            for gate in self.gates:
                gate.set()
            raise


@pytest.fixture
async def two(store: Store) -> Two:
    await store.open_accounts([f"u{n}" for n in range(64)])
    return Two(store)


async def test_a_second_batch_has_other_users_and_the_first_ones_come_into_the_next(
    two: Two,
) -> None:
    committer = committer_of(two)
    async with committer.running():
        answers = [committer.submit(deposit("a0"))]
        await two.begun(1)
        answers += [committer.submit(deposit(f"a{n}")) for n in (1, 2)]
        answers += [committer.submit(deposit(f"k{n}", f"u{n}")) for n in range(15)]
        await two.begun(1)  # 15 users are not worth it
        answers.append(committer.submit(deposit("k15", "u15")))
        await two.begun(2)
        assert two.batches[1] == [f"k{n}" for n in range(16)]
        assert committer.depth == 2
        two.gates[0].set()
        await two.begun(2)  # one user beside sixteen is not worth it either
        two.gates[1].set()
        await two.begun(3)
        assert two.batches[2] == ["a1", "a2"]
        two.gates[2].set()
        rows = [recorded(await answer) for answer in answers]
    assert rows == [(1, False), (2, False), (3, False), *[(1, False)] * 16]
    assert committer.depth == 0


async def test_a_second_batch_waits_for_as_many_users_as_are_at_work(two: Two) -> None:
    committer = committer_of(two)
    async with committer.running():
        answers = [committer.submit(deposit(f"k{n}", f"u{n}")) for n in range(40)]
        await two.begun(2)
        assert [len(batch) for batch in two.batches] == [20, 20]
        two.gates[0].set()
        answers += [committer.submit(deposit(f"k{n}", f"u{n}")) for n in range(40, 59)]
        await two.begun(2)
        answers.append(committer.submit(deposit("k59", "u59")))
        await two.begun(3)
        for gate in two.gates:
            gate.set()
        await asyncio.gather(*answers)


async def test_the_users_are_shared_and_what_one_of_them_has_more_of_is_not(two: Two) -> None:
    committer = committer_of(two, batch_size_max=50)
    async with committer.running():
        answers = [committer.submit(deposit(f"a{n}")) for n in range(30)]
        answers += [committer.submit(deposit(f"k{n}", f"u{n}")) for n in range(39)]
        await two.begun(2)
        # Of 40 users each loop has 20; Alice's others fill the first one's batch.
        first = [f"k{n}" for n in range(19)]
        assert two.batches[0] == ["a0", *first, *[f"a{n}" for n in range(1, 30)]]
        assert two.batches[1] == [f"k{n}" for n in range(19, 39)]
        for gate in two.gates:
            gate.set()
        await asyncio.gather(*answers)


async def test_a_batch_that_fails_gives_its_users_their_turns_back(two: Two) -> None:
    committer = committer_of(two)
    two.fail = {"a0"}
    async with committer.running():
        failing = [committer.submit(deposit("a0")), committer.submit(deposit("k0", "u0"))]
        await two.begun(1)
        again = [committer.submit(deposit("a1")), committer.submit(deposit("k1", "u0"))]
        two.gates[0].set()
        await two.begun(2)
        assert two.batches[1] == ["a0"]  # halved, and nobody's next movement in between
        two.gates[1].set()
        await two.begun(3)
        assert two.batches[2] == ["k0"]
        two.gates[2].set()
        await two.begun(4)
        assert two.batches[3] == ["a1", "k1"]
        two.gates[3].set()
        assert isinstance(await failing[0], InternalError)
        assert recorded(await failing[1]) == (1, False)
        assert [recorded(await answer) for answer in again] == [(1, False), (2, False)]


async def test_a_stop_carries_out_what_waits_for_users_at_work(two: Two) -> None:
    committer = committer_of(two)
    async with committer.running():
        answers = [committer.submit(deposit("a0"))]
        await two.begun(1)
        answers.append(committer.submit(deposit("a1")))
        stopping = asyncio.create_task(committer.finish())
        two.gates[0].set()
        await two.begun(2)
        assert not stopping.done()
        two.gates[1].set()
        await stopping
        assert [recorded(await answer) for answer in answers] == [(1, False), (2, False)]

"""Under load on the real store: nobody starves, and the write-ahead log stays bounded."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from service.ledger import Movement, Recorded
from service.sqlite import file_of
from service.teller import opened
from tests.faults.seeded import Gate, seeded

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.settings import Settings
    from service.teller import Teller

WAL_HEADER_BYTES = 32
WAL_FRAME_BYTES = 24 + 4096


def deposit(user: str, key: str) -> Movement:
    return Movement(user, key, "deposit", 100, "r" * 140)


@pytest.mark.engines("sqlite", reason="its gate is in the driver of SQLite")
async def test_a_modest_user_is_served_in_the_next_batch_however_long_a_greedy_one_s_queue(
    make_settings: Callable[..., Settings],
) -> None:
    async with opened(make_settings(batch_size_max=16)) as teller:
        await teller.store.open_accounts(["greedy", "modest"])
        submit = teller.committer.submit
        gate = Gate("COMMIT")
        with seeded(teller, before=gate):
            crowd = [submit(deposit("greedy", f"g{i}")) for i in range(1_000)]
            await gate.reached()  # the first batch is greedy's alone
            modest = submit(deposit("modest", "m"))
            gate.open()
            answer = await modest
            answered = sum(future.done() for future in crowd)
            assert isinstance(answer, Recorded)
            assert answered == 16 + 15
            await asyncio.gather(*crowd)


@pytest.mark.engines("sqlite", reason="a server keeps its log itself")
async def test_the_log_stays_bounded_under_load_that_never_pauses(
    make_settings: Callable[..., Settings],
) -> None:
    settings = make_settings(wal_rows_max=200, batch_size_max=20, answer_timeout_ms=60_000)
    path = file_of(settings.database_url)
    log = path.with_name(path.name + "-wal")
    sizes: list[int] = []
    async with opened(settings) as teller:
        users = [f"user-{n}" for n in range(20)]
        await teller.store.open_accounts(users)

        async def keep_sending(user: str) -> None:
            for i in range(150):
                assert isinstance(await teller.committer.submit(deposit(user, f"k{i}")), Recorded)
                sizes.append(log.stat().st_size)

        await asyncio.gather(*(keep_sending(user) for user in users))
    # 3,000 rows were written; the log never held more than what some 220 of them touch.
    assert len(sizes) == 3_000
    assert max(sizes) < WAL_HEADER_BYTES + 220 * 6 * WAL_FRAME_BYTES


@pytest.mark.engines("sqlite", reason="a server keeps its log itself")
async def test_a_checkpoint_runs_between_transactions_and_after_their_answers(
    make_settings: Callable[..., Settings],
) -> None:
    async with opened(make_settings(wal_rows_max=1)) as teller:
        await teller.store.open_accounts(["alice"])
        statements: list[str] = []
        gate = Gate("PRAGMA wal_checkpoint")

        def note(sql: str, _parameters: object) -> None:
            statements.append(sql.split(maxsplit=1)[0])

        with seeded(teller, before=gate, after=note):
            # The answer is there although the checkpoint has not run.
            assert isinstance(await teller.committer.submit(deposit("alice", "k1")), Recorded)
            await gate.reached()
            assert statements[-1] == "COMMIT"
            gate.open()
            await settled(teller)
            assert statements[-1] == "PRAGMA"


async def settled(teller: Teller) -> None:
    """Return once the writer has come to rest."""
    await asyncio.wait_for(teller.committer.finish(), 10)

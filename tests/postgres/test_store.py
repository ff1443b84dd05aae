"""The PostgreSQL store under faults: what each movement is told, and what is stored."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from sqlalchemy import text

from service import scan
from service.errors import InternalError, OutcomeUnknownError, UnavailableError
from service.ledger import Movement, Recorded
from service.postgres_store import _WRITE, _Contention
from service.teller import opened
from tests import postgres_server
from tests.conftest import client_of, headers
from tests.postgres.seeded import at, lock_first, second_hand, seeded
from tests.postgres_server import PostgresServer

if TYPE_CHECKING:
    from asyncio import Event
    from collections.abc import AsyncIterator, Callable, Iterator

    import httpx

    from service.errors import OperatingError
    from service.ledger import Decision
    from service.settings import Settings
    from service.teller import Teller

    Waiting = asyncio.Future[Decision | OperatingError]

pytestmark = pytest.mark.engines("postgresql", reason="test_store.py of tests/faults has SQLite's")

PATIENCE_S = 20
# How the statements of a batch begin, and those of one that locks first.
LOOK_UP, WRITE = "SELECT a.id", "WITH held"
TWO = (LOOK_UP, WRITE)
FIVE = ("BEGIN", "SELECT 1", LOOK_UP, WRITE, "COMMIT")
EITHER = [*((False, verb) for verb in TWO), *((True, verb) for verb in FIVE)]


def movement(key: str, user: str = "alice", **more: Any) -> Movement:
    return Movement(user, key, "deposit", 100, more.get("reference"))


async def deposit(client: httpx.AsyncClient, key: str) -> httpx.Response:
    return await client.post("/deposit", content=b'{"amount": "1"}', headers=headers(key))


@contextmanager
def noted(teller: Teller) -> Iterator[list[str]]:
    """The statements that the first writer sends within the block."""
    statements: list[str] = []

    async def note(sql: str, _connection: Any) -> None:
        statements.append(" ".join(sql.split()))

    with seeded(teller, before=note):
        yield statements


def begins(statements: list[str], *verbs: str) -> bool:
    """Whether these are the statements, by how they begin."""
    pairs = zip(statements, verbs, strict=False)
    return len(statements) == len(verbs) and all(sql.startswith(verb) for sql, verb in pairs)


async def rows_of(hand: Any) -> list[tuple[str, int, int]]:
    rows = await hand.fetch("SELECT key, seq, balance_after_minor FROM movements ORDER BY 2, 1")
    return [tuple(row) for row in rows]


async def somebody_waits_for_a_lock(hand: Any) -> None:
    """Return once a connection of any database waits for another's lock."""
    async with asyncio.timeout(PATIENCE_S):
        while not await hand.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):  # noqa: ASYNC110 - the server has no event to wait for
            await asyncio.sleep(0.01)


# -- one key, several processes -----------------------------------------------------------------


async def test_who_waited_for_the_account_sees_the_row_that_its_holder_wrote_meanwhile(
    database_url: str, teller: Teller
) -> None:
    async with opened(teller.settings) as other, second_hand(database_url) as hand:
        lock_first(teller)
        lock_first(other)
        reached, go_on = asyncio.Event(), asyncio.Event()

        async def wait(_connection: Any) -> None:
            reached.set()
            await go_on.wait()

        with seeded(teller, before=at("COMMIT", wait)):
            first = teller.committer.submit(movement("k"))
            await reached.wait()
            second = other.committer.submit(movement("k"))
            await somebody_waits_for_a_lock(hand)
            go_on.set()
            one, two = await first, await second
        assert isinstance(one, Recorded) and isinstance(two, Recorded)
        assert (one.replayed, two.replayed) == (False, True)
        assert one.entry == two.entry
        assert await rows_of(hand) == [("k", 1, 100)]


async def test_a_batch_that_nobody_disturbs_takes_two_statements_whatever_is_in_it(
    teller: Teller,
) -> None:
    movements = [movement("k1"), movement("k2"), movement("k1"), movement("k1", "bob")]
    with noted(teller) as statements:
        await asyncio.gather(*(teller.committer.submit(one) for one in movements))
        assert begins(statements, *TWO)
        statements.clear()
        # The write of a replay writes nothing, but its commit waits for the standby as any does.
        replays = await asyncio.gather(*(teller.committer.submit(one) for one in movements))
        assert begins(statements, *TWO)
    assert [replay.replayed for replay in replays if isinstance(replay, Recorded)] == [True] * 4


@pytest.mark.parametrize("key", ["k", "another"])
async def test_who_is_overtaken_between_reading_and_writing_locks_and_decides_anew(
    key: str, database_url: str, teller: Teller
) -> None:
    async with opened(teller.settings) as other, second_hand(database_url) as hand:
        first: list[Any] = []

        async def overtake(_connection: Any) -> None:
            if not first:
                first.append(await other.committer.submit(movement(key)))

        with seeded(teller, after=at(LOOK_UP, overtake)):
            second = await teller.committer.submit(movement("k"))
        assert isinstance(second, Recorded)
        assert (first[0].entry.seq, first[0].replayed) == (1, False)
        if key == "k":
            assert (second.entry, second.replayed) == (first[0].entry, True)
            assert await rows_of(hand) == [("k", 1, 100)]
        else:
            assert (second.entry.seq, second.replayed) == (2, False)
            assert await rows_of(hand) == [("another", 1, 100), ("k", 2, 200)]


async def test_who_is_overtaken_while_the_write_waits_for_the_account_writes_nothing_of_it(
    database_url: str, teller: Teller
) -> None:
    """The others' commit is seen by the lock, though not by the statement's snapshot."""
    async with opened(teller.settings) as other, second_hand(database_url) as hand:
        lock_first(other)
        reached, go_on = asyncio.Event(), asyncio.Event()

        async def wait(_connection: Any) -> None:
            reached.set()
            await go_on.wait()

        with seeded(other, before=at("COMMIT", wait)), noted(teller) as statements:
            first = other.committer.submit(movement("k"))
            await reached.wait()
            second = teller.committer.submit(movement("k"))
            await somebody_waits_for_a_lock(hand)
            await asyncio.sleep(0.1)
            go_on.set()
            one, two = await first, await second
        assert isinstance(one, Recorded) and isinstance(two, Recorded)
        assert (one.replayed, two.replayed) == (False, True)
        assert begins(statements, *TWO, *FIVE)
        assert await rows_of(hand) == [("k", 1, 100)]
        timing = teller.store.timing
        assert timing is not None and timing.lock_s >= 0.1  # all that was in vain


def test_the_more_often_batches_are_overtaken_the_more_of_them_lock_first() -> None:
    contention = _Contention()
    locking = []
    for _ in range(8):
        contention.overtaken()
        locking.append(0)
        while contention.locks_first():
            locking[-1] += 1
    assert locking == [1, 3, 7, 15, 31, 63, 63, 63]
    for _ in range(4):
        contention.kept_up()
    assert not contention.locks_first()
    contention.overtaken()
    assert [contention.locks_first() for _ in range(8)] == [True] * 7 + [False]


@pytest.mark.parametrize("locking", [False, True])
async def test_any_text_that_a_reference_may_hold_is_stored_as_it_is(
    database_url: str, teller: Teller, *, locking: bool
) -> None:
    if locking:
        lock_first(teller)
    texts = [
        "NULL",
        "null",
        "\\N",
        "\\t\\n",
        '{a,"b"}',
        "'; --",
        "\\x00",
        " ",
        "E'",
        "\U0001f37a é ß",
        "1",
    ]
    crowd = [movement(f'"{n}\\', reference=one) for n, one in enumerate(texts)]
    answers = await asyncio.gather(*(teller.committer.submit(one) for one in crowd))
    assert [a.entry.reference for a in answers if isinstance(a, Recorded)] == texts
    async with second_hand(database_url) as hand:
        rows = await hand.fetch("SELECT key, reference FROM movements ORDER BY seq")
        assert [tuple(row) for row in rows] == [(f'"{n}\\', one) for n, one in enumerate(texts)]


async def test_a_write_that_does_not_write_all_is_undone_whole(
    database_url: str, teller: Teller
) -> None:
    async with second_hand(database_url) as hand:
        await hand.execute(
            "CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN IF NEW.key = 'lost' THEN RETURN NULL; END IF; RETURN NEW; END $$"
        )
        await hand.execute(
            "CREATE TRIGGER lose BEFORE INSERT ON movements FOR EACH ROW EXECUTE FUNCTION lose()"
        )
        crowd = [movement(key) for key in ("k1", "lost", "k2")]
        answers = await asyncio.gather(*(teller.committer.submit(one) for one in crowd))
        assert [type(answer) for answer in answers] == [Recorded, InternalError, Recorded]
        assert await rows_of(hand) == [("k1", 1, 100), ("k2", 2, 200)]


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
async def test_two_processes_share_keys_and_new_accounts_exactly_once_at_every_isolation_level(
    isolation: str, database_url: str, make_settings: Callable[..., Settings], teller: Teller
) -> None:
    settings = make_settings(account_opening="on_first_deposit", batch_size_max=8)
    async with second_hand(database_url) as hand:
        name = await hand.fetchval("SELECT current_database()")
        await hand.execute(
            f"ALTER DATABASE {name} SET default_transaction_isolation = '{isolation}'"
        )
        wanted = [movement(f"k{n}", f"user-{n % 5}") for n in range(200)]
        async with opened(settings) as one, opened(settings) as two:
            answers = await asyncio.gather(
                *(one.committer.submit(m) for m in wanted),
                *(two.committer.submit(m) for m in reversed(wanted)),
            )
        assert all(isinstance(answer, Recorded) for answer in answers), answers
        found = await hand.fetch(
            "SELECT user_id, count(*), max(a.seq), max(balance_minor) "
            "FROM accounts a JOIN movements m ON m.account_id = a.id GROUP BY 1 ORDER BY 1"
        )
        assert [tuple(row) for row in found] == [(f"user-{n}", 40, 40, 4_000) for n in range(5)]


# -- conflicts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("locking", [False, True])
async def test_a_batch_that_loses_a_deadlock_is_run_again(
    database_url: str, teller: Teller, *, locking: bool
) -> None:
    async with second_hand(database_url) as hand:
        lock = "SELECT 1 FROM accounts WHERE user_id = $1 FOR UPDATE"
        deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        await hand.execute("SET deadlock_timeout = '30s'")  # so that it is the batch which loses
        if locking:
            lock_first(teller)
        async with hand.transaction():
            await hand.fetchval(lock, "bob")
            answers = [teller.committer.submit(movement("k", user)) for user in ("alice", "bob")]
            await somebody_waits_for_a_lock(hand)
            await hand.fetchval(lock, "alice")  # the other way round: one of the two must lose
        for answer in answers:
            assert isinstance(await answer, Recorded)
        assert await rows_of(hand) == [("k", 1, 100), ("k", 1, 100)]
        async with asyncio.timeout(PATIENCE_S):
            while not await hand.fetchval(deadlocks):
                await asyncio.sleep(0.05)
                await hand.execute("SELECT pg_stat_clear_snapshot()")


@pytest.mark.parametrize(("locking", "verb"), EITHER)
@pytest.mark.parametrize(
    "error", [asyncpg.SerializationError, asyncpg.DeadlockDetectedError], ids=["40001", "40P01"]
)
async def test_a_conflict_is_tried_again_a_bounded_number_of_times_and_then_is_503(
    verb: str, error: type[Exception], database_url: str, teller: Teller, *, locking: bool
) -> None:
    if locking:
        lock_first(teller)
    tries, conflicts = 0, 3

    async def conflict(connection: Any) -> None:
        nonlocal tries
        tries += 1
        if tries <= conflicts:
            if connection.is_in_transaction():
                await connection.execute("ROLLBACK")
            raise error("seeded")

    async with second_hand(database_url) as hand:
        with seeded(teller, before=at(verb, conflict)):
            assert isinstance(await teller.committer.submit(movement("passes")), Recorded)
            assert tries == 4
            tries, conflicts = 0, 1_000
            answer = await teller.committer.submit(movement("never passes"))
            assert isinstance(answer, UnavailableError)
            assert "was not executed" in answer.detail
            assert tries == 10
        assert await rows_of(hand) == [("passes", 1, 100)]
        assert isinstance(await teller.committer.submit(movement("never passes")), Recorded)


# -- connections that end -----------------------------------------------------------------------


async def end_connection(connection: Any, hand: Any) -> None:
    """The server ends it, as a restart or an operator does."""
    await hand.execute("SELECT pg_terminate_backend($1::int)", connection.get_server_pid())
    async with asyncio.timeout(PATIENCE_S):
        while not connection.is_closed():  # noqa: ASYNC110 - nor has the driver
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(("locking", "verb"), EITHER)
@pytest.mark.parametrize("side", ["before", "after"])
async def test_a_connection_that_ends_at_any_statement_costs_no_answer_and_doubles_nothing(
    verb: str,
    side: str,
    database_url: str,
    teller: Teller,
    client: httpx.AsyncClient,
    *,
    locking: bool,
) -> None:
    if locking:
        lock_first(teller)
    ended = 0

    async def end(connection: Any) -> None:
        nonlocal ended
        ended += 1
        if ended == 1:
            await end_connection(connection, hand)
            if side == "after":
                # The statement was carried out, but its answer never came.
                raise asyncpg.ConnectionDoesNotExistError("seeded")

    async with second_hand(database_url) as hand:
        with seeded(teller, **{side: at(verb, end)}):
            answer = await deposit(client, "k")
        assert ended >= 1
        assert answer.status_code == 201, answer.text
        assert answer.headers["idempotent-replayed"] == "false"
        again = await deposit(client, "k")
        assert again.content == answer.content
        assert again.headers["idempotent-replayed"] == "true"
        assert await rows_of(hand) == [("k", 1, 100)]
    assert not teller.committer.failed.is_set()


async def test_an_idle_connection_that_was_ended_costs_no_answer(
    database_url: str, teller: Teller, client: httpx.AsyncClient
) -> None:
    assert (await deposit(client, "k1")).status_code == 201
    async with second_hand(database_url) as hand:
        await end_connection(teller.store._writers[0].driver, hand)  # type: ignore[attr-defined]
    assert (await deposit(client, "k2")).json()["balance"] == "2.00"


@pytest.mark.parametrize("verb", [WRITE, "COMMIT"])
@pytest.mark.parametrize("stored", [False, True])
async def test_a_commit_whose_result_stays_unknown_is_said_so_and_the_service_goes_on(
    verb: str,
    database_url: str,
    make_settings: Callable[..., Settings],
    teller: Teller,
    *,
    stored: bool,
) -> None:
    settings = make_settings(answer_timeout_ms=1_000)
    async with opened(settings) as at_work, client_of(at_work) as client:
        writer: Any = at_work.store._writers[0]  # type: ignore[attr-defined]
        connected, away = writer._connected, False

        async def lose(connection: Any) -> None:
            nonlocal away
            away = True
            connection.terminate()
            raise asyncpg.ConnectionDoesNotExistError("seeded")

        async def connect() -> Any:
            if away:
                raise UnavailableError("seeded: no server answers")
            return await connected()

        writer._connected = connect
        if verb == "COMMIT":
            lock_first(at_work)
        side = "after" if stored else "before"
        with seeded(at_work, **{side: at(verb, lose)}):
            commit = at_work.store.commit([movement("k")])
            with pytest.raises(OutcomeUnknownError) as unknown:
                await commit
        assert unknown.value.restart is False
        writer._connected = connected
        assert not at_work.committer.failed.is_set()
        settled = await deposit(client, "k")
        assert settled.status_code == 201
        assert settled.headers["idempotent-replayed"] == ("true" if stored else "false")
        assert settled.json()["transaction"] == 1


async def test_a_completion_that_the_server_itself_does_not_know_is_found_out(
    database_url: str, teller: Teller
) -> None:
    raised = 0

    async def unsure(_connection: Any) -> None:
        nonlocal raised
        raised += 1
        if raised == 1:
            raise asyncpg.StatementCompletionUnknownError("seeded")

    with seeded(teller, after=at(WRITE, unsure)):
        answer = await teller.committer.submit(movement("k"))
    assert isinstance(answer, Recorded) and not answer.replayed
    async with second_hand(database_url) as hand:
        assert await rows_of(hand) == [("k", 1, 100)]


@pytest.mark.parametrize("locking", [False, True])
async def test_a_wait_for_the_standby_that_is_cut_short_is_answered_once_the_standby_has_it(
    make_settings: Callable[..., Settings], *, locking: bool
) -> None:
    with postgres_server.binaries() as (binaries, data):
        server = PostgresServer(binaries, data / f"cut-short-{time.monotonic_ns()}")
        server.make()
        server.start()
        try:
            with server.database() as url:
                async with (
                    opened(make_settings(database_url=url)) as at_work,
                    second_hand(url) as hand,
                ):
                    await _cut_short(at_work, hand, locking=locking)
        finally:
            server.stop()


async def _cut_short(teller: Teller, hand: Any, *, locking: bool) -> None:
    await teller.store.open_accounts(["alice"])
    assert isinstance(await teller.committer.submit(movement("k1")), Recorded)
    if locking:
        lock_first(teller)
    await hand.execute("SET synchronous_commit = 'local'")
    await hand.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    await hand.execute("SELECT pg_reload_conf()")
    waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    async with asyncio.timeout(PATIENCE_S):
        while not await hand.fetchval("SELECT current_setting('synchronous_standby_names') <> ''"):  # noqa: ASYNC110 - nor has a reload
            await asyncio.sleep(0.01)
        answer = teller.committer.submit(movement("k2"))
        while (pid := await hand.fetchval(waiting)) is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await hand.execute("SELECT pg_cancel_backend($1::int)", pid)
        while await hand.fetchval(waiting) in {None, pid}:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert await rows_of(hand) == [("k1", 1, 100), ("k2", 2, 200)]
        assert not answer.done()
        await hand.execute("ALTER SYSTEM RESET synchronous_standby_names")
        await hand.execute("SELECT pg_reload_conf()")
        applied = await answer
    assert isinstance(applied, Recorded) and not applied.replayed
    assert await rows_of(hand) == [("k1", 1, 100), ("k2", 2, 200)]


# -- what the server refuses --------------------------------------------------------------------


async def test_an_account_locked_past_the_busy_timeout_is_503_and_then_runs(
    database_url: str, make_settings: Callable[..., Settings], teller: Teller
) -> None:
    async with (
        opened(make_settings(busy_timeout_ms=200)) as at_work,
        client_of(at_work) as client,
        second_hand(database_url) as hand,
    ):
        async with hand.transaction():
            await hand.fetchval("SELECT 1 FROM accounts WHERE user_id = 'alice' FOR UPDATE")
            refused = await deposit(client, "k")
        assert refused.status_code == 503
        assert refused.json()["code"] == "unavailable"
        assert "is busy with another process's write; this attempt was not executed" in refused.text
        settled = await deposit(client, "k")
        assert settled.headers["idempotent-replayed"] == "false"


@pytest.mark.parametrize("locking", [False, True])
async def test_a_statement_that_takes_too_long_is_503_and_leaves_nothing(
    database_url: str, make_settings: Callable[..., Settings], teller: Teller, *, locking: bool
) -> None:
    assert teller.settings.database_url == database_url
    settings = make_settings(database_statement_timeout_ms=300)
    async with (
        opened(settings) as at_work,
        client_of(at_work) as client,
        second_hand(database_url) as hand,
    ):
        if locking:
            lock_first(at_work)
        await hand.execute(
            "CREATE FUNCTION sleep() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN PERFORM pg_sleep(30); RETURN NEW; END $$"
        )
        await hand.execute(
            "CREATE TRIGGER sleep AFTER INSERT ON movements EXECUTE FUNCTION sleep()"
        )
        refused = await deposit(client, "k")
        assert refused.status_code == 503
        assert refused.json()["code"] == "unavailable"
        assert "did not finish a statement in time; this attempt was not executed" in refused.text
        await hand.execute("DROP TRIGGER sleep ON movements")
        assert (await deposit(client, "k")).headers["idempotent-replayed"] == "false"


@pytest.mark.parametrize("at_first", ["an open session finds it out", "a new one does"])
async def test_a_server_that_takes_no_writes_is_503_until_it_does(
    at_first: str, database_url: str, teller: Teller, client: httpx.AsyncClient
) -> None:
    assert (await deposit(client, "k1")).status_code == 201
    driver = teller.store._writers[0].driver  # type: ignore[attr-defined]
    async with second_hand(database_url) as hand:
        name = await hand.fetchval("SELECT current_database()")
        await hand.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        if at_first == "an open session finds it out":
            await driver.execute("SET default_transaction_read_only = on")
        else:
            await end_connection(driver, hand)
        refused = await deposit(client, "k2")
        assert refused.status_code == 503, refused.text
        assert refused.json()["code"] == "unavailable"
        assert "this attempt was not executed" in refused.text
        await hand.execute("SET default_transaction_read_only = off")
        await hand.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    assert (await deposit(client, "k2")).json()["balance"] == "2.00"


async def test_a_movement_that_the_database_refuses_fails_alone(
    database_url: str, teller: Teller
) -> None:
    crowd = [movement(f"k{n}") for n in range(9)]
    crowd.insert(4, movement("poison", reference="\0"))  # no text in PostgreSQL holds this
    answers = await asyncio.gather(*(teller.committer.submit(one) for one in crowd))
    assert [isinstance(answer, Recorded) for answer in answers] == [True] * 4 + [False] + [True] * 5
    async with second_hand(database_url) as hand:
        assert [seq for _, seq, _ in await rows_of(hand)] == [*range(1, 10)]


# -- two batches at work ------------------------------------------------------------------------


@asynccontextmanager
async def held(teller: Teller, first: Movement) -> AsyncIterator[tuple[Waiting, Event]]:
    """A batch of one before its write, and the event that lets it go on; others have accounts."""
    await teller.store.open_accounts([f"user-{n}" for n in range(16)])
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def wait(_connection: Any) -> None:
        reached.set()
        await go_on.wait()

    with seeded(teller, before=at(WRITE, wait)):
        waiting = teller.committer.submit(first)
        await reached.wait()
        try:
            yield waiting, go_on
        finally:
            go_on.set()
            await waiting


def submitted(teller: Teller, users: range) -> list[Waiting]:
    return [teller.committer.submit(movement("k", f"user-{n}")) for n in users]


async def test_a_second_batch_is_committed_beside_the_first_once_as_many_wait_as_make_it_worth(
    teller: Teller,
) -> None:
    async with held(teller, movement("first")) as (first, _go_on):
        others = submitted(teller, range(15))
        await asyncio.sleep(0.2)
        assert [future for future in others if future.done()] == []
        others += submitted(teller, range(15, 16))
        async with asyncio.timeout(PATIENCE_S):
            answers = await asyncio.gather(*others)
        assert {type(answer) for answer in answers} == {Recorded}
        assert not first.done()


async def test_a_user_in_a_batch_at_work_is_in_no_other_and_comes_into_the_next(
    database_url: str, teller: Teller
) -> None:
    async with second_hand(database_url) as hand, held(teller, movement("k0")) as (first, go_on):
        more = [teller.committer.submit(movement(f"k{n}")) for n in range(16)]
        others = submitted(teller, range(16))
        async with asyncio.timeout(PATIENCE_S):
            await asyncio.gather(*others)
        assert [future for future in more if future.done()] == []
        assert teller.committer.depth == 16
        go_on.set()
        one, *rest = await asyncio.gather(first, *more)
        assert isinstance(one, Recorded) and not one.replayed
        found = [
            (answer.entry.seq, answer.replayed) for answer in rest if isinstance(answer, Recorded)
        ]
        assert found == [(1, True), *((seq, False) for seq in range(2, 17))]
        alices = "SELECT key, m.seq FROM movements m JOIN accounts a ON a.id = m.account_id "
        rows = await hand.fetch(f"{alices} WHERE user_id = 'alice' ORDER BY 2")
        assert [tuple(row) for row in rows] == [(f"k{n}", n + 1) for n in range(16)]


async def test_a_user_who_waits_for_a_batch_at_work_is_answered_late_in_time(
    make_settings: Callable[..., Settings], teller: Teller
) -> None:
    settings = make_settings(answer_timeout_ms=1_000)
    assert teller.settings.database_url == settings.database_url
    async with opened(settings) as at_work, held(at_work, movement("k0")) as (first, go_on):
        waiting = [at_work.committer.submit(movement(f"k{n}")) for n in (1, 2)]
        async with asyncio.timeout(PATIENCE_S):
            late = await asyncio.gather(first, *waiting)
        assert [type(answer) for answer in late] == [UnavailableError] * 3
        assert at_work.committer.depth == 0
        go_on.set()
        again = await at_work.committer.submit(movement("k1"))
        assert isinstance(again, Recorded) and (again.entry.seq, again.replayed) == (2, False)


async def test_both_batches_are_answered_when_the_service_stops(teller: Teller) -> None:
    async with held(teller, movement("first")) as (first, go_on):
        others = submitted(teller, range(16))
        stopping = asyncio.create_task(teller.committer.finish())
        async with asyncio.timeout(PATIENCE_S):
            answers = await asyncio.gather(*others)
        assert {type(answer) for answer in answers} == {Recorded}
        assert (stopping.done(), teller.committer.alive) == (False, True)
        go_on.set()
        await stopping
        assert isinstance(await first, Recorded)
        assert not teller.committer.alive


async def test_a_bug_of_one_loop_lets_the_other_answer_its_batch_and_turns_the_rest_away(
    teller: Teller, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with held(teller, movement("first")) as (first, go_on):

        def broken() -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(teller.committer, "_take", broken)
        others = submitted(teller, range(16))
        await teller.committer.failed.wait()
        go_on.set()
        assert isinstance(await first, Recorded)
        async with asyncio.timeout(PATIENCE_S):
            answers = await asyncio.gather(*others)
        assert {type(answer) for answer in answers} == {UnavailableError}


async def test_new_rows_are_found_by_their_keys_however_long_the_ledger_is(teller: Teller) -> None:
    """A planner that cannot know how few rows are asked for would read the whole table."""
    await teller.committer.submit(movement("k"))
    asked = {"runs": "[[1, 1, 1]]", "after_us": 0, "until_us": 1, "limit": 1}
    statements = (scan._RUNS, scan._RECENT)
    listings = [scan._Listing(sql, (), "postgresql").statement for sql in statements]
    async with teller.reader.engine.connect() as connection:
        for statement in (*listings, scan._UNTIL):
            explain = text(f"EXPLAIN {statement.text}")
            wanted = {name: asked[name] for name in statement._bindparams}
            plan = "\n".join((await connection.execute(explain, wanted)).scalars())
            assert "Index" in plan
            assert "Seq Scan" not in plan


async def test_the_accounts_are_held_in_the_order_of_their_ids(teller: Teller) -> None:
    """In one order by all processes, or two would wait for each other, to no end but a deadlock."""
    async with teller.reader.engine.connect() as connection:
        explain = await connection.exec_driver_sql(f"EXPLAIN {_filled(_WRITE)}")
        lines = [line.strip() for line in explain.scalars()]
    held = lines.index("CTE held")
    assert lines[held + 1].startswith("->  LockRows")
    assert lines[held + 2].startswith("->  Sort")
    assert lines[held + 3] == "Sort Key: accounts.id"


def _filled(statement: str) -> str:
    for number in (1, 2):
        statement = statement.replace(f"${number}", "''")
    for number in (3, 4, 5, 6):
        statement = statement.replace(f"${number}", "0")
    return statement


async def test_a_key_is_found_by_itself_in_a_ledger_that_was_empty_when_the_service_started(
    database_url: str, teller: Teller
) -> None:
    """A plan made while there are no rows is used for minutes."""
    writer = teller.store._writers[0]  # type: ignore[attr-defined]
    await teller.committer.submit(movement("k"))
    prepared = await writer.driver.fetch("SELECT statement, name FROM pg_prepared_statements")
    [name] = [row["name"] for row in prepared if row["statement"].lstrip().startswith(LOOK_UP)]
    plan = await writer.driver.fetch(f"EXPLAIN EXECUTE {name} ('alice', 'k')")
    lines = [row[0].strip() for row in plan]
    assert "Index Cond: ((account_id = a.id) AND (key = asked.key))" in lines
    assert "Index Cond: (user_id = asked.user_id)" in lines

"""A real store that fails at run time: what each request is told, and what is stored."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from service.errors import OutcomeUnknownError, UnavailableError
from service.ledger import Movement, Recorded
from service.sqlite import file_of
from service.teller import opened
from tests.conftest import client_of, headers
from tests.faults.locks import locked_by_another_process
from tests.faults.seeded import FULL, IOERR_FSYNC, READONLY, Gate, failing, seeded

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from service.settings import Settings
    from service.teller import Teller


pytestmark = pytest.mark.engines(
    "sqlite", reason="the faults are seeded in SQLite's driver connection"
)


async def deposit(client: httpx.AsyncClient, key: str, **more: Any) -> httpx.Response:
    return await client.post(
        "/deposit", content=json.dumps({"amount": "1", **more}), headers=headers(key)
    )


async def test_a_poison_movement_fails_alone(teller: Teller, client: httpx.AsyncClient) -> None:
    def bug(sql: str, parameters: tuple[Any, ...]) -> None:
        if sql.lstrip().startswith("INSERT INTO movements") and "poison" in parameters[0][0]:
            raise ZeroDivisionError

    gate = Gate("BEGIN")
    with seeded(teller, before=gate):
        first = asyncio.create_task(deposit(client, "first"))
        await gate.reached()  # what comes now waits, and goes into one batch
        crowd = [asyncio.create_task(deposit(client, f"k{i}")) for i in range(20)]
        crowd.insert(7, asyncio.create_task(deposit(client, "k-bad", reference="poison")))
        while teller.committer.depth < 21:  # noqa: ASYNC110 - the queue has no event of its own
            await asyncio.sleep(0)
        with seeded(teller, before=bug):
            gate.open()
            answers = await asyncio.gather(first, *crowd)
    assert [a.status_code for a in answers] == [201] * 8 + [500] + [201] * 13
    problem = answers[8].json()
    assert problem["code"] == "internal"
    assert problem["outcome"] == "unknown"
    assert problem["retry"] == "same_key"
    # Once the bug is gone the key runs: nothing of it was stored.
    settled = await deposit(client, "k-bad", reference="poison")
    assert settled.status_code == 201
    assert settled.headers["idempotent-replayed"] == "false"
    assert settled.json()["balance"] == "22.00"


@pytest.mark.parametrize("reached_the_disk", [False, True])
async def test_a_failed_commit_answers_all_of_its_batch_outcome_unknown_and_stops_the_writer(
    make_settings: Callable[..., Settings], *, reached_the_disk: bool
) -> None:
    fault = failing("COMMIT", IOERR_FSYNC, text="disk I/O error")
    async with opened(make_settings()) as teller, client_of(teller) as client:
        await teller.store.open_accounts(["alice"])
        where = {"after": fault} if reached_the_disk else {"before": fault}
        with seeded(teller, **where):
            answers = await asyncio.gather(*(deposit(client, f"k{i}") for i in range(5)))
            late = await deposit(client, "late")
            ready, live = await client.get("/readyz"), await client.get("/livez")
        assert teller.committer.failed.is_set()
    assert [a.status_code for a in answers] == [503] * 5
    assert {a.json()["code"] for a in answers} <= {"outcome-unknown", "unavailable"}
    assert answers[0].json()["code"] == "outcome-unknown"
    assert answers[0].headers["retry-after"] == "1"
    assert "disk I/O error" not in answers[0].text
    assert late.json()["code"] == "unavailable"
    assert ready.status_code == 503 and ready.json()["checks"]["writer"] is False
    assert live.status_code == 503
    # The restart reads the truth from the row: each key settles, whatever it was.
    async with opened(make_settings()) as teller, client_of(teller) as client:
        settled = await asyncio.gather(*(deposit(client, f"k{i}") for i in range(5)))
        assert [a.status_code for a in settled] == [201] * 5
        replayed = "true" if reached_the_disk else "false"
        assert settled[0].headers["idempotent-replayed"] == replayed
        assert (await deposit(client, "last")).json()["balance"] == "6.00"


@pytest.mark.parametrize("code", [FULL, READONLY])
@pytest.mark.parametrize("verb", ["BEGIN", "INSERT INTO movements"])
async def test_a_full_or_read_only_disk_is_503_unavailable_and_leaves_nothing(
    teller: Teller, client: httpx.AsyncClient, verb: str, code: int
) -> None:
    with seeded(teller, before=failing(verb, code)):
        refused = await deposit(client, "k1")
    assert_unavailable(refused)
    again = await deposit(client, "k1")
    assert again.status_code == 201
    assert again.json()["transaction"] == 1


async def test_a_full_disk_at_commit_is_rolled_back_and_the_service_goes_on(
    teller: Teller, client: httpx.AsyncClient
) -> None:
    with seeded(teller, before=failing("COMMIT", FULL)):
        assert_unavailable(await deposit(client, "k1"))
    assert (await client.get("/readyz")).status_code == 200
    again = await deposit(client, "k1")
    assert again.status_code == 201
    assert again.headers["idempotent-replayed"] == "false"


async def test_sqlite_full_by_a_page_limit_refuses_then_recovers_unaided(
    teller: Teller, client: httpx.AsyncClient
) -> None:
    writer: Any = getattr(teller.store, "_writer")  # noqa: B009
    pages = await writer.run(lambda c: c.execute("PRAGMA page_count").fetchone()[0])
    await writer.run(lambda c: c.execute(f"PRAGMA max_page_count = {pages}").fetchone())
    stored, refused = 0, 0
    for i in range(400):
        answer = await deposit(client, f"k{i}", reference="r" * 140)
        if answer.status_code == 201:
            stored += 1
        else:
            assert_unavailable(answer)
            refused += 1
        if refused == 3:
            break
    assert refused == 3
    assert (await client.get("/readyz")).status_code == 200
    await writer.run(lambda c: c.execute("PRAGMA max_page_count = 1000000").fetchone())
    last = await deposit(client, "last")
    assert last.status_code == 201
    assert last.json()["transaction"] == stored + 1


async def test_a_read_only_connection_is_503_unavailable_until_it_may_write(
    teller: Teller, client: httpx.AsyncClient
) -> None:
    writer: Any = getattr(teller.store, "_writer")  # noqa: B009
    await writer.run(lambda c: c.execute("PRAGMA query_only = ON"))
    assert_unavailable(await deposit(client, "k1"))
    await writer.run(lambda c: c.execute("PRAGMA query_only = OFF"))
    assert (await deposit(client, "k1")).status_code == 201


async def test_a_file_locked_past_the_busy_timeout_is_503_unavailable_without_sqlite_s_words(
    make_settings: Callable[..., Settings],
) -> None:
    settings = make_settings(busy_timeout_ms=100)
    async with opened(settings) as teller, client_of(teller) as client:
        await teller.store.open_accounts(["alice"])
        with locked_by_another_process(file_of(settings.database_url)):
            refused = await asyncio.gather(*(deposit(client, f"k{i}") for i in range(3)))
            ready = await client.get("/readyz")
        for answer in refused:
            assert_unavailable(answer)
        assert ready.status_code == 200
        settled = await asyncio.gather(*(deposit(client, f"k{i}") for i in range(3)))
        assert [a.json()["outcome"] for a in settled] == ["applied"] * 3
        assert [a.headers["idempotent-replayed"] for a in settled] == ["false"] * 3


async def test_a_slow_store_is_answered_in_time_and_the_key_then_replays(
    make_settings: Callable[..., Settings],
) -> None:
    async with opened(make_settings(answer_timeout_ms=300)) as teller, client_of(teller) as client:
        await teller.store.open_accounts(["alice"])
        gate = Gate("COMMIT")
        with seeded(teller, before=gate):
            at_work = asyncio.create_task(deposit(client, "at-work"))
            await gate.reached()
            waiting = await deposit(client, "waiting")
            first = await at_work
            gate.open()
            settled = [await deposit(client, key) for key in ("at-work", "waiting")]
    assert_unavailable(first, detail="may still be applied")
    assert_unavailable(waiting, detail="was not executed")
    assert [a.headers["idempotent-replayed"] for a in settled] == ["true", "false"]
    assert [a.json()["transaction"] for a in settled] == [1, 2]


async def test_a_writer_that_dies_of_a_bug_answers_everything_and_fails_the_probes(
    make_settings: Callable[..., Settings],
) -> None:
    async with opened(make_settings()) as teller, client_of(teller) as client:
        await teller.store.open_accounts(["alice"])

        async def bug() -> None:
            raise ZeroDivisionError

        teller.store.checkpoint = bug  # type: ignore[method-assign]
        teller.committer._rows_max = 1
        assert (await deposit(client, "k1")).status_code == 201
        await asyncio.wait_for(teller.committer.failed.wait(), 5)
        assert_unavailable(await deposit(client, "k2"))
        assert (await client.get("/livez")).status_code == 503


async def test_a_stopped_writer_s_batch_is_answered_too(
    make_settings: Callable[..., Settings],
) -> None:
    gate = Gate("COMMIT")

    async def serve_until_cancelled() -> None:
        async with opened(make_settings()) as teller:
            await teller.store.open_accounts(["alice"])
            with seeded(teller, before=gate):
                answers.append(teller.committer.submit(Movement("alice", "k1", "deposit", 1, None)))
                await asyncio.Event().wait()

    answers: list[asyncio.Future[Any]] = []
    service = asyncio.create_task(serve_until_cancelled())
    await gate.reached()
    service.cancel()
    await asyncio.sleep(0)
    service.cancel()  # twice: the second one meets the drain itself
    gate.open()
    with pytest.raises(asyncio.CancelledError):
        await service
    answer = await asyncio.wait_for(answers[0], 5)
    assert isinstance(answer, (Recorded, OutcomeUnknownError, UnavailableError))


def assert_unavailable(answer: httpx.Response, *, detail: str = "was not executed") -> None:
    """503 ``unavailable`` in Teller's words, with a pause to keep."""
    assert answer.status_code == 503, answer.text
    problem = answer.json()
    assert problem["code"] == "unavailable"
    assert (problem["outcome"], problem["retry"]) == ("unknown", "same_key")
    assert answer.headers["retry-after"] == "1"
    assert detail in problem["detail"]
    assert "database is locked" not in answer.text and "seeded" not in answer.text

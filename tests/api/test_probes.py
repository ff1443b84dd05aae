"""/livez and /readyz tell the truth, and neither ever writes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from service.errors import OutcomeUnknownError, UnavailableError
from service.teller import opened
from tests.conftest import client_of, headers
from tests.stores import gated

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from service.settings import Settings
    from service.teller import Teller

WELL = {"writer": True, "accepting": True, "keeping_up": True, "schema": True}


async def post(client: httpx.AsyncClient, key: str = "k") -> httpx.Response:
    return await client.post("/deposit", content='{"amount": "1"}', headers=headers(key))


async def ready(client: httpx.AsyncClient) -> tuple[int, dict[str, bool]]:
    answer = await client.get("/readyz")
    body = answer.json()
    assert body["status"] == {200: "ok", 503: "failing"}[answer.status_code]
    assert answer.headers["cache-control"] == "no-store"
    return answer.status_code, body["checks"]


async def alive(client: httpx.AsyncClient) -> int:
    return (await client.get("/livez")).status_code


async def execute(teller: Teller, *statements: str) -> None:
    """Run statements beside the service; in SQLite on the writer's own connection."""
    store: Any = teller.store
    if teller.settings.database_url.startswith("postgresql"):
        engine = create_async_engine(teller.settings.database_url)
        async with engine.begin() as on:
            for statement in statements:
                await on.execute(text(statement))
        await engine.dispose()
        return

    def run(connection: Any) -> None:
        for statement in statements:
            connection.execute(statement).close()

    await store._writer.run(run)


async def test_a_service_at_rest_is_ready_and_alive(client: httpx.AsyncClient) -> None:
    assert await ready(client) == (200, WELL)
    assert await alive(client) == 200


async def test_a_service_on_its_way_out_is_not_ready_but_alive_and_still_answers(
    client: httpx.AsyncClient, teller: Teller
) -> None:
    teller.committer.retire()
    assert await ready(client) == (503, WELL | {"accepting": False})
    assert await alive(client) == 200
    assert (await post(client)).status_code == 201


async def test_a_drained_service_is_not_ready(client: httpx.AsyncClient, teller: Teller) -> None:
    teller.committer.drain()
    assert (await ready(client))[0] == 503
    assert (await post(client)).json()["code"] == "unavailable"


@pytest.mark.parametrize(("age_s", "status"), [(4, 200), (6, 503)])
@pytest.mark.parametrize("place", ["at work", "queued"])
async def test_a_movement_older_than_five_seconds_is_not_ready_but_alive(
    client: httpx.AsyncClient, teller: Teller, *, age_s: int, status: int, place: str
) -> None:
    committer = teller.committer
    gate = gated(teller)
    answers = [asyncio.create_task(post(client, "k0"))]
    await gate.reached()
    answers.append(asyncio.create_task(post(client, "k1")))
    while committer.depth < 1:  # noqa: ASYNC110 - the product has no event for it
        await asyncio.sleep(0)
    (old,) = committer._batches[0] if place == "at work" else committer._queues["alice"]
    old.since_s -= age_s
    assert await ready(client) == (status, WELL | {"keeping_up": status == 200})
    assert await alive(client) == 200
    gate.open.set()
    assert [(await answer).status_code for answer in answers] == [201, 201]
    assert await ready(client) == (200, WELL)


async def test_a_commit_whose_result_is_not_known_is_neither_ready_nor_alive(
    client: httpx.AsyncClient, teller: Teller
) -> None:
    gated(teller, OutcomeUnknownError("fsync failed")).open.set()
    answer = await post(client)
    assert (answer.status_code, answer.json()["code"]) == (503, "outcome-unknown")
    assert await ready(client) == (503, WELL | {"writer": False})
    assert await alive(client) == 503


async def test_a_full_disk_is_a_503_to_the_movement_and_fails_no_probe(
    client: httpx.AsyncClient, teller: Teller
) -> None:
    gated(teller, UnavailableError("the disk is full")).open.set()
    assert (await post(client)).status_code == 503
    assert await alive(client) == 200
    assert await ready(client) == (200, WELL)


async def test_shedding_alone_keeps_the_service_ready(
    make_settings: Callable[..., Settings],
) -> None:
    settings = make_settings(queue_depth_max=1)
    async with opened(settings) as teller, client_of(teller) as client:
        await teller.store.open_accounts(["alice"])
        gate = gated(teller)
        answers = [asyncio.create_task(post(client, "k0"))]
        await gate.reached()
        answers.append(asyncio.create_task(post(client, "k1")))
        while teller.committer.depth < 1:  # noqa: ASYNC110 - the product has no event for it
            await asyncio.sleep(0)
        assert (await post(client, "k2")).json()["code"] == "overloaded"
        assert await ready(client) == (200, WELL)
        gate.open.set()
        await asyncio.gather(*answers)


@pytest.mark.parametrize(
    ("statements", "fits"),
    [
        # behind the code
        (["UPDATE alembic_version SET version_num = '0000'"], False),
        # ahead of it, and the code may run on it
        (["UPDATE alembic_version SET version_num = '9999'"], True),
        # ahead of it, and the code may not
        (
            [
                "UPDATE alembic_version SET version_num = '9999'",
                "UPDATE ledger SET runs_from = '9999'",
            ],
            False,
        ),
        # no word of it
        (["DROP TABLE alembic_version"], False),
        (["DELETE FROM alembic_version"], False),
    ],
)
async def test_a_schema_that_does_not_fit_the_code_is_not_ready(
    client: httpx.AsyncClient, teller: Teller, *, statements: list[str], fits: bool
) -> None:
    await execute(teller, *statements)
    assert await ready(client) == (200 if fits else 503, WELL | {"schema": fits})
    assert await alive(client) == 200


@pytest.mark.engines("sqlite", reason="a server has no one write lock that a probe would wait for")
async def test_the_probes_never_write(client: httpx.AsyncClient, teller: Teller) -> None:
    """Another process holds the write lock: a probe that wrote would wait for it."""
    store: Any = teller.store
    before = await store._writer.run(lambda connection: connection.total_changes)
    await execute(teller, "BEGIN IMMEDIATE")
    assert await ready(client) == (200, WELL)
    assert await alive(client) == 200
    await execute(teller, "ROLLBACK")
    assert await store._writer.run(lambda connection: connection.total_changes) == before

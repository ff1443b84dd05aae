"""Ask what became of a key, and burn one: each case, and the race with the request in flight."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import pytest

from service.teller import opened
from tests.conftest import client_of, headers

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from service.settings import Settings
    from service.teller import Teller


async def test_asking_gives_the_receipt_of_an_applied_operation(client: httpx.AsyncClient) -> None:
    posted = await client.post("/deposit", content='{"amount": 3}', headers=headers("k"))
    for spelling in ("k", '"k"'):
        asked = await client.get("/operation", headers=headers(spelling))
        assert asked.status_code == 200
        assert asked.content == posted.content


async def test_asking_gives_the_receipt_of_a_refused_operation(client: httpx.AsyncClient) -> None:
    await client.post("/withdraw", content='{"amount": 3}', headers=headers("k"))
    receipt = (await client.get("/operation", headers=headers("k"))).json()
    assert receipt.pop("created_at").endswith("Z")
    assert receipt == {
        "transaction": 1,
        "type": "withdrawal",
        "amount": "3.00",
        "balance": "0.00",
        "currency": "USD",
        "reference": None,
        "outcome": "refused",
        "reason": "insufficient-funds",
    }


@pytest.mark.parametrize("user", ["alice", "nobody"])
async def test_a_key_never_seen_is_unknown_and_may_be_sent_again(
    client: httpx.AsyncClient, user: str
) -> None:
    await client.post("/deposit", content='{"amount": 3}', headers=headers("k", user="bob"))
    answer = await client.get("/operation", headers=headers("k", user=user))
    problem = answer.json()
    assert answer.status_code == 404
    assert (problem["code"], problem["outcome"], problem["retry"]) == (
        "operation-not-found",
        "unknown",
        "same_key",
    )


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        ({"Idempotency-Key": "k"}, 401, "user-missing"),
        ({"user_id": "a b", "Idempotency-Key": "k"}, 400, "user-invalid"),
        ({"user_id": "alice"}, 400, "key-missing"),
        ({"user_id": "alice", "Idempotency-Key": "a,b"}, 400, "key-invalid"),
        ({"user_id": "alice", "Idempotency-Key": '"a";p=1'}, 400, "key-invalid"),
    ],
)
async def test_an_operation_is_named_by_user_and_key(
    client: httpx.AsyncClient, method: str, sent: dict[str, str], status: int, code: str
) -> None:
    answer = await client.request(method, "/operation", headers=sent)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


@pytest.mark.parametrize("method", ["PUT", "POST", "PATCH"])
async def test_an_operation_is_asked_or_burned_and_nothing_else(
    client: httpx.AsyncClient, method: str
) -> None:
    answer = await client.request(method, "/operation", headers=headers("k"))
    assert answer.status_code == 405
    assert answer.headers["allow"] == "DELETE, GET"


async def test_a_burned_key_stays_burned(client: httpx.AsyncClient) -> None:
    first = await client.delete("/operation", headers=headers("k"))
    again = await client.delete("/operation", headers=headers("k"))
    assert first.status_code == again.status_code == 200
    assert first.content == again.content
    assert first.headers["idempotent-replayed"] == "false"
    assert again.headers["idempotent-replayed"] == "true"
    receipt = first.json()
    assert receipt.pop("created_at").endswith("Z")
    assert receipt == {
        "transaction": 1,
        "type": "burn",
        "amount": None,
        "balance": "0.00",
        "currency": "USD",
        "reference": None,
        "outcome": "burned",
    }
    for path, body in (("/deposit", '{"amount": 3}'), ("/withdraw", '{"amount": 1}')):
        late = await client.post(path, content=body, headers=headers("k"))
        assert late.status_code == 410
        assert (late.json()["code"], late.json()["retry"]) == ("key-burned", "new_key")
    asked = await client.get("/operation", headers=headers("k"))
    assert asked.content == first.content


@pytest.mark.parametrize(("path", "outcome"), [("/deposit", "applied"), ("/withdraw", "refused")])
async def test_a_settled_key_cannot_be_burned_and_its_receipt_says_so(
    client: httpx.AsyncClient, path: str, outcome: str
) -> None:
    await client.post(path, content='{"amount": 3}', headers=headers("k"))
    answer = await client.delete("/operation", headers=headers("k"))
    problem = answer.json()
    assert answer.status_code == 409
    assert (problem["code"], problem["outcome"], problem["retry"]) == (
        "key-settled",
        outcome,
        "never",
    )
    assert problem["receipt"] == (await client.get("/operation", headers=headers("k"))).json()
    assert problem["receipt"]["outcome"] == outcome


async def test_burning_asks_for_an_account(client: httpx.AsyncClient) -> None:
    answer = await client.delete("/operation", headers=headers("k", user="nobody"))
    assert (answer.status_code, answer.json()["code"]) == (404, "account-not-found")


async def test_a_burn_opens_the_account_where_first_movements_do(
    make_settings: Callable[..., Settings],
) -> None:
    settings = make_settings(account_opening="on_first_deposit")
    async with opened(settings) as teller, client_of(teller) as client:
        burned = await client.delete("/operation", headers=headers("k", user="new"))
        assert (burned.status_code, burned.json()["transaction"]) == (200, 1)
        late = await client.post(
            "/deposit", content='{"amount": 3}', headers=headers("k", user="new")
        )
        assert late.status_code == 410
        balance = await client.get("/balance", headers={"user_id": "new"})
        assert balance.json() == {"balance": "0.00", "currency": "USD", "transaction": 1}


async def test_of_a_burn_and_its_request_in_flight_exactly_one_wins(
    client: httpx.AsyncClient, teller: Teller
) -> None:
    chance = random.Random(17)
    wins = {"burn": 0, "deposit": 0}
    for race in range(200):
        sent = headers(f"race-{race}")

        async def post(pauses: int, sent: dict[str, str]) -> httpx.Response:
            for _ in range(pauses):
                await asyncio.sleep(0)
            return await client.post("/deposit", content='{"amount": 1}', headers=sent)

        async def burn(pauses: int, sent: dict[str, str]) -> httpx.Response:
            for _ in range(pauses):
                await asyncio.sleep(0)
            return await client.delete("/operation", headers=sent)

        posted, burned = await asyncio.gather(
            post(chance.randrange(12), sent), burn(chance.randrange(12), sent)
        )
        asked = (await client.get("/operation", headers=sent)).json()
        if burned.status_code == 200:
            wins["burn"] += 1
            assert posted.status_code == 410
            assert posted.json()["transaction"] == asked["transaction"]
            assert asked == burned.json()
        else:
            wins["deposit"] += 1
            assert (posted.status_code, burned.status_code) == (201, 409)
            assert burned.json()["receipt"] == posted.json() == asked
    assert sum(wins.values()) == 200
    assert min(wins.values()) > 0
    balance = (await client.get("/balance", headers={"user_id": "alice"})).json()
    assert balance == {
        "balance": f"{wins['deposit']}.00",
        "currency": "USD",
        "transaction": 200,
    }

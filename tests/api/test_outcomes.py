"""What is stored and replayed: refusals, burns, a reused key, accounts that open themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from service.ledger import Movement, Recorded
from service.teller import opened
from tests.conftest import client_of, headers

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from service.settings import Settings
    from service.teller import Teller


async def send(
    client: httpx.AsyncClient, path: str, key: str, body: str, user: str = "alice"
) -> httpx.Response:
    return await client.post(path, content=body, headers=headers(key, user))


async def burn(teller: Teller, key: str, user: str = "alice") -> Recorded:
    answer = await teller.committer.submit(Movement(user, key, "burn", None, None))
    assert isinstance(answer, Recorded)
    return answer


async def test_a_deposit_past_the_largest_balance_is_stored_and_replayed_byte_for_byte(
    make_settings: Callable[..., Settings],
) -> None:
    async with opened(make_settings(balance_max="10")) as teller, client_of(teller) as client:
        await teller.store.open_accounts(["alice"])
        await send(client, "/deposit", "d", '{"amount": "9.99"}')
        refused = await send(client, "/deposit", "k", '{"amount": "0.02"}')
        assert refused.status_code == 403
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.headers["idempotent-replayed"] == "false"
        assert refused.content == (
            b'{"type": "/problems/balance-limit", '
            b'"title": "The deposit would pass the largest balance", "status": 403, '
            b'"detail": "A deposit of 0.02 USD would take the balance of 9.99 past the largest '
            b'allowed. Nothing moved, and nothing will under this key.", '
            b'"instance": "/transactions/2", "code": "balance-limit", "outcome": "refused", '
            b'"retry": "new_key", "transaction": 2, "amount": "0.02", "balance": "9.99", '
            b'"currency": "USD"}'
        )
        # Room again, and still no: a refusal is final.
        await send(client, "/withdraw", "w", '{"amount": "9.99"}')
        again = await send(client, "/deposit", "k", '{"amount": "0.02"}')
        assert (again.status_code, again.content) == (403, refused.content)
        assert again.headers["idempotent-replayed"] == "true"
        to_the_brim = await send(client, "/deposit", "k2", '{"amount": "10.00"}')
        assert (to_the_brim.status_code, to_the_brim.json()["balance"]) == (201, "10.00")


async def test_a_burned_key_is_a_410_to_every_request_byte_for_byte(
    client: httpx.AsyncClient, teller: Teller
) -> None:
    await send(client, "/deposit", "d", '{"amount": "5"}')
    await burn(teller, "k")
    answers = [
        await send(client, "/deposit", "k", '{"amount": "1"}'),
        await send(client, "/deposit", '"k"', '{"amount": "2", "reference": "r"}'),
        await send(client, "/withdraw", "k", '{"amount": "1"}'),
    ]
    assert {answer.status_code for answer in answers} == {410}
    assert {answer.headers["idempotent-replayed"] for answer in answers} == {"true"}
    (content,) = {answer.content for answer in answers}
    assert content == (
        b'{"type": "/problems/key-burned", "title": "The key was burned", "status": 410, '
        b'"detail": "This key was burned; nothing will ever be applied under it.", '
        b'"instance": "/transactions/2", "code": "key-burned", "outcome": "burned", '
        b'"retry": "new_key", "transaction": 2, "balance": "5.00", "currency": "USD"}'
    )
    # Another user's key of the same name is untouched.
    bobs = await send(client, "/deposit", "k", '{"amount": "1"}', user="bob")
    assert bobs.status_code == 201


@pytest.mark.parametrize(
    ("path", "body", "differs"),
    [
        ("/withdraw", '{"amount": "1", "reference": "r"}', ["operation"]),
        ("/deposit", '{"amount": "1.01", "reference": "r"}', ["amount"]),
        ("/deposit", '{"amount": "1", "reference": "R"}', ["reference"]),
        ("/deposit", '{"amount": "1"}', ["reference"]),
        ("/deposit", '{"amount": "1", "reference": null}', ["reference"]),
        ("/deposit", '{"amount": "2", "reference": "s"}', ["amount", "reference"]),
        ("/withdraw", '{"amount": "2", "reference": "r"}', ["operation", "amount"]),
        ("/withdraw", '{"amount": "2"}', ["operation", "amount", "reference"]),
    ],
)
async def test_a_reused_key_is_a_422_that_names_every_field_that_differs(
    client: httpx.AsyncClient, path: str, body: str, differs: list[str]
) -> None:
    first = await send(client, "/deposit", "k", '{"amount": "1", "reference": "r"}')
    answer = await send(client, path, "k", body)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, "key-reused")
    assert problem["differs"] == differs
    assert problem["first"] == {"transaction": 1, "outcome": "applied"}
    assert (problem["outcome"], problem["retry"]) == ("applied", "fix_request")
    assert problem["instance"] == path
    assert all(field in problem["detail"] for field in differs)
    again = await send(client, "/deposit", "k", '{"reference": "r", "amount": 1.0}')
    assert (again.status_code, again.content) == (201, first.content)
    balance = await client.get("/balance", headers={"user_id": "alice"})
    assert balance.json() == {"balance": "1.00", "currency": "USD", "transaction": 1}


async def test_a_key_reused_after_a_refusal_says_that_the_first_was_refused(
    client: httpx.AsyncClient,
) -> None:
    await send(client, "/withdraw", "k", '{"amount": "5"}')
    problem = (await send(client, "/withdraw", "k", '{"amount": "4"}')).json()
    assert problem["first"] == {"transaction": 1, "outcome": "refused"}
    assert problem["outcome"] == "refused"


@pytest.mark.parametrize(
    "body",
    [
        '{"amount": "1", "reference": "r"}',
        '{"amount": "1", "currency": "USD", "reference": "r"}',
        '{"amount": "1", "currency": null, "reference": "r"}',
        '{"amount": 1, "reference": "\\u0072"}',
    ],
)
async def test_what_a_body_leaves_unsaid_does_not_make_it_another_request(
    client: httpx.AsyncClient, body: str
) -> None:
    first = await send(client, "/deposit", "k", '{"amount": "1.00", "reference": "r"}')
    again = await send(client, "/deposit", "k", body)
    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["idempotent-replayed"] == "true"


@pytest.mark.parametrize("reference", ["é", "e\u0301", "✓", "a b", "\U0001f600" * 140, '"\\'])
async def test_a_reference_comes_back_as_it_was_sent(
    client: httpx.AsyncClient, reference: str
) -> None:
    answer = await client.post(
        "/deposit", json={"amount": "1", "reference": reference}, headers=headers("k")
    )
    assert (answer.status_code, answer.json()["reference"]) == (201, reference)


@pytest.mark.parametrize("first", ["deposit", "withdrawal", "burn"])
async def test_the_first_row_of_any_kind_opens_the_account_where_that_is_wished(
    make_settings: Callable[..., Settings], first: str
) -> None:
    settings = make_settings(account_opening="on_first_deposit")
    async with opened(settings) as teller, client_of(teller) as client:
        if first == "burn":
            assert (await burn(teller, "k", "new")).entry.seq == 1
        else:
            path, status = {"deposit": ("/deposit", 201), "withdrawal": ("/withdraw", 402)}[first]
            answer = await send(client, path, "k", '{"amount": "1"}', user="new")
            assert answer.status_code == status
        second = await send(client, "/deposit", "k2", '{"amount": "1"}', user="new")
        assert second.json()["transaction"] == 2
        balance = "2.00" if first == "deposit" else "1.00"
        assert second.json()["balance"] == balance


async def test_a_request_that_is_not_valid_opens_no_account(
    make_settings: Callable[..., Settings],
) -> None:
    settings = make_settings(account_opening="on_first_deposit")
    async with opened(settings) as teller, client_of(teller) as client:
        await send(client, "/deposit", "k", '{"amount": "x"}', user="new")
        assert await teller.store.open_accounts(["new"]) == ["new"]


@pytest.mark.parametrize(
    ("given", "amount", "status", "receipt"),
    [
        ({"currency": "JPY"}, "12", 201, "12"),
        ({"currency": "JPY"}, "12.0", 201, "12"),
        ({"currency": "JPY"}, "12.5", 400, "amount-precision"),
        ({"currency": "KWD"}, "0.001", 201, "0.001"),
        ({"currency": "BTC", "currency_scale": 8}, "0.00000001", 201, "0.00000001"),
        ({"currency": "XTS", "currency_scale": 9}, "0.123456789", 201, "0.123456789"),
        ({"currency": "XTS", "currency_scale": 9}, "9223372036.854775807", 201, None),
        ({"currency": "XTS", "currency_scale": 9}, "9223372036.854775808", 400, "amount-too-large"),
        ({"amount_max": "100"}, "100.00", 201, "100.00"),
        ({"amount_max": "100"}, "100.01", 400, "amount-too-large"),
    ],
)
async def test_amounts_keep_to_the_currencys_scale_and_the_largest_amount(
    make_settings: Callable[..., Settings],
    *,
    given: dict[str, Any],
    amount: str,
    status: int,
    receipt: str | None,
) -> None:
    async with opened(make_settings(**given)) as teller, client_of(teller) as client:
        await teller.store.open_accounts(["alice"])
        answer = await send(client, "/deposit", "k", f'{{"amount": {amount}}}')
        assert answer.status_code == status
        assert answer.json().get("code", answer.json().get("amount")) == (receipt or amount)


async def test_stored_answers_are_the_same_bytes_after_a_restart(
    make_settings: Callable[..., Settings],
) -> None:
    requests = [
        ("/withdraw", "refused", '{"amount": "5"}'),
        ("/deposit", "applied", '{"amount": "1.5", "reference": "é"}'),
        ("/deposit", "limited", '{"amount": "9"}'),
        ("/deposit", "burned", '{"amount": "9"}'),
    ]
    rounds = []
    for _ in range(2):
        async with opened(make_settings(balance_max="10")) as teller, client_of(teller) as client:
            await teller.store.open_accounts(["alice"])
            await burn(teller, "burned")
            rounds.append([await send(client, *request) for request in requests])
    assert [answer.status_code for answer in rounds[0]] == [402, 201, 403, 410]
    for before, after in zip(*rounds, strict=True):
        assert (before.status_code, before.content) == (after.status_code, after.content)
        assert after.headers["idempotent-replayed"] == "true"

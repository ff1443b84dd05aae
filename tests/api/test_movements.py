"""The contract of the two writes, through the whole application and a real file."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import headers

if TYPE_CHECKING:
    import httpx

    from service.teller import Teller


async def deposit(client: httpx.AsyncClient, key: str, body: str, **more: Any) -> httpx.Response:
    return await client.post("/deposit", content=body, headers=headers(key, **more))


async def withdraw(client: httpx.AsyncClient, key: str, body: str) -> httpx.Response:
    return await client.post("/withdraw", content=body, headers=headers(key))


async def test_a_deposit_is_answered_with_its_receipt(client: httpx.AsyncClient) -> None:
    answer = await deposit(client, "k", '{"amount": "12.34", "reference": "order 1"}')
    assert answer.status_code == 201
    assert answer.headers["location"] == "/transactions/1"
    assert answer.headers["idempotent-replayed"] == "false"
    receipt = answer.json()
    assert receipt.pop("created_at").endswith("Z")
    assert receipt == {
        "transaction": 1,
        "type": "deposit",
        "amount": "12.34",
        "balance": "12.34",
        "currency": "USD",
        "reference": "order 1",
        "outcome": "applied",
    }


@pytest.mark.parametrize("body", ['{"amount":"1.5"}', '{"amount": 1.50}', '{ "amount":1.500 }'])
async def test_the_same_request_in_other_clothes_is_a_replay(
    client: httpx.AsyncClient, body: str
) -> None:
    first = await deposit(client, "k", '{"amount": "1.50"}')
    again = await deposit(client, '"k"', body)
    assert again.status_code == 201
    assert again.content == first.content
    assert again.headers["idempotent-replayed"] == "true"


async def test_a_refusal_is_stored_and_replayed_byte_for_byte(client: httpx.AsyncClient) -> None:
    refused = await withdraw(client, "w", '{"amount": "5"}')
    await deposit(client, "d", '{"amount": "100"}')
    again = await withdraw(client, "w", '{"amount": "5.00"}')
    assert refused.status_code == again.status_code == 402
    assert refused.headers["idempotent-replayed"] == "false"
    assert again.headers["idempotent-replayed"] == "true"
    assert refused.content == again.content
    assert refused.content == (
        b'{"type": "/problems/insufficient-funds", "title": "Insufficient funds", "status": 402, '
        b'"detail": "A balance of 0.00 USD does not cover a withdrawal of 5.00. Nothing moved, '
        b'and nothing will under this key.", "instance": "/transactions/1", '
        b'"code": "insufficient-funds", "outcome": "refused", "retry": "new_key", '
        b'"transaction": 1, "amount": "5.00", "balance": "0.00", "currency": "USD"}'
    )


async def test_another_request_under_the_key_is_told_what_differs(
    client: httpx.AsyncClient,
) -> None:
    await deposit(client, "k", '{"amount": "1"}')
    reused = await withdraw(client, "k", '{"amount": "2", "reference": "r"}')
    assert reused.status_code == 422
    problem = reused.json()
    assert problem["differs"] == ["operation", "amount", "reference"]
    assert problem["first"] == {"transaction": 1, "outcome": "applied"}
    assert (problem["outcome"], problem["retry"]) == ("applied", "fix_request")


async def test_a_key_of_one_user_says_nothing_to_another(client: httpx.AsyncClient) -> None:
    alices = await deposit(client, "k", '{"amount": "1"}')
    bobs = await deposit(client, "k", '{"amount": "2"}', user="bob")
    assert (alices.json()["balance"], bobs.json()["balance"]) == ("1.00", "2.00")
    assert bobs.headers["idempotent-replayed"] == "false"


async def test_an_unknown_user_gets_404_and_the_key_runs_once_the_account_is_open(
    client: httpx.AsyncClient, teller: Teller
) -> None:
    absent = await deposit(client, "k", '{"amount": "1"}', user="eve")
    assert (absent.status_code, absent.json()["retry"]) == (404, "same_key")
    await teller.store.open_accounts(["eve"])
    opened = await deposit(client, "k", '{"amount": "1"}', user="eve")
    assert opened.status_code == 201


async def test_a_thousand_posts_of_one_key_at_once_are_one_effect(
    client: httpx.AsyncClient,
) -> None:
    answers = await asyncio.gather(*(deposit(client, "k", '{"amount": "1"}') for _ in range(1_000)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.content for answer in answers}) == 1
    assert sum(a.headers["idempotent-replayed"] == "false" for a in answers) == 1
    after = await deposit(client, "k2", '{"amount": "1"}')
    assert (after.json()["transaction"], after.json()["balance"]) == (2, "2.00")


async def test_a_cancelled_request_is_carried_out_and_leaves_no_lock(
    client: httpx.AsyncClient,
) -> None:
    task = asyncio.create_task(deposit(client, "k", '{"amount": "1"}'))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    again = await deposit(client, "k", '{"amount": "1"}')
    assert (again.status_code, again.json()["balance"]) == (201, "1.00")


REJECTED = [
    # the amount, as a string and as a number
    ('{"amount": "1e2"}', "amount-invalid"),
    ('{"amount": 1e2}', "amount-invalid"),
    ('{"amount": 1E-2}', "amount-invalid"),
    ('{"amount": 1e400}', "amount-invalid"),
    ('{"amount": "1e999999999"}', "amount-invalid"),
    ('{"amount": 0e0}', "amount-invalid"),
    ('{"amount": -0.0}', "amount-invalid"),
    ('{"amount": "NaN"}', "amount-invalid"),
    ('{"amount": "Infinity"}', "amount-invalid"),
    ('{"amount": "-0"}', "amount-invalid"),
    ('{"amount": -0}', "amount-invalid"),
    ('{"amount": -1}', "amount-invalid"),
    ('{"amount": "-1.00"}', "amount-invalid"),
    ('{"amount": "+1"}', "amount-invalid"),
    ('{"amount": "01"}', "amount-invalid"),
    ('{"amount": "00"}', "amount-invalid"),
    ('{"amount": "1_0"}', "amount-invalid"),
    ('{"amount": "１"}', "amount-invalid"),
    ('{"amount": "١"}', "amount-invalid"),
    ('{"amount": "1,00"}', "amount-invalid"),
    ('{"amount": " 1"}', "amount-invalid"),
    ('{"amount": "1\\n"}', "amount-invalid"),
    ('{"amount": ""}', "amount-invalid"),
    ('{"amount": "."}', "amount-invalid"),
    ('{"amount": ".5"}', "amount-invalid"),
    ('{"amount": "5."}', "amount-invalid"),
    ('{"amount": "1.2.3"}', "amount-invalid"),
    ('{"amount": "0x10"}', "amount-invalid"),
    ('{"amount": "\\ud800"}', "amount-invalid"),
    ('{"amount": "0"}', "amount-not-positive"),
    ('{"amount": 0}', "amount-not-positive"),
    ('{"amount": "0.00"}', "amount-not-positive"),
    ('{"amount": 0.0000}', "amount-not-positive"),
    ('{"amount": "0.001"}', "amount-precision"),
    ('{"amount": 1.005}', "amount-precision"),
    ('{"amount": "1.123456789012345"}', "amount-precision"),
    ('{"amount": "0.000000000000001"}', "amount-precision"),
    ('{"amount": 0.123456789012345}', "amount-precision"),
    ('{"amount": 123456789012345.678}', "amount-precision"),
    ('{"amount": 1.23400000000000000000001}', "amount-precision"),
    ('{"amount": "1000000000000000"}', "amount-too-large"),
    ('{"amount": "1000000000000000000000000000000"}', "amount-too-large"),
    ('{"amount": 12345678901234567.89}', "amount-too-large"),
    ('{"amount": ' + "9" * 10_000 + "}", "amount-too-large"),
    ('{"amount": 1000000000000000000000000000000}', "amount-too-large"),
    ('{"amount": "12345678901234567.89"}', "amount-too-large"),
    # what is not the JSON object expected
    ("", "body-invalid"),
    ("{", "body-invalid"),
    ("null", "body-invalid"),
    ('"1"', "body-invalid"),
    ("1", "body-invalid"),
    ("[]", "body-invalid"),
    ('[{"amount": "1"}]', "body-invalid"),
    ("{}", "body-invalid"),
    ('{"amount": 01}', "body-invalid"),
    ('{"amount": NaN}', "body-invalid"),
    ('{"amount": Infinity}', "body-invalid"),
    ('{"amount": -Infinity}', "body-invalid"),
    ('{"amount": 1_0}', "body-invalid"),
    ('{"amount": １}', "body-invalid"),
    ('{"amount": +1}', "body-invalid"),
    ('{"amount": .5}', "body-invalid"),
    ('{"amount": 5.}', "body-invalid"),
    ('{"amount": 0x10}', "body-invalid"),
    ('{"amount": null}', "body-invalid"),
    ('{"amount": true}', "body-invalid"),
    ('{"amount": ["1"]}', "body-invalid"),
    ('{"amount": {"value": "1"}}', "body-invalid"),
    ('{"amount": "1", "amount": "1"}', "body-invalid"),
    ('{"amount": "1", "\\u0061mount": "2"}', "body-invalid"),
    ('{"amount": "1", "note": "x"}', "body-invalid"),
    ('{"Amount": "1"}', "body-invalid"),
    ('{"amount": "1"} x', "body-invalid"),
    ('{"amount": "1",}', "body-invalid"),
    ("{'amount': '1'}", "body-invalid"),
    ('\ufeff{"amount": "1"}', "body-invalid"),
    ('{"amount": "1", "reference": "a\nb"}', "body-invalid"),
    ('{"amount": "1", "currency": 840}', "body-invalid"),
    ('{"amount": "1", "reference": 7}', "body-invalid"),
    ("[" * 16_000, "body-invalid"),
    ('{"amount": ' + "[" * 8_000 + "]" * 8_000 + "}", "body-invalid"),
    ('{"a":' * 2_500 + "1" + "}" * 2_500, "body-invalid"),
    ('{"amount": "1", "currency": "EUR"}', "currency-mismatch"),
    ('{"amount": "1", "currency": "usd"}', "currency-mismatch"),
    ('{"amount": "1", "reference": ""}', "reference-invalid"),
    ('{"amount": "1", "reference": "a\\u0000"}', "reference-invalid"),
    ('{"amount": "1", "reference": "\\u202e"}', "reference-invalid"),
    ('{"amount": "1", "reference": "\\ud800"}', "reference-invalid"),
    ('{"amount": "1", "reference": "' + "x" * 141 + '"}', "reference-invalid"),
]


@pytest.mark.parametrize(("body", "code"), REJECTED)
async def test_a_malformed_body_is_a_400_and_leaves_no_trace(
    client: httpx.AsyncClient, body: str, code: str
) -> None:
    answer = await deposit(client, "k", body)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (400, code)
    assert (problem["outcome"], problem["retry"]) == ("not_applied", "fix_request")
    # The key is as good as new, and the account's first row is the first that was stored.
    assert (await deposit(client, "k", '{"amount": "1"}')).json()["transaction"] == 1


@pytest.mark.parametrize("body", [b'{"amount": "\xff"}', b"\x80", b'{"amount": "1"}\x00'])
async def test_bytes_that_are_not_json_in_utf8_are_a_400(
    client: httpx.AsyncClient, body: bytes
) -> None:
    answer = await client.post("/deposit", content=body, headers=headers("k"))
    assert (answer.status_code, answer.json()["code"]) == (400, "body-invalid")


async def test_a_megabyte_is_a_413(client: httpx.AsyncClient) -> None:
    answer = await deposit(client, "k", " " * 1_000_000)
    assert (answer.status_code, answer.json()["code"]) == (413, "body-too-large")


@pytest.mark.parametrize(
    ("amount", "receipt"),
    [
        ("999999999999999.99", "999999999999999.99"),
        ("0.01", "0.01"),
        ("1.50000000000000000000000000000", "1.50"),
        ("12.340000000000000", "12.34"),
        ("0.100000000000000", "0.10"),
        ("9007199254740.93", "9007199254740.93"),
        ("999999999999999", "999999999999999.00"),
        ("123456789012345.67", "123456789012345.67"),
    ],
)
async def test_exact_amounts_come_back_exactly(
    client: httpx.AsyncClient, amount: str, receipt: str
) -> None:
    for key, body in (("s", f'{{"amount": "{amount}"}}'), ("n", f'{{"amount": {amount}}}')):
        assert (await deposit(client, key, body)).json()["amount"] == receipt

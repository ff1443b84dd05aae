"""What a user can ask: balance, transactions, one of them; each with its table of cases."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.exc import OperationalError

from service import reader as reading
from service.ledger import Movement
from service.reader import Reader
from tests.conftest import client_of, headers

if TYPE_CHECKING:
    import httpx

    from service.teller import Teller

ALICE = {"user_id": "alice"}


async def move(teller: Teller, key: str, kind: Any, amount_minor: int | None) -> None:
    await teller.committer.submit(Movement("alice", key, kind, amount_minor, None))


async def some_history(teller: Teller) -> None:
    """Five rows: deposit 100.00, withdrawal 30.00, a refusal, a burn, deposit 0.05."""
    await move(teller, "d1", "deposit", 10_000)
    await move(teller, "w1", "withdrawal", 3_000)
    await move(teller, "w2", "withdrawal", 900_000)
    await move(teller, "b1", "burn", None)
    await move(teller, "d2", "deposit", 5)


async def test_the_balance_is_that_of_the_last_transaction(
    client: httpx.AsyncClient, teller: Teller
) -> None:
    empty = await client.get("/balance", headers=ALICE)
    assert empty.json() == {"balance": "0.00", "currency": "USD", "transaction": 0}
    await some_history(teller)
    answer = await client.get("/balance", headers=ALICE)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-request-id"]
    assert answer.json() == {"balance": "70.05", "currency": "USD", "transaction": 5}


async def test_transactions_come_newest_first_with_refusals_and_burns(
    client: httpx.AsyncClient, teller: Teller
) -> None:
    await some_history(teller)
    answer = await client.get("/transactions", headers=ALICE)
    rows = answer.json()["transactions"]
    assert [
        (row["transaction"], row["type"], row["amount"], row["balance"], row["outcome"])
        for row in rows
    ] == [
        (5, "deposit", "0.05", "70.05", "applied"),
        (4, "burn", None, "70.00", "burned"),
        (3, "withdrawal", "9000.00", "70.00", "refused"),
        (2, "withdrawal", "30.00", "70.00", "applied"),
        (1, "deposit", "100.00", "100.00", "applied"),
    ]
    assert [row.get("reason") for row in rows] == [None, None, "insufficient-funds", None, None]
    assert answer.json()["next"] is None
    assert "link" not in answer.headers


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("type=deposit", [5, 1]),
        ("type=withdrawal", [3, 2]),
        ("type=burn", [4]),
        ("outcome=applied", [5, 2, 1]),
        ("outcome=refused", [3]),
        ("outcome=burned", [4]),
        ("type=withdrawal&outcome=applied", [2]),
        ("type=burn&outcome=applied", []),
        ("limit=200", [5, 4, 3, 2, 1]),
        ("limit=2", [5, 4]),
        ("limit=1&outcome=refused", [3]),
        ("unknown=ignored", [5, 4, 3, 2, 1]),
    ],
)
async def test_transactions_are_filtered_and_limited(
    client: httpx.AsyncClient, teller: Teller, query: str, expected: list[int]
) -> None:
    await some_history(teller)
    answer = await client.get(f"/transactions?{query}", headers=ALICE)
    assert [row["transaction"] for row in answer.json()["transactions"]] == expected


@pytest.mark.parametrize(
    ("path", "sent", "expected"),
    [
        ("/balance", {}, (401, "user-missing")),
        ("/balance", {"user_id": "a b"}, (400, "user-invalid")),
        ("/balance", {"user_id": "nobody"}, (404, "account-not-found")),
        ("/transactions", {}, (401, "user-missing")),
        ("/transactions", {"user_id": ""}, (400, "user-invalid")),
        ("/transactions", {"user_id": "nobody"}, (404, "account-not-found")),
        ("/transactions?limit=0", ALICE, (400, "limit-invalid")),
        ("/transactions?limit=201", ALICE, (400, "limit-invalid")),
        ("/transactions?limit=-1", ALICE, (400, "limit-invalid")),
        ("/transactions?limit=", ALICE, (400, "limit-invalid")),
        ("/transactions?limit=1.0", ALICE, (400, "limit-invalid")),
        ("/transactions?limit=%D9%A1", ALICE, (400, "limit-invalid")),
        ("/transactions?limit=5&limit=5", ALICE, (400, "limit-invalid")),
        ("/transactions?cursor=", ALICE, (400, "cursor-invalid")),
        ("/transactions?cursor=7", ALICE, (400, "cursor-invalid")),
        ("/transactions?cursor=AQAAAAAAAAAA", ALICE, (400, "cursor-invalid")),
        ("/transactions?cursor=AgAAAAAAAAAR", ALICE, (400, "cursor-invalid")),
        ("/transactions?cursor=AYAAAAAAAAAA", ALICE, (400, "cursor-invalid")),
        ("/transactions?cursor=AQAAAAAAAAAR%3D", ALICE, (400, "cursor-invalid")),
        ("/transactions?cursor=%C3%A9", ALICE, (400, "cursor-invalid")),
        ("/transactions?type=transfer", ALICE, (400, "filter-invalid")),
        ("/transactions?type=deposit&type=burn", ALICE, (400, "filter-invalid")),
        ("/transactions?outcome=Applied", ALICE, (400, "filter-invalid")),
        ("/transactions/1", {}, (401, "user-missing")),
        ("/transactions/1", {"user_id": "nobody"}, (404, "transaction-not-found")),
        ("/transactions/1", {"user_id": "bob"}, (404, "transaction-not-found")),
        ("/transactions/6", ALICE, (404, "transaction-not-found")),
        ("/transactions/0", ALICE, (404, "transaction-not-found")),
        ("/transactions/01", ALICE, (404, "transaction-not-found")),
        ("/transactions/x%0Ay", ALICE, (404, "transaction-not-found")),
        ("/transactions/99999999999999999999", ALICE, (404, "transaction-not-found")),
        ("/transactions/", ALICE, (404, "not-found")),
    ],
)
async def test_a_read_that_cannot_be_answered_says_why(
    client: httpx.AsyncClient,
    teller: Teller,
    path: str,
    sent: dict[str, str],
    expected: tuple[int, str],
) -> None:
    await some_history(teller)
    answer = await client.get(path, headers=sent)
    assert (answer.status_code, answer.json()["code"]) == expected
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "PATCH"])
@pytest.mark.parametrize("path", ["/balance", "/transactions", "/transactions/1"])
async def test_a_read_answers_get_alone(client: httpx.AsyncClient, method: str, path: str) -> None:
    answer = await client.request(method, path, headers=ALICE)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET"
    assert answer.json()["code"] == "method-not-allowed"


async def test_the_location_of_a_receipt_gives_that_receipt(client: httpx.AsyncClient) -> None:
    posted = await client.post("/deposit", content='{"amount": 3}', headers=headers("k"))
    read = await client.get(posted.headers["location"], headers=ALICE)
    assert read.status_code == 200
    assert read.content == posted.content


async def test_the_link_leads_to_the_next_page_with_the_same_filter(
    client: httpx.AsyncClient, teller: Teller
) -> None:
    await some_history(teller)
    first = await client.get("/transactions?limit=2&outcome=applied", headers=ALICE)
    link = first.links["next"]["url"]
    assert link == f"/transactions?limit=2&outcome=applied&cursor={first.json()['next']}"
    second = await client.get(link, headers=ALICE)
    assert [row["transaction"] for row in second.json()["transactions"]] == [1]


async def every_page(client: httpx.AsyncClient, query: str) -> list[int]:
    """The sequence numbers of all pages, in the order given."""
    seqs: list[int] = []
    link: str | None = f"/transactions?{query}"
    while link is not None:
        answer = await client.get(link, headers=ALICE)
        assert answer.status_code == 200
        seqs += [row["transaction"] for row in answer.json()["transactions"]]
        link = answer.links.get("next", {}).get("url")
        assert (link is None) == (answer.json()["next"] is None)
    return seqs


@settings(
    max_examples=25,
    deadline=timedelta(seconds=20),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    before=st.integers(0, 40),
    between=st.lists(st.integers(0, 5), min_size=1, max_size=8),
    limit=st.integers(1, 12),
)
def test_paging_returns_every_row_exactly_once_while_writes_go_on(
    make_settings: Any, tmp_path_factory: Any, before: int, between: list[int], limit: int
) -> None:
    from service.teller import opened  # noqa: PLC0415 - beside its only use

    folder = tmp_path_factory.mktemp("paging")

    async def claim() -> None:
        url = f"sqlite+aiosqlite:///{folder / 'ledger.db'}"
        async with opened(make_settings(database_url=url)) as teller, client_of(teller) as client:
            await teller.store.open_accounts(["alice"])
            for number in range(before):
                await move(teller, f"before-{number}", "deposit", 1)
            seqs: list[int] = []
            link: str | None = f"/transactions?limit={limit}"
            page = 0
            while link is not None:
                answer = await client.get(link, headers=ALICE)
                seqs += [row["transaction"] for row in answer.json()["transactions"]]
                link = answer.links.get("next", {}).get("url")
                for number in range(between[page % len(between)]):
                    await move(teller, f"page-{page}-{number}", "deposit", 1)
                page += 1
            assert seqs == list(range(before, 0, -1))

    asyncio.run(claim())


async def test_a_filter_that_keeps_little_still_reads_a_bounded_number_of_rows(
    client: httpx.AsyncClient, teller: Teller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "PAGE_WINDOW_ROWS", 3)
    await move(teller, "b", "burn", None)
    for number in range(10):
        await move(teller, f"d{number}", "deposit", 1)
    first = (await client.get("/transactions?type=burn", headers=ALICE)).json()
    assert first["transactions"] == []
    assert first["next"] is not None
    assert await every_page(client, "type=burn") == [1]
    assert await every_page(client, "limit=2") == [11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1]


@pytest.mark.engines("sqlite", reason="there readers and the writer share a file")
async def test_reads_do_not_wait_for_the_writer(client: httpx.AsyncClient, teller: Teller) -> None:
    await move(teller, "d", "deposit", 700)
    writer = teller.store._writer  # type: ignore[attr-defined]
    await writer.execute("BEGIN IMMEDIATE")
    try:
        answer = await client.get("/balance", headers=ALICE)
    finally:
        await writer.execute("ROLLBACK")
    assert answer.json()["balance"] == "7.00"


async def test_a_database_that_cannot_be_read_is_unavailable(
    client: httpx.AsyncClient, teller: Teller, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise OperationalError("SELECT", {}, Exception("disk I/O error"))

    monkeypatch.setattr("sqlalchemy.ext.asyncio.AsyncConnection.execute", fail)
    for path in ("/balance", "/transactions", "/transactions/1", "/operation"):
        answer = await client.get(path, headers=headers("k"))
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert (answer.json()["code"], answer.json()["retry"]) == ("unavailable", "same_key")


async def test_a_cancelled_read_leaves_its_connection_usable(teller: Teller) -> None:
    await move(teller, "d", "deposit", 700)
    for pause in range(100):
        read = asyncio.ensure_future(teller.reader.account("alice"))
        for _ in range(pause % 20):
            await asyncio.sleep(0)
        read.cancel()
        await asyncio.gather(read, return_exceptions=True)
    account = await teller.reader.account("alice")
    assert account is not None
    assert account.balance_minor == 700


async def test_reads_beyond_the_limit_are_turned_away(
    teller: Teller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "READS_WAITING_MAX", 10)
    async with client_of(teller) as client:
        answers = await asyncio.gather(*(client.get("/balance", headers=ALICE) for _ in range(50)))
    statuses = {answer.status_code for answer in answers}
    assert statuses == {200, 503}
    assert (await Reader(teller.store.readers).account("alice")) is not None


async def test_balances_asked_for_at_once_are_each_users_own(
    client: httpx.AsyncClient, teller: Teller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "ACCOUNTS_TOGETHER_MAX", 7)
    users = [f"user{number}" for number in range(30)]
    await teller.store.open_accounts(users)
    for number, user in enumerate(users, start=1):
        await teller.committer.submit(Movement(user, "k", "deposit", number, None))
    asked = [*users, "nobody", *users]
    answers = await asyncio.gather(
        *(client.get("/balance", headers={"user_id": user}) for user in asked)
    )
    said = [answer.json().get("balance") for answer in answers]
    own = [f"0.{number:02}" for number in range(1, 31)]
    assert said == [*own, None, *own]


async def test_a_balance_is_never_older_than_the_receipt_before_it(
    client: httpx.AsyncClient, teller: Teller
) -> None:
    async def live(user: str) -> None:
        for number in range(20):
            sent = headers(f"k{number}", user=user)
            posted = await client.post("/deposit", content='{"amount": 1}', headers=sent)
            read = await client.get("/balance", headers={"user_id": user})
            assert read.json()["transaction"] == posted.json()["transaction"]

    await teller.store.open_accounts([f"user{number}" for number in range(8)])
    await asyncio.gather(*(live(f"user{number}") for number in range(8)))

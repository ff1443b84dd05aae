"""The exactly-once checker: a true history holds, and each broken promise is found and named."""

from __future__ import annotations

import asyncio
import json
import random
import time
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from service import checker, history
from service.checker import Row, check
from service.cli import main
from service.errors import StartError
from service.history import Event, answered, invoked
from service.teller import opened
from tests.conftest import client_of, headers
from tests.processes import serving

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from service.settings import Settings


def receipt(seq: int, kind: str, amount: str | None, balance: str, **more: Any) -> dict[str, Any]:
    return {
        "transaction": seq,
        "type": kind,
        "amount": amount,
        "balance": balance,
        "currency": "USD",
        "reference": None,
        "outcome": "applied",
        "created_at": f"2026-01-02T03:04:0{seq}.000000Z",
        **more,
    }


DEPOSIT = receipt(1, "deposit", "10.00", "10.00")
WITHDRAWAL = receipt(2, "withdrawal", "4.00", "6.00")
REFUSED = {
    "type": "/problems/insufficient-funds",
    "code": "insufficient-funds",
    "outcome": "refused",
    "transaction": 3,
    "amount": "99.00",
    "balance": "6.00",
    "currency": "USD",
}
BURNED = receipt(4, "burn", None, "6.00", outcome="burned")


def said(at_s: float, key: str, status: int | None, body: dict[str, Any] | None = None) -> Event:
    return answered(at_s, "alice", key, status, json.dumps(body).encode())


def asked(at_s: float, key: str, kind: str, amount: str | None) -> Event:
    return invoked(at_s, "alice", key, kind, amount=amount)


# d: applied; w: unknown, then applied on the retry; r: refused; b: burned, a late POST told so;
# x: rejected; u: never answered, and not there; v: never answered, and there.
EVENTS: list[Event] = [
    asked(1, "d", "deposit", "10"),
    said(2, "d", 201, DEPOSIT),
    asked(3, "w", "withdrawal", "4.0"),
    said(4, "w", None),
    asked(5, "w", "withdrawal", "4.00"),
    said(6, "w", 201, WITHDRAWAL),
    said(6.5, "w", 502, {"error": "bad gateway"}),
    asked(7, "r", "withdrawal", "99"),
    said(8, "r", 402, REFUSED),
    asked(9, "b", "burn", None),
    said(10, "b", 200, BURNED),
    asked(11, "b", "deposit", "5"),
    said(12, "b", 410, {"code": "key-burned", "outcome": "burned", "transaction": 4}),
    asked(13, "x", "deposit", "1e2"),
    said(14, "x", 400, {"code": "amount-invalid", "outcome": "not_applied"}),
    asked(15, "u", "deposit", "7"),
    said(16, "u", 503, {"code": "unavailable", "outcome": "unknown"}),
    asked(17, "v", "deposit", "2"),
    asked(18, "d", "burn", None),
    said(19, "d", 409, {"code": "key-settled", "outcome": "applied", "receipt": DEPOSIT}),
]
ROWS: list[Row] = [
    checker.row_of("alice", "d", DEPOSIT),
    checker.row_of("alice", "w", WITHDRAWAL),
    Row(
        *("alice", "r", 3, "withdrawal", "refused", "insufficient-funds", "99.00", "6.00", None),
    ),
    checker.row_of("alice", "b", BURNED),
    checker.row_of("alice", "v", receipt(5, "deposit", "2.00", "8.00")),
    checker.row_of("bob", "his", DEPOSIT),
]


def test_a_true_history_holds() -> None:
    verdict = check(EVENTS, ROWS, balances={"alice": "8.00", "bob": "10.00"})
    assert verdict.findings == []
    assert verdict.holds
    assert (verdict.keys, verdict.settled, verdict.unsettled, verdict.rows) == (7, 4, 2, 5)


def edited(number: int, **fields: Any) -> list[Row]:
    rows = list(ROWS)
    rows[number] = rows[number]._replace(**fields)
    return rows


BROKEN: dict[str, tuple[list[Event], list[Row], str, list[tuple[str, str | None, int | None]]]] = {
    "an acknowledged row is lost at the end": (
        [*EVENTS, said(20, "v", 201, receipt(5, "deposit", "2.00", "8.00"))],
        ROWS[:4],
        "6.00",
        [("lost", "v", 5)],
    ),
    "an acknowledged row is lost in the middle": (
        EVENTS,
        [*ROWS[:1], *ROWS[2:]],
        "8.00",
        [("gap", "r", 3), ("lost", "w", 2)],
    ),
    "a key was applied twice": (
        EVENTS,
        [*ROWS, checker.row_of("alice", "d", receipt(6, "deposit", "10.00", "18.00"))],
        "18.00",
        [("doubled", "d", 6), ("out-of-order", "d", 6)],
    ),
    "another amount than asked": (
        [*EVENTS[:15], asked(17, "v", "deposit", "3")],
        ROWS,
        "8.00",
        [("differs", "v", 5)],
    ),
    "another answer than the row": (
        [*EVENTS, said(20, "d", 201, DEPOSIT | {"balance": "11.00"})],
        ROWS,
        "8.00",
        [("answers-differ", "d", None), ("differs", "d", 1)],
    ),
    "two answers of one key": (
        [*EVENTS, said(20, "r", 402, REFUSED | {"transaction": 2})],
        ROWS,
        "8.00",
        [("answers-differ", "r", None), ("differs", "r", 3)],
    ),
    "a rejected request was applied": (
        EVENTS,
        [*ROWS, checker.row_of("alice", "x", receipt(6, "deposit", "100.00", "108.00"))],
        "108.00",
        [("applied-though-not", "x", 6)],
    ),
    "a row that nobody asked for": (
        EVENTS,
        [*ROWS, checker.row_of("alice", "z", receipt(6, "deposit", "1.00", "9.00"))],
        "9.00",
        [("never-invoked", "z", 6)],
    ),
    "a row whose key is not known": (
        EVENTS,
        [*ROWS, checker.row_of("alice", None, receipt(6, "deposit", "1.00", "9.00"))],
        "9.00",
        [("never-invoked", None, 6)],
    ),
    "a balance that does not follow": (
        EVENTS,
        edited(4, balance="8.01"),
        "8.01",
        [("balance-wrong", "v", 5)],
    ),
    "an account overdrawn": (
        [asked(1, "w", "withdrawal", "4.00")],
        [checker.row_of("alice", "w", receipt(1, "withdrawal", "4.00", "-4.00"))],
        "-4.00",
        [("overdrawn", "w", 1)],
    ),
    "a refusal that moved money": (
        [asked(1, "r", "withdrawal", "99")],
        [ROWS[2]._replace(transaction=1)],
        "6.00",
        [("balance-wrong", "r", 1)],
    ),
    "a balance that is not the rows' sum": (EVENTS, ROWS, "8.01", [("sum-wrong", None, None)]),
    "what was answered first stands later": (
        [
            asked(1, "w", "withdrawal", "4.00"),
            said(2, "w", 201, WITHDRAWAL),
            asked(3, "d", "deposit", "10.00"),
            said(4, "d", 201, DEPOSIT),
        ],
        ROWS[:2],
        "6.00",
        [("out-of-order", "w", 2)],
    ),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_promise_is_found_and_named(broken: str) -> None:
    events, rows, balance, expected = BROKEN[broken]
    verdict = check(events, rows, balances={"alice": balance})
    found = [(finding.kind, finding.key, finding.transaction) for finding in verdict.findings]
    assert found == expected
    assert not verdict.holds


def test_rows_of_ignored_keys_need_no_line() -> None:
    rows = [*ROWS, checker.row_of("alice", "seed", receipt(6, "deposit", "1.00", "9.00"))]
    assert check(EVENTS, rows, ignored_keys=["seed"]).holds


def test_the_log_survives_being_written_and_read() -> None:
    lines = [history.line(event) for event in EVENTS]
    assert list(history.parsed(lines, "log")) == EVENTS
    assert lines[1].startswith(
        '{"event": "ok", "at_s": 2, "user_id": "alice", "key": "d", "answer"'
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"event": "ok", "at_s": 1, "user_id": "alice", "key": "k"}',
        '{"event": "invoked", "at_s": 1, "user_id": "alice", "key": "k"}',
        '{"event": "guessed", "at_s": 1, "user_id": "alice", "key": "k"}',
        '{"event": "unknown", "at_s": "1", "user_id": "alice", "key": "k"}',
    ],
)
def test_a_line_that_is_none_of_a_log_is_named(text: str) -> None:
    lines = [history.line(EVENTS[0]), text]
    with pytest.raises(StartError, match=r"client\.log, line 2 is not a line of a client's log"):
        list(history.parsed(lines, "client.log"))


# -- against a real ledger ------------------------------------------------------------------


async def live(settings: Settings) -> list[Event]:
    """A client's life with a teller: duplicates at once, retries, refusals, burns, bad bodies."""
    events: list[Event] = []
    chance = random.Random(5)

    async with opened(settings) as teller, client_of(teller) as client:
        await teller.store.open_accounts(["alice", "bob"])

        async def attempt(user: str, key: str, kind: str, amount: str) -> None:
            events.append(invoked(time.monotonic(), user, key, kind, amount=amount))
            path = "/deposit" if kind == "deposit" else "/withdraw"
            content = json.dumps({"amount": amount})
            answer = await client.post(path, content=content, headers=headers(key, user=user))
            # Some answers never arrive.
            status = answer.status_code if chance.random() < 0.8 else None
            body = answer.content if status else None
            events.append(answered(time.monotonic(), user, key, status, body))

        async def burn(user: str, key: str) -> None:
            events.append(invoked(time.monotonic(), user, key, "burn"))
            answer = await client.delete("/operation", headers=headers(key, user=user))
            events.append(answered(time.monotonic(), user, key, answer.status_code, answer.content))

        for number in range(60):
            user = chance.choice(["alice", "bob"])
            amount = chance.choice(["1", "2.5", "0.01", "1e2", "300"])
            kind = chance.choice(["deposit", "withdrawal"])
            again = chance.randint(1, 3)
            work = [attempt(user, f"key-{number}", kind, amount) for _ in range(again)]
            if chance.random() < 0.3:
                work.append(burn(user, f"key-{number}"))
            await asyncio.gather(*work)
    return events


async def test_a_real_client_finds_every_promise_kept(
    make_settings: Callable[..., Settings], database_url: str, tmp_path: Path
) -> None:
    events = await live(make_settings())
    log = tmp_path / "client.log"
    log.write_text("".join(history.line(event) + "\n" for event in events))
    database = await asyncio.to_thread(run, log, "--database", database_url)
    assert (database["holds"], database["first_broken"], database["keys"]) == (True, [], 60)
    with serving(database_url) as server:
        service = await asyncio.to_thread(run, log, "--url", server.url)
    assert service == database


def run(log: Path, *options: str, status: int = 0) -> dict[str, Any]:
    """`teller check-log --json`."""
    result = CliRunner().invoke(main, ["check-log", str(log), "--json", *options])
    assert result.exit_code == status, result.output
    verdict: dict[str, Any] = json.loads(result.stdout)
    return verdict


async def test_a_lost_answer_is_told_in_words(
    make_settings: Callable[..., Settings], database_url: str, tmp_path: Path
) -> None:
    async with opened(make_settings()) as teller:
        await teller.store.open_accounts(["alice"])
    log = tmp_path / "client.log"
    events = [
        invoked(1, "alice", "never-there", "deposit", amount="1"),
        Event("ok", 2, "alice", "never-there", {"transaction": 9_999, "outcome": "applied"}),
    ]
    log.write_text("".join(history.line(event) + "\n" for event in events))
    arguments = ["check-log", str(log), "--database", database_url]
    result = await asyncio.to_thread(CliRunner().invoke, main, arguments)
    assert result.exit_code == 3
    assert (
        "lost: account alice, key never-there, transaction 9999: It was answered ok; no row.\n"
    ) in result.output
    assert "BROKEN" in result.output


async def test_an_address_that_is_no_teller_is_named(tmp_path: Path) -> None:
    log = tmp_path / "client.log"
    log.write_text(history.line(EVENTS[0]) + "\n")
    arguments = ["check-log", str(log), "--url", "http://127.0.0.1:9"]
    result = await asyncio.to_thread(CliRunner().invoke, main, arguments)
    assert result.exit_code == 1
    assert "http://127.0.0.1:9 did not answer GET /balance" in result.stderr

"""`teller audit`: sound ledgers pass, and every seeded corruption is found and named."""

from __future__ import annotations

import asyncio
import json
import random
from typing import TYPE_CHECKING

import pytest

from service import scan
from service.audit import audit
from service.ledger import Account, Entry, chained, genesis
from service.money import Currency
from service.replay import Replay, Row
from service.teller import opened
from tests.audit import ledgers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from service.settings import Settings

USD = Currency("USD", 2)

# What is done to the ledger of ledgers.fill, and (kind, user, transaction) of all that it breaks.
CORRUPTIONS: dict[str, tuple[str, list[tuple[str, str | None, int | None]]]] = {
    "an amount is edited": (
        "UPDATE movements SET amount_minor = 10001 WHERE account_id = 1 AND seq = 1",
        [("row-edited", "alice", 1), ("balance-wrong", "alice", 1)],
    ),
    "a row is deleted": (
        "DELETE FROM movements WHERE account_id = 1 AND seq = 2",
        [("row-missing", "alice", 3)],
    ),
    "the last row is deleted": (
        "DELETE FROM movements WHERE account_id = 2 AND seq = 2",
        [("row-missing", "bob", 2), ("head-wrong", "bob", None)],
    ),
    "two rows are swapped": (
        (
            "UPDATE movements SET seq = 99 WHERE account_id = 2 AND seq = 1;"
            "UPDATE movements SET seq = 1 WHERE account_id = 2 AND seq = 2;"
            "UPDATE movements SET seq = 2 WHERE account_id = 2 AND seq = 99"
        ),
        [
            ("row-edited", "bob", 1),
            ("balance-wrong", "bob", 1),
            ("row-edited", "bob", 2),
            ("balance-wrong", "bob", 2),
            ("head-wrong", "bob", None),
        ],
    ),
    "a balance is off by one": (
        "UPDATE accounts SET balance_minor = balance_minor + 1 WHERE id = 2",
        [("head-wrong", "bob", None)],
    ),
    "a sequence number is set back": (
        "UPDATE accounts SET seq = 4 WHERE id = 1",
        [("head-wrong", "alice", None)],
    ),
    "the chain is cut": (
        "UPDATE movements SET chain = zeroblob(32) WHERE account_id = 1 AND seq = 3",
        [("row-edited", "alice", 3), ("row-edited", "alice", 4)],
    ),
    "the head's chain is changed": (
        "UPDATE accounts SET chain = zeroblob(32) WHERE id = 1",
        [("head-wrong", "alice", None)],
    ),
    "a refusal is turned into a withdrawal": (
        "UPDATE movements SET outcome = 'applied', reason = NULL WHERE account_id = 1 AND seq = 3",
        [("row-edited", "alice", 3), ("balance-wrong", "alice", 3)],
    ),
    "a refusal moves money": (
        "UPDATE movements SET balance_after_minor = 6999 WHERE account_id = 1 AND seq = 3",
        [
            ("row-edited", "alice", 3),
            ("refusal-wrong", "alice", 3),
            ("refusal-wrong", "alice", 4),
        ],
    ),
    "a refusal becomes unjust": (
        "UPDATE movements SET amount_minor = 1 WHERE account_id = 1 AND seq = 3",
        [("row-edited", "alice", 3), ("refusal-wrong", "alice", 3)],
    ),
    "a burned key is given back": (
        "UPDATE movements SET key = 'another' WHERE account_id = 1 AND seq = 4",
        [("row-edited", "alice", 4)],
    ),
    "a reference is edited": (
        "UPDATE movements SET reference = 'a gift' WHERE account_id = 2 AND seq = 1",
        [("row-edited", "bob", 1)],
    ),
    "a time is edited": (
        "UPDATE movements SET created_at_us = created_at_us + 1 WHERE account_id = 2 AND seq = 1",
        [("row-edited", "bob", 1)],
    ),
    "a row is added by hand": (
        (
            "INSERT INTO movements SELECT 3, 1, key, kind, outcome, reason, amount_minor, "
            "balance_after_minor, reference, created_at_us, chain FROM movements "
            "WHERE account_id = 2 AND seq = 1"
        ),
        [
            ("row-edited", "carol", 1),
            ("head-wrong", "carol", None),
            ("head-wrong", "carol", None),
        ],
    ),
    "an account is deleted": (
        "PRAGMA foreign_keys = OFF; DELETE FROM accounts WHERE id = 2",
        [("row-orphaned", None, 1), ("row-orphaned", None, 2)],
    ),
    "an account is given to another user": (
        "UPDATE accounts SET user_id = 'mallory' WHERE id = 2",
        [("row-edited", "mallory", 1)],
    ),
}


async def test_a_sound_ledger_passes_with_its_sums(
    make_settings: Callable[..., Settings], database_url: str
) -> None:
    await ledgers.filled(make_settings())
    status, report = await asyncio.to_thread(ledgers.report, database_url)
    assert status == 0
    assert report.pop("duration_s") >= 0
    assert report == {
        "sound": True,
        "accounts": 3,
        "transactions": 7,
        "currency": "USD",
        "currency_scale": 2,
        "balance_minor": 8_205,
        "imbalance_minor": 0,
        "violations": {},
        "first_violations": [],
    }
    words = (await asyncio.to_thread(ledgers.audit, database_url)).output
    assert "3 accounts, 7 transactions replayed" in words
    assert "Sound. All balances: 82.05 USD." in words


@pytest.mark.parametrize("corruption", CORRUPTIONS)
async def test_a_corruption_is_found_and_named(
    make_settings: Callable[..., Settings], database_url: str, corruption: str
) -> None:
    statements, expected = CORRUPTIONS[corruption]
    await ledgers.filled(make_settings())
    ledgers.damage(database_url, statements)
    status, report = await asyncio.to_thread(ledgers.report, database_url)
    assert status == 3
    assert not report["sound"]
    assert [
        (found["kind"], found["user_id"], found["transaction"])
        for found in report["first_violations"]
    ] == expected
    assert sum(report["violations"].values()) == len(expected)


async def test_the_words_name_account_transaction_and_sum(
    make_settings: Callable[..., Settings], database_url: str
) -> None:
    await ledgers.filled(make_settings())
    ledgers.damage(
        database_url,
        "UPDATE movements SET amount_minor = 10001 WHERE account_id = 1 AND seq = 1;"
        "UPDATE accounts SET balance_minor = balance_minor + 4 WHERE id = 2",
    )
    result = await asyncio.to_thread(ledgers.audit, database_url)
    assert result.exit_code == 3
    assert (
        "row-edited: account alice (id 1), transaction 1: "
        "Its content does not give its chain value.\n"
    ) in result.output
    assert (
        "head-wrong: account bob (id 2): The account's balance is 1204 minor units; "
        "its last row says 1200.\n"
    ) in result.output
    assert "NOT SOUND: 3 violations; balances and rows differ by 0.05 USD." in result.output


# -- heads kept elsewhere -------------------------------------------------------------------


def rewritten(database_url: str) -> None:
    """bob's deposits become 1,000.00 and 7.00, and every chain value after it is right again."""
    entries, balance, chain = [], 0, genesis("bob", USD)
    for seq, (key, amount) in enumerate((("d1", 100_000), ("d2", 700)), start=1):
        balance += amount
        entry = Entry(
            seq, key, "deposit", "applied", None, amount, balance, f"for {key}", 1_700 * 10**12, b""
        )
        chain = chained(chain, entry)
        entries.append(entry._replace(chain=chain))
    statements = [
        f"UPDATE movements SET amount_minor = {entry.amount_minor}, created_at_us = "  # noqa: S608 - the test's own numbers
        f"{entry.created_at_us}, balance_after_minor = {entry.balance_after_minor}, "
        f"chain = x'{entry.chain.hex()}' WHERE account_id = 2 AND seq = {entry.seq}"
        for entry in entries
    ]
    statements.append(
        f"UPDATE accounts SET balance_minor = {balance}, "  # noqa: S608 - the same
        f"chain = x'{chain.hex()}' WHERE id = 2"
    )
    ledgers.damage(database_url, ";".join(statements))


async def test_heads_kept_elsewhere_find_a_rewritten_account(
    make_settings: Callable[..., Settings], database_url: str, tmp_path: Path
) -> None:
    kept = tmp_path / "heads"
    await ledgers.filled(make_settings())
    assert (await asyncio.to_thread(ledgers.report, database_url, "--write-heads", kept))[0] == 0
    lines = [json.loads(line) for line in kept.read_text().splitlines()]
    assert [(line["account"], line["user_id"], line["transaction"]) for line in lines] == [
        (1, "alice", 5),
        (2, "bob", 2),
        (3, "carol", 0),
    ]
    rewritten(database_url)
    assert (await asyncio.to_thread(ledgers.report, database_url))[0] == 0
    status, report = await asyncio.to_thread(ledgers.report, database_url, "--heads", kept)
    assert status == 3
    assert [
        (found["kind"], found["user_id"], found["transaction"])
        for found in report["first_violations"]
    ] == [("head-rewritten", "bob", 2)]


async def test_heads_kept_elsewhere_agree_with_a_ledger_that_only_grew(
    make_settings: Callable[..., Settings], database_url: str, tmp_path: Path
) -> None:
    kept = tmp_path / "heads"
    await ledgers.filled(make_settings())
    await asyncio.to_thread(ledgers.report, database_url, "--write-heads", kept)
    async with opened(make_settings()) as teller:
        await teller.store.open_accounts(["dave"])
        for user in ("alice", "bob", "carol", "dave"):
            await ledgers.move(teller, user, "later", "deposit", 1)
    status, report = await asyncio.to_thread(ledgers.report, database_url, "--heads", kept)
    assert (status, report["violations"]) == (0, {})


async def test_heads_kept_elsewhere_find_rows_and_accounts_that_are_gone(
    make_settings: Callable[..., Settings], database_url: str, tmp_path: Path
) -> None:
    kept = tmp_path / "heads"
    await ledgers.filled(make_settings())
    await asyncio.to_thread(ledgers.report, database_url, "--write-heads", kept)
    ledgers.damage(
        database_url,
        # bob back to his first row, as if the second had never been; carol gone.
        "UPDATE accounts SET seq = 1, balance_minor = 500, chain = (SELECT chain FROM movements "
        "WHERE account_id = 2 AND seq = 1) WHERE id = 2;"
        "DELETE FROM movements WHERE account_id = 2 AND seq = 2;"
        "DELETE FROM accounts WHERE id = 3",
    )
    assert (await asyncio.to_thread(ledgers.report, database_url))[0] == 0
    _, report = await asyncio.to_thread(ledgers.report, database_url, "--heads", kept)
    assert [(found["user_id"], found["detail"]) for found in report["first_violations"]] == [
        ("bob", "The account ends at 1: rows up to the head kept are gone."),
        ("carol", "The account is gone."),
    ]


async def test_heads_of_a_broken_ledger_are_not_written_over_good_ones(
    make_settings: Callable[..., Settings], database_url: str, tmp_path: Path
) -> None:
    kept = tmp_path / "heads"
    await ledgers.filled(make_settings())
    await asyncio.to_thread(ledgers.report, database_url, "--write-heads", kept)
    good = kept.read_bytes()
    ledgers.damage(database_url, "UPDATE accounts SET chain = zeroblob(32) WHERE id = 1")
    assert (await asyncio.to_thread(ledgers.report, database_url, "--write-heads", kept))[0] == 3
    assert kept.read_bytes() == good
    assert not kept.with_name("heads.part").exists()


async def test_a_file_that_holds_no_heads_is_refused_by_line(
    make_settings: Callable[..., Settings], database_url: str, tmp_path: Path
) -> None:
    kept = tmp_path / "heads"
    await ledgers.filled(make_settings())
    await asyncio.to_thread(ledgers.report, database_url, "--write-heads", kept)
    lines = kept.read_text().splitlines(keepends=True)
    for content, number in ((lines[1] + lines[0], 2), (lines[0] + "{}\n", 2), ("no\n", 1)):
        kept.write_text(content)
        result = await asyncio.to_thread(ledgers.audit, database_url, "--heads", kept)
        assert result.exit_code == 1
        assert f"heads, line {number} is not the head of a next account" in result.stderr


# -- what cannot be audited -----------------------------------------------------------------


@pytest.mark.engines("sqlite", reason="a server has no file that could be missing")
def test_a_ledger_that_is_not_there_is_named_and_not_made(
    database_url: str, tmp_path: Path
) -> None:
    result = ledgers.audit(database_url)
    assert result.exit_code == 1
    assert f"There is no ledger at {tmp_path / 'ledger.db'}" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_database_that_is_no_ledger_is_said_to_be_none(database_url: str) -> None:
    ledgers.damage(database_url, "CREATE TABLE something (x INTEGER)")
    result = ledgers.audit(database_url)
    assert result.exit_code == 1
    assert "The database is not a Teller ledger." in result.stderr


# -- pages, and writes that go on -----------------------------------------------------------


def sound_ledger(sizes: list[int]) -> list[tuple[Account, list[Entry]]]:
    """Accounts with so many rows each, ids with gaps."""
    made = []
    for number, size in enumerate(sizes):
        account = Account(number * 3 + 1, f"user{number}", 0, 0, genesis(f"user{number}", USD))
        entries = []
        for seq in range(1, size + 1):
            account.balance_minor += seq
            balance = account.balance_minor
            entry = Entry(seq, f"k{seq}", "deposit", "applied", None, seq, balance, None, seq, b"")
            account.seq, account.chain = seq, chained(account.chain, entry)
            entries.append(entry._replace(chain=account.chain))
        made.append((account, entries))
    return made


@pytest.mark.parametrize("rows_max", [2, 3, 5, 100])
@pytest.mark.parametrize("sizes", [[0, 0, 0, 0, 0], [5], [1, 2, 3], [0, 7, 0, 0, 3, 0], []])
async def test_pages_of_any_size_give_each_account_and_row_once(
    make_settings: Callable[..., Settings], rows_max: int, sizes: list[int]
) -> None:
    async with opened(make_settings()) as teller:
        names = [f"user{number}" for number in range(len(sizes))]
        await teller.store.open_accounts(names)
        for name, size in zip(names, sizes, strict=True):
            for number in range(size):
                await ledgers.move(teller, name, f"k{number}", "deposit", 1)
        ledger = scan.Scan(teller.reader)
        rows: list[tuple[int, int]] = []
        replay = Replay(USD)
        async for page in ledger.pages(rows_max=rows_max):
            assert len(page.rows) <= rows_max
            rows += [(row.account_id, row.entry.seq) for row in page.rows]
            replay.page(page.heads, page.rows)
        findings = replay.finish()
    assert rows == [
        (account, seq) for account, size in enumerate(sizes, start=1) for seq in range(1, size + 1)
    ]
    assert (findings.accounts, findings.rows, findings.violations) == (len(sizes), len(rows), [])


def test_a_replay_does_not_depend_on_where_pages_end() -> None:
    ledger = sound_ledger([0, 3, 0, 5, 1])
    ledger[3][1][2] = ledger[3][1][2]._replace(amount_minor=1_000)
    rows = [Row(account.id, entry) for account, entries in ledger for entry in entries]
    for cut in range(len(rows) + 1):
        replay = Replay(USD)
        first, rest = rows[:cut], rows[cut:]
        last_id = first[-1].account_id if first else 0
        replay.page([account for account, _ in ledger if account.id <= last_id], first)
        replay.page([account for account, _ in ledger if account.id >= last_id], rest)
        findings = replay.finish()
        assert (findings.accounts, findings.rows) == (5, 9)
        assert [(found.kind, found.user_id, found.seq) for found in findings.violations] == [
            ("row-edited", "user3", 3),
            ("balance-wrong", "user3", 3),
        ]
        assert findings.imbalance_minor == 997


async def test_an_audit_beside_a_running_service_finds_it_sound(
    make_settings: Callable[..., Settings], database_url: str
) -> None:
    async with opened(make_settings()) as teller:
        names = [f"user{number}" for number in range(20)]
        await teller.store.open_accounts(names)
        stop = asyncio.Event()
        chance = random.Random(3)

        async def write() -> int:
            number = 0
            while not stop.is_set():
                await asyncio.gather(
                    *(
                        ledgers.move(teller, chance.choice(names), f"k{number}-{i}", "deposit", 1)
                        for i in range(20)
                    )
                )
                number += 20
            return number

        writing = asyncio.create_task(write())
        status, report = await asyncio.to_thread(ledgers.report, database_url)
        while (audited := await audit(scan.Scan(teller.reader))).rows < 1_000:
            assert audited.violations == []
        stop.set()
        written = await writing
    assert (status, report["violations"]) == (0, {})
    assert written >= 1_000
    _, report = await asyncio.to_thread(ledgers.report, database_url)
    assert (report["transactions"], report["balance_minor"]) == (written, written)

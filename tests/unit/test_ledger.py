"""The rules of the ledger: every outcome, the fold of a batch, and the chain's literal values."""

from __future__ import annotations

import pytest

from service.ledger import (
    Account,
    AccountNotFound,
    Entry,
    KeyReused,
    KeySettled,
    Kind,
    Movement,
    Outcome,
    Reason,
    Recorded,
    decide,
    fold,
    genesis,
)
from service.money import INT64_MAX, Currency

NOW_US = 1_767_323_045_678_901  # 2026-01-02T03:04:05.678901Z
USD = Currency("USD", 2)


def account(user: str = "alice", *, id_: int = 1, balance_minor: int = 0) -> Account:
    return Account(id_, user, balance_minor, 0, genesis(user, USD))


def movement(
    kind: Kind, amount_minor: int | None, key: str = "k", *, user: str = "alice", note: str = ""
) -> Movement:
    return Movement(user, key, kind, amount_minor, note or None)


def row(
    kind: Kind, amount_minor: int | None, outcome: Outcome, reason: Reason | None = None
) -> Entry:
    """A row that holds the key ``k``; what the decisions do not look at is left at 1."""
    return Entry(1, "k", kind, outcome, reason, amount_minor, 1, None, NOW_US, b"\x01" * 32)


@pytest.mark.parametrize(
    ("balance", "kind", "amount", "outcome", "reason", "after"),
    [
        (0, "deposit", 1, "applied", None, 1),
        (400, "deposit", 600, "applied", None, 1000),
        (400, "deposit", 601, "refused", "balance-limit", 400),
        (1000, "deposit", 1, "refused", "balance-limit", 1000),
        (400, "withdrawal", 1, "applied", None, 399),
        (400, "withdrawal", 400, "applied", None, 0),
        (400, "withdrawal", 401, "refused", "insufficient-funds", 400),
        (0, "withdrawal", 1, "refused", "insufficient-funds", 0),
        (400, "burn", None, "burned", None, 400),
    ],
)
def test_a_new_key_gets_its_row(  # noqa: PLR0917 - a table
    balance: int,
    kind: Kind,
    amount: int | None,
    outcome: Outcome,
    reason: Reason | None,
    after: int,
) -> None:
    head = account(balance_minor=balance)
    entry = decide(head, movement(kind, amount), balance_max_minor=1000, now_us=NOW_US)
    assert (entry.seq, entry.key, entry.kind, entry.amount_minor) == (1, "k", kind, amount)
    assert (entry.outcome, entry.reason) == (outcome, reason)
    assert (entry.balance_after_minor, entry.created_at_us) == (after, NOW_US)
    assert (head.balance_minor, head.seq) == (balance, 0)  # deciding changes nothing


def test_the_largest_balance_of_int64_is_reached_and_never_passed() -> None:
    head = account(balance_minor=INT64_MAX - 1)
    folded = fold(
        [movement("deposit", 1, "a"), movement("deposit", 1, "b")],
        accounts={"alice": head},
        firsts={},
        balance_max_minor=INT64_MAX,
        now_us=NOW_US,
    )
    assert [entry.outcome for _, entry in folded.entries] == ["applied", "refused"]
    assert head.balance_minor == 9223372036854775807


@pytest.mark.parametrize("kind", ["deposit", "withdrawal"])
@pytest.mark.parametrize("amount", [None, 0, -1])
def test_a_movement_without_a_positive_amount_is_a_bug(kind: Kind, amount: int | None) -> None:
    with pytest.raises(
        AssertionError, match=r"^a deposit or withdrawal carries an amount of at least 1$"
    ):
        decide(account(), movement(kind, amount), balance_max_minor=1000, now_us=NOW_US)


def test_the_chain_has_these_very_values() -> None:
    """They are computed beside the code: releases must agree on them for ever."""
    head = account()
    assert head.chain.hex() == "9e60165144c3a549b8c37102e4d80db43eeff6513c14da763b586dc5a555ab54"
    values = []
    for count, asked in enumerate(
        [
            movement("deposit", 1234, "k1", note="order 1"),
            movement("withdrawal", 5000, "k2"),
            movement("burn", None, "k3"),
        ]
    ):
        fold(
            [asked],
            accounts={"alice": head},
            firsts={},
            balance_max_minor=INT64_MAX,
            now_us=NOW_US + count,
        )
        values.append(head.chain.hex())
    assert values == [
        "45c631facafb407b14cae67c14babc35cb04eb8290e8a3da35fb8eaa563dce72",
        "6a1bf75671ade030aa147c62b825163b3c65a88b3897a1d994f809d3179b4299",
        "2430507ccf185f20322890db1fbef3a60524a87bc29ff907a23bb1495a8a07a3",
    ]


@pytest.mark.parametrize(
    "other",
    [
        genesis("bob", USD),
        genesis("alice", Currency("EUR", 2)),
        genesis("alice", Currency("USD", 3)),
    ],
)
def test_accounts_users_and_currencies_have_chains_of_their_own(other: bytes) -> None:
    assert other != genesis("alice", USD)


def answer(first: Entry, asked: Movement) -> object:
    """What the fold answers to a movement whose key that row holds; nothing may be written."""
    folded = fold(
        [asked],
        accounts={"alice": account(balance_minor=500)},
        firsts={("alice", "k"): first},
        balance_max_minor=1000,
        now_us=NOW_US,
    )
    assert (folded.entries, folded.accounts) == ([], [])
    return folded.decisions[0]


@pytest.mark.parametrize(
    ("first", "asked"),
    [
        (row("deposit", 5, "applied"), movement("deposit", 5)),
        (row("withdrawal", 5, "applied"), movement("withdrawal", 5)),
        # A refusal is final: a balance that would cover it now changes nothing.
        (row("withdrawal", 5, "refused", "insufficient-funds"), movement("withdrawal", 5)),
        (row("deposit", 5, "refused", "balance-limit"), movement("deposit", 5)),
        (row("burn", None, "burned"), movement("burn", None)),
        # A burned key answers every request alike.
        (row("burn", None, "burned"), movement("deposit", 5)),
        (row("burn", None, "burned"), movement("withdrawal", 7, note="other")),
    ],
)
def test_the_same_request_under_a_key_is_a_replay(first: Entry, asked: Movement) -> None:
    assert answer(first, asked) == Recorded(first, replayed=True)


@pytest.mark.parametrize(
    ("asked", "differs"),
    [
        (movement("withdrawal", 5), ("operation",)),
        (movement("deposit", 6), ("amount",)),
        (movement("deposit", 5, note="r"), ("reference",)),
        (movement("withdrawal", 6), ("operation", "amount")),
        (movement("withdrawal", 6, note="r"), ("operation", "amount", "reference")),
    ],
)
@pytest.mark.parametrize(
    "first",
    [row("deposit", 5, "applied"), row("deposit", 5, "refused", "balance-limit")],
)
def test_another_request_under_a_key_is_told_what_differs(
    first: Entry, asked: Movement, differs: tuple[str, ...]
) -> None:
    assert answer(first, asked) == KeyReused(first, differs)


@pytest.mark.parametrize(
    "first",
    [
        row("deposit", 5, "applied"),
        row("withdrawal", 5, "refused", "insufficient-funds"),
    ],
)
def test_a_key_that_was_used_cannot_be_burned(first: Entry) -> None:
    assert answer(first, movement("burn", None)) == KeySettled(first)


def test_two_of_one_key_in_one_batch_are_one_effect() -> None:
    head = account()
    folded = fold(
        [movement("deposit", 5), movement("deposit", 5), movement("deposit", 6)],
        accounts={"alice": head},
        firsts={},
        balance_max_minor=1000,
        now_us=NOW_US,
    )
    ((_, first),) = folded.entries
    assert folded.decisions == [
        Recorded(first, replayed=False),
        Recorded(first, replayed=True),
        KeyReused(first, ("amount",)),
    ]
    assert (head.balance_minor, head.seq) == (5, 1)


def test_a_batch_is_decided_in_arrival_order() -> None:
    head = account()
    folded = fold(
        [
            movement("withdrawal", 5, "early"),
            movement("deposit", 5, "d"),
            movement("withdrawal", 5, "late"),
            movement("burn", None, "b"),
            movement("deposit", 1, "b"),
        ],
        accounts={"alice": head},
        firsts={},
        balance_max_minor=1000,
        now_us=NOW_US,
    )
    rows = [(e.seq, e.key, e.outcome, e.balance_after_minor) for _, e in folded.entries]
    assert rows == [
        (1, "early", "refused", 0),
        (2, "d", "applied", 5),
        (3, "late", "applied", 0),
        (4, "b", "burned", 0),
    ]
    assert folded.decisions[4] == Recorded(folded.entries[3][1], replayed=True)
    assert folded.accounts == [head]


def test_users_of_one_batch_do_not_touch_each_other() -> None:
    alice, bob = account(), account("bob", id_=2)
    folded = fold(
        [
            movement("deposit", 5),
            movement("deposit", 7, user="bob"),
            movement("deposit", 9, user="eve"),
            movement("withdrawal", 7, "w", user="bob"),
        ],
        accounts={"alice": alice, "bob": bob},
        firsts={},
        balance_max_minor=1000,
        now_us=NOW_US,
    )
    assert [(a.user_id, e.seq) for a, e in folded.entries] == [("alice", 1), ("bob", 1), ("bob", 2)]
    assert folded.decisions[2] == AccountNotFound()
    assert (alice.balance_minor, bob.balance_minor) == (5, 0)
    assert folded.accounts == [alice, bob]

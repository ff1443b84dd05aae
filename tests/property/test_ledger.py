"""The fold against what it promises, over any batch of any users, keys and amounts."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from service.ledger import (
    Account,
    AccountNotFound,
    Decision,
    Entry,
    KeyReused,
    KeySettled,
    Movement,
    Recorded,
    chained,
    fold,
    genesis,
)
from service.money import INT64_MAX, Currency

USD = Currency("USD", 2)
NOW_US = 1_767_323_045_678_901
USERS = ["alice", "bob"]

# Few users, keys and amounts, so that they meet often; and the edges of int64.
AMOUNTS = st.sampled_from([1, 2, 3, 50, 99, 100, INT64_MAX])
WHO = {"user_id": st.sampled_from([*USERS, "nobody"]), "key": st.sampled_from("abcdefgh")}
MOVEMENTS = st.lists(
    st.builds(
        Movement,
        **WHO,
        kind=st.sampled_from(["deposit", "withdrawal"]),
        amount_minor=AMOUNTS,
        reference=st.sampled_from([None, None, "r"]),
    )
    | st.builds(Movement, **WHO, kind=st.just("burn"), amount_minor=st.none(), reference=st.none()),
    max_size=40,
)
LIMITS = st.sampled_from([1, 100, 150, INT64_MAX])


class Ledger:
    """Accounts and rows kept in memory: the fold's caller, as small as it can be."""

    def __init__(self, balance_max_minor: int) -> None:
        self.balance_max_minor = balance_max_minor
        self.accounts = {
            user: Account(number, user, 0, 0, genesis(user, USD))
            for number, user in enumerate(USERS, start=1)
        }
        self.rows: dict[tuple[str, str], Entry] = {}

    def commit(self, batch: list[Movement]) -> list[Decision]:
        folded = fold(
            batch,
            accounts=self.accounts,
            firsts=self.rows,
            balance_max_minor=self.balance_max_minor,
            now_us=NOW_US,
        )
        for account, entry in folded.entries:
            assert self.rows.setdefault((account.user_id, entry.key), entry) is entry
        return folded.decisions

    def history(self, user: str) -> list[Entry]:
        """The user's rows in the order of their writing."""
        return [row for (owner, _), row in self.rows.items() if owner == user]


@given(MOVEMENTS, LIMITS, st.data())
def test_a_batch_decides_as_its_movements_do_one_by_one(
    movements: list[Movement], limit: int, data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(movements)))
    at_once, one_by_one, in_two = Ledger(limit), Ledger(limit), Ledger(limit)
    decisions = at_once.commit(movements)
    assert decisions == [one_by_one.commit([movement])[0] for movement in movements]
    assert decisions == in_two.commit(movements[:cut]) + in_two.commit(movements[cut:])
    assert at_once.accounts == one_by_one.accounts == in_two.accounts
    assert at_once.rows == one_by_one.rows == in_two.rows


@given(MOVEMENTS, LIMITS)
def test_balances_are_never_negative_and_follow_from_the_rows(
    movements: list[Movement], limit: int
) -> None:
    ledger = Ledger(limit)
    ledger.commit(movements)
    for user in USERS:
        balance = 0
        for row in ledger.history(user):
            if row.outcome == "applied":
                assert row.amount_minor is not None
                balance += row.amount_minor if row.kind == "deposit" else -row.amount_minor
            assert row.balance_after_minor == balance
            assert 0 <= balance <= limit
        assert ledger.accounts[user].balance_minor == balance


@given(MOVEMENTS, LIMITS)
def test_the_sequence_has_no_gap_and_the_chain_links_every_row(
    movements: list[Movement], limit: int
) -> None:
    ledger = Ledger(limit)
    ledger.commit(movements)
    for user in USERS:
        rows = ledger.history(user)
        assert [row.seq for row in rows] == list(range(1, len(rows) + 1))
        chains = [genesis(user, USD), *(row.chain for row in rows)]
        assert all(
            chained(before, row) == row.chain for before, row in zip(chains, rows, strict=False)
        )
        assert len(set(chains)) == len(chains)
        head = ledger.accounts[user]
        assert (head.seq, head.chain) == (len(rows), chains[-1])


@given(MOVEMENTS, LIMITS)
def test_a_key_has_one_row_and_one_answer_for_ever(movements: list[Movement], limit: int) -> None:
    ledger = Ledger(limit)
    decisions = ledger.commit(movements)
    settled = dict(ledger.rows)
    again = ledger.commit(movements)
    assert ledger.rows == settled
    answers = defaultdict(set)
    for movement, first, later in zip(movements, decisions, again, strict=True):
        holder = (movement.user_id, movement.key)
        if isinstance(first, Recorded):
            assert later == Recorded(first.entry, replayed=True)
            answers[holder].add(first.entry)
        else:
            assert later == first
        if isinstance(first, AccountNotFound):
            assert movement.user_id == "nobody"
        elif isinstance(first, KeyReused | KeySettled):
            assert first.first is settled[holder]
    assert all(len(rows) == 1 for rows in answers.values())
    firsts = [d for d in decisions if isinstance(d, Recorded) and not d.replayed]
    assert len(firsts) == len(settled)


@given(MOVEMENTS, LIMITS)
def test_another_users_movements_change_nothing(movements: list[Movement], limit: int) -> None:
    both, alone = Ledger(limit), Ledger(limit)
    both.commit(movements)
    alone.commit([movement for movement in movements if movement.user_id == "alice"])
    assert both.history("alice") == alone.history("alice")
    assert both.accounts["alice"] == alone.accounts["alice"]


@given(MOVEMENTS)
def test_any_edited_row_breaks_the_chain(movements: list[Movement]) -> None:
    ledger = Ledger(INT64_MAX)
    ledger.commit(movements)
    for before, row in pairwise(ledger.history("alice")):
        edits = [
            row._replace(balance_after_minor=row.balance_after_minor + 1),
            row._replace(key=row.key + "x"),
            row._replace(reference="edited"),
            row._replace(created_at_us=row.created_at_us + 1),
            row._replace(seq=row.seq + 1),
        ]
        assert row.chain not in {chained(before.chain, edit) for edit in edits}

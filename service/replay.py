"""Replay, pure: rows in order against the rules of the ledger, naming the first that breaks."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, get_args

from service.ledger import Entry, chained, genesis

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from service.ledger import Account
    from service.money import Currency

Kind = Literal[
    "row-missing",
    "row-edited",
    "balance-wrong",
    "refusal-wrong",
    "head-wrong",
    "row-orphaned",
    "head-rewritten",
]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
VIOLATIONS_KEPT_MAX: Final = 1_000


class Violation(NamedTuple):
    """One thing that cannot be so in a sound ledger.

    ``seq`` is the transaction that broke, None where it is the account's head. ``user_id`` is
    None for a row whose account is gone.
    """

    kind: Kind
    account_id: int
    user_id: str | None
    seq: int | None
    detail: str


class Row(NamedTuple):
    """A stored row and the account it belongs to."""

    account_id: int
    entry: Entry


@dataclass(slots=True)
class _Replayed:
    """An account at work: its head as stored, and what its rows so far come to."""

    head: Account
    seq: int
    balance_minor: int
    chain: bytes
    net_minor: int = 0


@dataclass(slots=True)
class Findings:
    """What was found: every violation counted, the first VIOLATIONS_KEPT_MAX kept.

    ``imbalance_minor`` is the sum, over the accounts, of how far the balance is from the sum of
    the account's applied amounts, in minor units: differences of two accounts never cancel.
    """

    accounts: int = 0
    rows: int = 0
    balance_minor: int = 0
    imbalance_minor: int = 0
    counts: Counter[Kind] = field(default_factory=Counter)
    violations: list[Violation] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether nothing was found."""
        return not self.counts

    def add(self, violation: Violation) -> None:
        """Count a violation, and keep it if it is among the first."""
        self.counts[violation.kind] += 1
        if len(self.violations) < VIOLATIONS_KEPT_MAX:
            self.violations.append(violation)


class Replay:
    """The whole ledger, account after account, a page at a time; memory does not grow with it.

    Args:
        currency: the ledger's own.

    Attributes:
        findings: so far.
        on_row: if set, called with each row and its account, after the row's check.
        on_account: if set, called with each account's head once all its rows are replayed.
    """

    def __init__(self, currency: Currency) -> None:
        self.findings = Findings()
        self.on_row: Callable[[Account, Entry], None] | None = None
        self.on_account: Callable[[Account], None] | None = None
        self._currency = currency
        self._current: _Replayed | None = None

    def page(self, heads: Sequence[Account], rows: Iterable[Row]) -> None:
        """Take the next page.

        Args:
            heads: the accounts of the page, by id; the first may be the last of the page before,
                read again.
            rows: their rows, by account and sequence number, from the same snapshot.
        """
        waiting = list(reversed(heads))
        if self._current is not None and waiting and waiting[-1].id == self._current.head.id:
            self._current.head = waiting.pop()
        current = self._current
        for account_id, entry in rows:
            while current is None or current.head.id != account_id:
                if not waiting or waiting[-1].id > account_id:
                    break
                current = self._open(waiting.pop())
            if current is None or current.head.id != account_id:
                self._orphan(account_id, entry)
                continue
            self._check(current, entry)
        for head in reversed(waiting):
            self._open(head)

    def finish(self) -> Findings:
        """The end of the ledger: the findings."""
        self._close()
        return self.findings

    def _open(self, head: Account) -> _Replayed:
        self._close()
        self._current = _Replayed(head, 0, 0, genesis(head.user_id, self._currency))
        return self._current

    def _close(self) -> None:
        done = self._current
        if done is None:
            return
        self._current = None
        findings = self.findings
        findings.accounts += 1
        findings.balance_minor += done.head.balance_minor
        findings.imbalance_minor += abs(done.head.balance_minor - done.net_minor)
        for violation in head_violations(done.head, done.seq, done.balance_minor, done.chain):
            findings.add(violation)
        if self.on_account is not None:
            self.on_account(done.head)

    def _check(self, account: _Replayed, entry: Entry) -> None:
        findings = self.findings
        findings.rows += 1
        head = account.head
        for violation in row_violations(
            head, entry, seq=account.seq, balance_minor=account.balance_minor, chain=account.chain
        ):
            findings.add(violation)
        # From the row as stored, so that one edit is found once and not in all that follows.
        account.seq = entry.seq
        account.balance_minor = entry.balance_after_minor
        account.chain = entry.chain
        account.net_minor += moved_minor(entry)
        if self.on_row is not None:
            self.on_row(head, entry)

    def _orphan(self, account_id: int, entry: Entry) -> None:
        self.findings.rows += 1
        self.findings.imbalance_minor += abs(moved_minor(entry))
        self.findings.add(
            Violation("row-orphaned", account_id, None, entry.seq, "The row's account is gone.")
        )


def moved_minor(entry: Entry) -> int:
    """What the row moved, in minor units: its amount if applied, negative for a withdrawal."""
    if entry.outcome != "applied":
        return 0
    amount = entry.amount_minor or 0
    return amount if entry.kind == "deposit" else -amount


def row_violations(
    head: Account, entry: Entry, *, seq: int, balance_minor: int, chain: bytes
) -> list[Violation]:
    """What is wrong with a row, given sequence number, balance and chain of the one before."""
    expected = balance_minor + moved_minor(entry)
    if (
        entry.seq == seq + 1
        and entry.balance_after_minor == expected
        and entry.chain == chained(chain, entry)
        and not (
            entry.reason == "insufficient-funds" and (entry.amount_minor or 0) <= balance_minor
        )
    ):
        return []
    found: list[tuple[Kind, str]] = []
    if entry.seq != seq + 1:
        # Without the row before, nothing more can be said of this one.
        found.append(("row-missing", f"It comes after transaction {seq}: rows between are gone."))
    else:
        if entry.chain != chained(chain, entry):
            found.append(("row-edited", "Its content does not give its chain value."))
        if entry.balance_after_minor != expected:
            kind: Kind = "balance-wrong" if entry.outcome == "applied" else "refusal-wrong"
            stored = entry.balance_after_minor
            why = (
                f"Its balance is {stored} minor units; that before and its amount give {expected}."
            )
            found.append((kind, why))
        elif entry.reason == "insufficient-funds" and (entry.amount_minor or 0) <= balance_minor:
            found.append(
                ("refusal-wrong", f"Refused, though {balance_minor} minor units covered it.")
            )
    return [Violation(kind, head.id, head.user_id, entry.seq, why) for kind, why in found]


def head_violations(
    head: Account, seq: int, balance_minor: int, chain: bytes
) -> Iterable[Violation]:
    """What is wrong with an account's head, given its last row's values."""
    if head.seq > seq:
        why = f"The account's head is at transaction {head.seq}; the last row is {seq}."
        yield Violation("row-missing", head.id, head.user_id, head.seq, why)
    elif head.seq < seq:
        why = f"The account's head is at transaction {head.seq}; the last row is {seq}."
        yield Violation("head-wrong", head.id, head.user_id, None, why)
    if head.balance_minor != balance_minor:
        why = (
            f"The account's balance is {head.balance_minor} minor units; "
            f"its last row says {balance_minor}."
        )
        yield Violation("head-wrong", head.id, head.user_id, None, why)
    elif head.seq == seq and head.chain != chain:
        why = "The account's chain value is not that of its last row."
        yield Violation("head-wrong", head.id, head.user_id, None, why)


def recent_violations(
    head: Account, entries: Sequence[Entry], *, first_new_seq: int, currency: Currency
) -> list[Violation]:
    """What is wrong with the newest rows of an account.

    Args:
        head: the account's, of the same snapshot.
        entries: from ``first_new_seq - 1``, which is taken as it stands, to the newest looked at;
            at least one.
        first_new_seq: of the first row to check, 1 or more.
        currency: the ledger's own.
    """
    seq, balance, chain = 0, 0, genesis(head.user_id, currency)
    found: list[Violation] = []
    for entry in entries:
        if entry.seq >= first_new_seq:
            found += row_violations(head, entry, seq=seq, balance_minor=balance, chain=chain)
        seq, balance, chain = entry.seq, entry.balance_after_minor, entry.chain
    if seq >= head.seq:
        found += head_violations(head, seq, balance, chain)
    return found

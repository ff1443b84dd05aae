"""The rules of the ledger, pure: what a movement does to an account, decided in arrival order."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from service.money import Currency

Kind = Literal["deposit", "withdrawal", "burn"]
Outcome = Literal["applied", "refused", "burned"]
Reason = Literal["insufficient-funds", "balance-limit"]

CHAIN_BYTES: Final = 32


class Movement(NamedTuple):
    """What one request asks for.

    ``amount_minor`` is at least 1, and None for a burn. Two requests under one user and key are
    the same request if kind, amount_minor and reference are equal (the currency is the ledger's).
    """

    user_id: str
    key: str
    kind: Kind
    amount_minor: int | None
    reference: str | None


class Entry(NamedTuple):
    """One row of the ledger: the movement as decided, and so the record of its key.

    ``seq`` counts from 1 within the account, without a gap. ``balance_after_minor`` is the
    balance once the row stands, also for rows that moved nothing. ``created_at_us`` is in
    microseconds since 1970 UTC. ``chain`` is 32 bytes, see ``chained``.
    """

    seq: int
    key: str
    kind: Kind
    outcome: Outcome
    reason: Reason | None
    amount_minor: int | None
    balance_after_minor: int
    reference: str | None
    created_at_us: int
    chain: bytes


@dataclass(slots=True)
class Account:
    """An account's head: balance in minor units, last sequence number, last chain value."""

    id: int
    user_id: str
    balance_minor: int
    seq: int
    chain: bytes


class Recorded(NamedTuple):
    """The key has its row: just written, or found (``replayed``)."""

    entry: Entry
    replayed: bool


class KeyReused(NamedTuple):
    """Another request holds the key; ``differs`` names the fields, at least one."""

    first: Entry
    differs: tuple[str, ...]


class KeySettled(NamedTuple):
    """The key to burn was applied or refused before."""

    first: Entry


class AccountNotFound(NamedTuple):
    """The user has no account; nothing is stored, and the same key may run later."""


Decision = Recorded | KeyReused | KeySettled | AccountNotFound


class Fold(NamedTuple):
    """A batch decided: an answer for each movement, in order, and what is to be written."""

    decisions: list[Decision]
    entries: list[tuple[Account, Entry]]
    accounts: list[Account]


def genesis(user_id: str, currency: Currency) -> bytes:
    """The chain value before an account's first row: SHA-256 over user, currency and scale."""
    return sha256(f"teller\n{user_id}\n{currency.code}\n{currency.scale}".encode()).digest()


def chained(chain: bytes, entry: Entry) -> bytes:
    r"""The next chain value: SHA-256 over the one before and the row's canonical form.

    The form is UTF-8: seq, key, kind, outcome, reason, amount_minor, balance_after_minor,
    created_at_us, reference, joined by ``\n``, an absent field empty. No field can hold a line
    feed, so the form is unambiguous. (Hash chains as in RFC 9162's logs, one per account.)
    """
    seq, key, kind, outcome, reason, amount_minor, balance, reference, created_at_us, _ = entry
    form = (
        f"{seq}\n{key}\n{kind}\n{outcome}\n{reason or ''}\n"
        f"{'' if amount_minor is None else amount_minor}\n{balance}\n{created_at_us}\n"
        f"{reference or ''}"
    )
    return sha256(chain + form.encode()).digest()


def differs(first: Entry, movement: Movement) -> tuple[str, ...]:
    """The fields in which the request differs from the one that holds the key, as the API says."""
    fields = []
    if first.kind != movement.kind:
        fields.append("operation")
    if first.amount_minor != movement.amount_minor:
        fields.append("amount")
    if first.reference != movement.reference:
        fields.append("reference")
    return tuple(fields)


def answer_from(first: Entry, movement: Movement) -> Decision:
    """The answer when the key has a row already: a replay, a reuse, or settled."""
    if movement.kind == "burn":
        return Recorded(first, replayed=True) if first.kind == "burn" else KeySettled(first)
    # A burned key answers every later request alike, whatever that request says.
    if first.kind == "burn":
        return Recorded(first, replayed=True)
    fields = differs(first, movement)
    return KeyReused(first, fields) if fields else Recorded(first, replayed=True)


def decide(account: Account, movement: Movement, *, balance_max_minor: int, now_us: int) -> Entry:
    """The row of a movement whose key is new: applied, refused or burned.

    Args:
        account: the head that the row comes after; it is not changed.
        movement: what is asked, its account being this one.
        balance_max_minor: the largest balance a deposit may reach.
        now_us: the time of the decision, microseconds since 1970 UTC.
    """
    balance = account.balance_minor
    outcome: Outcome = "applied"
    reason: Reason | None = None
    amount = movement.amount_minor
    if movement.kind == "burn":
        outcome = "burned"
    elif amount is None or amount <= 0:
        raise AssertionError("a deposit or withdrawal carries an amount of at least 1")
    elif movement.kind == "deposit":
        if balance + amount > balance_max_minor:
            outcome, reason = "refused", "balance-limit"
        else:
            balance += amount
    elif amount > balance:
        outcome, reason = "refused", "insufficient-funds"
    else:
        balance -= amount
    unchained = Entry(
        account.seq + 1,
        movement.key,
        movement.kind,
        outcome,
        reason,
        amount,
        balance,
        movement.reference,
        now_us,
        b"",
    )
    return Entry(*unchained[:-1], chained(account.chain, unchained))


def fold(
    movements: Sequence[Movement],
    *,
    accounts: Mapping[str, Account],
    firsts: Mapping[tuple[str, str], Entry],
    balance_max_minor: int,
    now_us: int,
) -> Fold:
    """Decide a batch in arrival order; two movements of one user and key are one effect.

    Args:
        movements: the batch, oldest first.
        accounts: by user, the head of every account that exists; advanced in place.
        firsts: by (user, key), the rows that hold a key already.
        balance_max_minor: the largest balance a deposit may reach.
        now_us: the time of the decisions, microseconds since 1970 UTC.
    """
    seen = dict(firsts)
    decisions: list[Decision] = []
    entries: list[tuple[Account, Entry]] = []
    touched: dict[int, Account] = {}
    for movement in movements:
        holder = (movement.user_id, movement.key)
        first = seen.get(holder)
        if first is not None:
            decisions.append(answer_from(first, movement))
            continue
        account = accounts.get(movement.user_id)
        if account is None:
            decisions.append(AccountNotFound())
            continue
        entry = decide(account, movement, balance_max_minor=balance_max_minor, now_us=now_us)
        account.balance_minor = entry.balance_after_minor
        account.seq = entry.seq
        account.chain = entry.chain
        seen[holder] = entry
        touched[account.id] = account
        entries.append((account, entry))
        decisions.append(Recorded(entry, replayed=False))
    return Fold(decisions, entries, list(touched.values()))

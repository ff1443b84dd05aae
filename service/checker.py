"""The exactly-once checker, pure: a client's own log against the ledger's rows, in linear time."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from service.history import Event
    from service.ledger import Entry
    from service.money import Currency

Kind = Literal[
    "lost",
    "doubled",
    "differs",
    "applied-though-not",
    "answers-differ",
    "gap",
    "balance-wrong",
    "overdrawn",
    "out-of-order",
    "never-invoked",
    "sum-wrong",
]

FINDINGS_KEPT_MAX: Final = 1_000
# Different answers of one key; two that differ are a finding already.
ANSWERS_KEPT_MAX: Final = 4


class Row(NamedTuple):
    """A ledger row as a receipt says it; ``key`` is None where it is not known."""

    user_id: str
    key: str | None
    transaction: int
    type: str
    outcome: str
    reason: str | None
    amount: str | None
    balance: str
    reference: str | None


class Finding(NamedTuple):
    """One broken promise: of a key, or of an account where ``key`` is None."""

    kind: Kind
    user_id: str
    key: str | None
    transaction: int | None
    detail: str


@dataclass(slots=True)
class Verdict:
    """What was checked, and every promise found broken; the first FINDINGS_KEPT_MAX are kept."""

    keys: int = 0
    rows: int = 0
    settled: int = 0
    unsettled: int = 0
    counts: Counter[Kind] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether every promise held."""
        return not self.counts

    def add(
        self, kind: Kind, user_id: str, key: str | None, transaction: int | None, detail: str
    ) -> None:
        """Count a broken promise, and keep it if it is among the first."""
        self.counts[kind] += 1
        if len(self.findings) < FINDINGS_KEPT_MAX:
            self.findings.append(Finding(kind, user_id, key, transaction, detail))


def row_of(user_id: str, key: str | None, receipt: Mapping[str, Any]) -> Row:
    """A row from the receipt that the service gave of it."""
    return Row(
        user_id,
        key,
        receipt["transaction"],
        receipt["type"],
        receipt["outcome"],
        receipt.get("reason"),
        receipt["amount"],
        receipt["balance"],
        receipt["reference"],
    )


def row_of_entry(user_id: str, entry: Entry, currency: Currency) -> Row:
    """A row from the ledger itself."""
    amount = None if entry.amount_minor is None else currency.text(entry.amount_minor)
    balance = currency.text(entry.balance_after_minor)
    return Row(
        *(user_id, entry.key, entry.seq, entry.kind, entry.outcome, entry.reason, amount, balance),
        entry.reference,
    )


@dataclass(slots=True)
class _Operation:
    """What the log says of one key."""

    asked: list[dict[str, Any]] = field(default_factory=list)
    answers: list[Event] = field(default_factory=list)
    invoked_at_s: float = float("inf")
    answered_at_s: float = float("inf")
    rejected: int = 0

    @property
    def rejected_always(self) -> bool:
        """Whether each request under the key was answered, and each "not applied"."""
        return 0 < len(self.asked) <= self.rejected and not self.answers


def check(
    events: Iterable[Event],
    rows: Iterable[Row],
    *,
    balances: Mapping[str, str] | None = None,
    ignored_keys: Collection[str] = (),
) -> Verdict:
    """Hold the ledger against a client's log; linear in both.

    Promises: an answered key has exactly one row, with what was asked and what was answered; a key
    only ever answered "not applied" has none; any other has at most one; all answers of one key
    agree; each account's rows are numbered without a gap, their balances follow from each other
    and are never negative; what was answered before another was sent stands before it; no
    row was never asked for; the last balance is the account's.

    Args:
        events: the log; the lines of one key in the order of their times, other order is free.
        rows: all rows of the users in the log; those of other users are passed over.
        balances: by user, the account's balance, where it was asked for.
        ignored_keys: whose rows need no line in the log, such as an opening balance's.
    """
    verdict = Verdict()
    users: dict[str, dict[str, _Operation]] = {}
    for event in events:
        operation = users.setdefault(event.user_id, {}).setdefault(event.key, _Operation())
        _take(operation, event)
    ledger: dict[str, list[Row]] = {user: [] for user in users}
    for row in rows:
        if row.user_id in ledger:
            ledger[row.user_id].append(row)
    for user, operations in users.items():
        # Rows come in order: sorting what is sorted is linear.
        mine = sorted(ledger[user], key=lambda row: row.transaction)
        verdict.keys += len(operations)
        verdict.rows += len(mine)
        _check_account(verdict, user, mine, None if balances is None else balances.get(user))
        _check_keys(verdict, user, mine, operations, ignored_keys)
        _check_order(verdict, user, mine, operations)
    return verdict


def _take(operation: _Operation, event: Event) -> None:
    if event.what == "invoked":
        operation.asked.append(event.body)
        operation.invoked_at_s = min(operation.invoked_at_s, event.at_s)
    elif event.what == "not_applied":
        operation.rejected += 1
    elif event.what in {"ok", "refused"}:
        operation.answered_at_s = min(operation.answered_at_s, event.at_s)
        # Equal answers are kept once, so that a key retried for ever costs no memory.
        if event.body not in (answer.body for answer in operation.answers):
            operation.answers = [*operation.answers, event][:ANSWERS_KEPT_MAX]


def _check_account(verdict: Verdict, user: str, rows: list[Row], balance: str | None) -> None:
    """The account by itself: no gap, balances that follow, none negative, the sum."""
    expected, last = Decimal(0), 0
    for row in rows:
        seq, told = row.transaction, Decimal(row.balance)
        if seq != last + 1:
            verdict.add("gap", user, row.key, seq, f"It comes after transaction {last}.")
            expected = told
        elif row.outcome == "applied":
            amount = Decimal(row.amount or 0)
            expected += amount if row.type == "deposit" else -amount
        if told != expected:
            why = f"Its balance is {row.balance}; the rows before it give {expected}."
            verdict.add("balance-wrong", user, row.key, seq, why)
        if told < 0:
            verdict.add("overdrawn", user, row.key, seq, f"Its balance is {row.balance}.")
        expected, last = told, seq
    if balance is not None and Decimal(balance) != expected:
        why = f"The account's balance is {balance}; its rows give {expected}."
        verdict.add("sum-wrong", user, None, None, why)


def _check_keys(
    verdict: Verdict,
    user: str,
    rows: list[Row],
    operations: dict[str, _Operation],
    ignored_keys: Collection[str],
) -> None:
    """Every key and its row: there or not, once, and as asked and answered."""
    found = _by_key(verdict, user, rows, {*operations, *ignored_keys})
    for key, operation in operations.items():
        held = found.get(key)
        if operation.answers:
            verdict.settled += 1
        elif not operation.rejected_always:
            verdict.unsettled += 1
        if len(operation.answers) > 1 and _contradict(operation.answers):
            verdict.add("answers-differ", user, key, None, "Two answers of this key differ.")
        if held is not None:
            _check_content(verdict, user, held, operation)
        elif operation.answers:
            answer = operation.answers[0]
            seq = answer.body.get("transaction")
            verdict.add("lost", user, key, seq, f"It was answered {answer.what}; no row.")


def _by_key(verdict: Verdict, user: str, rows: list[Row], known: set[str]) -> dict[str, Row]:
    """The rows by key: no key twice, and none that nobody asked for."""
    found: dict[str, Row] = {}
    for row in rows:
        if row.key is not None and row.key in found:
            verdict.add("doubled", user, row.key, row.transaction, "The key has a second row.")
        elif row.key is None or row.key not in known:
            verdict.add("never-invoked", user, row.key, row.transaction, "Nobody asked for it.")
        if row.key is not None:
            found.setdefault(row.key, row)
    return found


def _contradict(answers: list[Event]) -> bool:
    """Whether answers differ in what they all say of the row (a 409 and a 201 are two forms)."""
    first = answers[0].body
    return any(
        first[name] != answer.body[name]
        for answer in answers[1:]
        for name in first.keys() & answer.body.keys()
        # A refused retry of another kind is worded otherwise; the row it speaks of is the same.
        if name in _TOLD
    )


_TOLD: Final = frozenset(
    {"transaction", "outcome", "amount", "balance", "currency", "reference", "created_at"}
)


def _check_content(verdict: Verdict, user: str, row: Row, operation: _Operation) -> None:
    """A key's row against what was asked and answered."""
    key, seq = row.key, row.transaction
    if operation.asked and not any(_is_asked(row, asked) for asked in operation.asked):
        verdict.add("differs", user, key, seq, "The row is not what was asked under its key.")
    for answer in operation.answers:
        told = answer.body
        for name in ("transaction", "outcome", "type", "amount", "balance", "reference"):
            # A refusal's `type` is the address of its page.
            if name not in told or (name == "type" and told[name] not in _TYPES):
                continue
            if told[name] != getattr(row, name):
                why = f"It was answered {name} {told[name]!r}; the row says {getattr(row, name)!r}."
                verdict.add("differs", user, key, seq, why)
    if operation.rejected_always:
        verdict.add("applied-though-not", user, key, seq, "Every answer said it was not applied.")


_TYPES: Final = frozenset({"deposit", "withdrawal", "burn"})


def _is_asked(row: Row, asked: Mapping[str, Any]) -> bool:
    return (
        row.type == asked["type"]
        and row.reference == asked.get("reference")
        and _exactly(row.amount) == _exactly(asked.get("amount"))
    )


def _exactly(amount: object) -> Decimal | None:
    """The amount, so that 1.5 and 1.50 are one; None for none, or for what is no number."""
    try:
        return None if amount is None else Decimal(str(amount))
    except InvalidOperation:
        return None


def _check_order(
    verdict: Verdict, user: str, rows: list[Row], operations: dict[str, _Operation]
) -> None:
    """What was answered before another was first sent has the smaller number (real-time order)."""
    latest_at_s, latest = float("-inf"), None
    for row in rows:
        operation = operations.get(row.key or "")
        if operation is None:
            continue
        if operation.answered_at_s < latest_at_s:
            why = f"It was answered before transaction {latest} was sent, and stands after it."
            verdict.add("out-of-order", user, row.key, row.transaction, why)
        if operation.asked and operation.invoked_at_s > latest_at_s:
            latest_at_s, latest = operation.invoked_at_s, row.transaction

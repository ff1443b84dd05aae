"""The model: what a ledger must answer, from a dictionary alone, with nothing of the service."""

from __future__ import annotations

from typing import Literal, NamedTuple

Type = Literal["deposit", "withdrawal", "burn"]


class Request(NamedTuple):
    """A movement or a burn that a client asks for; ``amount`` is in cents, 0 for a burn."""

    user: str
    key: str
    type: Type
    amount: int = 0
    reference: str | None = None


class Row(NamedTuple):
    """One transaction of a user's; ``amount`` and ``balance`` are in cents."""

    transaction: int
    request: Request
    outcome: Literal["applied", "refused", "burned"]
    balance: int


class Answer(NamedTuple):
    """What must be answered. ``row`` is None where no row may be there."""

    status: int
    row: Row | None
    replayed: bool
    differs: tuple[str, ...] = ()


class Model:
    """The users' accounts in dictionaries; ``balance_max`` is in cents."""

    def __init__(self, users: list[str], balance_max: int) -> None:
        self.balance_max = balance_max
        self.rows: dict[str, list[Row]] = {user: [] for user in users}
        self.keys: dict[tuple[str, str], Row] = {}

    def balance(self, user: str) -> int:
        return self.rows[user][-1].balance if self.rows[user] else 0

    def take(self, request: Request) -> Answer:
        """The answer to a request that arrives now; a new key's row is kept."""
        if request.user not in self.rows:
            return Answer(404, None, replayed=False)
        held = self.keys.get((request.user, request.key))
        if held is None:
            return self._new(request)
        if request.type == "burn":
            burned = held.outcome == "burned"
            return Answer(200 if burned else 409, held, replayed=burned)
        if held.outcome == "burned":
            return Answer(410, held, replayed=True)
        differs = tuple(
            name
            for name, first, now in (
                ("operation", held.request.type, request.type),
                ("amount", held.request.amount, request.amount),
                ("reference", held.request.reference, request.reference),
            )
            if first != now
        )
        if differs:
            return Answer(422, held, replayed=False, differs=differs)
        return Answer(self._status(held), held, replayed=True)

    def _new(self, request: Request) -> Answer:
        balance, outcome = self.balance(request.user), "applied"
        if request.type == "burn":
            outcome = "burned"
        elif request.type == "deposit":
            if balance + request.amount > self.balance_max:
                outcome = "refused"
            else:
                balance += request.amount
        elif request.amount > balance:
            outcome = "refused"
        else:
            balance -= request.amount
        rows = self.rows[request.user]
        row = Row(len(rows) + 1, request, outcome, balance)  # type: ignore[arg-type]
        rows.append(row)
        self.keys[request.user, request.key] = row
        return Answer(self._status(row), row, replayed=False)

    @staticmethod
    def _status(row: Row) -> int:
        if row.outcome == "refused":
            return 402 if row.request.type == "withdrawal" else 403
        return 201 if row.outcome == "applied" else 200


def text(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02}"


def receipt(row: Row) -> dict[str, object]:
    """What a receipt must say of a row, its time aside."""
    said: dict[str, object] = {
        "transaction": row.transaction,
        "type": row.request.type,
        "amount": None if row.request.type == "burn" else text(row.request.amount),
        "balance": text(row.balance),
        "currency": "USD",
        "reference": row.request.reference,
        "outcome": row.outcome,
    }
    if row.outcome == "refused":
        withdrawal = row.request.type == "withdrawal"
        said["reason"] = "insufficient-funds" if withdrawal else "balance-limit"
    return said

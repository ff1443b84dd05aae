"""What a trial of exactly-once found wrong: the ledger's movements held against what was answered.

A violation is a key whose movement is lost, was made twice or with another amount, whose request
never got an answer, or whose answers differ.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from tests.clients import Reply

USUAL_MINOR: Final = 125
LARGE_MINOR: Final = 9_007_199_254_740_993
AS_IF: Final = "another amount under its key answered as if it were this one"

# Of each user and key: how many movements there are, and their sum in minor units.
Movements = dict[tuple[str, str], tuple[int, int]]


@dataclass
class Case:
    """How many keys were tried, and what was wrong with how many of them."""

    keys: int = 0
    wrong: dict[str, int] = field(default_factory=dict)

    def count(self, wrong: str | None) -> None:
        self.keys += 1
        if wrong is not None:
            self.wrong[wrong] = self.wrong.get(wrong, 0) + 1

    @property
    def violations(self) -> int:
        return sum(self.wrong.values())


@dataclass
class Trial:
    """What one contestant did under every fault."""

    cases: dict[str, Case] = field(default_factory=dict)

    @property
    def keys(self) -> int:
        return sum(case.keys for case in self.cases.values())

    @property
    def violations(self) -> int:
        return sum(case.violations for case in self.cases.values())

    def as_json(self) -> dict[str, Any]:
        return {name: asdict(case) for name, case in self.cases.items()}


class Sent(NamedTuple):
    """A request that a client gave all its patience to, and the last of its answers."""

    user: str
    key: str
    reply: Reply | None

    @property
    def applied(self) -> bool:
        return self.reply is not None and self.reply.status in {200, 201}


def judged(done: dict[str, list[list[Sent]]], movements: Movements) -> Trial:
    """Every case's groups of sendings, each group being one claim about its keys."""
    trial = Trial()
    for name, groups in done.items():
        case = trial.cases[name] = Case()
        for group in groups:
            if name == "exact":
                for wrong in _wrong_amounts(group, movements):
                    case.count(wrong)
            elif name == "duplicates":
                case.count(_wrong(group[0], movements) or _differing(group))
            else:
                for one in group:
                    case.count(_wrong(one, movements))
    return trial


def _wrong(one: Sent, movements: Movements, minor: int = USUAL_MINOR) -> str | None:
    """What is wrong with a key that was sent until it should have been applied."""
    many, sum_minor = movements.get((one.user, one.key), (0, 0))
    if many > 1:
        return "applied more than once"
    if one.reply is None:
        return "never answered"
    if not one.applied:
        return f"refused with {one.reply.status}"
    if many == 0:
        return "answered, not applied"
    return None if sum_minor == minor else "another amount"


def _differing(group: list[Sent]) -> str | None:
    """Whether duplicates were told different things of the one movement."""
    told = set()
    for one in group:
        if one.reply is None or not one.applied:
            return "never answered"
        receipt = one.reply.json()
        told.add((receipt["transaction"], Decimal(receipt["balance"])))
    return "different answers" if len(told) > 1 else None


def _wrong_amounts(group: list[Sent], movements: Movements) -> list[str | None]:
    string, number, first, neighbour, number_first, number_neighbour = group
    return [
        _wrong(string, movements, LARGE_MINOR),
        _wrong(number, movements, LARGE_MINOR),
        _wrong(first, movements, LARGE_MINOR) or (AS_IF if neighbour.applied else None),
        AS_IF if number_first.applied and number_neighbour.applied else None,
    ]


def total(trials: dict[str, Any]) -> dict[str, tuple[int, int, str]]:
    """Of each contestant in the results: keys, violations, and the violations in words."""
    found = {}
    for name, cases in trials.items():
        words = [
            f"{many} {wrong} ({case})"
            for case, one in cases.items()
            for wrong, many in one["wrong"].items()
        ]
        keys = sum(one["keys"] for one in cases.values())
        wrong = sum(sum(one["wrong"].values()) for one in cases.values())
        found[name] = (keys, wrong, "; ".join(words))
    return found

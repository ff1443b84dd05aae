"""What Teller is to reach: ratios within one run on one machine, and what a run measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@dataclass(frozen=True)
class Target:
    """A figure with its first and its final aim; ``at_least`` says which way is better."""

    what: str
    first: float
    goal: float
    at_least: bool = True
    unit: str = ""

    def reached(self, value: float) -> str:
        for name, aim in (("goal", self.goal), ("first", self.first)):
            if (value >= aim) if self.at_least else (value <= aim):
                return name
        return "no"


TARGETS: Final = {
    "P1-64": Target("durable deposits/s ÷ FastAPI no-op, 64 connections", 1.0, 2.0),
    "P1-256": Target("durable deposits/s ÷ FastAPI no-op, 256 connections", 1.0, 2.0),
    "P2": Target("deposits/s ÷ the naive peer, 64 connections", 15, 30),
    "P3": Target("log line, metrics and 1 % traces on ÷ off", 0.80, 0.90),
    "P4": Target("p50 alone ÷ (no-op p50 + one fdatasync)", 2.0, 1.3, at_least=False),
    "P5": Target("p99 ÷ p50, 64 connections", 2.5, 1.8, at_least=False),
    "P6": Target("deposits/s on a large ledger ÷ on an empty one", 0.7, 0.9),
    "P7": Target("one hot account ÷ 1,000 accounts", 0.95, 1.0),
    "P8": Target("replays/s ÷ first attempts/s", 1.0, 1.2),
    "P9": Target("goodput at three times its maximum ÷ its maximum", 0.9, 0.97),
    "P10": Target("peak memory under load", 150, 110, at_least=False, unit=" MB"),
    "P11": Target("two processes on one file ÷ one", 1.1, 1.4),
    "P11-p99": Target("the slower one's p99 ÷ one process's", 2, 1.3, at_least=False),
    "P12": Target("start to ready, empty database", 1.5, 0.7, at_least=False, unit=" s"),
    "PG-1": Target("on PostgreSQL: deposits/s ÷ the asyncpg peer, 1 connection", 1, 1),
    "PG-64": Target("the same, 64 connections", 5, 5),
    "PG-256": Target("the same, 256 connections", 5, 5),
    "PG-hot": Target("the same, 64 connections, one hot account", 5, 5),
}


@dataclass(frozen=True)
class Measured:
    """A target's value in this run; ``spread`` is that of the rounds, ``note`` the absolutes."""

    target: str
    value: float
    spread: tuple[float, float]
    note: str = ""


@dataclass(frozen=True)
class Plan:
    """How long to measure, and whom to tell of each step.

    Attributes:
        rounds: interleaved, the median counts.
        seconds: of each slice of load.
        connections: in flight, for the throughput of every contestant.
        accounts: of the large ledger, with ten movements each.
        ledgers: a folder where large ledgers are kept for the next run; None to throw them away.
        soak_s: how long memory is watched.
        kills: of each contestant in its exactly-once trial.
        say: told of each step done.
    """

    rounds: int
    seconds: int
    connections: tuple[int, ...]
    accounts: int
    ledgers: Path | None
    soak_s: int
    kills: int
    say: Callable[[str], None]


@dataclass
class Found:
    """What a bench brings home: values for targets, and the data behind them."""

    measured: list[Measured] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)

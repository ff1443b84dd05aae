"""Closed-loop throughput: every contestant in turn, round after round, fresh databases each."""

from __future__ import annotations

import statistics
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench import audit, machine, wrk
from tests.bench.contestants import MAIN, alone, running
from tests.bench.machine import split_cores
from tests.bench.targets import Found, Measured

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.bench.contestants import Contestant
    from tests.bench.targets import Plan
    from tests.bench.wrk import Slice

WARM_UP_S = 1


@dataclass
class Table:
    """The slices of each contestant at each number of connections.

    ``cpu_us`` is the processor time a request took in the service, in microseconds: on a machine
    that others use too it moves far less than requests a second.
    """

    slices: dict[tuple[str, int], list[Slice]] = field(default_factory=dict)
    cpu_us: dict[tuple[str, int], list[float]] = field(default_factory=dict)

    def add(self, name: str, connections: int, slice_: Slice, cpu_us: float) -> None:
        self.slices.setdefault((name, connections), []).append(slice_)
        self.cpu_us.setdefault((name, connections), []).append(cpu_us)

    def per_s(self, name: str, connections: int) -> float:
        """The median of the rounds."""
        return statistics.median(one.per_s for one in self.slices[name, connections])

    def percentile_ms(self, name: str, connections: int, percentile: str) -> float:
        return statistics.median(
            one.percentiles_ms[percentile] for one in self.slices[name, connections]
        )

    def median_cpu_us(self, name: str, connections: int) -> float:
        return statistics.median(self.cpu_us[name, connections])

    def ratios(self, name: str, other: str, connections: int) -> list[float]:
        """Round by round: neighbours in time share the machine's weather."""
        pairs = zip(self.slices[name, connections], self.slices[other, connections], strict=True)
        return [one.per_s / two.per_s for one, two in pairs]

    def as_json(self) -> list[dict[str, object]]:
        return [
            {
                "contestant": name,
                "connections": connections,
                "per_s": [round(one.per_s, 1) for one in slices],
                "cpu_us": [round(one, 1) for one in self.cpu_us[name, connections]],
                "percentiles_ms": {
                    p: round(self.percentile_ms(name, connections, p), 3)
                    for p in slices[0].percentiles_ms
                },
                "max_ms": max(one.max_ms for one in slices),
            }
            for (name, connections), slices in self.slices.items()
        ]


def measure(
    contestants: Sequence[Contestant],
    *,
    connections: Sequence[int],
    rounds: int,
    seconds: int,
    advance: Callable[[str], None],
) -> Table:
    """Load each contestant at each number of connections, interleaved A B A B.

    Args:
        contestants: who; each starts anew every round.
        connections: requests in flight.
        rounds: how often.
        seconds: of each slice.
        advance: told of each slice done, for the progress bar.
    """
    table = Table()
    servers, loads = split_cores()
    for round_ in range(rounds):
        with ExitStack() as stack:
            at_work = [stack.enter_context(running(one, cores=servers)) for one in contestants]
            sent = dict.fromkeys((one.contestant.name for one in at_work), 0)
            for one in at_work:
                warm = wrk.load(
                    one.url, connections=16, seconds=WARM_UP_S, prefix="warm", cores=loads
                )
                sent[one.contestant.name] += warm.requests
            for many in connections:
                # Neither is always the first: the order turns round by round.
                for one in at_work if round_ % 2 == 0 else reversed(at_work):
                    name = one.contestant.name
                    prefix = f"c{many}-"
                    with alone(one, at_work):
                        before_s = one.cpu_s()
                        slice_ = wrk.load(
                            one.url, connections=many, seconds=seconds, prefix=prefix, cores=loads
                        )
                    cpu_us = (one.cpu_s() - before_s) * 1e6 / slice_.requests
                    table.add(name, many, slice_, cpu_us)
                    sent[name] += slice_.requests
                    advance(f"{one.contestant.title} at {many}: {slice_.per_s:,.0f}/s")
            for one in at_work:
                if one.contestant.app is None:
                    audit.check(
                        one,
                        answered=sent[one.contestant.name],
                        unanswered_max=16 + sum(connections),
                    )
    return table


def compared(plan: Plan, contestants: Sequence[Contestant] = MAIN) -> Found:
    """P1, P2, P4 and P5 from one table of every contestant."""
    table = measure(
        contestants,
        connections=plan.connections,
        rounds=plan.rounds,
        seconds=plan.seconds,
        advance=plan.say,
    )
    with tempfile.TemporaryDirectory(prefix="teller-bench-") as folder:
        sync_ms = machine.sync_ms(Path(folder))
    measured = []
    there = {name for name, _ in table.slices}
    for target, other, many in (
        ("P1-64", "noop", 64),
        ("P1-256", "noop", 256),
        ("P2", "naive", 64),
    ):
        if {"teller", other} <= there and many in plan.connections:
            ratios = table.ratios("teller", other, many)
            note = (
                f"{table.per_s('teller', many):,.0f}/s and {table.per_s(other, many):,.0f}/s; "
                f"processor time {table.median_cpu_us('teller', many):.0f} and "
                f"{table.median_cpu_us(other, many):.0f} µs"
            )
            measured.append(_measured(target, ratios, note))
    if {"teller", "noop"} <= there and 1 in plan.connections:
        alone = zip(table.slices["teller", 1], table.slices["noop", 1], strict=True)
        ratios = [
            ours.percentiles_ms["50"] / (theirs.percentiles_ms["50"] + sync_ms)
            for ours, theirs in alone
        ]
        note = f"{table.percentile_ms('teller', 1, '50'):.2f} ms; one fdatasync {sync_ms:.2f} ms"
        measured.append(_measured("P4", ratios, note))
    if "teller" in there and 64 in plan.connections:
        slices = table.slices["teller", 64]
        ratios = [one.percentiles_ms["99"] / one.percentiles_ms["50"] for one in slices]
        note = f"p99 {table.percentile_ms('teller', 64, '99'):.1f} ms"
        measured.append(_measured("P5", ratios, note))
    return Found(measured, {"fdatasync_p50_ms": sync_ms, "table": table.as_json()})


def _measured(target: str, ratios: list[float], note: str) -> Measured:
    return Measured(target, statistics.median(ratios), (min(ratios), max(ratios)), note)

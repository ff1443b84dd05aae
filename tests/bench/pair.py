"""P11: two processes on one file beside one process alone, under the same two streams of load."""

from __future__ import annotations

import statistics
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench import audit, wrk
from tests.bench.contestants import TELLER, prepare, running
from tests.bench.targets import Found, Measured

if TYPE_CHECKING:
    from tests.bench.targets import Plan
    from tests.bench.wrk import Slice

CONNECTIONS_EACH = 32


def measure(processes: int, *, seconds: int) -> list[Slice]:
    """Two streams of 32 connections, unpinned, over one or two processes on one fresh file."""
    with tempfile.TemporaryDirectory(prefix="teller-bench-") as fresh:
        folder = Path(fresh)
        prepare(folder)
        with ExitStack() as stack:
            at_work = [
                stack.enter_context(running(TELLER, cores=None, folder=folder))
                for _ in range(processes)
            ]

            def stream(number: int, prefix: str, for_s: int) -> Slice:
                return wrk.load(
                    at_work[number % processes].url,
                    connections=CONNECTIONS_EACH,
                    seconds=for_s,
                    prefix=f"{prefix}{number}-",
                    cores=None,
                )

            with ThreadPoolExecutor(2) as pool:
                warm = list(pool.map(lambda n: stream(n, "warm", 1), range(2)))
                slices = list(pool.map(lambda n: stream(n, "p", seconds), range(2)))
            audit.check(
                at_work[0],
                answered=sum(one.requests for one in (*warm, *slices)),
                unanswered_max=4 * CONNECTIONS_EACH,
            )
    return slices


def compared(plan: Plan) -> Found:
    """Two beside one, round by round."""
    ratios, tails, notes = [], [], []
    for _ in range(plan.rounds):
        one = measure(1, seconds=plan.seconds)
        two = measure(2, seconds=plan.seconds)
        rates = [sum(slice_.per_s for slice_ in slices) for slices in (one, two)]
        p99s = [max(slice_.percentiles_ms["99"] for slice_ in slices) for slices in (one, two)]
        ratios.append(rates[1] / rates[0])
        tails.append(p99s[1] / p99s[0])
        notes.append({"per_s": rates, "p99_ms": p99s})
        plan.say(f"P11 one {rates[0]:,.0f}/s, two {rates[1]:,.0f}/s")
    return Found(
        [
            Measured("P11", statistics.median(ratios), (min(ratios), max(ratios))),
            Measured("P11-p99", statistics.median(tails), (min(tails), max(tails))),
        ],
        {"rounds": notes},
    )

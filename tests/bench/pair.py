"""P11: two processes on one file beside one process alone, under the same two streams of load."""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench import audit, wrk
from tests.bench.contestants import TELLER, prepare, running

if TYPE_CHECKING:
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

"""P10 and P12: memory and log stay flat under load; how soon a service is ready."""

from __future__ import annotations

import statistics
import tempfile
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.bench import wrk
from tests.bench.contestants import TELLER, running
from tests.bench.machine import split_cores
from tests.bench.targets import Found, Measured

if TYPE_CHECKING:
    from tests.bench.targets import Plan

CONNECTIONS: Final = 256
SAMPLE_S: Final = 0.5


def memory(plan: Plan) -> Found:
    """Peak memory at 256 connections, and how it and the log grew from the first quarter on."""
    servers, loads = split_cores()
    samples: list[tuple[float, float]] = []
    with running(TELLER, cores=servers) as teller, ThreadPoolExecutor(1) as pool:
        wal = teller.folder / "ledger.db-wal"
        load = pool.submit(
            wrk.load,
            teller.url,
            connections=CONNECTIONS,
            seconds=plan.soak_s,
            prefix="soak-",
            cores=loads,
        )
        while not load.done():
            time.sleep(SAMPLE_S)
            samples.append((teller.rss_mb(), wal.stat().st_size / 1e6))
        slice_ = load.result()
        plan.say(f"P10 after {plan.soak_s} s: {samples[-1][0]:.0f} MB")
    quarter = len(samples) // 4
    peak = max(rss for rss, _ in samples)
    growth = samples[-1][0] - samples[quarter][0]
    wal_peak = max(size for _, size in samples)
    note = (
        f"{slice_.requests:,} deposits in {plan.soak_s} s; {growth:+.1f} MB after the first "
        f"quarter; log at most {wal_peak:.0f} MB"
    )
    data = {
        "rss_mb": [round(rss, 1) for rss, _ in samples],
        "wal_mb": [round(size, 1) for _, size in samples],
        "requests": slice_.requests,
    }
    return Found([Measured("P10", peak, (samples[0][0], peak), note)], data)


def start(plan: Plan) -> Found:
    """From the command to the first 200 of ``/readyz``, the ledger made on the way.

    Python has compiled the modules before, as an image or an earlier start has.
    """
    servers, _ = split_cores()
    times = []
    with running(TELLER, cores=servers):
        pass
    for _ in range(plan.rounds):
        with tempfile.TemporaryDirectory(prefix="teller-bench-") as fresh:
            began_s = time.perf_counter()
            with running(TELLER, cores=servers, folder=Path(fresh)) as teller:
                while not _ready(teller.url):
                    time.sleep(0.01)
                times.append(time.perf_counter() - began_s)
        plan.say(f"P12 ready after {times[-1]:.2f} s")
    return Found(
        [Measured("P12", statistics.median(times), (min(times), max(times)))],
        {"ready_s": [round(one, 3) for one in times]},
    )


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False

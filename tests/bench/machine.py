"""The machine under the figures: its tools, its cores, what one sync of its disk costs."""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import tempfile
import time
from typing import TYPE_CHECKING, Any, Final

from service.sqlite import driver

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

INSTALL: Final = {
    "wrk": "apt-get install wrk",
    "taskset": "apt-get install util-linux",
    "strace": "apt-get install strace",
    "redis-server": "apt-get install redis-server",
}


def missing(tools: Iterable[str] = INSTALL) -> list[str]:
    """How to install each tool that is not here."""
    return [f"{tool} is missing: {INSTALL[tool]}" for tool in tools if shutil.which(tool) is None]


def split_cores() -> tuple[list[int] | None, list[int] | None]:
    """The server's core, and the load's; both None where there are fewer than two."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return ([cores[0]], [cores[1]]) if len(cores) > 1 else (None, None)


def sync_ms(folder: Path, times: int = 200) -> float:
    """The median time of writing 4 KiB and fdatasync on that folder's disk, in milliseconds."""
    taken = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(times):
            started = time.perf_counter()
            os.pwrite(file.fileno(), b"\0" * 4096, 0)
            os.fdatasync(file.fileno())
            taken.append((time.perf_counter() - started) * 1000)
    return statistics.median(taken)


def facts(folder: Path) -> dict[str, Any]:
    """What a reader must know to compare the figures with another machine's."""
    return {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "sqlite": driver.sqlite_version,
        "fdatasync_p50_ms": round(sync_ms(folder), 3),
        "load_average_1m": round(os.getloadavg()[0], 2),
    }

"""A Redis of its own for a contestant: every write is on disk before it is answered."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from tests.bench.process import Ground, start, stop
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

# As durable as SQLite's synchronous=FULL; no snapshots, which would fork beside the load.
DURABLE: Final = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")


@contextmanager
def redis(folder: Path, prefix: Sequence[str]) -> Iterator[Ground]:
    """Start it on a free port, its files in that folder; stopped at the end."""
    port = free_port()
    command = [*prefix, "redis-server", "--port", str(port), "--bind", "127.0.0.1"]
    process = start(
        [*command, "--dir", str(folder), *DURABLE],
        env={},
        output=folder / "redis.txt",
        port=port,
    )
    try:
        yield Ground({"BENCH_REDIS": f"redis://127.0.0.1:{port}"}, (process.pid,))
    finally:
        stop(process)

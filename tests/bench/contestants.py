"""Who is measured: each a process of its own on a fresh folder, pinned to the server's core."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil

from tests.bench.wrk import ACCOUNTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

START_TIMEOUT_S: Final = 60
STOP_TIMEOUT_S: Final = 30
UVICORN: Final = ("--loop", "uvloop", "--http", "httptools", "--no-access-log")
# Telemetry off: what P1 compares. The production bench takes these away again.
QUIET: Final = {"TELLER_REQUEST_LOG": "false", "TELLER_LOG_LEVEL": "WARNING"}
USERS: Final = [f"u{n}" for n in range(ACCOUNTS)]


@dataclass(frozen=True)
class Contestant:
    """A service that takes the same deposits over HTTP.

    Attributes:
        name: on the command line and in the results.
        title: in tables and plots.
        app: the module of its ASGI application; None for Teller itself.
        durable: whether an answer means that the deposit is on disk.
        env: variables of its process.
    """

    name: str
    title: str
    app: str | None = None
    durable: bool = True
    env: Mapping[str, str] = field(default_factory=dict)


TELLER: Final = Contestant("teller", "Teller", env=QUIET)
NOOP: Final = Contestant("noop", "FastAPI no-op", "tests.bench.apps.noop", durable=False)
BARE: Final = Contestant("bare", "bare ASGI callable", "tests.bench.apps.bare", durable=False)
NAIVE: Final = Contestant("naive", "FastAPI + ORM, one transaction each", "tests.bench.apps.naive")
ASYNCPG: Final = Contestant(
    "asyncpg", "FastAPI + asyncpg, one transaction each", "tests.bench.apps.asyncpg_peer"
)
MAIN: Final = (TELLER, NOOP, BARE, NAIVE)
ALL: Final = (*MAIN, ASYNCPG)


@dataclass(frozen=True)
class Running:
    """A contestant at work."""

    contestant: Contestant
    port: int
    process: subprocess.Popen[bytes]
    folder: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cpu_s(self) -> float:
        """Processor time of its process so far, all threads, user and system."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def rss_mb(self) -> float:
        return float(psutil.Process(self.process.pid).memory_info().rss) / 1e6


def database_url(folder: Path) -> str:
    return f"sqlite+aiosqlite:///{folder / 'ledger.db'}"


def prepare(folder: Path, users: Sequence[str] = USERS, *, database: str | None = None) -> None:
    """Make a ledger with those accounts open: in the folder, or in that database."""
    command = [sys.executable, "-m", "service", "users", "add", *users]
    subprocess.run(
        [*command, "--database", database or database_url(folder)],
        env={**os.environ, "TELLER_LOG_LEVEL": "WARNING"},
        stdout=subprocess.DEVNULL,
        timeout=START_TIMEOUT_S,
        check=True,
    )


@contextmanager
def running(
    contestant: Contestant,
    *,
    cores: Sequence[int] | None,
    folder: Path | None = None,
    database: str | None = None,
    prefix: Sequence[str] = (),
) -> Iterator[Running]:
    """Start a contestant and wait until it listens; stopped at the end.

    Args:
        contestant: who.
        cores: the CPUs its process may use; None for any.
        folder: with a ledger prepared; a fresh one unless given.
        database: the URL of an empty one on a server, in the place of a file.
        prefix: a command before its own, such as strace.
    """
    with tempfile.TemporaryDirectory(prefix="teller-bench-") as fresh:
        at = folder or Path(fresh)
        port = free_port()
        if contestant.app is None:
            if folder is None:
                prepare(at, database=database)
            url = database or database_url(at)
            command = ["service", "serve", "--port", str(port), "--database", url]
        else:
            command = ["uvicorn", f"{contestant.app}:app", "--port", str(port), *UVICORN]
        pin = ["taskset", "-c", ",".join(map(str, cores))] if cores else []
        with (at / f"output-{port}.txt").open("wb") as output:
            process = subprocess.Popen(
                [*pin, *prefix, sys.executable, "-m", *command],
                env={
                    **os.environ,
                    "BENCH_FOLDER": str(at),
                    "BENCH_DATABASE": database or "",
                    **contestant.env,
                },
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                _wait_until_listening(process, port, Path(output.name))
                yield Running(contestant, port, process, at)
            finally:
                stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and SIGKILL when that does not help."""
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _wait_until_listening(process: subprocess.Popen[bytes], port: int, output: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise RuntimeError(f"A contestant did not start:\n{output.read_text()[-2_000:]}")

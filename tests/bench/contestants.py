"""Who is measured: each a process of its own on a fresh folder, pinned to the server's core."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psutil

from service.sqlite import driver
from tests.bench import process
from tests.bench.postgres_ground import DATABASE, ask_postgres, postgres
from tests.bench.process import START_TIMEOUT_S, Ground
from tests.bench.redis_server import redis
from tests.bench.wrk import ACCOUNTS
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

UVICORN: Final = ("--loop", "uvloop", "--http", "httptools", "--no-access-log")
# Telemetry off: what P1 compares. The production bench takes these away again.
QUIET: Final = {"TELLER_REQUEST_LOG": "false", "TELLER_LOG_LEVEL": "WARNING"}
USERS: Final = [f"u{n}" for n in range(ACCOUNTS)]


def of_file(name: str) -> Callable[[Path, Mapping[str, str], str], list[tuple[Any, ...]]]:
    """How to ask a ledger that is a SQLite file of that name, at rest."""

    def ask(folder: Path, _env: Mapping[str, str], sql: str) -> list[tuple[Any, ...]]:
        connection = driver.connect(f"file:{folder / name}?mode=ro", uri=True)
        try:
            return list(connection.execute(sql))
        finally:
            connection.close()

    return ask


NAIVE_FILE: Final = of_file("naive.db")


@dataclass(frozen=True)
class Contestant:
    """A service that takes the same deposits over HTTP.

    Attributes:
        name: on the command line and in the results.
        title: in tables and plots.
        app: the module of its ASGI application; None for Teller itself.
        durable: whether an answer means that the deposit is on disk.
        env: variables of its process.
        ground: starts what it stands on, such as Redis, in a folder and with a command before it.
        ask: how its ledger answers SQL, given the folder and the variables of its ground; there
            are ``accounts (id, user_id, balance_minor)`` and
            ``movements (account_id, key, amount_minor)`` in it.
        synced: in the path of the file whose sync makes a movement durable.
    """

    name: str
    title: str
    app: str | None = None
    durable: bool = True
    env: Mapping[str, str] = field(default_factory=dict)
    ground: Callable[[Path, Sequence[str]], AbstractContextManager[Ground]] | None = None
    ask: Callable[[Path, Mapping[str, str], str], list[tuple[Any, ...]]] = NAIVE_FILE
    synced: str = "naive.db-wal"


TELLER: Final = Contestant(
    "teller", "Teller", env=QUIET, ask=of_file("ledger.db"), synced="ledger.db-wal"
)
NOOP: Final = Contestant("noop", "FastAPI no-op", "tests.bench.apps.noop", durable=False)
BARE: Final = Contestant("bare", "bare ASGI callable", "tests.bench.apps.bare", durable=False)
NAIVE: Final = Contestant("naive", "FastAPI + ORM, one transaction each", "tests.bench.apps.naive")
PEERS: Final = (
    Contestant(
        "idempotency-key",
        "fastapi-idempotency-key 0.1.1, SQLite",
        "tests.bench.apps.idempotency_key",
    ),
    Contestant(
        "idempotency", "fastapi-idempotency 0.1.1, Tortoise ORM", "tests.bench.apps.idempotency"
    ),
    Contestant("idemkit", "idemkit 1.0.2, Redis", "tests.bench.apps.idemkit_redis", ground=redis),
)
# On PostgreSQL, in a bench of their own.
TELLER_POSTGRES: Final = Contestant(
    "teller-postgres",
    "Teller on PostgreSQL",
    env=QUIET,
    ground=postgres,
    ask=ask_postgres,
    synced="pg_wal",
)
ASYNCPG: Final = Contestant(
    "asyncpg",
    "FastAPI + asyncpg, one transaction each",
    "tests.bench.apps.asyncpg_peer",
    ground=postgres,
    ask=ask_postgres,
    synced="pg_wal",
)
MAIN: Final = (TELLER, NOOP, BARE, NAIVE, *PEERS)
ALL: Final = (*MAIN, TELLER_POSTGRES, ASYNCPG)
DURABLE: Final = tuple(one for one in ALL if one.durable)


@dataclass(frozen=True)
class Running:
    """A contestant at work."""

    contestant: Contestant
    port: int
    process: subprocess.Popen[bytes]
    folder: Path
    ground: Ground = field(default_factory=Ground)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cpu_s(self) -> float:
        """Processor time of its process, and of those that it stands on, so far."""
        return process.cpu_s((self.process.pid, *self.ground.pids))

    def rss_mb(self) -> float:
        return float(psutil.Process(self.process.pid).memory_info().rss) / 1e6


@contextmanager
def alone(one: Running, at_work: Iterable[Running]) -> Iterator[None]:
    """Halt the others while one is measured.

    What a service has left to do after an answer, such as the audit of its new rows, is then done
    in its own time and never in another's.
    """
    others = [other for other in at_work if other is not one]
    for other in others:
        other.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for other in others:
            other.process.send_signal(signal.SIGCONT)


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
        before = [*process.pinned(cores), *prefix]
        place = grounded(
            contestant, at, before=before, database=database, prepared=folder is not None
        )
        with place as ground:
            port = free_port()
            started = launched(contestant, at, port, ground=ground, before=before)
            try:
                yield Running(contestant, port, started, at, ground)
            finally:
                process.stop(started)


@contextmanager
def grounded(
    contestant: Contestant,
    folder: Path,
    *,
    before: Sequence[str] = (),
    database: str | None = None,
    prepared: bool = False,
) -> Iterator[Ground]:
    """What it stands on, started in that folder, with Teller's accounts open.

    Args:
        contestant: who.
        folder: of its ledger.
        before: a command before each command.
        database: the URL of an empty one on a server that runs, in the place of a ground.
        prepared: whether Teller's ledger is there already.
    """
    with ExitStack() as stack:
        ground = Ground({DATABASE: database} if database else {})
        if contestant.ground and not database:
            ground = stack.enter_context(contestant.ground(folder, before))
        if contestant.app is None and not prepared:
            prepare(folder, database=ground.env.get(DATABASE))
        yield ground


def launched(
    contestant: Contestant,
    folder: Path,
    port: int,
    *,
    ground: Ground,
    before: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start its process on a folder that is prepared; it listens when this returns.

    Args:
        contestant: who.
        folder: of its ledger.
        port: where it shall listen.
        ground: what it stands on.
        before: a command before its own.
        env: more variables of its process.
    """
    if contestant.app is None:
        url = ground.env.get(DATABASE) or database_url(folder)
        command = ["service", "serve", "--port", str(port), "--database", url]
    else:
        command = ["uvicorn", f"{contestant.app}:app", "--port", str(port), *UVICORN]
    return process.start(
        [*before, sys.executable, "-m", *command],
        env={"BENCH_FOLDER": str(folder), **contestant.env, **ground.env, **(env or {})},
        output=folder / f"output-{port}.txt",
        port=port,
    )

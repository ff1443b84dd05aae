"""Faults of processes, system calls and machines, met by services that are under load.

Each function brings about one fault and returns its class, or None if it could not; what has to
be started again afterwards is the supervisor's part (``Site.mend``).
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from service.sqlite import file_of
from tests.faults.disks import fill
from tests.faults.strace import injected
from tests.parts import part

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from random import Random

    from tests.campaign.site import Site
    from tests.processes import Served

    Fault = Callable[[Site, Random], str | None]

CALLS: Final = ("pwrite64", "fdatasync,fsync", "fcntl", "sendto,write", "recvfrom,read")
CALL_NUMBER_MAX: Final = 60
DEATH_TIMEOUT_S: Final = 4.0
PAUSE_S: Final = (0.2, 1.5)
SLOW_DISK_US: Final = (5_000, 400_000)
CLOCK_JUMP_S_MAX: Final = 400 * 86_400
MEMORY_LEFT_MAX: Final = 2**20
DESCRIPTORS_LEFT_MAX: Final = 12
FAKETIME: Final = "apt-get install faketime"


def _one(site: Site, rng: Random) -> Served:
    return rng.choice(site.servers)


# -- processes --------------------------------------------------------------------------------


def kill_9(site: Site, rng: Random) -> str:
    """The process is gone in the middle of whatever it did."""
    _one(site, rng).kill()
    return "kill -9"


def sigterm(site: Site, rng: Random) -> str:
    """A rollout: it drains what it accepted, and must leave with status 0."""
    status = _one(site, rng).terminate()
    assert status == 0, f"SIGTERM under load: exit status {status}"
    return "SIGTERM"


def stop_and_continue(site: Site, rng: Random) -> str:
    """A machine that freezes, and wakes."""
    server = _one(site, rng)
    server.process.send_signal(signal.SIGSTOP)
    try:
        time.sleep(rng.uniform(*PAUSE_S))
    finally:
        server.process.send_signal(signal.SIGCONT)
    return "SIGSTOP and SIGCONT"


# -- system calls -----------------------------------------------------------------------------


@contextmanager
def _traced(server: Served, fault: str, *, only: Path | None = None) -> Iterator[bool]:
    """Within the block the service meets strace's fault; False if it had ended before."""
    tracing = injected(server, fault, only=only)
    try:
        tracing.__enter__()
    except AssertionError:
        yield False
        return
    try:
        yield True
    finally:
        tracing.__exit__(None, None, None)


def kill_at_call(site: Site, rng: Random) -> str | None:
    """SIGKILL at the n-th system call of one sort: somewhere in a batch."""
    call, number = rng.choice(CALLS), rng.randint(1, CALL_NUMBER_MAX)
    server = _one(site, rng)
    with _traced(server, f"{call}:signal=SIGKILL:when={number}") as begun:
        return f"SIGKILL at a call of {call}" if begun and _ends(server) else None


def error_at_sync(site: Site, rng: Random) -> str | None:
    """EIO at an fsync of the log: nobody knows what is on the disk; the process must end."""
    server = _one(site, rng)
    log = Path(f"{file_of(site.database_url)}-wal")
    with _traced(server, f"fdatasync,fsync:error=EIO:when={rng.randint(1, 4)}", only=log) as begun:
        return "EIO at fsync" if begun and _ends(server) else None


def error_at_write(site: Site, rng: Random) -> str | None:
    """EIO or ENOSPC at writes to the file or its log, for a while."""
    error = rng.choice(["EIO", "ENOSPC"])
    first = rng.randint(1, 20)
    fault = f"pwrite64:error={error}:when={first}..{first + rng.randint(0, 6)}"
    with _traced(_one(site, rng), fault) as begun:
        time.sleep(rng.uniform(0.2, 1.0))
        return f"{error} at writes" if begun else None


def slow_disk(site: Site, rng: Random) -> str | None:
    """Every sync takes up to SLOW_DISK_US longer, for a while."""
    delay_us = rng.randint(*SLOW_DISK_US)
    with _traced(_one(site, rng), f"fdatasync,fsync:delay_enter={delay_us}") as begun:
        time.sleep(rng.uniform(0.5, 2.0))
        return "slow disk" if begun else None


def _ends(server: Served) -> bool:
    try:
        server.process.wait(DEATH_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return False  # it came to no call of that number in time
    return True


# -- machines ---------------------------------------------------------------------------------


def full_disk(site: Site, rng: Random) -> str:
    """No byte is free on the ledger's file system, for a while."""
    ballast = file_of(site.database_url).parent / "ballast"
    fill(ballast)
    try:
        time.sleep(rng.uniform(0.3, 1.5))
    finally:
        ballast.unlink()
    return "full disk (ENOSPC)"


def no_descriptors(site: Site, rng: Random) -> str | None:
    """Hardly a file descriptor is left, for a while."""
    server = _one(site, rng)
    with suppress(OSError):  # it has ended
        held = len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))
        limit = held + rng.randint(0, DESCRIPTORS_LEFT_MAX)
        with _limited(server, resource.RLIMIT_NOFILE, limit):
            _crowd_in(site, rng)
        return "no file descriptors (EMFILE)"
    return None


def _crowd_in(site: Site, rng: Random) -> None:
    """New connections, which take descriptors and memory."""
    opened: list[socket.socket] = []
    try:
        for port in site.ports * DESCRIPTORS_LEFT_MAX * 2:
            with suppress(OSError):
                opened.append(socket.create_connection(("127.0.0.1", port), timeout=1))
        time.sleep(rng.uniform(0.3, 1.2))
    finally:
        for connection in opened:
            connection.close()


def no_memory(site: Site, rng: Random) -> str | None:
    """The address space may hardly grow, for a while."""
    server = _one(site, rng)
    with suppress(OSError, StopIteration):
        status = Path(f"/proc/{server.process.pid}/status").read_text()
        size_kib = next(
            int(line.split()[1]) for line in status.splitlines() if line.startswith("VmSize")
        )
        limit = size_kib * 1024 + rng.randint(0, MEMORY_LEFT_MAX)
        with _limited(server, resource.RLIMIT_AS, limit):
            _crowd_in(site, rng)
        return "memory limit"
    return None


@contextmanager
def _limited(server: Served, what: int, limit: int) -> Iterator[None]:
    pid = server.process.pid
    before = resource.prlimit(pid, what)
    resource.prlimit(pid, what, (limit, before[1]))
    try:
        yield
    finally:
        with suppress(OSError):
            resource.prlimit(pid, what, before)


# -- the clock --------------------------------------------------------------------------------


def faketime(folder: Path) -> dict[str, str]:
    """The environment of a service whose wall clock ``clock_jump`` moves.

    Where it is not installed the scenario is left out, or fails where CI is set.
    """
    part("faketime", FAKETIME)
    library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    offset = folder / "clock"
    offset.write_text("+0")
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_CACHE_DURATION": "1",
        # A machine's monotonic clock does not jump.
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }


def clock_jump(site: Site, rng: Random) -> str:
    """The wall clock is set forward or back by up to CLOCK_JUMP_S_MAX."""
    seconds = rng.randint(-CLOCK_JUMP_S_MAX, CLOCK_JUMP_S_MAX)
    clock = file_of(site.database_url).parent / "clock"
    draft = clock.with_suffix(".new")
    draft.write_text(f"{seconds:+d}")
    os.replace(draft, clock)  # noqa: PTH105 - at once, or it would be read half written
    time.sleep(rng.uniform(0.1, 0.6))
    return "clock jump back" if seconds < 0 else "clock jump forward"


# -- PostgreSQL's server ----------------------------------------------------------------------


def kill_server(site: Site, rng: Random) -> str:
    """kill -9 of the database server with all its processes; started again after a while."""
    assert site.postgres is not None
    site.postgres.kill()
    time.sleep(rng.uniform(0.0, 1.0))
    site.postgres.start()
    return "kill -9 of PostgreSQL"


def cut_sessions(site: Site, rng: Random) -> str:
    """The server ends every session of the ledger's database, whatever it is at."""
    assert site.postgres is not None
    site.postgres.psql(
        site.database_url.rpartition("/")[2],
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    time.sleep(rng.uniform(0.0, 0.2))
    return "sessions ended by PostgreSQL"

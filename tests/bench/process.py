"""Processes of a contestant: started, waited for, ended, and what processor time they took."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import psutil

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

START_TIMEOUT_S: Final = 60
STOP_TIMEOUT_S: Final = 30


@dataclass(frozen=True)
class Ground:
    """What a contestant stands on: the variables by which it finds it, and its processes."""

    env: Mapping[str, str] = field(default_factory=dict)
    pids: tuple[int, ...] = ()


def start(
    command: Sequence[str], *, env: Mapping[str, str], output: Path, port: int
) -> subprocess.Popen[bytes]:
    """Start a server and wait until it listens.

    Args:
        command: of the server.
        env: variables beside this process's own.
        output: the file that takes what it says, after what is there.
        port: where it will listen, of the loopback.

    Raises:
        RuntimeError: it ended, or did not listen in time; with the end of its output.
    """
    with output.open("ab") as said:
        process = subprocess.Popen(
            command, env={**_environment(), **env}, stdout=said, stderr=subprocess.STDOUT
        )
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return process
    stop(process)
    raise RuntimeError(f"A contestant did not start:\n{output.read_text()[-2_000:]}")


def stop(process: subprocess.Popen[bytes], sign: signal.Signals = signal.SIGTERM) -> None:
    """Send the signal, and SIGKILL when that does not help."""
    with suppress(ProcessLookupError):
        process.send_signal(sign)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _environment() -> dict[str, str]:
    """This process's own, but that modules are compiled once and not at each start."""
    return {name: of for name, of in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def pinned(cores: Sequence[int] | None) -> list[str]:
    """The command before a command that keeps it on those cores; none for any."""
    return ["taskset", "-c", ",".join(map(str, cores))] if cores else []


def cpu_s(pids: Sequence[int]) -> float:
    """Processor time of these processes so far, all threads, user and system."""
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return float(sum(one.user + one.system for one in times))

"""A real `teller serve` in a process of its own, for the tests that kill, stop and restart it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from tests import forkserver

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tests.forkserver import Forked

START_TIMEOUT_S: Final = 30


class Served:
    """A running service: its address, its log so far, and the means to end it."""

    def __init__(self, process: subprocess.Popen[str] | Forked) -> None:
        self.process = process
        self.log: list[dict[str, Any]] = []
        self.other_lines: list[str] = []
        self.url = ""
        self._serving = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                event = json.loads(line)
            except ValueError:
                self.other_lines.append(line.rstrip())
                continue
            self.log.append(event)
            if event["message"] == "serving":
                self.url = event["address"]
                self._serving.set()
        self._serving.set()

    def wait_until_serving(self) -> None:
        self._serving.wait(START_TIMEOUT_S)
        if not self.url:
            self.process.wait(START_TIMEOUT_S)
            raise AssertionError(f"did not start: {self.output()}")

    def output(self) -> str:
        """What it said that is not a log line: its words on standard error."""
        return "\n".join(self.other_lines)

    def events(self, message: str) -> list[dict[str, Any]]:
        return [event for event in list(self.log) if event["message"] == message]

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.wait()

    def terminate(self, timeout_s: float = 30) -> int:
        """SIGTERM, and the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait(timeout_s)

    def wait(self, timeout_s: float = 30) -> int:
        status = self.process.wait(timeout_s)
        self._reader.join(timeout_s)
        return status


@contextmanager
def started(
    database_url: str,
    *options: str,
    env: Mapping[str, str] | None = None,
    prefix: Sequence[str] = (),
    command: Sequence[str] = (),
) -> Iterator[Served]:
    """Start `teller serve` on a free port without waiting for it; killed at the end if alive.

    Args:
        database_url: of the ledger.
        options: more options of `teller serve`.
        env: variables beside this process's own.
        prefix: a command before it, such as strace.
        command: how to call `teller`; without it and a prefix it is forked from a process that
            has Teller imported already, which saves the seconds that takes.
    """
    arguments = ["serve", "--port", "0", "--database", database_url, *options]
    environment = {**os.environ, **(env or {})}
    process: subprocess.Popen[str] | Forked
    if forkserver.AVAILABLE and not prefix and not command:
        process = forkserver.fork(arguments, environment)
    else:
        process = subprocess.Popen(
            [*prefix, *(command or (sys.executable, "-m", "service")), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
    server = Served(process)
    try:
        yield server
    finally:
        if process.poll() is None:
            process.kill()
        server.wait()
        if process.stdout is not None:
            process.stdout.close()


@contextmanager
def serving(database_url: str, *options: str, **how: Any) -> Iterator[Served]:
    """Like ``started``, once it answers."""
    with started(database_url, *options, **how) as server:
        server.wait_until_serving()
        yield server

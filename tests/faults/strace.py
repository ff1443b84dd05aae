"""strace on a running service: errors, delays and kills at the n-th call of a system call."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.processes import Served

STRACE: Final = shutil.which("strace")
MISSING: Final = "strace is missing: apt-get install strace"
LETTING_GO_TIMEOUT_S: Final = 2


def require_strace() -> None:
    """Skip the test where strace is missing; in CI that is a failure."""
    if STRACE is None:
        if os.environ.get("CI") == "true":
            pytest.fail(MISSING)
        pytest.skip(MISSING)


@contextmanager
def injected(server: Served, *faults: str, only: Path | None = None) -> Iterator[None]:
    """Within the block the service meets these faults.

    Args:
        server: a service that runs.
        faults: strace's expressions, such as ``fdatasync:error=EIO:when=1``; each thread counts
            its own calls, from the block's beginning.
        only: the file whose calls are meant; all calls unless given.
    """
    assert STRACE is not None
    calls = ",".join(sorted({call for fault in faults for call in fault.split(":")[0].split(",")}))
    with subprocess.Popen(
        [
            *(STRACE, "-f", "-e", f"trace={calls}", "-o", os.devnull),
            *(option for fault in faults for option in ("-e", f"inject={fault}")),
            *(("-P", str(only)) if only else ()),
            *("-p", str(server.process.pid)),
        ],
        stderr=subprocess.PIPE,
        text=True,
    ) as tracer:
        assert tracer.stderr is not None
        try:
            line = tracer.stderr.readline()
            assert "attached" in line, line + tracer.stderr.read()
            yield
        finally:
            tracer.send_signal(signal.SIGINT)  # it lets go of the service
            with suppress(subprocess.TimeoutExpired):
                tracer.communicate(timeout=LETTING_GO_TIMEOUT_S)
            tracer.kill()  # of a process that died in several threads it may not notice the end

"""strace on a running service: errors, delays and kills at the n-th call of a system call."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from tests.parts import part

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.processes import Served

INSTALL: Final = "apt-get install strace"
LETTING_GO_TIMEOUT_S: Final = 2


@contextmanager
def injected(server: Served, *faults: str, only: Path | None = None) -> Iterator[None]:
    """Within the block the service meets these faults.

    Args:
        server: a service that runs.
        faults: strace's expressions, such as ``fdatasync:error=EIO:when=1``; each thread counts
            its own calls, from the block's beginning.
        only: the file whose calls are meant; all calls unless given.
    """
    strace = part("strace", INSTALL)
    calls = ",".join(sorted({call for fault in faults for call in fault.split(":")[0].split(",")}))
    with subprocess.Popen(
        [
            *(strace, "-f", "-e", f"trace={calls}", "-o", os.devnull),
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

"""A process that has imported Teller and forks a `teller` command in milliseconds, not seconds.

Each forked command is a process like any other: its own memory, files, signals and end. Run as
``python -m tests.forkserver FD`` it reads requests from that socket; ``fork()`` is its client.
"""

from __future__ import annotations

import array
import atexit
import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

AVAILABLE: Final = hasattr(os, "fork") and hasattr(socket, "send_fds")
REQUEST_BYTES_MAX: Final = 2**18
PR_SET_PTRACER: Final = 0x59616D61  # prctl(2)
PR_SET_PTRACER_ANY: Final = 2**64 - 1


class Forked:
    """A forked command, with as much of ``subprocess.Popen`` as the tests use."""

    def __init__(self, stdout: Any, status: int) -> None:
        self.stdout = stdout
        self.returncode: int | None = None
        self._status = os.fdopen(status, "r", encoding="ascii")
        self.pid = int(self._status.readline())

    def poll(self) -> int | None:
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        status = self._look(timeout)
        if status is None:
            raise subprocess.TimeoutExpired("teller", timeout or 0)
        return status

    def _look(self, timeout_s: float | None) -> int | None:
        if self.returncode is None:
            status = select.poll()  # select() knows no file descriptor above 1,023
            status.register(self._status, select.POLLIN)
            if status.poll(None if timeout_s is None else timeout_s * 1000):
                self.returncode = int(self._status.readline())
                self._status.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def fork(arguments: Sequence[str], env: Mapping[str, str]) -> Forked:
    """Run ``teller`` with these arguments and exactly this environment."""
    out_r, out_w = os.pipe()
    status_r, status_w = os.pipe()
    request = json.dumps({"arguments": list(arguments), "env": dict(env), "cwd": str(Path.cwd())})
    socket.send_fds(_server(), [request.encode()], [out_w, status_w])
    os.close(out_w)
    os.close(status_w)
    return Forked(os.fdopen(out_r, "r", encoding="utf-8"), status_r)


@cache
def _server() -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    size = REQUEST_BYTES_MAX
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * size)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.forkserver", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            cwd=Path(__file__).parents[1],
        )

    def stop() -> None:
        ours.close()
        process.wait()

    atexit.register(stop)
    return ours


# -- the server -----------------------------------------------------------------------------


def _serve(requests: socket.socket) -> dict[str, Any] | None:
    """Fork for each request. Returns it in the forked command, and None at the server's end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests, which then end us
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # supervisors end unwatched
    while True:
        message, fds, _flags, _address = socket.recv_fds(requests, REQUEST_BYTES_MAX, 2)
        if not message:
            return None
        out, status = array.array("i", fds)
        if os.fork() == 0:
            requests.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            pid = os.fork()
            if pid:
                os.close(out)
                _supervise(pid, status)
            _let_any_process_trace_this_one()
            os.write(status, b"%d\n" % os.getpid())
            os.close(status)
            os.dup2(out, 1)
            os.dup2(out, 2)
            os.close(out)
            request: dict[str, Any] = json.loads(message)
            return request
        os.close(out)
        os.close(status)


def _supervise(pid: int, status: int) -> NoReturn:
    """Tell how the command ended, as ``subprocess`` would put it."""
    os.close(1)
    os.close(2)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.write(status, b"%d\n" % code)
    os._exit(0)


def _let_any_process_trace_this_one() -> None:
    """Yama, which many kernels have, lets only an ancestor attach; strace here is none."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PTRACER, ctypes.c_ulong(PR_SET_PTRACER_ANY))


def _main() -> None:
    import alembic.command  # noqa: F401, PLC0415 - what a start spends its time on

    import service.app  # noqa: PLC0415
    import service.seed  # noqa: F401, PLC0415
    from service.cli import main  # noqa: PLC0415

    request = _serve(socket.socket(fileno=int(sys.argv[1])))
    if request is not None:
        os.environ.clear()
        os.environ.update(request["env"])
        os.chdir(request["cwd"])
        main(request["arguments"], prog_name="teller")


if __name__ == "__main__":
    _main()

"""A `teller` command run to its end, of the released code or of another build."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Final, NamedTuple

from tests import forkserver

if TYPE_CHECKING:
    from collections.abc import Mapping

TIMEOUT_S: Final = 120


class Ended(NamedTuple):
    """Its exit status, and what it wrote on both outputs."""

    status: int
    output: str

    @property
    def last_line(self) -> str:
        lines = self.output.strip().splitlines()
        return lines[-1] if lines else ""


def command_of(build: str) -> tuple[str, ...]:
    """How that build is called; nothing for the released one, which is forked."""
    return (sys.executable, "-m", "tests.delivery.builds", build) if build else ()


def teller(*arguments: str, env: Mapping[str, str], build: str = "") -> Ended:
    """Run it with those variables beside this process's own."""
    environment = {**os.environ, **env}
    if not build and forkserver.AVAILABLE:
        process = forkserver.fork(arguments, environment)
        with process.stdout as stdout:
            output = stdout.read()
        return Ended(process.wait(TIMEOUT_S), output)
    done = subprocess.run(
        [*(command_of(build) or (sys.executable, "-m", "service")), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    return Ended(done.returncode, done.stdout)

"""wrk as a closed-loop load generator: so many connections, each sends when it was answered."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

SCRIPT: Final = Path(__file__).with_name("movement.lua")
BALANCE: Final = Path(__file__).with_name("balance.lua")
SUMMARY: Final = Path(__file__).with_name("summary.lua")
ACCOUNTS: Final = 1_000
TIMEOUT_S: Final = 10


class WrongAnswersError(Exception):
    """A contestant answered with an error, or not at all: its figures mean nothing."""


@dataclass(frozen=True)
class Slice:
    """One stretch of load on one contestant."""

    requests: int
    duration_s: float
    max_ms: float
    percentiles_ms: dict[str, float]

    @property
    def per_s(self) -> float:
        return self.requests / self.duration_s


def load(
    url: str,
    *,
    connections: int,
    seconds: int,
    prefix: str,
    cores: Sequence[int] | None,
    users: int = ACCOUNTS,
    keys: int = 1_000_000_000,
    path: str = "/deposit",
    script: Path = SCRIPT,
) -> Slice:
    """Send deposits for so many seconds.

    Args:
        url: of the service.
        connections: requests in flight at any time.
        seconds: how long.
        prefix: before every key; the same one again means the same keys again.
        cores: the CPUs that wrk may use; None for any.
        users: u0, u1, … in turn.
        keys: after so many keys start with the first one again.
        path: where to send them.
        script: what to send.

    Raises:
        WrongAnswersError: an answer had no status 2xx, or a connection failed.
    """
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", f"--timeout={TIMEOUT_S}s"]
    if cores is not None:
        command = ["taskset", "-c", ",".join(map(str, cores)), *command]
    done = subprocess.run(
        [*command, "-s", str(script), url],
        env={
            **os.environ,
            "BENCH_PREFIX": prefix,
            "BENCH_USERS": str(users),
            "BENCH_KEYS": str(keys),
            "BENCH_PATH": path,
            "BENCH_SUMMARY": str(SUMMARY),
        },
        capture_output=True,
        text=True,
        timeout=seconds + 3 * TIMEOUT_S,
        check=True,
    )
    line = next(line for line in done.stdout.splitlines() if line.startswith("BENCH "))
    said = json.loads(line.removeprefix("BENCH "))
    wrong = {kind: said[kind] for kind in ("connect", "read", "write", "status", "timeout")}
    if any(wrong.values()) or not said["requests"]:
        raise WrongAnswersError(f"{url}: {said['requests']} requests, errors {wrong}")
    return Slice(
        requests=said["requests"],
        duration_s=said["duration_us"] / 1e6,
        max_ms=said["max_us"] / 1e3,
        percentiles_ms={p: us / 1e3 for p, us in said["percentiles_us"].items()},
    )

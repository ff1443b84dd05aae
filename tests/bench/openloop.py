"""An open-loop load: requests leave on a fixed schedule, whether or not others were answered.

Run as a process of its own: ``python -m tests.bench.openloop PORT RATE SECONDS PREFIX``.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final

from tests.bench.wrk import ACCOUNTS

if TYPE_CHECKING:
    from collections.abc import Sequence

CONNECTIONS_MAX: Final = 4_000
ANSWER_TIMEOUT_S: Final = 20
TICK_S: Final = 0.002

_REQUEST: Final = (
    "POST /deposit HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
    'Content-Length: 17\r\nIdempotency-Key: {key}\r\nuser_id: u{user}\r\n\r\n{{"amount":"1.25"}}'
)


def offered(
    port: int, *, rate: float, seconds: float, prefix: str, cores: Sequence[int] | None
) -> dict[str, Any]:
    """Offer so many requests a second; returns answers by status, latencies and what got none.

    Latency counts from the moment that the schedule names, so a late sender is charged too.
    """
    pin = ["taskset", "-c", ",".join(map(str, cores))] if cores else []
    arguments = [str(port), str(rate), str(seconds), prefix]
    done = subprocess.run(
        [*pin, sys.executable, "-m", "tests.bench.openloop", *arguments],
        capture_output=True,
        text=True,
        timeout=seconds + 3 * ANSWER_TIMEOUT_S,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


class _Connection(asyncio.Protocol):
    """One request at a time; back to the idle ones when it is answered."""

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._due_s = 0.0
        self._busy = False
        self._answer = b""
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def send(self, request: bytes, due_s: float) -> None:
        self._due_s, self._busy, self._answer = due_s, True, b""
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, gap, body = self._answer.partition(b"\r\n\r\n")
        if not gap:
            return
        length = next(
            int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:")
        )
        if len(body) >= length:
            self._busy = False
            self._run.answered(head[9:12].decode(), self._due_s)
            self._run.idle.append(self)

    def connection_lost(self, _error: Exception | None) -> None:
        if self._busy:
            self._run.answered("lost", self._due_s)
        with suppress(ValueError):
            self._run.idle.remove(self)
        self._run.open -= 1


class _Run:
    def __init__(self, port: int, prefix: str) -> None:
        self._port = port
        self._prefix = prefix
        self._opening: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self.idle: list[_Connection] = []
        self.open = 0
        self.sent = 0
        self.statuses: Counter[str] = Counter()
        self.latencies_ms: dict[str, list[float]] = {}

    def answered(self, status: str, due_s: float) -> None:
        self.statuses[status] += 1
        self.latencies_ms.setdefault(status, []).append((perf_counter() - due_s) * 1000)

    def send(self, due_s: float) -> None:
        self.sent += 1
        key = f"{self._prefix}{self.sent}"
        request = _REQUEST.format(key=key, user=self.sent % ACCOUNTS).encode()
        if self.idle:
            self.idle.pop().send(request, due_s)
        elif self.open < CONNECTIONS_MAX:
            self.open += 1
            task = self._loop.create_task(self._on_a_new_one(request, due_s))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)
        else:
            self.answered("no connection", due_s)

    async def _on_a_new_one(self, request: bytes, due_s: float) -> None:
        try:
            _, made = await self._loop.create_connection(
                lambda: _Connection(self), "127.0.0.1", self._port
            )
        except OSError:
            self.open -= 1
            self.answered("refused", due_s)
        else:
            made.send(request, due_s)


async def _offer(port: int, rate: float, seconds: float, prefix: str) -> dict[str, Any]:
    run = _Run(port, prefix)
    began_s = perf_counter()
    while (passed_s := perf_counter() - began_s) < seconds:
        while run.sent < passed_s * rate:
            run.send(began_s + run.sent / rate)
        await asyncio.sleep(TICK_S)
    in_time = run.statuses["201"]
    deadline_s = perf_counter() + ANSWER_TIMEOUT_S
    while run.statuses.total() < run.sent and perf_counter() < deadline_s:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    good = sorted(run.latencies_ms.get("201", [0.0]))
    return {
        "offered": run.sent,
        "goodput_per_s": in_time / passed_s,
        "statuses": dict(run.statuses),
        "unanswered": run.sent - run.statuses.total(),
        "p50_ms": good[len(good) // 2],
        "p99_ms": good[int(len(good) * 0.99)],
    }


if __name__ == "__main__":
    import uvloop

    port, rate, seconds, prefix = sys.argv[1:]
    found = uvloop.run(_offer(int(port), float(rate), float(seconds), prefix))
    sys.stdout.write(json.dumps(found))

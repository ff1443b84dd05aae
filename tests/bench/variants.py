"""Teller beside itself: telemetry on and off, one hot account, replays, a large ledger."""

from __future__ import annotations

import shutil
import statistics
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Final

from tests.bench import generate, wrk
from tests.bench.contestants import TELLER, alone, running
from tests.bench.machine import split_cores
from tests.bench.targets import Found, Measured

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.bench.contestants import Contestant
    from tests.bench.targets import Plan

CONNECTIONS: Final = 64
# Longer than the audit's period: from then on it does in each second what a second brings.
SETTLE_S: Final = 3
ROWS_AN_ACCOUNT: Final = 10


@dataclass(frozen=True)
class Side:
    """One of two that are compared: a service, and how it is loaded."""

    name: str
    contestant: Contestant
    folder: Path | None = None
    users: int = wrk.ACCOUNTS
    replays: bool = False


def telemetry(plan: Plan) -> Found:
    """P3: as in production, spans going to a collector; and each part of it alone."""
    with collector() as endpoint:
        parts: dict[str, dict[str, str]] = {
            "a log line": {"TELLER_REQUEST_LOG": "true", "TELLER_LOG_LEVEL": "INFO"},
            "metrics": {"TELLER_METRICS_PORT": "0"},
            "1 % traces": {
                "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
                "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
                "OTEL_TRACES_SAMPLER_ARG": "0.01",
            },
        }
        every = {name: value for part in parts.values() for name, value in part.items()}
        alone = [Side(f"{name} alone", _with(part)) for name, part in parts.items()]
        return compared("P3", plan, Side("on", _with(every)), *alone, Side("off", TELLER))


def _with(env: dict[str, str]) -> Contestant:
    return replace(TELLER, env={**TELLER.env, **env})


def hot_account(plan: Plan) -> Found:
    """P7: everybody pays into one account."""
    hot = Side("one account", TELLER, users=1)
    return compared("P7", plan, hot, Side("1,000 accounts", TELLER))


def replays(plan: Plan) -> Found:
    """P8: every request is the retry of one that was applied."""
    again = Side("replays", TELLER, replays=True)
    return compared("P8", plan, again, Side("first attempts", TELLER))


def large_ledger(plan: Plan) -> Found:
    """P6: ten movements in each of many accounts, all of them in use; smaller ones on the way."""
    sizes = {max(wrk.ACCOUNTS, plan.accounts // part) for part in (1, 10, 100)}
    with tempfile.TemporaryDirectory(prefix="teller-bench-") as fresh:
        sides = []
        for accounts in sorted(sizes, reverse=True):
            folder = Path(fresh, str(accounts))
            _fill(folder, accounts, plan)
            rows = f"{ROWS_AN_ACCOUNT * accounts:,} rows"
            sides.append(Side(rows, TELLER, folder=folder, users=accounts))
        return compared("P6", plan, *sides, Side("empty", TELLER))


def _fill(folder: Path, accounts: int, plan: Plan) -> None:
    """A ledger of that size in a folder of its own, copied from the kept ones where it is there."""
    rows = ROWS_AN_ACCOUNT * accounts
    made = plan.ledgers / str(accounts) if plan.ledgers else folder
    if not (made / generate.DONE).exists():
        plan.say(f"filling a ledger with {accounts:,} accounts and {rows:,} movements")
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir(parents=True)
        generate.fill(made, accounts=accounts, movements=rows)
    if made != folder:
        shutil.copytree(made, folder)


def compared(target: str, plan: Plan, *sides: Side) -> Found:
    """The throughput of the first over that of the last, round by round, in turns A B B A.

    Each starts anew every round: one process may be faster than the next by a tenth for as long
    as it lives.
    """
    servers, loads = split_cores()
    rates: dict[str, list[float]] = {side.name: [] for side in sides}
    cpu_us: dict[str, list[float]] = {side.name: [] for side in sides}
    for round_ in range(plan.rounds):
        with ExitStack() as stack:
            at_work = {
                side.name: stack.enter_context(
                    running(side.contestant, cores=servers, folder=side.folder)
                )
                for side in sides
            }
            for part, seconds in (("warm", SETTLE_S), ("r", plan.seconds)):
                for side in sides if round_ % 2 else reversed(sides):
                    one = at_work[side.name]
                    load = {
                        "url": one.url,
                        "connections": CONNECTIONS,
                        "cores": loads,
                        "users": side.users,
                        "prefix": f"{part}{round_}-",
                    }
                    with alone(one, at_work.values()):
                        if side.replays:
                            first = wrk.load(**load, seconds=seconds)  # type: ignore[arg-type]
                            load["keys"] = first.requests
                        before_s = one.cpu_s()
                        slice_ = wrk.load(**load, seconds=seconds)  # type: ignore[arg-type]
                        cpu_s = one.cpu_s() - before_s
                    if part == "r":
                        rates[side.name].append(slice_.per_s)
                        cpu_us[side.name].append(cpu_s * 1e6 / slice_.requests)
                        plan.say(f"{target} {side.name}: {slice_.per_s:,.0f}/s")
    first_, last = sides[0].name, sides[-1].name
    ratios = [a / b for a, b in zip(rates[first_], rates[last], strict=True)]
    note = ", ".join(
        f"{name} {statistics.median(rates[name]):,.0f}/s and "
        f"{statistics.median(cpu_us[name]):.0f} µs"
        for name in (first_, last)
    )
    return Found(
        [Measured(target, statistics.median(ratios), (min(ratios), max(ratios)), note)],
        {
            "per_s": {name: rounded(all_) for name, all_ in rates.items()},
            "cpu_us": {name: rounded(all_) for name, all_ in cpu_us.items()},
        },
    )


def rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 1) for value in values]


class _Taker(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        pass


@contextmanager
def collector() -> Iterator[str]:
    """A place to send spans to, which drops them."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Taker) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()

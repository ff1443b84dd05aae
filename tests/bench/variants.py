"""Teller beside itself: telemetry on and off, one hot account, replays, a large ledger."""

from __future__ import annotations

import statistics
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Final

from tests.bench import generate, wrk
from tests.bench.contestants import TELLER, running
from tests.bench.machine import split_cores
from tests.bench.targets import Found, Measured
from tests.bench.throughput import WARM_UP_S

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.bench.contestants import Contestant
    from tests.bench.targets import Plan

CONNECTIONS: Final = 64


@dataclass(frozen=True)
class Side:
    """One of two that are compared: a service, and how it is loaded."""

    name: str
    contestant: Contestant
    folder: Path | None = None
    users: int = wrk.ACCOUNTS
    replays: bool = False


def telemetry(plan: Plan) -> Found:
    """P3: as in production, spans going to a collector."""
    with collector() as endpoint:
        loud = replace(
            TELLER,
            env={
                "TELLER_METRICS_PORT": "0",
                "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
                "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
                "OTEL_TRACES_SAMPLER_ARG": "0.01",
            },
        )
        return compared("P3", plan, Side("on", loud), Side("off", TELLER))


def hot_account(plan: Plan) -> Found:
    """P7: everybody pays into one account."""
    hot = Side("one account", TELLER, users=1)
    return compared("P7", plan, hot, Side("1,000 accounts", TELLER))


def replays(plan: Plan) -> Found:
    """P8: every request is the retry of one that was applied."""
    again = Side("replays", TELLER, replays=True)
    return compared("P8", plan, again, Side("first attempts", TELLER))


def large_ledger(plan: Plan) -> Found:
    """P6: ten movements in each of many accounts, all of them in use."""
    with tempfile.TemporaryDirectory(prefix="teller-bench-") as fresh:
        folder = Path(fresh)
        rows = 10 * plan.accounts
        plan.say(f"filling a ledger with {plan.accounts:,} accounts and {rows:,} movements")
        generate.fill(folder, accounts=plan.accounts, movements=rows)
        large = Side(f"{rows:,} rows", TELLER, folder=folder, users=plan.accounts)
        found = compared("P6", plan, large, Side("empty", TELLER))
        found.data["rows"] = rows
        return found


def compared(target: str, plan: Plan, one: Side, two: Side) -> Found:
    """The ratio of their throughputs, round by round, A B B A."""
    servers, loads = split_cores()
    rates: dict[str, list[float]] = {one.name: [], two.name: []}
    with ExitStack() as stack:
        at_work = {
            side.name: stack.enter_context(
                running(side.contestant, cores=servers, folder=side.folder)
            )
            for side in (one, two)
        }
        for round_ in range(-1, plan.rounds):  # the first is the warm-up
            for side in (one, two) if round_ % 2 else (two, one):
                load = {
                    "url": at_work[side.name].url,
                    "connections": CONNECTIONS,
                    "cores": loads,
                    "users": side.users,
                    "prefix": f"r{round_}-",
                }
                seconds = plan.seconds if round_ >= 0 else WARM_UP_S
                if side.replays:
                    first = wrk.load(**load, seconds=seconds)  # type: ignore[arg-type]
                    load["keys"] = first.requests
                slice_ = wrk.load(**load, seconds=seconds)  # type: ignore[arg-type]
                if round_ >= 0:
                    rates[side.name].append(slice_.per_s)
                    plan.say(f"{target} {side.name}: {slice_.per_s:,.0f}/s")
    ratios = [a / b for a, b in zip(rates[one.name], rates[two.name], strict=True)]
    note = ", ".join(f"{name} {statistics.median(all_):,.0f}/s" for name, all_ in rates.items())
    return Found(
        [Measured(target, statistics.median(ratios), (min(ratios), max(ratios)), note)],
        {"per_s": {name: rounded(all_) for name, all_ in rates.items()}},
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

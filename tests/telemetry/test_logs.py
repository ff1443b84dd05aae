"""Every line is one JSON object with its fields, and no line tells what it must not."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from service import telemetry
from service.exchange import Exchange
from tests.conftest import headers
from tests.processes import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

FIELDS = {
    *("timestamp", "level", "logger", "message", "trace_id", "span_id", "request_id", "method"),
    *("route", "status", "duration_ms", "code", "outcome", "replayed", "key_hash"),
}
# What a line must never hold: a key, a user, an amount, a reference, a whole body.
PLANTED = (
    "planted-key",
    "planted-user",
    "77777.77",
    "7777777",
    "planted-reference",
    "planted-junk",
)
TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What a process of Teller's would write on standard output."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    stream = io.StringIO()
    telemetry.configure_logging("INFO", stream)
    yield stream
    root.handlers[:], level = before
    root.setLevel(level)


def test_a_requests_line_is_one_json_object_whatever_its_method_and_ids_hold(
    lines: io.StringIO,
) -> None:
    exchange = Exchange([(b"x-request-id", b'a"b\\c')])
    exchange.status = 404
    exchange.write_log('BR"EW', '/no\\where\n"', 0.0012345)
    exchange.key, exchange.outcome, exchange.replayed = "planted-key", "applied", True
    exchange.trace, exchange.span_id = TRACE, "b7ad6b7169203331"
    exchange.write_log("POST", "/deposit", 0.25)
    first, second = (json.loads(line) for line in lines.getvalue().splitlines())
    assert first.keys() == second.keys() == FIELDS
    assert first["timestamp"].endswith("Z") and len(first["timestamp"]) == 27
    del first["timestamp"], second["timestamp"]
    assert first == {
        "level": "INFO",
        "logger": "service.request",
        "message": "request",
        "trace_id": None,
        "span_id": None,
        "request_id": 'a"b\\c',
        "method": 'BR"EW',
        "route": '/no\\where\n"',
        "status": 404,
        "duration_ms": 1.234,
        "code": None,
        "outcome": None,
        "replayed": None,
        "key_hash": None,
    }
    assert second["trace_id"] == TRACE
    assert second["span_id"] == "b7ad6b7169203331"
    assert (second["replayed"], second["duration_ms"]) == (True, 250.0)
    assert second["key_hash"] == "7eed545bde4b42fe"


def test_a_time_is_written_in_utc_with_microseconds() -> None:
    assert telemetry.timestamp(0.0) == "1970-01-01T00:00:00.000000Z"
    assert telemetry.timestamp(1_795_392_000.25) == "2026-11-23T00:00:00.250000Z"


def test_any_other_line_names_the_trace_at_work(lines: io.StringIO) -> None:
    from opentelemetry import trace  # noqa: PLC0415

    at_work = trace.SpanContext(int(TRACE, 16), 1, is_remote=False)
    with trace.use_span(trace.NonRecordingSpan(at_work)):
        logging.getLogger("service.committer").error("movement failed", extra={"error": "x"})
    logging.getLogger("service.committer").error("movement failed")
    inside, outside = (json.loads(line) for line in lines.getvalue().splitlines())
    assert (inside["trace_id"], inside["span_id"]) == (TRACE, "0000000000000001")
    assert "trace_id" not in outside


def test_any_other_line_of_a_request_names_the_request_whether_it_is_sampled_or_not(
    lines: io.StringIO,
) -> None:
    def fails(exchange: Exchange) -> None:
        telemetry.AT_WORK.set(exchange)
        logging.getLogger("service.reader").error("database unavailable to a read")

    untraced = Exchange([(b"x-request-id", b"req-1")])
    called = Exchange(
        [(b"x-request-id", b"req-2"), (b"traceparent", f"00-{TRACE}-{1:016x}-00".encode())]
    )
    traced = Exchange([(b"x-request-id", b"req-3")])
    traced.trace, traced.span_id = TRACE, "b7ad6b7169203331"
    for exchange in (untraced, called, traced):
        copy_context().run(fails, exchange)
    found = [json.loads(line) for line in lines.getvalue().splitlines()]
    ids = [
        {name: line.get(name) for name in ("request_id", "trace_id", "span_id")} for line in found
    ]
    assert ids == [
        {"request_id": "req-1", "trace_id": None, "span_id": None},
        {"request_id": "req-2", "trace_id": TRACE, "span_id": None},
        {"request_id": "req-3", "trace_id": TRACE, "span_id": "b7ad6b7169203331"},
    ]


class Writes(io.StringIO):
    """A stream that counts its writes."""

    many = 0

    def write(self, text: str) -> int:
        self.many += 1
        return super().write(text)


@pytest.fixture
def writes(lines: io.StringIO) -> Writes:
    del lines  # which puts logging back as it was
    stream = Writes()
    telemetry.configure_logging("INFO", stream)
    return stream


def logged(request_id: bytes) -> None:
    Exchange([(b"x-request-id", request_id)]).write_log("GET", "/livez", 0.001)


async def turns_end() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def request_ids(stream: io.StringIO) -> list[str]:
    return [json.loads(line)["request_id"] for line in stream.getvalue().splitlines()]


async def test_the_lines_of_one_turn_are_one_write_in_their_order_and_nobody_asks_for_it(
    writes: Writes,
) -> None:
    for number in range(64):
        logged(b"%d" % number)
    assert writes.many == 0
    await turns_end()
    assert writes.many == 1
    assert request_ids(writes) == [str(number) for number in range(64)]
    logged(b"next")
    await turns_end()
    assert writes.many == 2
    assert request_ids(writes)[64:] == ["next"]


async def test_a_record_comes_after_the_requests_before_it_and_the_end_loses_none(
    writes: Writes,
) -> None:
    logged(b"before")
    logging.getLogger("service.cli").warning("stopping", extra={"request_id": "stopping"})
    logged(b"after")
    logging.shutdown([lambda: logging.root.handlers[0]])
    assert request_ids(writes) == ["before", "stopping", "after"]


def test_lines_that_a_loop_left_are_written_by_the_next(writes: Writes) -> None:
    async def one(request_id: bytes) -> None:
        logged(request_id)

    async def two(request_id: bytes) -> None:
        logged(request_id)
        await turns_end()

    asyncio.run(one(b"left"))
    asyncio.run(two(b"next"))
    assert request_ids(writes) == ["left", "next"]


def test_a_stream_that_refuses_a_line_fails_no_request(
    lines: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    del lines

    class Full(io.StringIO):
        def write(self, _text: str) -> int:
            raise OSError(28, "No space left on device")

    telemetry.configure_logging("INFO", Full())
    logged(b"lost")
    assert "No space left on device" in capsys.readouterr().err


async def test_no_line_of_a_load_run_holds_what_was_planted(database_url: str) -> None:
    bodies: list[Any] = [
        b'{"amount": "77777.77", "reference": "planted-reference"}',
        b'{"amount": "77777.77", "reference": "planted-reference", "planted-junk": 1}',
        b'{"amount": 77777.777777, "reference": "planted-reference\\u0000"}',
        b'{"amount": "77777.77", "currency": "planted-junk"}',
        b"planted-junk" * 2_000,
        b'{"amount": "77777.77", "reference": "planted-reference"',
    ]
    env = {
        "TELLER_ACCOUNT_OPENING": "on_first_deposit",
        "TELLER_LOG_LEVEL": "DEBUG",
        # Every request is traced, to a collector that is away: ids, and its complaints too.
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
    }
    with serving(database_url, env=env) as server:
        async with httpx.AsyncClient(base_url=server.url) as client:
            for number in range(60):
                key = f"planted-key-{number % 20}"
                user = f"planted-user-{number % 5}"
                path = ("/deposit", "/withdraw")[number % 2]
                await client.post(path, content=bodies[number % 6], headers=headers(key, user))
            await asyncio.gather(
                *(client.get("/balance", headers=headers("x", "planted-user-1")) for _ in range(10))
            )
            for header in ({"user_id": "planted-user 1"}, {"Idempotency-Key": "planted-key,1"}):
                await client.post("/deposit", headers={**headers("planted-key"), **header})
            await client.request(
                "DELETE", "/operation", headers=headers("planted-key-x", "planted-user-1")
            )
        server.terminate()
    assert server.other_lines == []
    requests = server.events("request")
    assert len(requests) == 73
    for event in requests:
        assert event.keys() == FIELDS
        assert len(event["trace_id"]) == 32
        assert len(event["span_id"]) == 16
    for event in server.log:
        assert {"timestamp", "level", "logger", "message"} <= event.keys()
        assert not [value for value in PLANTED if value in json.dumps(event)]

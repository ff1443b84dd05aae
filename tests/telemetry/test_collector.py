"""A real OTLP collector (rotel) takes the spans of a real service, and hands them on to be read."""

from __future__ import annotations

import gzip
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.conftest import headers
from tests.ports import free_port
from tests.processes import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
OPEN = {"TELLER_ACCOUNT_OPENING": "on_first_deposit", "OTEL_BSP_SCHEDULE_DELAY": "100"}
ONE = b'{"amount": "1"}'


class Collected:
    """What came out of the collector."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.spans: list[Span] = []
        self.resources: list[dict[str, str]] = []

    def of_kind(self, kind: int) -> list[Span]:
        return [span for span in self.spans if span.kind == kind]

    def wait_for(self, many: int, kind: int) -> list[Span]:
        deadline = time.monotonic() + 20
        while len(self.of_kind(kind)) < many and time.monotonic() < deadline:
            time.sleep(0.05)
        return self.of_kind(kind)


@contextmanager
def receiving(collected: Collected) -> Iterator[int]:
    """The far side of the collector: OTLP over HTTP, decoded."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers["Content-Encoding"] == "gzip":
                body = gzip.decompress(body)
            for traced in ExportTraceServiceRequest.FromString(body).resource_spans:
                collected.resources.append(
                    {one.key: one.value.string_value for one in traced.resource.attributes}
                )
                for scope in traced.scope_spans:
                    collected.spans.extend(scope.spans)
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def collected(tmp_path: Path) -> Iterator[Collected]:
    http_port, grpc_port = free_port(), free_port()
    found = Collected(f"http://127.0.0.1:{http_port}")
    agent = str(resources.files("rotel") / "rotel-agent")
    with ExitStack() as stack:
        port = stack.enter_context(receiving(found))
        output = stack.enter_context((tmp_path / "collector.log").open("wb"))
        options = {
            "otlp-http-endpoint": f"127.0.0.1:{http_port}",
            "otlp-grpc-endpoint": f"127.0.0.1:{grpc_port}",
            "exporter": "otlp",
            "otlp-exporter-endpoint": f"http://127.0.0.1:{port}",
            "otlp-exporter-protocol": "http",
            "otlp-exporter-compression": "none",
            "pid-file": str(tmp_path / "collector.pid"),
        }
        collector = subprocess.Popen(
            [
                *(agent, "start", "--disable-batching"),
                *(f"--{name}={value}" for name, value in options.items()),
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        stack.callback(collector.wait)
        stack.callback(collector.kill)
        _wait_for_port(http_port)
        yield found


def _wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise AssertionError("the collector did not start")


def attributes(span: Span) -> dict[str, Any]:
    return {
        one.key: getattr(one.value, str(one.value.WhichOneof("value"))) for one in span.attributes
    }


def test_a_collector_gets_request_batch_and_commit_linked_and_none_of_a_request_sampled_out(
    database_url: str, collected: Collected
) -> None:
    env = {**OPEN, "OTEL_EXPORTER_OTLP_ENDPOINT": collected.endpoint}
    with serving(database_url, env=env) as server:
        with httpx.Client(base_url=server.url) as client:
            for key, flags in (("out", "00"), ("in", "01")):
                given = {**headers(key), "traceparent": f"00-{TRACE}-{PARENT}-{flags}"}
                answer = client.post("/deposit", content=ONE, headers=given)
                assert answer.status_code == 201
        server.terminate()
    [request] = collected.wait_for(1, Span.SPAN_KIND_SERVER)
    assert request.name == "POST /deposit"
    assert request.trace_id.hex() == TRACE
    assert request.parent_span_id.hex() == PARENT
    found = attributes(request)
    assert found["http.request.method"] == "POST"
    assert found["http.route"] == "/deposit"
    assert found["http.response.status_code"] == 201
    assert found["teller.outcome"] == "applied"
    [batch] = collected.of_kind(Span.SPAN_KIND_INTERNAL)
    assert [link.span_id for link in batch.links] == [request.span_id]
    assert [link.span_id for link in request.links] == [batch.span_id]
    steps = collected.of_kind(Span.SPAN_KIND_CLIENT)
    assert sorted(step.name for step in steps) == ["BEGIN", "COMMIT"]
    assert {step.parent_span_id for step in steps} == {batch.span_id}
    assert request.start_time_unix_nano <= batch.start_time_unix_nano
    assert batch.end_time_unix_nano <= request.end_time_unix_nano
    assert {one["service.name"] for one in collected.resources} == {"teller"}
    assert {one["service.version"] for one in collected.resources} == {"0.1.0"}
    lines = [line for line in server.events("request") if line["trace_id"] == TRACE]
    assert len(lines) == 2
    assert lines[1]["span_id"] == request.span_id.hex()


def test_a_request_right_behind_another_on_its_connection_has_a_trace_of_its_own(
    database_url: str, collected: Collected
) -> None:
    env = {**OPEN, "OTEL_EXPORTER_OTLP_ENDPOINT": collected.endpoint}
    with serving(database_url, env=env) as server:
        given = httpx.URL(server.url)
        with socket.create_connection((given.host, given.port or 0), 10) as connection:
            connection.sendall(b"".join(one_deposit(f"key-{number}") for number in range(3)))
            answers = b""
            while answers.count(b"HTTP/1.1 201") < 3:
                answers += connection.recv(65_536) or b"HTTP/1.1 201 nothing more" * 3
        server.terminate()
    assert answers.count(b"nothing more") == 0
    requests = collected.wait_for(3, Span.SPAN_KIND_SERVER)
    assert [request.name for request in requests] == ["POST /deposit"] * 3
    assert len({request.trace_id for request in requests}) == 3


def one_deposit(key: str) -> bytes:
    fields = {"Host": "teller", "Content-Length": str(len(ONE)), **headers(key)}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return b"POST /deposit HTTP/1.1\r\n" + head.encode() + b"\r\n" + ONE


def test_under_opentelemetry_instrument_a_request_is_one_server_span(
    database_url: str, collected: Collected
) -> None:
    env = {
        **OPEN,
        "OTEL_EXPORTER_OTLP_ENDPOINT": collected.endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_SERVICE_NAME": "instrumented",
    }
    instrument = str(Path(sys.executable).parent / "opentelemetry-instrument")
    command = (instrument, sys.executable, "-m", "service")
    with serving(database_url, env=env, command=command) as server:
        with httpx.Client(base_url=server.url) as client:
            for number in range(3):
                client.post("/deposit", content=ONE, headers=headers(f"key-{number}"))
            client.get("/problems")
        server.terminate()
    requests = collected.wait_for(4, Span.SPAN_KIND_SERVER)
    assert len(requests) == 4
    assert len({span.trace_id for span in requests}) == 4
    assert {one["service.name"] for one in collected.resources} == {"instrumented"}
    batches = [span for span in collected.spans if span.name == "commit batch"]
    assert len(batches) == 3

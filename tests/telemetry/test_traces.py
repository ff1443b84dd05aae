"""One server span a request, one span a batch, linked both ways; nothing where nothing is asked."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import context
from opentelemetry.context import Context
from opentelemetry.sdk.trace import Tracer, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    ParentBased,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.sdk.trace.sampling import Decision as Sampled
from opentelemetry.trace import SpanKind, StatusCode, get_current_span, set_span_in_context

from service.errors import UnavailableError
from service.ledger import Movement
from service.sampling import Sampling
from service.teller import opened
from service.traces import Traces
from tests.conftest import client_of, headers
from tests.postgres.seeded import lock_first

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    import httpx
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import Link, Span
    from opentelemetry.trace.span import TraceState

    from service.errors import OperatingError
    from service.ledger import Decision
    from service.settings import Settings
    from service.teller import Teller

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
SAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
NOT_SAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
BODY = {"amount": "12.34"}
# Prints what a start with these variables would have imported and set up.
PROBE = """
import sys
from service import traces
with traces.exporting("sqlite") as tracing:
    print(tracing is not None, "opentelemetry.sdk" in sys.modules)
"""


class Traced:
    """A teller whose spans are kept: all of the sampled ones, none of the others."""

    def __init__(self, *, ratio: float = 1.0, sampler: Sampler | None = None) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider(sampler=sampler or ParentBased(TraceIdRatioBased(ratio)))
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = provider.get_tracer("test")
        assert isinstance(self.tracer, Tracer)
        self.traces = Traces(self.tracer, engine="sqlite")

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name == name]


def attributes(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


def linked(span: ReadableSpan) -> list[int]:
    return [link.context.span_id for link in span.links]


def ids(spans: Sequence[ReadableSpan]) -> list[int]:
    return [span.context.span_id for span in spans if span.context is not None]


@pytest.fixture
def traced() -> Traced:
    return Traced()


@pytest.fixture
async def traced_teller(
    make_settings: Callable[..., Settings], traced: Traced
) -> AsyncIterator[Teller]:
    async with opened(make_settings(metrics_port=0), tracing=traced.traces) as teller:
        await teller.store.open_accounts(["alice", "bob"])
        yield teller


@pytest.fixture
async def traced_client(traced_teller: Teller) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(traced_teller) as client:
        yield client


async def test_a_deposit_is_one_server_span_by_the_http_conventions(
    traced: Traced, traced_client: httpx.AsyncClient
) -> None:
    await traced_client.post("/deposit", json=BODY, headers={**headers("one"), **SAMPLED})
    servers = [
        span for span in traced.exporter.get_finished_spans() if span.kind is SpanKind.SERVER
    ]
    assert [span.name for span in servers] == ["POST /deposit"]
    span = servers[0]
    assert span.context is not None and span.parent is not None
    assert f"{span.context.trace_id:032x}" == TRACE
    assert f"{span.parent.span_id:016x}" == PARENT
    found = attributes(span)
    assert found.pop("user_agent.original")
    assert found == {
        "http.request.method": "POST",
        "http.route": "/deposit",
        "http.response.status_code": 201,
        "url.path": "/deposit",
        "url.scheme": "http",
        "network.protocol.version": "1.1",
        "server.address": "teller.test",
        "client.address": "127.0.0.1",
        "teller.outcome": "applied",
        "teller.replayed": False,
    }
    assert span.status.status_code is StatusCode.UNSET


async def test_a_batch_is_linked_to_its_requests_and_they_to_it_with_the_commit_under_it(
    traced: Traced, traced_teller: Teller, engine_name: str
) -> None:
    if engine_name == "postgresql":
        lock_first(traced_teller)
    waiting = []
    requests = [traced.tracer.start_span(f"request {number}") for number in range(3)]
    # Submitted in one turn of the loop: one batch.
    for number, request in enumerate(requests):
        movement = Movement("alice", f"key-{number}", "deposit", 1, None)
        waiting.append(_submitted_under(traced_teller, request, movement))
    for future in waiting:
        await future
    for request in requests:
        request.end()
    [batch] = traced.named("commit batch")
    ended = [traced.named(f"request {number}")[0] for number in range(3)]
    assert linked(batch) == ids(ended)
    assert [linked(request) for request in ended] == [ids([batch])] * 3
    assert attributes(batch)["teller.batch.movements"] == 3
    for step in ("BEGIN", "COMMIT"):
        [span] = traced.named(step)
        assert span.parent is not None and [span.parent.span_id] == ids([batch])
        assert attributes(span) == {"db.system.name": "sqlite", "db.operation.name": step}
        assert (span.start_time or 0) <= (span.end_time or 0)


def _submitted_under(
    teller: Teller, request: Span, movement: Movement
) -> asyncio.Future[Decision | OperatingError]:
    token = context.attach(set_span_in_context(request))
    try:
        return teller.committer.submit(movement)
    finally:
        context.detach(token)


async def test_a_sampled_out_request_leaves_no_span_and_its_answer_still_names_the_trace(
    traced: Traced, traced_client: httpx.AsyncClient
) -> None:
    answer = await traced_client.post(
        "/deposit", json={"amount": "0"}, headers={**headers("one"), **NOT_SAMPLED}
    )
    assert answer.json()["trace_id"] == TRACE
    await traced_client.post("/deposit", json=BODY, headers={**headers("two"), **NOT_SAMPLED})
    assert traced.exporter.get_finished_spans() == ()


async def test_the_callers_sampling_is_kept_though_the_ratio_is_zero(
    make_settings: Callable[..., Settings], engine_name: str
) -> None:
    traced = Traced(ratio=0.0)
    async with opened(make_settings(), tracing=traced.traces) as teller:
        await teller.store.open_accounts(["alice"])
        async with client_of(teller) as client:
            await client.post("/deposit", json=BODY, headers={**headers("one"), **SAMPLED})
            await client.post("/deposit", json=BODY, headers=headers("two"))
    # A statement that is the transaction is its COMMIT; there is no BEGIN.
    begin = ["BEGIN"] if engine_name == "sqlite" else []
    assert sorted(span.name for span in traced.exporter.get_finished_spans()) == [
        *begin,
        "COMMIT",
        "POST /deposit",
        "commit batch",
    ]


class Counting(Sampler):
    """Keeps every other trace, by what it was asked before, as a limiter of a rate would."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, str]] = []

    def should_sample(  # noqa: PLR0917 - the SDK's
        self,
        parent_context: Context | None,  # noqa: ARG002
        trace_id: int,
        name: str,  # noqa: ARG002
        kind: SpanKind | None = None,
        attributes: Mapping[str, Any] | None = None,
        links: Sequence[Link] | None = None,  # noqa: ARG002
        trace_state: TraceState | None = None,  # noqa: ARG002
    ) -> SamplingResult:
        assert attributes is not None
        if kind is SpanKind.SERVER:
            self.asked.append((trace_id, str(attributes["url.path"])))
        kept = kind is not SpanKind.SERVER or len(self.asked) % 2 == 1
        return SamplingResult(Sampled.RECORD_AND_SAMPLE if kept else Sampled.DROP, {"by": "me"})

    def get_description(self) -> str:
        return "Counting"


async def test_any_sampler_is_asked_once_a_request_and_its_answer_and_ids_are_the_spans(
    make_settings: Callable[..., Settings],
) -> None:
    sampler = Counting()
    traced = Traced(sampler=sampler)
    async with (
        opened(make_settings(), tracing=traced.traces) as teller,
        client_of(teller) as client,
    ):
        for _ in range(4):
            await client.get("/livez")
    assert [path for _, path in sampler.asked] == ["/livez"] * 4
    spans = traced.named("GET /livez")
    assert [span.context.trace_id for span in spans if span.context] == [
        sampler.asked[0][0],
        sampler.asked[2][0],
    ]
    assert [attributes(span)["by"] for span in spans] == ["me", "me"]


@pytest.mark.parametrize(
    "sampler",
    [
        TraceIdRatioBased(0.01),
        ParentBased(TraceIdRatioBased(0.01)),
        TraceIdRatioBased(0.5),
        TraceIdRatioBased(0.0),
        TraceIdRatioBased(1.0),
        ALWAYS_OFF,
        ALWAYS_ON,
        ParentBased(ALWAYS_ON, remote_parent_sampled=TraceIdRatioBased(0.0)),
    ],
    ids=lambda sampler: sampler.get_description()[:40],
)
def test_what_the_id_alone_drops_the_sampler_itself_would_have_dropped(sampler: Sampler) -> None:
    tracer = TracerProvider(sampler=sampler).get_tracer("test")
    assert isinstance(tracer, Tracer)
    sampling = Sampling(tracer)
    bounds = (0.01, 0.5)
    edges = [round(bound * 2**64) + step for bound in bounds for step in (-1, 0, 1)]
    drawn = [sampling.draw(Context())[0] for _ in range(2_000)]
    by_ratio = "ParentBased{root:AlwaysOn" not in sampler.get_description()
    for trace_id in [*drawn, *edges, 0, 2**64 - 1, 2**128 - 1]:
        dropped = sampler.should_sample(None, trace_id, "POST").decision is Sampled.DROP
        if sampling.drops(trace_id):
            assert dropped
        elif by_ratio and "Ratio" in sampler.get_description():
            assert not dropped


async def test_what_others_do_within_an_unsampled_request_is_under_it(
    make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    traced = Traced(ratio=0.0)
    assert isinstance(traced.tracer, Tracer)
    traces = Traces(traced.tracer, engine="sqlite", shared=True)
    async with opened(make_settings(), tracing=traces) as teller, client_of(teller) as client:
        submit, above = teller.committer.submit, []

        def instrumented(movement: Movement) -> asyncio.Future[Decision | OperatingError]:
            above.append(get_current_span().get_span_context())
            with traced.tracer.start_as_current_span("a driver's"):
                return submit(movement)

        monkeypatch.setattr(teller.committer, "submit", instrumented)
        await client.post("/deposit", json=BODY, headers={**headers("one"), **NOT_SAMPLED})
        await client.post("/deposit", json=BODY, headers=headers("two"))
    assert f"{above[0].trace_id:032x}" == TRACE
    assert [context.is_valid for context in above] == [True, True]
    assert traced.exporter.get_finished_spans() == ()


async def test_a_failed_batch_and_its_request_are_errors(
    traced: Traced,
    traced_teller: Teller,
    traced_client: httpx.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def busy(_movements: object) -> None:
        raise UnavailableError("The database is busy.", cause="SQLITE_BUSY")

    monkeypatch.setattr(traced_teller.committer._store, "commit", busy)
    answer = await traced_client.post("/deposit", json=BODY, headers=headers("one"))
    assert answer.status_code == 503
    [batch], [request] = traced.named("commit batch"), traced.named("POST /deposit")
    assert batch.status.status_code is request.status.status_code is StatusCode.ERROR
    assert attributes(batch)["error.type"] == "unavailable"
    assert attributes(request)["error.type"] == "503"
    assert attributes(request)["teller.code"] == "unavailable"
    assert traced_teller.metrics is not None
    errors = traced_teller.metrics.registry.get_sample_value(
        "teller_database_errors_total", {"error": "SQLITE_BUSY"}
    )
    assert errors == 1


async def test_an_unmatched_address_has_no_route_and_an_odd_method_no_name(
    traced: Traced, traced_client: httpx.AsyncClient
) -> None:
    await traced_client.request("BREW", "/nowhere")
    [span] = traced.exporter.get_finished_spans()
    assert span.name == "HTTP"
    assert attributes(span)["http.request.method"] == "_OTHER"
    assert attributes(span)["http.request.method_original"] == "BREW"
    assert "http.route" not in attributes(span)


async def test_a_span_that_stands_around_the_service_is_taken_as_the_requests(
    traced: Traced, traced_client: httpx.AsyncClient
) -> None:
    with traced.tracer.start_as_current_span("an agent's", kind=SpanKind.SERVER):
        await traced_client.post("/deposit", json=BODY, headers=headers("one"))
    [server] = traced.named("an agent's")
    [batch] = traced.named("commit batch")
    assert linked(batch) == ids([server])
    assert not traced.named("POST /deposit")


@pytest.mark.parametrize(
    ("variables", "printed"),
    [
        ({}, "False False"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}, "True True"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9"}, "True True"),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "True True"),
        (
            {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"},
            "False False",
        ),
        (
            {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"},
            "False False",
        ),
    ],
)
def test_no_sdk_is_imported_unless_an_exporter_is_asked_for(
    variables: dict[str, str], printed: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env=variables,
    )
    assert done.stdout.strip() == printed


def test_an_exporter_that_is_not_installed_is_refused_with_its_remedy() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "service", "serve", "--port", "0"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"OTEL_TRACES_EXPORTER": "zipkin"},
    )
    assert done.returncode == 1
    assert "OTEL_TRACES_EXPORTER=none" in done.stderr
    assert "zipkin" in done.stderr

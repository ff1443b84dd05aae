"""Why was this deposit slow: a server span a request, one span a batch, linked both ways."""

from __future__ import annotations

import logging
import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, StatusCode

import service
from service.errors import OperatingError, StartError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from opentelemetry.sdk.trace import Tracer
    from opentelemetry.trace import Span

    from service.store import Timing

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.30.0"
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})
# Spans not yet sent get this long when the service stops: a collector that is away must not
# hold up a drain.
FLUSH_TIMEOUT_S: Final = 3.0

_ASKED_BY: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_DEFAULTS: Final = {
    "OTEL_TRACES_EXPORTER": "otlp",
    # Metrics are Prometheus' to fetch, logs are lines on standard output.
    "OTEL_METRICS_EXPORTER": "none",
    "OTEL_LOGS_EXPORTER": "none",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
}
_EMPTY: Final = Context()
# An error is in the log with its traceback, and in the span by its kind.
_QUIET: Final = {"record_exception": False, "set_status_on_exception": False}
_SERVER_ERROR: Final = 500

log = logging.getLogger(__name__)


class _Headers(Getter["Mapping[bytes, bytes]"]):
    """How a propagator reads a request's header fields."""

    def get(self, carrier: Mapping[bytes, bytes], key: str) -> list[str] | None:
        value = carrier.get(key.lower().encode())
        return None if value is None else [value.decode("latin-1")]

    def keys(self, carrier: Mapping[bytes, bytes]) -> list[str]:
        return [name.decode("latin-1") for name in carrier]


_HEADERS: Final = _Headers()


# Trace id and span id in hexadecimal as W3C writes them; the span, None if it is not sampled and
# nobody asks for it; and whether it is Teller's to describe and to end, or an agent's.
Requested = tuple[str, str, "Span | None", bool]


class Traces:
    """The spans of one teller, by OpenTelemetry's stable conventions for HTTP and databases.

    The sampler is asked first; a request that is not sampled costs its ids and nothing more.

    Args:
        tracer: of the SDK's provider.
        engine: ``db.system.name`` of the ledger's database.
        shared: whether others make spans too: an unsampled request's has to be above theirs.
    """

    def __init__(self, tracer: Tracer, *, engine: str, shared: bool = False) -> None:
        from service.sampling import Sampling  # noqa: PLC0415 - no SDK unless it is asked for

        self._tracer = tracer
        self._requests = Sampling(tracer)
        self._engine = engine
        self._shared = shared
        names = propagate.get_global_textmap().fields
        self._propagated = {name.lower().encode() for name in names}

    # -- requests ---------------------------------------------------------------------------

    def request(self, scope: Mapping[str, Any], fields: Mapping[bytes, bytes]) -> Requested:
        """The server span of a request that begins, to be ended by ``serving``.

        A span that stands around the service already (an agent's instrumentation) is taken as
        the request's: there is one server span a request, whoever makes it.
        """
        around = trace.get_current_span()
        outer = around.get_span_context()
        if outer.is_valid:
            return f"{outer.trace_id:032x}", f"{outer.span_id:016x}", around, False
        parent = _EMPTY
        if not self._propagated.isdisjoint(fields):
            parent = propagate.extract(fields, _EMPTY, _HEADERS)
        drawn = trace_id, span_id = self._requests.draw(parent)
        span: Span | None = None
        if parent or not self._requests.drops(trace_id):
            span = self._begun(drawn, parent, scope, fields)
        if span is None and self._shared:
            span = NonRecordingSpan(SpanContext(trace_id, span_id, is_remote=False))
        return f"{trace_id:032x}", f"{span_id:016x}", span, True

    def _begun(
        self,
        drawn: tuple[int, int],
        parent: Context,
        scope: Mapping[str, Any],
        fields: Mapping[bytes, bytes],
    ) -> Span | None:
        given = scope["method"]
        method = given if given in METHODS else "_OTHER"
        # What a sampler may look at has to be there before it is asked.
        attributes = {
            "http.request.method": method,
            "url.path": scope["path"],
            "url.scheme": scope["scheme"],
        }
        name = "HTTP" if method == "_OTHER" else method
        span = self._requests.start(drawn, name, parent, SpanKind.SERVER, attributes)
        if span is not None:
            _describe_request(span, scope, fields)
        return span

    # -- batches ----------------------------------------------------------------------------

    @contextmanager
    def batch(self, waiting: Sequence[Span | None], size: int) -> Iterator[Span | None]:
        """The span of one batch, current within; None if no request of it is sampled.

        It is the child of the first sampled request, so that every sampler keeps it with that
        one, and linked with each sampled request in both directions.
        """
        requests = [span for span in waiting if span is not None and span.is_recording()]
        if not requests:
            yield None
            return
        span = self._tracer.start_span(
            "commit batch",
            trace.set_span_in_context(requests[0], _EMPTY),
            SpanKind.INTERNAL,
            {"teller.batch.movements": size, "teller.batch.sampled_requests": len(requests)},
            [Link(request.get_span_context()) for request in requests],
        )
        for request in requests:
            request.add_link(span.get_span_context())
        with trace.use_span(span, end_on_exit=True, **_QUIET):
            try:
                yield span
            except Exception as error:
                code = error.code.name if isinstance(error, OperatingError) else None
                span.set_attribute("error.type", code or type(error).__qualname__)
                span.set_status(StatusCode.ERROR)
                raise

    def committed(self, batch: Span, timing: Timing | None) -> None:
        """Put the transaction's steps under its batch, from the times that the store took."""
        if timing is None:
            return
        steps = (
            ("BEGIN", timing.began_ns, timing.locked_ns),
            ("COMMIT", timing.decided_ns, timing.committed_ns),
        )
        parent = trace.set_span_in_context(batch, _EMPTY)
        for operation, from_ns, to_ns in steps:
            if from_ns == to_ns:  # there was none
                continue
            attributes = {"db.system.name": self._engine, "db.operation.name": operation}
            span = self._tracer.start_span(
                operation, parent, SpanKind.CLIENT, attributes, start_time=from_ns
            )
            span.end(end_time=to_ns)


def serving(span: Span) -> AbstractContextManager[Span]:
    """Have a request's span current within, and ended after."""
    return trace.use_span(span, end_on_exit=True, **_QUIET)


def answered(
    span: Span,
    *,
    method: str,
    route: str | None,
    status: int,
    members: Mapping[str, str | bool | None],
) -> None:
    """Describe the answer on a sampled server span.

    Args:
        span: the request's, recording.
        method: of HTTP.
        route: the route's pattern; None if none matched.
        status: as sent, 0 if nothing was.
        members: Teller's own attributes; absent where None.
    """
    if route is not None:
        span.update_name(f"{method if method in METHODS else 'HTTP'} {route}")
        span.set_attribute("http.route", route)
    if status:
        span.set_attribute("http.response.status_code", status)
    # A server's span is an error from 500 on; a 4xx is the client's.
    if status >= _SERVER_ERROR:
        span.set_attribute("error.type", str(status))
        span.set_status(StatusCode.ERROR)
    for name, value in members.items():
        if value is not None:
            span.set_attribute(name, value)


def current() -> Span | None:
    """The span at work, if it is sampled."""
    span = trace.get_current_span()
    return span if span.is_recording() else None


def _describe_request(span: Span, scope: Mapping[str, Any], fields: Mapping[bytes, bytes]) -> None:
    attributes: dict[str, str | int] = {"network.protocol.version": scope["http_version"]}
    if scope.get("server"):
        host, port = scope["server"]
        attributes["server.address"] = host
        if port is not None:
            attributes["server.port"] = port
    if scope.get("client"):
        attributes["client.address"] = scope["client"][0]
    agent = fields.get(b"user-agent")
    if agent is not None:
        attributes["user_agent.original"] = agent.decode("latin-1")
    if scope["method"] not in METHODS:
        attributes["http.request.method_original"] = scope["method"]
    span.set_attributes(attributes)


# -- configuration --------------------------------------------------------------------------


@contextmanager
def exporting(engine: str) -> Iterator[Traces | None]:
    """The traces that the standard OTEL_* variables ask for; None, and no SDK, if they do not.

    Under ``opentelemetry-instrument`` the provider is there already, and is used if it is the
    SDK's.

    Raises:
        StartError: what they ask for is not installed.
    """
    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        yield _traces(engine, shared=True)
        return
    if not _asked():
        yield None
        return
    _configure()
    try:
        yield _traces(engine, shared=False)
    finally:
        provider: Any = trace.get_tracer_provider()
        flush = threading.Thread(target=provider.shutdown, daemon=True)
        flush.start()
        flush.join(FLUSH_TIMEOUT_S)


def _traces(engine: str, *, shared: bool) -> Traces | None:
    from opentelemetry.sdk.trace import Tracer  # noqa: PLC0415 - no SDK unless it is asked for

    tracer = trace.get_tracer("teller", service.__version__, schema_url=SCHEMA_URL)
    if isinstance(tracer, Tracer):
        return Traces(tracer, engine=engine, shared=shared)
    if not isinstance(tracer, trace.NoOpTracer):
        log.warning("no traces: the provider is not of OpenTelemetry's SDK")
    return None


def _asked() -> bool:
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or exporter == "none":
        return False
    return bool(exporter) or any(os.environ.get(name) for name in _ASKED_BY)


def _configure() -> None:
    from opentelemetry.distro import (  # noqa: PLC0415 - no SDK unless it is asked for
        OpenTelemetryConfigurator,
        OpenTelemetryDistro,
    )

    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    if "service.name=" not in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
        os.environ.setdefault("OTEL_SERVICE_NAME", "teller")
    try:
        OpenTelemetryDistro().configure()
        OpenTelemetryConfigurator().configure(  # type: ignore[no-untyped-call]
            resource_attributes={"service.version": service.__version__}
        )
    except (RuntimeError, ValueError, ImportError) as error:
        raise StartError(
            f"Tracing as the OTEL_* variables ask for it cannot start: {error}. OTLP over HTTP "
            "(OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf) comes with Teller; install the package "
            "of any other exporter beside it, or set OTEL_TRACES_EXPORTER=none."
        ) from error

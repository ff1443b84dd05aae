"""One request and its answer: ids, header fields, the log line, the answer of last resort."""

from __future__ import annotations

import asyncio
import logging
import re
from hashlib import sha256
from json.encoder import encode_basestring_ascii
from random import getrandbits
from time import perf_counter
from types import coroutine
from typing import TYPE_CHECKING, Any, Final, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from service import telemetry
from service import traces as spans

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping, Sequence

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from service.teller import Teller

    Endpoint = Callable[[Request], Awaitable[Response]]

SCOPE_KEY: Final = "teller.exchange"
UNMATCHED: Final = "unmatched"  # the route of an address that has none
CLIENT_CLOSED_REQUEST: Final = 499  # for the log alone, as nginx writes it: nobody is there

_REQUEST_ID: Final = re.compile(rb"[\x21-\x7e]{1,128}")
# version-trace id-parent id-flags (https://www.w3.org/TR/trace-context/)
_TRACEPARENT: Final = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}.*")
_NO_TRACE: Final = b"0" * 32
_NONE: Final[frozenset[bytes]] = frozenset()

_REPLAYED: Final = {None: "null", False: "false", True: "true"}

log = logging.getLogger("service.request")
Result = TypeVar("Result")


class Exchange:
    """What is known of a request beside its body, and what its log line will say."""

    __slots__ = (
        "_duration_s",
        "_method",
        "_route",
        "code",
        "fields",
        "key",
        "outcome",
        "repeated",
        "replayed",
        "request_id",
        "span_id",
        "started_s",
        "status",
        "trace",
    )

    def __init__(self, raw_headers: Sequence[tuple[bytes, bytes]]) -> None:
        self.started_s = perf_counter()
        self.fields: dict[bytes, bytes] = dict(raw_headers)
        self.repeated = _NONE
        if len(self.fields) != len(raw_headers):
            names = [name for name, _ in raw_headers]
            self.repeated = frozenset(name for name in names if names.count(name) > 1)
        given = self.fields.get(b"x-request-id", b"").strip(b" \t")
        self.request_id = given if _REQUEST_ID.fullmatch(given) else b"%032x" % getrandbits(128)
        self.key: str | None = None
        self.code: str | None = None
        self.outcome: str | None = None
        self.replayed: bool | None = None
        self.status = 0
        self.trace: str | None = None
        self.span_id: str | None = None

    @property
    def trace_id(self) -> str:
        """The trace's id (Teller's own, or only the caller's), else the request id."""
        return self.trace or self._caller_trace() or self.request_id.decode()

    def _caller_trace(self) -> str | None:
        given = self.fields.get(b"traceparent")
        found = given and _TRACEPARENT.fullmatch(given)
        if found and found[1] != _NO_TRACE:
            return found[1].decode()
        return None

    def ids(self) -> dict[str, str]:
        """What its lines are found by, as ``telemetry.Identified`` says."""
        found = {"request_id": self.request_id.decode()}
        trace = self.trace or self._caller_trace()
        if trace is not None:
            found["trace_id"] = trace
        if self.span_id is not None:
            found["span_id"] = self.span_id
        return found

    def write_log(self, method: str, route: str, duration_s: float) -> None:
        """One line a request; never a raw key, a body, or an amount beside a user."""
        if log.isEnabledFor(logging.INFO):
            self._method, self._route, self._duration_s = method, route, duration_s
            telemetry.write_event(log.name, "request", self._members)

    def _members(self) -> str:
        # Written out by hand: a JSON formatter's search for fields took 60 us of every request,
        # and logging's record another 8 (NOTES.md, Performance).
        trace, key = self.trace or self._caller_trace(), self.key
        return (
            f'"trace_id":{_quoted(trace)},"span_id":{_quoted(self.span_id)},'
            f'"request_id":{_text(self.request_id.decode())},'
            f'"method":{_text(self._method)},"route":{_text(self._route)},"status":{self.status},'
            f'"duration_ms":{self._duration_s * 1000:.3f},"code":{_quoted(self.code)},'
            f'"outcome":{_quoted(self.outcome)},"replayed":{_REPLAYED[self.replayed]},'
            f'"key_hash":{_quoted(key and sha256(key.encode()).hexdigest()[:16])}'
        )


def of(request: Request) -> Exchange:
    """The exchange that a request belongs to."""
    exchange: Exchange = request.scope[SCOPE_KEY]
    return exchange


async def within(limit_s: float, work: Coroutine[Any, Any, Result]) -> Result:
    """Await it for so many seconds at most, then TimeoutError; at once if it need not wait.

    A body mostly comes with its headers, and a clock costs a request 4 us.
    """
    try:
        awaited = work.send(None)
    except StopIteration as done:
        result: Result = done.value
        return result
    async with asyncio.timeout(limit_s):
        return await _resumed(work, awaited)


@coroutine
def _resumed(work: Coroutine[Any, Any, Result], awaited: Any) -> Generator[Any, Any, Result]:
    """Await the rest of a coroutine that has begun, and now waits for ``awaited``."""
    try:
        yield awaited
        result: Result = yield from work
    finally:
        work.close()
    return result


class Answer(Response):
    """A response whose bytes and headers are ready: nothing is rendered or looked up again."""

    def __init__(
        self, status: int, body: bytes, headers: Sequence[tuple[bytes, bytes]] = ()
    ) -> None:
        self.status_code = status
        self.body = body
        self.background = None
        self.raw_headers = [(b"content-length", b"%d" % len(body)), *headers]


class ExchangeMiddleware:
    """Give every request its exchange and its log line, and the money routes a short way.

    A route whose endpoint takes a Request and returns a Response needs nothing of the layers
    between; ``direct`` names those, by method and path. All else goes through FastAPI.
    (Pure ASGI: BaseHTTPMiddleware costs a task and a queue a request.)
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        direct: Mapping[tuple[str, str], Endpoint],
        last_resort: Callable[[Exchange, str], Response],
        teller: Callable[[], Teller],
    ) -> None:
        self._app = app
        self._direct = direct
        self._last_resort = last_resort
        self._teller = teller

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = scope[SCOPE_KEY] = Exchange(scope["headers"])
        telemetry.AT_WORK.set(exchange)
        teller = self._teller()
        tracing = teller.traces
        if tracing is None:
            await self._serve(scope, receive, send, exchange, teller)
            return
        trace_id, span_id, span, ours = tracing.request(scope, exchange.fields)
        exchange.trace, exchange.span_id = trace_id, span_id
        if span is None:
            await self._serve(scope, receive, send, exchange, teller)
            return
        sampled = span.is_recording()
        if not ours:
            await self._serve(scope, receive, send, exchange, teller, sampled=sampled)
            return
        with spans.serving(span):
            route = await self._serve(scope, receive, send, exchange, teller, sampled=sampled)
            spans.answered(
                span,
                method=scope["method"],
                route=route if route != UNMATCHED else None,
                status=exchange.status,
                members={
                    "teller.outcome": exchange.outcome,
                    "teller.replayed": exchange.replayed,
                    "teller.code": exchange.code,
                },
            )

    async def _serve(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        exchange: Exchange,
        teller: Teller,
        *,
        sampled: bool = False,
    ) -> str:
        """Answer, count and log one request; returns the route's pattern."""
        method, path = scope["method"], scope["path"]
        endpoint = self._direct.get((method, path))
        route: str = path
        try:
            if endpoint is None:
                route = await self._routed(scope, receive, send, exchange)
            else:
                try:
                    response = await endpoint(Request(scope, receive))
                except ClientDisconnect:
                    exchange.status = CLIENT_CLOSED_REQUEST
                    return route
                except Exception:  # whatever the bug, the client gets an answer
                    log.exception("request failed")
                    response = self._last_resort(exchange, path)
                response.raw_headers.append((b"x-request-id", exchange.request_id))
                exchange.status = response.status_code
                await response(scope, receive, send)
        finally:
            duration_s = perf_counter() - exchange.started_s
            metrics = teller.metrics
            if metrics is not None:
                exemplar = None
                if sampled and exchange.trace and exchange.span_id:
                    exemplar = {"trace_id": exchange.trace, "span_id": exchange.span_id}
                metrics.request(
                    *(method, route, exchange.status, duration_s),
                    code=exchange.code,
                    exemplar=exemplar,
                )
            if teller.settings.request_log:
                exchange.write_log(method, route, duration_s)
        return route

    async def _routed(self, scope: Scope, receive: Receive, send: Send, exchange: Exchange) -> str:
        """The way through FastAPI; returns the route's pattern, for the log."""

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", exchange.request_id),
                ]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:  # whatever the bug, the client gets an answer
            log.exception("request failed")
            if not exchange.status:
                response = self._last_resort(exchange, scope["path"])
                await response(scope, receive, send_with_id)
        return str(getattr(scope.get("route"), "path", UNMATCHED))


def _text(value: str) -> str:
    """A JSON string of anything."""
    return encode_basestring_ascii(value)


def _quoted(value: str | None) -> str:
    """A JSON string of Teller's own words and hexadecimal digits, or null."""
    return "null" if value is None else f'"{value}"'

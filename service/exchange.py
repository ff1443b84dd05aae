"""One request and its answer: ids, header fields, the log line, the answer of last resort."""

from __future__ import annotations

import logging
import re
from hashlib import sha256
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from service.metrics import Metrics

    Endpoint = Callable[[Request], Awaitable[Response]]

SCOPE_KEY: Final = "teller.exchange"
CLIENT_CLOSED_REQUEST: Final = 499  # for the log alone, as nginx writes it: nobody is there

_REQUEST_ID: Final = re.compile(rb"[\x21-\x7e]{1,128}")
# version-trace id-parent id-flags (https://www.w3.org/TR/trace-context/)
_TRACEPARENT: Final = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}.*")
_NO_TRACE: Final = b"0" * 32
_NONE: Final[frozenset[bytes]] = frozenset()

log = logging.getLogger("service.request")


class Exchange:
    """What is known of a request beside its body, and what its log line will say."""

    __slots__ = (
        "code",
        "fields",
        "key",
        "outcome",
        "repeated",
        "replayed",
        "request_id",
        "started_s",
        "status",
    )

    def __init__(self, raw_headers: Sequence[tuple[bytes, bytes]]) -> None:
        self.started_s = perf_counter()
        self.fields: dict[bytes, bytes] = dict(raw_headers)
        self.repeated = _NONE
        if len(self.fields) != len(raw_headers):
            names = [name for name, _ in raw_headers]
            self.repeated = frozenset(name for name in names if names.count(name) > 1)
        given = self.fields.get(b"x-request-id", b"")
        self.request_id = given if _REQUEST_ID.fullmatch(given) else uuid4().hex.encode()
        self.key: str | None = None
        self.code: str | None = None
        self.outcome: str | None = None
        self.replayed: bool | None = None
        self.status = 0

    @property
    def trace_id(self) -> str:
        """The caller's trace id, else the request id."""
        found = _TRACEPARENT.fullmatch(self.fields.get(b"traceparent", b""))
        if found and found[1] != _NO_TRACE:
            return found[1].decode()
        return self.request_id.decode()

    def write_log(self, method: str, route: str, duration_s: float) -> None:
        """One line a request; never a raw key, a body, or an amount beside a user."""
        fields: dict[str, Any] = {
            "request_id": self.request_id.decode(),
            "method": method,
            "route": route,
            "status": self.status,
            "duration_ms": round(duration_s * 1000, 3),
            "code": self.code,
            "outcome": self.outcome,
            "replayed": self.replayed,
            "key_hash": self.key and sha256(self.key.encode()).hexdigest()[:16],
        }
        log.info("request", extra=fields)


def of(request: Request) -> Exchange:
    """The exchange that a request belongs to."""
    exchange: Exchange = request.scope[SCOPE_KEY]
    return exchange


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
        last_resort: Callable[[Exchange], Response],
        request_log: Callable[[], bool],
        metrics: Callable[[], Metrics | None],
    ) -> None:
        self._app = app
        self._direct = direct
        self._last_resort = last_resort
        self._request_log = request_log
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = scope[SCOPE_KEY] = Exchange(scope["headers"])
        method, path = scope["method"], scope["path"]
        endpoint = self._direct.get((method, path))
        route = path
        try:
            if endpoint is None:
                route = await self._routed(scope, receive, send, exchange)
            else:
                try:
                    response = await endpoint(Request(scope, receive))
                except ClientDisconnect:
                    exchange.status = CLIENT_CLOSED_REQUEST
                    return
                except Exception:  # whatever the bug, the client gets an answer
                    log.exception("request failed")
                    response = self._last_resort(exchange)
                response.raw_headers.append((b"x-request-id", exchange.request_id))
                exchange.status = response.status_code
                await response(scope, receive, send)
        finally:
            duration_s = perf_counter() - exchange.started_s
            metrics = self._metrics()
            if metrics is not None:
                metrics.request(method, route, exchange.status, duration_s, code=exchange.code)
            if self._request_log():
                exchange.write_log(method, route, duration_s)

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
                await self._last_resort(exchange)(scope, receive, send_with_id)
        return getattr(scope.get("route"), "path", "unmatched")

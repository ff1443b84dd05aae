"""The composition root of HTTP: routes, the middleware, the map from exception to answer."""

from __future__ import annotations

import gc
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, cast

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

import service
from service import exchange as exchanges
from service import movements, openapi, operations, pages, probes, problems, reads, telemetry
from service.errors import CODES
from service.exchange import ExchangeMiddleware
from service.settings import Settings
from service.teller import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import ASGIApp

    from service.exchange import Endpoint
    from service.teller import Teller

YOUNG_OBJECTS_MAX: Final = 50_000


def create_app(teller: Teller | None = None) -> FastAPI:
    """The ASGI application.

    Args:
        teller: opened by the caller; without one the application opens its own from the
            environment when the server starts it, and closes it at the end.
    """
    app = _Application(
        title="Teller",
        version=service.__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_lifespan,
        # One instrumentation only, and it is the ExchangeMiddleware's.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        exception_handlers={HTTPException: _http_error, Exception: _internal},
    )
    app.state.teller = teller
    app.openapi = lambda: openapi.describe(app)  # type: ignore[method-assign]
    app.include_router(movements.router)
    app.include_router(operations.router)
    app.include_router(reads.router)
    app.include_router(probes.router)
    app.include_router(pages.router)
    app.mount("/assets", pages.assets, name="assets")
    app.state.direct = _direct(movements.router, operations.router, reads.router)
    return app


class _Application(FastAPI):
    """FastAPI with the exchange around its layers, and not among them (NOTES.md, Performance)."""

    def build_middleware_stack(self) -> ASGIApp:
        return ExchangeMiddleware(
            super().build_middleware_stack(),
            direct=self.state.direct,
            last_resort=problems.internal,
            teller=lambda: cast("Teller", self.state.teller),
        )


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    if app.state.teller is None:
        settings = Settings.load()
        telemetry.configure_logging(settings.log_level)
        async with serving(settings) as app.state.teller:
            yield
        app.state.teller = None
    else:
        yield


def freeze_garbage() -> None:
    """Hide what start-up made from the garbage collector, and call that less often.

    A full collection over it costs 60 ms, and gave the p99 (NOTES.md). A request's objects are
    freed by their counts: a young collection mostly finds the requests in flight, all alive.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS_MAX)


def _direct(*routers: APIRouter) -> dict[tuple[str, str], Endpoint]:
    """The endpoints by method and path, those with a parameter in the path left out."""
    return {
        (method, route.path): cast("Endpoint", route.endpoint)
        for router in routers
        for route in router.routes
        if isinstance(route, APIRoute) and "{" not in route.path
        for method in route.methods or ()
    }


async def _internal(request: Request, _error: Exception) -> Response:
    """The answer to a bug; the exchange logs it."""
    return problems.internal(exchanges.of(request), request.url.path)


async def _http_error(request: Request, error: Exception) -> Response:
    """Unknown addresses and methods, as problems: only the framework raises these."""
    exchange = exchanges.of(request)
    path = request.url.path
    headers = cast("dict[str, str]", getattr(error, "headers", None) or {})
    status = getattr(error, "status_code", 500)
    if status == 405:  # noqa: PLR2004 - Method Not Allowed
        # The framework names the methods of the first route at this path, not of all.
        direct = [method for method, at in request.app.state.direct if at == path]
        allow = ", ".join(sorted(direct)) or headers.get("allow") or headers.get("Allow") or ""
        return problems.problem(
            exchange,
            CODES["method-not-allowed"],
            f"{path} answers {allow}, not {request.method}.",
            instance=path,
            headers=[(b"allow", allow.encode())],
        )
    if status == 404:  # noqa: PLR2004 - Not Found
        return problems.problem(
            exchange, CODES["not-found"], "There is nothing at this address.", instance=path
        )
    raise error


app = create_app()

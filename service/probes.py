"""/livez and /readyz: whether to restart this process, whether to send it requests."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from fastapi import APIRouter, Request, Response
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import JSONResponse

from service import schema

if TYPE_CHECKING:
    from service.teller import Teller

OLDEST_AGE_MAX_S: Final = 5.0
READ_TIMEOUT_S: Final = 2.0

router = APIRouter(tags=["probes"])

_FAILING: Final[dict[int | str, dict[str, Any]]] = {
    503: {"description": "Failing; the body names the checks that do."}
}


@router.get("/livez", responses=_FAILING, response_model=None)
async def livez(request: Request) -> Response:
    """Alive: the event loop answers and the writer lives. A slow or full disk does not fail it."""
    teller: Teller = request.app.state.teller
    return _verdict(writer=teller.committer.alive)


@router.get("/readyz", responses=_FAILING, response_model=None)
async def readyz(request: Request) -> Response:
    """Ready: the schema fits, the writer keeps up, nothing is stopping. It never writes."""
    teller: Teller = request.app.state.teller
    committer = teller.committer
    return _verdict(
        writer=committer.alive,
        accepting=not committer.draining,
        keeping_up=committer.oldest_age_s() < OLDEST_AGE_MAX_S,
        schema=await _schema_fits(teller),
    )


async def _schema_fits(teller: Teller) -> bool:
    """Whether the database answers, with a schema that this code may run on."""
    try:
        async with asyncio.timeout(READ_TIMEOUT_S):
            found = await teller.store.revision()
    except (TimeoutError, SQLAlchemyError, OSError):
        return False
    return found.revision >= schema.REVISION >= found.runs_from > ""


def _verdict(**checks: bool) -> JSONResponse:
    status = 200 if all(checks.values()) else 503
    return JSONResponse(
        {"status": "ok" if status == 200 else "failing", "checks": checks},  # noqa: PLR2004
        status,
        {"cache-control": "no-store"},
    )

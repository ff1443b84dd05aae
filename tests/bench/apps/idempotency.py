"""``fastapi-idempotency``: its middleware with its persistent store, scoped by user."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi_idempotency import IdempotencyMiddleware
from fastapi_idempotency.stores.tortoise import TortoiseStore
from tortoise.contrib.fastapi import RegisterTortoise

from tests.bench.apps.deposits import add_to
from tests.bench.apps.ledger import FOLDER, lifespan

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

# How long a claim outlives its process; its default unless the trial makes it short.
LEASE_S = float(os.environ.get("BENCH_LEASE_S", "60"))


@asynccontextmanager
async def with_store(app: FastAPI) -> AsyncIterator[None]:
    store = RegisterTortoise(
        app=app,
        db_url=f"sqlite://{FOLDER}/idempotency.db?journal_mode=WAL&synchronous=FULL",
        modules={"models": ["fastapi_idempotency.stores.tortoise"]},
        generate_schemas=True,
    )
    async with store, lifespan(app):
        yield


def scope(request: Request) -> str:
    return request.headers["user_id"]


app = FastAPI(lifespan=with_store)
add_to(app.router)
app.add_middleware(
    IdempotencyMiddleware,
    store=TortoiseStore(),
    scope=scope,
    lease_seconds=LEASE_S,
    heartbeat_seconds=LEASE_S / 3,
)

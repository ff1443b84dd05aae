"""``fastapi-idempotency-key``: its middleware with its SQLite store, as its README has it."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi_idempotency_key import IdempotencyMiddleware, SQLiteBackend

from tests.bench.apps.deposits import add_to
from tests.bench.apps.ledger import FOLDER, lifespan

app = FastAPI(lifespan=lifespan)
add_to(app.router)
# Its store is opened with SQLite's defaults: synchronous=FULL, so each record is on disk too.
app.add_middleware(
    IdempotencyMiddleware,
    backend=SQLiteBackend(database_path=f"{FOLDER}/idempotency.db"),
    required=True,
)

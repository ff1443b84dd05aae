"""``idemkit`` on Redis: its route class for FastAPI, scoped by user."""

from __future__ import annotations

import os

from fastapi import APIRouter, FastAPI
from idemkit import HttpConfig, RedisBackend
from idemkit.contrib.fastapi import idempotent_route

from tests.bench.apps.deposits import add_to
from tests.bench.apps.ledger import lifespan

# How long a claim outlives its process; its default unless the trial makes it short.
LEASE_S = float(os.environ.get("BENCH_LEASE_S", "30"))

# As many as there may be requests: with redis-py's hundred it answers 503 above those.
REDIS_CONNECTIONS_MAX = 1_024

router = APIRouter(
    route_class=idempotent_route(
        backend=RedisBackend.from_url(
            f"{os.environ['BENCH_REDIS']}?max_connections={REDIS_CONNECTIONS_MAX}"
        ),
        config=HttpConfig(
            scope=lambda request: request.headers["user_id"],
            require_key_for_mutations=True,
            lease_ttl_seconds=LEASE_S,
        ),
    )
)
add_to(router)

app = FastAPI(lifespan=lifespan)
app.include_router(router)

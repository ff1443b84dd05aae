"""The PostgreSQL peer: FastAPI and an asyncpg pool, one transaction of prepared statements each."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Final

import asyncpg
from fastapi import Depends, FastAPI, Header, HTTPException, Request
from pydantic import BaseModel, Field

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ACCOUNTS: Final = 1_000
# Of 4, 8, 16, 32 and 64 the best in one sweep at 64 connections; another, noisier, preferred 4.
POOL: Final = int(os.environ.get("BENCH_POOL", "16"))

TABLES: Final = """
CREATE TABLE IF NOT EXISTS accounts (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id text NOT NULL UNIQUE,
    balance_minor bigint NOT NULL CHECK (balance_minor >= 0)
);
CREATE TABLE IF NOT EXISTS movements (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id bigint NOT NULL REFERENCES accounts,
    key text NOT NULL,
    amount_minor bigint NOT NULL,
    balance_after_minor bigint NOT NULL,
    created_at timestamptz NOT NULL,
    UNIQUE (account_id, key)
);
"""
LOCK: Final = "SELECT id, balance_minor FROM accounts WHERE user_id = $1 FOR NO KEY UPDATE"
# The row lock makes the key's row, if there is one, visible by now.
INSERT: Final = """
INSERT INTO movements (account_id, key, amount_minor, balance_after_minor, created_at)
VALUES ($1, $2, $3, $4, $5) ON CONFLICT (account_id, key) DO NOTHING
RETURNING id, amount_minor, balance_after_minor, created_at
"""
UPDATE: Final = "UPDATE accounts SET balance_minor = $2 WHERE id = $1"
FIRST: Final = """
SELECT id, amount_minor, balance_after_minor, created_at FROM movements
WHERE account_id = $1 AND key = $2
"""


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    url = os.environ["BENCH_DATABASE"].replace("+asyncpg", "")
    async with asyncpg.create_pool(url, min_size=POOL, max_size=POOL) as pool:
        await pool.execute(TABLES)
        await pool.execute(
            "INSERT INTO accounts (user_id, balance_minor) "
            "SELECT 'u' || n, 0 FROM generate_series(0, $1::int - 1) AS n "
            "ON CONFLICT DO NOTHING",
            ACCOUNTS,
        )
        app.state.pool = pool
        yield


app = FastAPI(lifespan=lifespan)


class Deposit(BaseModel):
    amount: Annotated[Decimal, Field(gt=0, max_digits=17, decimal_places=2)]


class Receipt(BaseModel):
    transaction: int
    amount: Decimal
    balance: Decimal
    created_at: datetime


async def get_current_user(
    user_id: Annotated[str, Header(convert_underscores=False, max_length=128)],
) -> str:
    return user_id


async def get_key(idempotency_key: Annotated[str, Header(max_length=255)]) -> str:
    return idempotency_key


@app.post("/deposit", status_code=201, response_model=Receipt)
async def deposit(
    body: Deposit,
    user: Annotated[str, Depends(get_current_user)],
    key: Annotated[str, Depends(get_key)],
    request: Request,
) -> Receipt:
    amount_minor = int(body.amount * 100)
    connection: Any
    async with request.app.state.pool.acquire() as connection, connection.transaction():
        account = await connection.fetchrow(LOCK, user)
        if account is None:
            raise HTTPException(404)
        balance_minor = account["balance_minor"] + amount_minor
        now = datetime.now(UTC)
        row = await connection.fetchrow(
            INSERT, account["id"], key, amount_minor, balance_minor, now
        )
        if row is None:
            row = await connection.fetchrow(FIRST, account["id"], key)
            if row["amount_minor"] != amount_minor:
                raise HTTPException(422)
        else:
            await connection.execute(UPDATE, account["id"], balance_minor)
    return Receipt(
        transaction=row["id"],
        amount=Decimal(row["amount_minor"]) / 100,
        balance=Decimal(row["balance_after_minor"]) / 100,
        created_at=row["created_at"],
    )

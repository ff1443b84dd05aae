"""The naive peer: FastAPI, one ORM session and one BEGIN IMMEDIATE transaction a request."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from sqlalchemy import Index, select

from tests.bench.apps.ledger import (
    Deposit,
    Movement,
    Receipt,
    account_of,
    get_current_user,
    get_key,
    lifespan,
    paid_in,
    receipt,
    session_of,
)

Index("uq_movements_key", Movement.account_id, Movement.key, unique=True)

app = FastAPI(lifespan=lifespan)


@app.post("/deposit", status_code=201, response_model=Receipt)
async def deposit(
    body: Deposit,
    user: Annotated[str, Depends(get_current_user)],
    key: Annotated[str, Depends(get_key)],
) -> Receipt:
    async with session_of.begin() as session:
        account = await account_of(session, user)
        movement = await session.scalar(
            select(Movement).where(Movement.account_id == account.id, Movement.key == key)
        )
        if movement is None:
            movement = paid_in(session, account, body.amount_minor, key)
        elif movement.amount_minor != body.amount_minor:
            raise HTTPException(422)
    return receipt(movement)

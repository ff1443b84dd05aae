"""The yardstick: an idiomatic FastAPI route that checks its input, and does nothing."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal  # noqa: TC003 - pydantic reads it at run time
from typing import Annotated, Literal

from fastapi import Depends, FastAPI, Header
from pydantic import BaseModel, Field

app = FastAPI()


class Deposit(BaseModel):
    amount: Annotated[Decimal, Field(gt=0, max_digits=15, decimal_places=2)]
    currency: str = "USD"
    reference: Annotated[str | None, Field(max_length=140)] = None


class Receipt(BaseModel):
    transaction: int
    type: Literal["deposit"]
    amount: Decimal
    balance: Decimal
    currency: str
    reference: str | None
    outcome: Literal["applied"]
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
) -> Receipt:
    return Receipt(
        transaction=1,
        type="deposit",
        amount=body.amount,
        balance=body.amount,
        currency=body.currency,
        reference=body.reference,
        outcome="applied",
        created_at=datetime.now(UTC),
    )

"""The route of every peer: the ORM's ledger, whose repeats the peer's layer is there to stop."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends

from tests.bench.apps.ledger import (
    Deposit,
    Receipt,
    account_of,
    get_current_user,
    get_key,
    paid_in,
    receipt,
    session_of,
)


async def deposit(
    body: Deposit,
    user: Annotated[str, Depends(get_current_user)],
    key: Annotated[str, Depends(get_key)],
) -> Receipt:
    async with session_of.begin() as session:
        account = await account_of(session, user)
        # The key is written beside the movement for the count afterwards; nothing asks for it.
        movement = paid_in(session, account, body.amount_minor, key)
    return receipt(movement)


def add_to(router: APIRouter) -> None:
    router.add_api_route(
        "/deposit", deposit, methods=["POST"], status_code=201, response_model=Receipt
    )

"""GET and DELETE /operation: ask what became of a key without resending, and burn a key."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from fastapi import APIRouter, Request, Response

from service import exchange as exchanges
from service import problems
from service.errors import CODES, InvalidRequestError, OperatingError
from service.exchange import Answer
from service.identity import get_current_user
from service.keys import get_key
from service.ledger import KeySettled, Movement, Recorded
from service.openapi import (
    KEY_PARAMETER,
    USER_PARAMETER,
    answer,
    problem_responses,
)
from service.receipts import receipt

if TYPE_CHECKING:
    from service.exchange import Exchange
    from service.ledger import Decision
    from service.money import Currency
    from service.teller import Teller

PATH: Final = "/operation"

_HEADERS: Final = ((b"content-type", b"application/json"), (b"cache-control", b"no-store"))
_EVERY: Final = (
    *("user-invalid", "key-missing", "key-invalid", "user-missing"),
    *("internal", "overloaded", "unavailable"),
)
_ASK: Final[dict[str, Any]] = {
    "operation_id": "operation",
    "response_model": None,
    "responses": {
        200: answer("The receipt, whatever its outcome.", "Receipt", "deposit"),
        **problem_responses(PATH, "operation-not-found", *_EVERY),
    },
    "openapi_extra": {"parameters": [USER_PARAMETER, KEY_PARAMETER]},
}
_BURN: Final[dict[str, Any]] = {
    "operation_id": "burn",
    "response_model": None,
    "responses": {
        200: answer(
            "Burned, now or before: nothing will ever be applied under the key.",
            "Receipt",
            "burn",
            "Idempotent-Replayed",
        ),
        **problem_responses(
            PATH,
            *("account-not-found", "key-settled", "too-many-in-flight", "outcome-unknown"),
            *_EVERY,
        ),
    },
    "openapi_extra": {"parameters": [USER_PARAMETER, KEY_PARAMETER]},
}

router = APIRouter(tags=["operations"])


@router.get(PATH, **_ASK)
async def ask(request: Request) -> Response:
    """What became of the operation under this key, without sending it again."""
    teller: Teller = request.app.state.teller
    exchange = exchanges.of(request)
    try:
        user = get_current_user(exchange)
        exchange.key = key = get_key(exchange)
        entry = await teller.reader.entry_of_key(user, key)
    except InvalidRequestError as error:
        return problems.invalid(exchange, error, instance=PATH)
    except OperatingError as error:
        return problems.failed(exchange, error, instance=PATH)
    if entry is None:
        return problems.problem(
            exchange,
            CODES["operation-not-found"],
            "Nothing is stored under this key. A request may still be on its way: send the "
            "operation with this key, or burn the key with DELETE /operation.",
            instance=PATH,
        )
    exchange.outcome = entry.outcome
    return Answer(200, receipt(entry, teller.currency), _HEADERS)


@router.delete(PATH, **_BURN)
async def burn(request: Request) -> Response:
    """Burn the key, so that a request still on its way can never apply.

    It takes its place in the account's order: whatever was applied or refused before stands.
    """
    teller: Teller = request.app.state.teller
    exchange = exchanges.of(request)
    try:
        user = get_current_user(exchange)
        exchange.key = key = get_key(exchange)
    except InvalidRequestError as error:
        return problems.invalid(exchange, error, instance=PATH)
    decision = await teller.committer.submit(Movement(user, key, "burn", None, None))
    if isinstance(decision, OperatingError):
        return problems.failed(exchange, decision, instance=PATH)
    return _burned(exchange, decision, teller.currency)


def _burned(exchange: Exchange, decision: Decision, currency: Currency) -> Answer:
    if isinstance(decision, Recorded):
        exchange.outcome = decision.entry.outcome
        exchange.replayed = decision.replayed
        replayed = (b"idempotent-replayed", b"true" if decision.replayed else b"false")
        return Answer(200, receipt(decision.entry, currency), (*_HEADERS, replayed))
    if isinstance(decision, KeySettled):
        first = decision.first
        return problems.problem(
            exchange,
            CODES["key-settled"],
            f"The operation under this key was {first.outcome} before; nothing was burned.",
            instance=PATH,
            outcome=first.outcome,
            receipt=json.loads(receipt(first, currency)),
        )
    return problems.account_not_found(exchange, instance=PATH)

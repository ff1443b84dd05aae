"""POST /deposit and POST /withdraw: parse exactly, submit, render the receipt from the row."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import TYPE_CHECKING, Any, Final

from fastapi import APIRouter, Request, Response
from starlette.requests import ClientDisconnect

from service import exchange as exchanges
from service import problems
from service.errors import CODES, InvalidRequestError, OperatingError
from service.exchange import Answer
from service.identity import get_current_user
from service.keys import get_key
from service.ledger import KeyReused, Movement, Recorded
from service.openapi import DEPOSIT, WITHDRAW
from service.receipts import receipt

if TYPE_CHECKING:
    from service.exchange import Exchange
    from service.ledger import Decision, Kind
    from service.money import Currency
    from service.teller import Teller

BODY_BYTES_MAX: Final = 16 * 1024
# Read and dropped of a body that is too large, so that the answer reaches a client still sending.
BODY_BYTES_DROPPED_MAX: Final = 2**21
REFERENCE_CHARS_MAX: Final = 140

_FIELDS: Final = frozenset({"amount", "currency", "reference"})
# control, format, private use, unassigned, surrogate (Unicode general categories)
_UNPRINTABLE: Final = frozenset({"Cc", "Cf", "Co", "Cn", "Cs"})
_JSON: Final = re.compile(rb'application/json\s*(;\s*charset\s*=\s*"?utf-8"?\s*)?', re.IGNORECASE)
_RECEIPT_TYPE: Final = (b"content-type", b"application/json")
_FIRST: Final = (b"idempotent-replayed", b"false")
_REPLAY: Final = (b"idempotent-replayed", b"true")

router = APIRouter(tags=["movements"])


@router.post("/deposit", **DEPOSIT)
async def deposit(request: Request) -> Response:
    """Put money into the user's account, at most once under the key."""
    return await _carry_out(request, "deposit")


@router.post("/withdraw", **WITHDRAW)
async def withdraw(request: Request) -> Response:
    """Take money out of the user's account, at most once under the key, never overdrawing it."""
    return await _carry_out(request, "withdrawal")


async def _carry_out(request: Request, kind: Kind) -> Response:
    teller: Teller = request.app.state.teller
    exchange = exchanges.of(request)
    path: str = request.scope["path"]
    try:
        user = get_current_user(exchange)
        exchange.key = key = get_key(exchange)
        _check_media_type(exchange)
        body = await exchanges.within(teller.body_timeout_s, _read(request))
        amount_minor, reference = _parse(body, teller)
    except InvalidRequestError as error:
        return problems.invalid(exchange, error, instance=path)
    except TimeoutError:
        return problems.timed_out(exchange, instance=path)
    movement = Movement(user, key, kind, amount_minor, reference)
    answer = await teller.committer.submit(movement)
    if isinstance(answer, OperatingError):
        return problems.failed(exchange, answer, instance=path)
    return _render(exchange, answer, teller.currency, instance=path)


# -- parsing --------------------------------------------------------------------------------


def _check_media_type(exchange: Exchange) -> None:
    given = exchange.fields.get(b"content-type", b"")
    if given != b"application/json" and not _JSON.fullmatch(given):
        raise InvalidRequestError(
            "media-type", "The body must be declared as Content-Type: application/json."
        )
    if exchange.fields.get(b"content-encoding", b"identity").lower() != b"identity":
        raise InvalidRequestError("media-type", "The body must not be compressed.")


async def _read(request: Request) -> bytes:
    """The body, at most BODY_BYTES_MAX. Raises ClientDisconnect if the client has gone."""
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message.get("body", b"")
        size += len(chunk)
        if size <= BODY_BYTES_MAX:
            chunks.append(chunk)
        more = message.get("more_body", False)
        if size > BODY_BYTES_MAX and (not more or size > BODY_BYTES_DROPPED_MAX):
            raise InvalidRequestError(
                "body-too-large", f"The body is larger than {BODY_BYTES_MAX} bytes."
            )
        if not more:
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


class _Number(str):
    """The literal digits of a JSON number."""

    __slots__ = ()


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a field stands twice")
    return members


def _no_constants(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


# Numbers stay text, so that no digit is ever rounded.
_decode: Final = json.JSONDecoder(
    parse_int=_Number,
    parse_float=_Number,
    parse_constant=_no_constants,
    object_pairs_hook=_no_duplicates,
).decode


def _parse(body: bytes, teller: Teller) -> tuple[int, str | None]:
    """Amount in minor units and reference. Raises InvalidRequestError."""
    try:
        members = _decode(body.decode())
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise InvalidRequestError("body-invalid", f"The body cannot be read: {reason}.") from None
    if type(members) is not dict:
        raise InvalidRequestError("body-invalid", "The body must be a JSON object.")
    if not members.keys() <= _FIELDS:
        raise InvalidRequestError(
            "body-invalid", "The body has a field besides amount, currency and reference."
        )
    amount = members.get("amount")
    currency = members.get("currency")
    reference = members.get("reference")
    if not isinstance(amount, str):
        raise InvalidRequestError("body-invalid", "The field amount must be a string or a number.")
    if currency is not None and type(currency) is not str:
        raise InvalidRequestError("body-invalid", "The field currency must be a string.")
    if reference is not None and type(reference) is not str:
        raise InvalidRequestError("body-invalid", "The field reference must be a string.")
    amount_minor = teller.currency.minor(amount, teller.amount_max_minor)
    if currency is not None and currency != teller.currency.code:
        raise InvalidRequestError(
            "currency-mismatch", f"This service keeps {teller.currency.code}."
        )
    if reference is not None:
        _check_reference(reference)
    return amount_minor, reference


def _check_reference(reference: str) -> None:
    if not 1 <= len(reference) <= REFERENCE_CHARS_MAX:
        raise InvalidRequestError(
            "reference-invalid", f"The reference must have 1 to {REFERENCE_CHARS_MAX} characters."
        )
    if not (reference.isascii() and reference.isprintable()) and any(
        unicodedata.category(char) in _UNPRINTABLE for char in reference
    ):
        raise InvalidRequestError(
            "reference-invalid",
            "The reference has a control, format, private-use or unassigned character.",
        )


# -- rendering ------------------------------------------------------------------------------


def _render(exchange: Exchange, decision: Decision, currency: Currency, *, instance: str) -> Answer:
    if isinstance(decision, Recorded):
        entry, replayed = decision
        if entry.outcome != "applied":
            return problems.refusal(exchange, entry, currency, replayed=replayed)
        exchange.outcome = "applied"
        exchange.replayed = replayed
        location = (b"location", b"/transactions/%d" % entry.seq)
        headers = (_RECEIPT_TYPE, location, _REPLAY if replayed else _FIRST)
        return Answer(201, receipt(entry, currency), headers)
    if isinstance(decision, KeyReused):
        first = decision.first
        fields = " and ".join(decision.differs)
        return problems.problem(
            exchange,
            CODES["key-reused"],
            f"This key belongs to an earlier request with another {fields}. This request moved "
            "nothing.",
            instance=instance,
            outcome=first.outcome,
            differs=list(decision.differs),
            first={"transaction": first.seq, "outcome": first.outcome},
        )
    return problems.account_not_found(exchange, instance=instance)

"""RFC 9457 problems: every answer that is not a success, rendered from the table of codes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import BaseModel, Field

from service.errors import CODES, OperatingError
from service.exchange import Answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.errors import Code, InvalidRequestError
    from service.exchange import Exchange
    from service.ledger import Entry
    from service.money import Currency

MEDIA_TYPE: Final = "application/problem+json"

_TYPE_HEADER: Final = (b"content-type", MEDIA_TYPE.encode())
_CHALLENGE: Final = (b"www-authenticate", b'Header realm="teller", name="user_id"')
_CLOSE: Final = (b"connection", b"close")
_REPLAYED: Final = (b"idempotent-replayed", b"true")
_NOT_REPLAYED: Final = (b"idempotent-replayed", b"false")


class Problem(BaseModel):
    """An RFC 9457 problem; ``outcome`` and ``retry`` say what happened and what to do next."""

    type: Annotated[str, Field(description="A page about this code, served by Teller.")]
    title: str
    status: int
    detail: str
    instance: str
    code: Annotated[str, Field(json_schema_extra={"enum": sorted(CODES)})]
    outcome: Annotated[
        Literal["applied", "refused", "burned", "not_applied", "unknown"],
        Field(description="What became of the operation under this user and key."),
    ]
    retry: Annotated[
        Literal["same_key", "new_key", "fix_request", "never"],
        Field(description="What the client may do next."),
    ]
    trace_id: Annotated[str | None, Field(description="Name it to the operator.")] = None


def problem(
    exchange: Exchange,
    code: Code,
    detail: str,
    *,
    instance: str,
    outcome: str | None = None,
    headers: Sequence[tuple[bytes, bytes]] = (),
    **members: Any,
) -> Answer:
    """A problem that no ledger row holds; it carries the trace id.

    Args:
        exchange: the request's.
        code: an entry of ``CODES``.
        detail: what happened in this case.
        instance: the path of the request.
        outcome: of the operation under the key, where it is not the code's own.
        headers: beyond those of the code.
        members: extension members (RFC 9457, section 3.2).
    """
    exchange.code = code.name
    exchange.outcome = outcome or code.outcome
    body = {
        "type": f"/problems/{code.name}",
        "title": code.title,
        "status": code.status,
        "detail": detail,
        "instance": instance,
        "code": code.name,
        "outcome": exchange.outcome,
        "retry": code.retry,
        **members,
        "trace_id": exchange.trace_id,
    }
    return Answer(code.status, json.dumps(body).encode(), [_TYPE_HEADER, *headers])


def invalid(exchange: Exchange, error: InvalidRequestError, *, instance: str) -> Answer:
    """The answer to a request that was rejected before its key was looked up."""
    headers = [_NOT_REPLAYED]
    if error.code.status == 401:  # noqa: PLR2004 - Unauthorized
        headers.append(_CHALLENGE)
    if error.code.status == 413:  # noqa: PLR2004 - the rest of the body is not read
        headers.append(_CLOSE)
    return problem(exchange, error.code, error.detail, instance=instance, headers=headers)


def failed(exchange: Exchange, error: OperatingError, *, instance: str) -> Answer:
    """The answer when the service could not carry a request out."""
    headers = []
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % error.retry_after_s))
    return problem(exchange, error.code, error.detail, instance=instance, headers=headers)


def timed_out(exchange: Exchange, *, instance: str) -> Answer:
    """The answer to a request whose body did not arrive in time; the connection closes."""
    return problem(
        exchange,
        CODES["request-timeout"],
        "The body did not arrive in time; this attempt was not executed. Retry with the same key.",
        instance=instance,
        headers=[_CLOSE],
    )


def account_not_found(exchange: Exchange, *, instance: str) -> Answer:
    """The answer to a user without an account; nothing is stored."""
    return problem(
        exchange,
        CODES["account-not-found"],
        "This user has no account; nothing was stored. Retry with the same key once it is open.",
        instance=instance,
    )


def internal(exchange: Exchange, instance: str) -> Answer:
    """The answer of last resort. The log has the traceback, the client has the trace id."""
    return problem(
        exchange,
        CODES["internal"],
        "An unexpected error. Retry with the same key; it moves the money at most once.",
        instance=instance,
    )


def refusal(exchange: Exchange, entry: Entry, currency: Currency, *, replayed: bool) -> Answer:
    """A stored refusal or burn, from its row alone: the same bytes on every replay.

    The wording is therefore part of the contract; a test holds the literal bytes.
    """
    code = CODES["key-burned" if entry.kind == "burn" else str(entry.reason)]
    exchange.code = code.name
    exchange.outcome = entry.outcome
    exchange.replayed = replayed
    balance = currency.text(entry.balance_after_minor)
    body: dict[str, Any] = {
        "type": f"/problems/{code.name}",
        "title": code.title,
        "status": code.status,
        "detail": _refusal_detail(entry, currency),
        "instance": f"/transactions/{entry.seq}",
        "code": code.name,
        "outcome": entry.outcome,
        "retry": code.retry,
        "transaction": entry.seq,
    }
    if entry.amount_minor is not None:
        body["amount"] = currency.text(entry.amount_minor)
    body["balance"] = balance
    body["currency"] = currency.code
    headers = [_TYPE_HEADER, _REPLAYED if replayed else _NOT_REPLAYED]
    return Answer(code.status, json.dumps(body).encode(), headers)


def _refusal_detail(entry: Entry, currency: Currency) -> str:
    if entry.kind == "burn":
        return "This key was burned; nothing will ever be applied under it."
    amount = currency.text(entry.amount_minor or 0)
    balance = currency.text(entry.balance_after_minor)
    if entry.reason == "insufficient-funds":
        return (
            f"A balance of {balance} {currency.code} does not cover a withdrawal of {amount}. "
            "Nothing moved, and nothing will under this key."
        )
    return (
        f"A deposit of {amount} {currency.code} would take the balance of {balance} past the "
        "largest allowed. Nothing moved, and nothing will under this key."
    )

"""GET /balance, GET /transactions and one transaction: what the ledger says, never waiting."""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast, get_args
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response

from service import exchange as exchanges
from service import problems
from service.errors import CODES, InvalidRequestError, OperatingError
from service.exchange import Answer
from service.identity import get_current_user
from service.ledger import Kind, Outcome
from service.money import INT64_MAX
from service.openapi import USER_PARAMETER, answer, problem_responses
from service.receipts import receipt

if TYPE_CHECKING:
    from service.teller import Teller

LIMIT_DEFAULT: Final = 50
LIMIT_MAX: Final = 200

_LIMIT: Final = re.compile(r"[1-9][0-9]{0,2}")
_SEQ: Final = re.compile(r"[1-9][0-9]{0,17}")
# What stands here is one user's, and true only now.
_HEADERS: Final = (
    (b"content-type", b"application/json"),
    (b"cache-control", b"no-store"),
)
_EVERY_READ: Final = ("user-invalid", "user-missing", "internal", "overloaded", "unavailable")

router = APIRouter(tags=["reads"])


def read_answer(body: bytes, *headers: tuple[bytes, bytes]) -> Answer:
    """A 200 that no cache may keep."""
    return Answer(200, body, (*_HEADERS, *headers))


# -- the balance ----------------------------------------------------------------------------

_BALANCE: Final[dict[str, Any]] = {
    "operation_id": "balance",
    "response_model": None,
    "responses": {
        200: answer(
            "The balance once the transaction of that number stood.",
            "Balance",
            "balance",
        ),
        **problem_responses("/balance", "account-not-found", *_EVERY_READ),
    },
    "openapi_extra": {"parameters": [USER_PARAMETER]},
}


@router.get("/balance", **_BALANCE)
async def balance(request: Request) -> Response:
    """The user's balance, as of the last committed transaction."""
    teller: Teller = request.app.state.teller
    exchange = exchanges.of(request)
    try:
        account = await teller.reader.account(get_current_user(exchange))
    except InvalidRequestError as error:
        return problems.invalid(exchange, error, instance="/balance")
    except OperatingError as error:
        return problems.failed(exchange, error, instance="/balance")
    if account is None:
        return problems.account_not_found(exchange, instance="/balance")
    currency = teller.currency
    return read_answer(
        f'{{"balance":"{currency.text(account.balance_minor)}",'
        f'"currency":"{currency.code}","transaction":{account.seq}}}'.encode()
    )


# -- transactions ---------------------------------------------------------------------------

_TRANSACTIONS: Final[dict[str, Any]] = {
    "operation_id": "transactions",
    "response_model": None,
    "responses": {
        200: answer(
            "A page, newest first. With a filter it may hold fewer than `limit`, even none: "
            "`next` alone says whether more follow.",
            "Transactions",
            "transactions",
            "Link",
        ),
        **problem_responses(
            "/transactions",
            *("limit-invalid", "cursor-invalid", "filter-invalid", "account-not-found"),
            *_EVERY_READ,
        ),
    },
    "openapi_extra": {
        "parameters": [
            USER_PARAMETER,
            {
                "name": "limit",
                "in": "query",
                "description": "Receipts in a page at most.",
                "schema": {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": LIMIT_MAX,
                    "default": LIMIT_DEFAULT,
                },
                "example": LIMIT_DEFAULT,
            },
            {
                "name": "cursor",
                "in": "query",
                "description": "Where the page begins: the field `next` of the page before.",
                # What cursor_before() gives out: a byte 1, then a number of 63 bits.
                "schema": {"type": "string", "pattern": "^A[Q-X][A-Za-z0-9_-]{10}$"},
            },
            {
                "name": "type",
                "in": "query",
                "description": "Only transactions of this type.",
                "schema": {"type": "string", "enum": list(get_args(Kind))},
            },
            {
                "name": "outcome",
                "in": "query",
                "description": "Only transactions with this outcome.",
                "schema": {"type": "string", "enum": list(get_args(Outcome))},
            },
        ]
    },
}


class _Asked(NamedTuple):
    """The query of GET /transactions, each part checked."""

    limit: int
    before_seq: int | None
    kind: Kind | None
    outcome: Outcome | None


@router.get("/transactions", **_TRANSACTIONS)
async def transactions(request: Request) -> Response:
    """The user's transactions, newest first; refused ones and burned keys among them."""
    teller: Teller = request.app.state.teller
    exchange = exchanges.of(request)
    try:
        user = get_current_user(exchange)
        asked = _asked(request)
        page = await teller.reader.page(
            user,
            before_seq=asked.before_seq,
            limit=asked.limit,
            kind=asked.kind,
            outcome=asked.outcome,
        )
    except InvalidRequestError as error:
        return problems.invalid(exchange, error, instance="/transactions")
    except OperatingError as error:
        return problems.failed(exchange, error, instance="/transactions")
    if page is None:
        return problems.account_not_found(exchange, instance="/transactions")
    receipts = b",".join(receipt(entry, teller.currency) for entry in page.entries)
    if page.next_before_seq is None:
        return read_answer(b'{"transactions":[%b],"next":null}' % receipts)
    cursor = cursor_before(page.next_before_seq)
    query = {"limit": asked.limit, "type": asked.kind, "outcome": asked.outcome, "cursor": cursor}
    query = {name: value for name, value in query.items() if value is not None}
    return read_answer(
        b'{"transactions":[%b],"next":"%b"}' % (receipts, cursor.encode()),
        (b"link", f'</transactions?{urlencode(query)}>; rel="next"'.encode()),
    )


def _asked(request: Request) -> _Asked:
    """The query, each part checked. Raises InvalidRequestError."""
    limit = _once(request, "limit", "limit-invalid")
    if limit is not None and not (_LIMIT.fullmatch(limit) and int(limit) <= LIMIT_MAX):
        raise InvalidRequestError(
            "limit-invalid", f"The limit must be a whole number from 1 to {LIMIT_MAX}."
        )
    cursor = _once(request, "cursor", "cursor-invalid")
    return _Asked(
        limit=LIMIT_DEFAULT if limit is None else int(limit),
        before_seq=None if cursor is None else _before_seq(cursor),
        kind=cast("Kind | None", _one_of(request, "type", get_args(Kind))),
        outcome=cast("Outcome | None", _one_of(request, "outcome", get_args(Outcome))),
    )


def _once(request: Request, name: str, code: str) -> str | None:
    given = request.query_params.getlist(name)
    if len(given) > 1:
        raise InvalidRequestError(code, f"The query names {name} twice.")
    return given[0] if given else None


def _one_of(request: Request, name: str, values: tuple[str, ...]) -> str | None:
    given = _once(request, name, "filter-invalid")
    if given is not None and given not in values:
        raise InvalidRequestError("filter-invalid", f"{name} is one of {', '.join(values)}.")
    return given


# A version byte and the sequence number; base64url, so that nobody reads more into it.
_CURSOR_VERSION: Final = b"\x01"


def cursor_before(seq: int) -> str:
    """The cursor of the page that begins below that sequence number."""
    return urlsafe_b64encode(_CURSOR_VERSION + seq.to_bytes(8)).decode()


def _before_seq(cursor: str) -> int:
    try:
        decoded = urlsafe_b64decode(cursor.encode("ascii"))
    except (Base64Error, UnicodeEncodeError):
        decoded = b""
    seq = int.from_bytes(decoded[1:])
    # Encoded again, so that only what Teller gave out is taken.
    if not (0 < seq <= INT64_MAX and cursor_before(seq) == cursor):
        raise InvalidRequestError(
            "cursor-invalid",
            "This is not a cursor of Teller's. Send the field next as it was given, or none.",
        )
    return seq


# -- one transaction ------------------------------------------------------------------------

_TRANSACTION: Final[dict[str, Any]] = {
    "operation_id": "transaction",
    "response_model": None,
    "responses": {
        200: answer("The receipt.", "Receipt", "deposit"),
        **problem_responses("/transactions/17", "transaction-not-found", *_EVERY_READ),
    },
    "openapi_extra": {
        "parameters": [
            USER_PARAMETER,
            {
                "name": "seq",
                "in": "path",
                "required": True,
                "description": "The account's sequence number: `transaction` of a receipt.",
                "schema": {"type": "integer", "minimum": 1},
                "example": 17,
            },
        ]
    },
}


@router.get("/transactions/{seq}", **_TRANSACTION)  # noqa: FAST003 - read from the request
async def transaction(request: Request) -> Response:
    """One transaction of the user's, refused or burned ones too."""
    teller: Teller = request.app.state.teller
    exchange = exchanges.of(request)
    path = request.url.path
    seq: str = request.path_params["seq"]
    try:
        user = get_current_user(exchange)
        entry = await teller.reader.entry(user, int(seq)) if _SEQ.fullmatch(seq) else None
    except InvalidRequestError as error:
        return problems.invalid(exchange, error, instance=path)
    except OperatingError as error:
        return problems.failed(exchange, error, instance=path)
    if entry is None:
        return problems.problem(
            exchange,
            CODES["transaction-not-found"],
            f"This user has no transaction {json.dumps(seq[:20])}.",
            instance=path,
        )
    exchange.outcome = entry.outcome
    return read_answer(receipt(entry, teller.currency))

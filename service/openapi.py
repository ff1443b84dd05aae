"""What /openapi.json says: the routes' headers, bodies and every answer, with examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, ConfigDict, Field

from service.errors import CODES
from service.problems import MEDIA_TYPE, Problem

if TYPE_CHECKING:
    from fastapi import FastAPI

    from service.errors import Code

DESCRIPTION: Final = """
Deposits and withdrawals that a mobile app may retry: every request carries an `Idempotency-Key`,
is stored in one transaction, and is answered only after its commit.

Store the key on the device **before** the first send, and send it again with every retry. An
answer without `outcome` (a proxy's 502, a time-out, a reset) means *unknown*: retry with the
same key.
"""


class MovementRequest(BaseModel):
    """What a deposit or withdrawal asks for."""

    model_config = ConfigDict(extra="forbid")

    amount: Annotated[
        str | float,
        Field(
            description="A plain decimal, best as a string; exact, never rounded.",
            json_schema_extra={
                "anyOf": [
                    {"type": "string", "pattern": r"^(0|[1-9][0-9]{0,14})(\.[0-9]+)?$"},
                    {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 10**15},
                ]
            },
        ),
    ]
    currency: Annotated[
        str | None, Field(description="If given, it must be the service's currency.")
    ] = None
    reference: Annotated[
        str | None,
        Field(min_length=1, max_length=140, description="A note to keep; part of the request."),
    ] = None


class Balance(BaseModel):
    """What the account holds; ``transaction`` is its last sequence number, 0 before the first."""

    balance: str
    currency: str
    transaction: Annotated[int, Field(ge=0)]


class Receipt(BaseModel):
    """One ledger row. ``balance`` is the balance after it; amounts are strings, exact."""

    transaction: Annotated[int, Field(ge=1, description="The account's sequence number.")]
    type: Literal["deposit", "withdrawal", "burn"]
    amount: str | None
    balance: str
    currency: str
    reference: str | None
    outcome: Literal["applied", "refused", "burned"]
    reason: Literal["insufficient-funds", "balance-limit"] | None = None
    created_at: Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class Transactions(BaseModel):
    """A page of receipts, newest first."""

    transactions: list[Receipt]
    next: Annotated[
        str | None, Field(description="The cursor of the next page; null on the last one.")
    ]


RECEIPT_EXAMPLE: Final[dict[str, Any]] = {
    "transaction": 17,
    "type": "deposit",
    "amount": "12.34",
    "balance": "112.34",
    "currency": "USD",
    "reference": None,
    "outcome": "applied",
    "created_at": "2026-01-02T03:04:05.678901Z",
}
_BURN: Final = RECEIPT_EXAMPLE | {
    "transaction": 18,
    "type": "burn",
    "amount": None,
    "outcome": "burned",
}
# Beside the routes and not in them: there FastAPI would leave every null out.
_EXAMPLES: Final[dict[str, object]] = {
    "deposit": RECEIPT_EXAMPLE,
    "withdrawal": RECEIPT_EXAMPLE | {"type": "withdrawal", "balance": "87.66"},
    "burn": _BURN,
    "balance": {"balance": "112.34", "currency": "USD", "transaction": 18},
    "transactions": {"transactions": [_BURN, RECEIPT_EXAMPLE], "next": "AQAAAAAAAAAR"},
}

_TRACE: Final = "4bf92f3577b34da6a3ce929d0e0e4736"

USER_PARAMETER: Final[dict[str, Any]] = {
    "name": "user_id",
    "in": "header",
    "required": True,
    "description": "Who is asking. Proxies that drop underscores: send X-User-Id instead.",
    "schema": {"type": "string", "pattern": "^[!-~]{1,128}$"},
    "example": "alice",
}
KEY_PARAMETER: Final[dict[str, Any]] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": True,
    "description": "One key an operation, for ever: bare, or an RFC 9651 string.",
    "schema": {
        "type": "string",
        "pattern": r'^([!#-+\--:<-\[\]-~]{1,255}|"([!#-\[\]-~]|\\["\\]){1,255}")$',
    },
    "example": "7f0d5c1e-1f4b-4b0e-9a3e-0c5b8a2f6d11",
}

_HEADERS: Final[dict[str, Any]] = {
    "X-Request-Id": {"description": "The caller's, or made.", "schema": {"type": "string"}},
    "Idempotent-Replayed": {
        "description": "Whether the answer is that of an earlier request.",
        "schema": {"type": "string", "enum": ["true", "false"]},
    },
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}},
    "WWW-Authenticate": {
        "description": "The header that names the user.",
        "schema": {"type": "string"},
    },
    "Location": {"description": "The receipt's own address.", "schema": {"type": "string"}},
    "Link": {
        "description": 'The next page (RFC 8288): `</transactions?...>; rel="next"`.',
        "schema": {"type": "string"},
    },
}


def headers_of(*names: str) -> dict[str, Any]:
    """The description of those header fields, X-Request-Id included."""
    return {name: _HEADERS[name] for name in ("X-Request-Id", *names)}


def problem_example(code: Code, path: str) -> dict[str, Any]:
    """A problem of that code as a client would see it."""
    example: dict[str, Any] = {
        "type": f"/problems/{code.name}",
        "title": code.title,
        "status": code.status,
        "detail": code.money,
        "instance": path,
        "code": code.name,
        "outcome": "applied" if code.outcome == "stored" else code.outcome,
        "retry": code.retry,
    }
    if code.outcome in {"refused", "burned"}:
        example |= {"instance": "/transactions/18", "transaction": 18}
        example |= {"amount": "500.00"} if code.outcome == "refused" else {}
        return example | {"balance": "112.34", "currency": "USD"}
    if code.name == "key-settled":
        example |= {"receipt": RECEIPT_EXAMPLE}
    if code.name == "key-reused":
        example |= {"differs": ["amount"], "first": {"transaction": 17, "outcome": "applied"}}
    return example | {"trace_id": _TRACE}


def problem_responses(path: str, *names: str) -> dict[int | str, dict[str, Any]]:
    """The responses of a route, by status, for those codes."""
    by_status: dict[int | str, dict[str, Any]] = {}
    for code in (CODES[name] for name in names):
        headers = ["Retry-After"] if code.status in {429, 503} else []
        headers += ["WWW-Authenticate"] if code.status == 401 else []  # noqa: PLR2004
        headers += ["Idempotent-Replayed"] if code.outcome in {"refused", "burned"} else []
        response = by_status.setdefault(
            code.status,
            {
                "description": "",
                "headers": headers_of(*headers),
                "content": {
                    MEDIA_TYPE: {
                        "schema": {"$ref": "#/components/schemas/Problem"},
                        "examples": {},
                    }
                },
            },
        )
        response["content"][MEDIA_TYPE]["examples"][code.name] = {
            "summary": code.title,
            "value": problem_example(code, path),
        }
        titles = response["content"][MEDIA_TYPE]["examples"].values()
        response["description"] = "; ".join(str(example["summary"]) for example in titles)
    return by_status


_USER_GIVEN: Final = {"user_id": "$request.header.user_id"}
_KEY_GIVEN: Final = {**_USER_GIVEN, "Idempotency-Key": "$request.header.Idempotency-Key"}
# Where an answer leads (OpenAPI's links): what to ask next, and with what of it.
_LINKS: Final[dict[str, Any]] = {
    "transaction": {
        "operationId": "transaction",
        "parameters": {**_USER_GIVEN, "seq": "$response.body#/transaction"},
        "description": "The same receipt, by its number.",
    },
    "operation": {
        "operationId": "operation",
        "parameters": _KEY_GIVEN,
        "description": "The same receipt, by its key.",
    },
    "burn": {
        "operationId": "burn",
        "parameters": _KEY_GIVEN,
        "description": "Too late to burn it: 409 with the receipt.",
    },
}


def answer(description: str, model: str, example: str, *headers: str) -> dict[str, Any]:
    """The description of a success: its schema's, its example's and its header fields' names."""
    content = {
        "schema": {"$ref": f"#/components/schemas/{model}"},
        "examples": {example: {"$ref": f"#/components/examples/{example}"}},
    }
    return {
        "description": description,
        "headers": headers_of(*headers),
        "content": {"application/json": content},
    }


_EVERY_POST: Final = (
    *("user-invalid", "key-missing", "key-invalid", "body-invalid", "amount-invalid"),
    *("amount-precision", "amount-not-positive", "amount-too-large", "currency-mismatch"),
    *("reference-invalid", "user-missing", "account-not-found", "request-timeout", "key-burned"),
    *("body-too-large", "media-type", "key-reused", "too-many-in-flight", "internal"),
    *("overloaded", "unavailable", "outcome-unknown"),
)


def _movement(path: str, kind: str, refusal: str) -> dict[str, Any]:
    applied = answer(
        "Applied; or applied before, and this is the same receipt again.",
        "Receipt",
        kind,
        *("Idempotent-Replayed", "Location"),
    )
    applied["links"] = _LINKS
    body = {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/MovementRequest"},
                "examples": {
                    "string": {"value": {"amount": "12.34"}},
                    "number": {"value": {"amount": 12.34, "reference": "order 4711"}},
                },
            }
        },
    }
    return {
        "operation_id": kind,
        "status_code": 201,
        "response_model": None,
        "responses": {201: applied, **problem_responses(path, refusal, *_EVERY_POST)},
        "openapi_extra": {"parameters": [USER_PARAMETER, KEY_PARAMETER], "requestBody": body},
    }


DEPOSIT: Final = _movement("/deposit", "deposit", "balance-limit")
WITHDRAW: Final = _movement("/withdraw", "withdrawal", "insufficient-funds")


def describe(app: FastAPI) -> dict[str, Any]:
    """The whole description, made once."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            description=DESCRIPTION,
            routes=app.routes,
        )
        components = document.setdefault("components", {})
        components["examples"] = {name: {"value": value} for name, value in _EXAMPLES.items()}
        schemas = components.setdefault("schemas", {})
        for model in (MovementRequest, Receipt, Balance, Transactions, Problem):
            schemas[model.__name__] = model.model_json_schema(
                ref_template="#/components/schemas/{model}"
            )
            schemas[model.__name__].pop("$defs", None)
        app.openapi_schema = document
    return app.openapi_schema

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


_TRACE: Final = "4bf92f3577b34da6a3ce929d0e0e4736"

_PARAMETERS: Final[list[dict[str, Any]]] = [
    {
        "name": "user_id",
        "in": "header",
        "required": True,
        "description": "Who is asking. Proxies that drop underscores: send X-User-Id instead.",
        "schema": {"type": "string", "pattern": "^[!-~]{1,128}$"},
        "example": "alice",
    },
    {
        "name": "Idempotency-Key",
        "in": "header",
        "required": True,
        "description": "One key an operation, for ever: bare, or an RFC 9651 string.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 512},
        "example": "7f0d5c1e-1f4b-4b0e-9a3e-0c5b8a2f6d11",
    },
]

_HEADERS: Final[dict[str, Any]] = {
    "X-Request-Id": {"description": "The caller's, or made.", "schema": {"type": "string"}},
    "Idempotent-Replayed": {
        "description": "Whether the answer is that of an earlier request.",
        "schema": {"type": "string", "enum": ["true", "false"]},
    },
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}},
    "Location": {"description": "The receipt's own address.", "schema": {"type": "string"}},
}


def _headers(*names: str) -> dict[str, Any]:
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
    if code.name == "key-reused":
        example |= {"differs": ["amount"], "first": {"transaction": 17, "outcome": "applied"}}
    return example | {"trace_id": _TRACE}


def problem_responses(path: str, *names: str) -> dict[int | str, dict[str, Any]]:
    """The responses of a route, by status, for those codes."""
    by_status: dict[int | str, dict[str, Any]] = {}
    for code in (CODES[name] for name in names):
        headers = ["Retry-After"] if code.status in {429, 503} else []
        headers += ["Idempotent-Replayed"] if code.outcome in {"refused", "burned"} else []
        response = by_status.setdefault(
            code.status,
            {
                "description": "",
                "headers": _headers(*headers),
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


_EVERY_POST: Final = (
    *("user-invalid", "key-missing", "key-invalid", "body-invalid", "amount-invalid"),
    *("amount-precision", "amount-not-positive", "amount-too-large", "currency-mismatch"),
    *("reference-invalid", "user-missing", "account-not-found", "request-timeout", "key-burned"),
    *("body-too-large", "media-type", "key-reused", "too-many-in-flight", "internal"),
    *("overloaded", "unavailable", "outcome-unknown"),
)


def _movement(path: str, kind: str, refusal: str, balance: str) -> dict[str, Any]:
    receipt = {
        "transaction": 17,
        "type": kind,
        "amount": "12.34",
        "balance": balance,
        "currency": "USD",
        "reference": None,
        "outcome": "applied",
        "created_at": "2026-01-02T03:04:05.678901Z",
    }
    applied = {
        "description": "Applied; or applied before, and this is the same receipt again.",
        "headers": _headers("Idempotent-Replayed", "Location"),
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/Receipt"},
                "example": receipt,
            }
        },
    }
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
        "openapi_extra": {"parameters": _PARAMETERS, "requestBody": body},
    }


DEPOSIT: Final = _movement("/deposit", "deposit", "balance-limit", "112.34")
WITHDRAW: Final = _movement("/withdraw", "withdrawal", "insufficient-funds", "87.66")


def describe(app: FastAPI) -> dict[str, Any]:
    """The whole description, made once."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            description=DESCRIPTION,
            routes=app.routes,
        )
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        for model in (MovementRequest, Receipt, Problem):
            schemas[model.__name__] = model.model_json_schema()
        app.openapi_schema = document
    return app.openapi_schema

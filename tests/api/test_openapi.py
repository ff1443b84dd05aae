"""The description of the API: complete, and true to its own examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from service.app import app
from service.errors import CODES
from service.openapi import Balance, MovementRequest, Receipt, Transactions
from service.problems import Problem

if TYPE_CHECKING:
    import httpx
    from pydantic import BaseModel

DOCUMENT = app.openapi()
MODELS: dict[str, type[BaseModel]] = {
    model.__name__: model for model in (Balance, MovementRequest, Problem, Receipt, Transactions)
}
RESPONSES = [
    (f"{method} {path} {status}", response)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
    for status, response in operation["responses"].items()
    if path not in {"/livez", "/readyz"}
]


def test_every_route_is_described() -> None:
    described = {
        (method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods
    }
    assert described >= {
        ("POST", "/deposit"),
        ("POST", "/withdraw"),
        ("GET", "/balance"),
        ("GET", "/transactions"),
        ("GET", "/transactions/{seq}"),
        ("GET", "/operation"),
        ("DELETE", "/operation"),
    }


@pytest.mark.parametrize(("name", "response"), RESPONSES, ids=[name for name, _ in RESPONSES])
def test_every_answer_has_an_example_that_fits_its_schema(
    name: str, response: dict[str, Any]
) -> None:
    assert response["description"]
    assert "X-Request-Id" in response["headers"]
    for content in response["content"].values():
        model = MODELS[content["schema"]["$ref"].rsplit("/", 1)[1]]
        assert content["examples"]
        for example in content["examples"].values():
            if "$ref" in example:
                example = DOCUMENT["components"]["examples"][example["$ref"].rsplit("/", 1)[1]]  # noqa: PLW2901
            model.model_validate(example["value"])


def test_every_reference_leads_somewhere() -> None:
    def references(part: Any) -> list[str]:
        if isinstance(part, dict):
            own = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
            return own + [found for value in part.values() for found in references(value)]
        if isinstance(part, list):
            return [found for value in part for found in references(value)]
        return []

    for reference in references(DOCUMENT):
        place: Any = DOCUMENT
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]
        assert place


def operations() -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (method, path, operation)
        for path, methods in DOCUMENT["paths"].items()
        for method, operation in methods.items()
    ]


def examples_of(operation: dict[str, Any]) -> set[str]:
    """The problem codes that an operation shows an example of."""
    return {
        name
        for response in operation["responses"].values()
        for kind, content in response.get("content", {}).items()
        if kind == "application/problem+json"
        for name in content["examples"]
    }


def test_every_code_is_in_the_schema_and_every_one_of_a_route_has_an_example() -> None:
    assert DOCUMENT["components"]["schemas"]["Problem"]["properties"]["code"]["enum"] == sorted(
        CODES
    )
    shown = {name for _, _, operation in operations() for name in examples_of(operation)}
    # These two are answers of addresses and methods that no route has.
    assert shown | {"not-found", "method-not-allowed"} == set(CODES)


@pytest.mark.parametrize(
    ("path", "refusal", "kind"),
    [("/deposit", "balance-limit", "deposit"), ("/withdraw", "insufficient-funds", "withdrawal")],
)
def test_the_money_routes_are_described_completely(path: str, refusal: str, kind: str) -> None:
    operation = DOCUMENT["paths"][path]["post"]
    assert operation["summary"]
    assert operation["description"]
    named = {(field["in"], field["name"]): field for field in operation["parameters"]}
    assert set(named) == {("header", "user_id"), ("header", "Idempotency-Key")}
    assert all(field["required"] and field["example"] for field in named.values())
    assert "X-User-Id" in named["header", "user_id"]["description"]
    body = operation["requestBody"]
    assert body["required"]
    assert body["content"]["application/json"]["examples"]
    assert set(operation["responses"]) == {
        *("201", "400", "401", "404", "408", "410", "413", "415", "422", "429", "500", "503"),
        {"deposit": "403", "withdrawal": "402"}[kind],
    }
    assert examples_of(operation) == {
        *("user-invalid", "user-missing", "key-missing", "key-invalid", "media-type"),
        *("body-too-large", "body-invalid", "amount-invalid", "amount-precision"),
        *("amount-not-positive", "amount-too-large", "currency-mismatch", "reference-invalid"),
        *("account-not-found", "request-timeout", "key-burned", "key-reused"),
        *("too-many-in-flight", "internal", "overloaded", "unavailable", "outcome-unknown"),
        refusal,
    }
    applied = operation["responses"]["201"]
    assert set(applied["headers"]) == {"X-Request-Id", "Idempotent-Replayed", "Location"}
    for status in ("429", "503"):
        assert "Retry-After" in operation["responses"][status]["headers"]
    for status in ("410", {"deposit": "403", "withdrawal": "402"}[kind]):
        assert "Idempotent-Replayed" in operation["responses"][status]["headers"]
    assert "WWW-Authenticate" in operation["responses"]["401"]["headers"]


async def test_the_description_is_served_with_every_route(client: httpx.AsyncClient) -> None:
    served = await client.get("/openapi.json")
    assert served.status_code == 200
    assert served.json()["paths"].keys() == DOCUMENT["paths"].keys()
    assert served.json()["openapi"].startswith("3.1")

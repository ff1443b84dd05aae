"""The description of the API: complete, and true to its own examples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from service.app import app
from service.openapi import Balance, MovementRequest, Receipt, Transactions
from service.problems import Problem

if TYPE_CHECKING:
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

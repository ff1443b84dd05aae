"""What people open: the documentation without the internet, and a page for each code."""

from __future__ import annotations

import re
from html import unescape
from typing import TYPE_CHECKING

import pytest

from service.errors import CODES
from tests.conftest import headers

if TYPE_CHECKING:
    import httpx

RETRY_IN_WORDS = {
    "same_key": "Retry with the same key.",
    "new_key": "A new operation needs a new key.",
    "fix_request": "Correct the request",
    "never": "Do not retry.",
}
STORED = {"applied", "refused", "burned", "stored"}


def addresses(html: str) -> list[str]:
    """Everything that a browser would load or that a reader could follow."""
    return re.findall(r"""(?:src|href|url)\s*[=:(]\s*["']?([^"'\s>)]+)""", html)


async def test_the_documentation_needs_no_internet(client: httpx.AsyncClient) -> None:
    page = await client.get("/docs")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "://" not in page.text
    loaded = addresses(page.text)
    assert {"openapi.json", "assets/swagger-ui.css", "assets/swagger-ui-bundle.js"} <= {*loaded}
    for address in loaded:
        answer = await client.get(f"/{address}")
        assert (answer.status_code, len(answer.content) > 500) == (200, True), address


@pytest.mark.parametrize("name", CODES)
async def test_every_code_has_a_page_that_says_what_happened_and_what_to_do(
    client: httpx.AsyncClient, name: str
) -> None:
    code = CODES[name]
    page = await client.get(f"/problems/{name}")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    text = unescape(re.sub("<[^>]+>", " ", page.text))
    assert "What happened to the money" in text
    assert "What to do" in text
    assert code.money in text
    assert code.remedy in text
    assert RETRY_IN_WORDS[code.retry] in text
    assert str(code.status) in text
    assert '<html lang="en">' in page.text
    assert "://" not in page.text
    for address in addresses(page.text):
        assert (await client.get(address)).status_code == 200


async def test_the_table_of_problems_leads_to_every_page(client: httpx.AsyncClient) -> None:
    page = await client.get("/problems")
    linked = {address.removeprefix("/problems/") for address in addresses(page.text)}
    assert linked == set(CODES)


@pytest.mark.parametrize("name", CODES)
def test_only_a_stored_answer_may_say_new_key_or_never(name: str) -> None:
    code = CODES[name]
    if code.retry in {"new_key", "never"}:
        assert code.outcome in STORED
    if code.status >= 500 or code.status in {408, 429}:
        assert (code.outcome, code.retry) == ("unknown", "same_key")
    if code.outcome == "not_applied" and code.status != 404:
        assert code.retry == "fix_request"


async def test_the_type_of_a_problem_is_its_page(client: httpx.AsyncClient) -> None:
    problem = (await client.post("/deposit", content="{", headers=headers("k"))).json()
    page = await client.get(problem["type"])
    assert (page.status_code, problem["title"] in page.text) == (200, True)

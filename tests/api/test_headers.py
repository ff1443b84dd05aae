"""Headers, methods and addresses: what is refused, with which words, and nothing stored."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.conftest import JSON

if TYPE_CHECKING:
    import httpx

ONE = b'{"amount": "1"}'
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
Fields = list[tuple[str, bytes]]


async def post(client: httpx.AsyncClient, *fields: tuple[str, bytes]) -> httpx.Response:
    raw = [(name.encode(), value) for name, value in fields]
    if b"content-type" not in dict(raw):
        raw.append((b"content-type", b"application/json"))
    return await client.post("/deposit", content=ONE, headers=raw)


async def assert_nothing_stored(client: httpx.AsyncClient) -> None:
    """The key is as good as new, and the account's first row is the first that is stored."""
    answer = await post(client, ("user_id", b"alice"), ("Idempotency-Key", b"k"))
    assert (answer.status_code, answer.json()["transaction"]) == (201, 1)
    assert answer.headers["idempotent-replayed"] == "false"


@pytest.mark.parametrize(
    "fields",
    [
        [("user_id", b"alice")],
        [("User_Id", b"alice")],
        [("X-User-Id", b"alice")],
        [("user_id", b"alice"), ("X-User-Id", b"alice")],
        [("user-id", b"mallory"), ("user_id", b"alice")],
    ],
)
async def test_either_spelling_of_the_user_header_names_the_user(
    client: httpx.AsyncClient, fields: Fields
) -> None:
    answer = await post(client, ("Idempotency-Key", b"k"), *fields)
    assert (answer.status_code, answer.json()["balance"]) == (201, "1.00")
    balance = await client.get("/balance", headers={"user_id": "alice"})
    assert balance.json()["balance"] == "1.00"


@pytest.mark.parametrize(
    "fields",
    [
        [("user_id", b"")],
        [("X-User-Id", b"")],
        [("user_id", b"alice"), ("X-User-Id", b"bob")],
        [("user_id", b"alice"), ("X-User-Id", b"")],
        [("user_id", b"alice"), ("user_id", b"alice")],
        [("X-User-Id", b"alice"), ("X-User-Id", b"alice")],
        [("user_id", b"u" * 129)],
        [("user_id", b"al ice")],
        [("user_id", "ålice".encode())],
        [("user_id", b"\xff")],
    ],
)
async def test_a_doubtful_user_is_a_400(client: httpx.AsyncClient, fields: Fields) -> None:
    answer = await post(client, ("Idempotency-Key", b"k"), *fields)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (400, "user-invalid")
    assert (problem["outcome"], problem["retry"]) == ("not_applied", "fix_request")
    await assert_nothing_stored(client)


@pytest.mark.parametrize("fields", [[], [("user-id", b"alice")]])
async def test_no_user_is_a_401_with_a_challenge_and_the_proxies_settings(
    client: httpx.AsyncClient, fields: Fields
) -> None:
    answer = await post(client, ("Idempotency-Key", b"k"), *fields)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (401, "user-missing")
    assert (problem["outcome"], problem["retry"]) == ("not_applied", "fix_request")
    assert answer.headers["www-authenticate"] == 'Header realm="teller", name="user_id"'
    assert "underscores_in_headers on;" in problem["detail"]
    assert "headers_with_underscores_action" in problem["detail"]
    await assert_nothing_stored(client)


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ([], "key-missing"),
        ([b""], "key-invalid"),
        ([b'""'], "key-invalid"),
        ([b"a", b"a"], "key-invalid"),
        ([b"a", b'"a"'], "key-invalid"),
        ([b"a,b"], "key-invalid"),
        ([b'"a", "b"'], "key-invalid"),
        ([b'"a";p=1'], "key-invalid"),
        ([b'"a'], "key-invalid"),
        ([b"a b"], "key-invalid"),
        ([b'"a b"'], "key-invalid"),
        ([b"a\\"], "key-invalid"),
        ([b"k" * 256], "key-invalid"),
        ([b'"' + b"k" * 256 + b'"'], "key-invalid"),
        (["ключ".encode()], "key-invalid"),
        ([b"\xff"], "key-invalid"),
    ],
)
async def test_a_missing_or_malformed_key_is_a_400(
    client: httpx.AsyncClient, values: list[bytes], code: str
) -> None:
    keys = [("Idempotency-Key", value) for value in values]
    answer = await post(client, ("user_id", b"alice"), *keys)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (400, code)
    assert (problem["outcome"], problem["retry"]) == ("not_applied", "fix_request")
    await assert_nothing_stored(client)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (b"abc", b'"abc"'),
        (b"k" * 255, b'"' + b"k" * 255 + b'"'),
        (b"a'b(c)", b'"a\'b(c)"'),
        (rb'"a\"b\\c"', rb'"a\"b\\c"'),
    ],
)
async def test_both_forms_of_a_key_are_one_key(
    client: httpx.AsyncClient, one: bytes, other: bytes
) -> None:
    first = await post(client, ("user_id", b"alice"), ("Idempotency-Key", one))
    again = await post(client, ("user_id", b"alice"), ("Idempotency-Key", other))
    assert first.status_code == again.status_code == 201
    assert first.content == again.content
    assert again.headers["idempotent-replayed"] == "true"


async def test_the_case_of_a_key_matters(client: httpx.AsyncClient) -> None:
    answers = [
        await post(client, ("user_id", b"alice"), ("Idempotency-Key", key)) for key in (b"a", b"A")
    ]
    assert [answer.json()["transaction"] for answer in answers] == [1, 2]


@pytest.mark.parametrize(
    "fields",
    [
        [("content-type", b"")],
        [("content-type", b"text/plain")],
        [("content-type", b"application/x-www-form-urlencoded")],
        [("content-type", b"application/jsonp")],
        [("content-type", b"application/json; charset=latin-1")],
        [("content-type", b"application/json, text/plain")],
        [("content-type", b"application/json"), ("content-encoding", b"gzip")],
    ],
)
async def test_a_body_that_is_not_declared_as_json_is_a_415(
    client: httpx.AsyncClient, fields: Fields
) -> None:
    answer = await post(client, ("user_id", b"alice"), ("Idempotency-Key", b"k"), *fields)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (415, "media-type")
    assert (problem["outcome"], problem["retry"]) == ("not_applied", "fix_request")
    await assert_nothing_stored(client)


@pytest.mark.parametrize(
    "declared",
    [
        b"application/json",
        b"APPLICATION/JSON",
        b"application/json;charset=utf-8",
        b'application/json; charset="UTF-8"',
    ],
)
async def test_json_may_be_declared_in_its_usual_spellings(
    client: httpx.AsyncClient, declared: bytes
) -> None:
    answer = await post(
        client, ("user_id", b"alice"), ("Idempotency-Key", b"k"), ("content-type", declared)
    )
    assert answer.status_code == 201


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        (
            {"user", "key", "type", "size", "body", "amount", "currency", "reference"},
            "user-invalid",
        ),
        ({"key", "type", "size", "body", "amount", "currency", "reference"}, "key-invalid"),
        ({"type", "size", "body", "amount", "currency", "reference"}, "media-type"),
        ({"size", "body", "amount", "currency", "reference"}, "body-too-large"),
        ({"body", "amount", "currency", "reference"}, "body-invalid"),
        ({"amount", "currency", "reference"}, "amount-invalid"),
        ({"currency", "reference"}, "currency-mismatch"),
        ({"reference"}, "reference-invalid"),
    ],
)
async def test_of_many_mistakes_the_first_in_order_is_named(
    client: httpx.AsyncClient, wrong: set[str], code: str
) -> None:
    def either(name: str, bad: str, good: str) -> str:
        return bad if name in wrong else good

    body = (
        f'{{"amount": "{either("amount", "x", "1")}", '
        f'"currency": "{either("currency", "EUR", "USD")}", '
        f'"reference": "{either("reference", "", "r")}"{either("body", ",", "")}}}'
    )
    answer = await client.post(
        "/deposit",
        content=body + " " * (20_000 if "size" in wrong else 0),
        headers={
            "user_id": either("user", "a b", "alice"),
            "Idempotency-Key": either("key", "a b", "k"),
            "Content-Type": either("type", "text/plain", "application/json"),
        },
    )
    assert answer.json()["code"] == code
    await assert_nothing_stored(client)


async def test_a_body_of_16_kib_is_taken_and_one_byte_more_is_a_413(
    client: httpx.AsyncClient,
) -> None:
    fields = {"user_id": "alice", "Idempotency-Key": "k", **JSON}
    larger = await client.post("/deposit", content=ONE.ljust(16_385), headers=fields)
    assert (larger.status_code, larger.json()["code"]) == (413, "body-too-large")
    assert larger.json()["outcome"] == "not_applied"
    taken = await client.post("/deposit", content=ONE.ljust(16_384), headers=fields)
    assert (taken.status_code, taken.json()["transaction"]) == (201, 1)


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/deposit", "POST"),
        ("PATCH", "/withdraw", "POST"),
        ("OPTIONS", "/deposit", "POST"),
        ("PUT", "/withdraw", "POST"),
        ("BREW", "/deposit", "POST"),
        ("POST", "/balance", "GET"),
        ("POST", "/operation", "DELETE, GET"),
        ("POST", "/livez", "GET"),
        ("POST", "/problems/key-reused", "GET"),
        ("DELETE", "/assets/swagger-ui.css", "GET, HEAD"),
    ],
)
async def test_another_method_is_a_405_that_names_those_allowed(
    client: httpx.AsyncClient, method: str, path: str, allow: str
) -> None:
    answer = await client.request(method, path)
    assert answer.status_code == 405
    assert answer.headers["allow"] == allow
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["code"], problem["instance"]) == ("method-not-allowed", path)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("POST", "/deposit/"),
        ("POST", "/Deposit"),
        ("POST", "/v1/deposit"),
        ("GET", "/assets/nope"),
        ("GET", "/problems/nope"),
        ("BREW", "/nope"),
    ],
)
async def test_an_unknown_address_is_a_404_problem(
    client: httpx.AsyncClient, method: str, path: str
) -> None:
    answer = await client.request(method, path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert {"code": "not-found", "type": "/problems/not-found", "status": 404}.items() <= (
        problem.items()
    )
    assert (problem["outcome"], problem["retry"]) == ("not_applied", "fix_request")


@pytest.mark.parametrize("given", ["r", "a-Request_1.2:3", "~" * 128])
async def test_the_callers_request_id_comes_back(client: httpx.AsyncClient, given: str) -> None:
    for path in ("/livez", "/nope", "/deposit", "/problems", "/balance"):
        answer = await client.get(path, headers={"X-Request-Id": given})
        assert answer.headers.get_list("x-request-id") == [given]


@pytest.mark.parametrize("given", [None, "", "a b", "~" * 129, "é".encode()])
async def test_without_a_valid_request_id_one_is_made(
    client: httpx.AsyncClient, given: str | bytes | None
) -> None:
    fields = {} if given is None else {"X-Request-Id": given}
    made = [
        (await client.get(path, headers=fields)).headers["x-request-id"]  # type: ignore[arg-type]
        for path in ("/livez", "/livez", "/nope", "/deposit")
    ]
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in made)
    assert len(set(made)) == 4


@pytest.mark.parametrize(
    ("traceparent", "trace_id"),
    [
        (f"00-{TRACE}-00f067aa0ba902b7-01", TRACE),
        (None, "r-1"),
        ("", "r-1"),
        (f"00-{TRACE}-00f067aa0ba902b7", "r-1"),
        (f"00-{TRACE.upper()}-00f067aa0ba902b7-01", "r-1"),
        (f"00-{'0' * 32}-00f067aa0ba902b7-01", "r-1"),
    ],
)
async def test_a_problem_names_the_callers_trace_else_the_request(
    client: httpx.AsyncClient, traceparent: str | None, trace_id: str
) -> None:
    fields = {"X-Request-Id": "r-1"} | ({} if traceparent is None else {"traceparent": traceparent})
    for path in ("/nope", "/deposit", "/balance"):
        assert (await client.get(path, headers=fields)).json()["trace_id"] == trace_id

"""The API as its own description says it: whatever is sent, a documented answer, never a 5xx."""

from __future__ import annotations

import itertools
import socket
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit

import httpx
import pytest
import schemathesis
from click.testing import CliRunner
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import positive_data_acceptance

from service.app import create_app
from service.cli import main
from service.money import Currency
from tests.conftest import ENGINES
from tests.processes import serving
from tests.property import oracle
from tests.property.test_oracle import BODIES

if TYPE_CHECKING:
    from collections.abc import Iterator

    Case = schemathesis.Case[Any]

OPEN: Final = {"TELLER_ACCOUNT_OPENING": "on_first_deposit", "TELLER_REQUEST_LOG": "false"}
LARGEST: Final = Currency("USD", 2).largest_minor()
PATIENCE_S: Final = 20
# Requests cost milliseconds, where other examples cost none: fewer, and none to shorten one.
SEARCH: Final = (Phase.explicit, Phase.reuse, Phase.generate)
few = settings(max_examples=settings().max_examples // 10, phases=SEARCH)
some = settings(max_examples=settings().max_examples // 2, phases=SEARCH)

schema = schemathesis.openapi.from_dict(create_app().openapi())
numbers = itertools.count(1)


class Site(NamedTuple):
    """A served ledger."""

    url: str
    database_url: str


@pytest.fixture(scope="module", params=ENGINES)
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """One service for the whole module; at its end the ledger is sound."""
    if request.param == "sqlite":
        database_url = f"sqlite+aiosqlite:///{tmp_path_factory.mktemp('fuzz') / 'ledger.db'}"
        yield from _served(database_url)
    else:
        with request.getfixturevalue("postgres").database() as database_url:
            yield from _served(database_url)


def _served(database_url: str) -> Iterator[Site]:
    with serving(database_url, env=OPEN) as server:
        yield Site(server.url, database_url)
        assert server.events("request failed") == []
        assert server.terminate() == 0
    audited = CliRunner().invoke(main, ["audit", "--database", database_url])
    assert audited.exit_code == 0, audited.output


def beyond_schemas(case: Case) -> list[Any]:
    """What the scale, the limits and Unicode's classes refuse cannot be said in a schema."""
    return [positive_data_acceptance] if case.method == "POST" else []


@schema.parametrize()
@few
def test_every_answer_is_documented_and_fits_its_schema(case: Case, site: Site) -> None:
    case.call_and_validate(base_url=site.url, excluded_checks=beyond_schemas(case))


def test_what_an_answer_leads_to_is_there(site: Site) -> None:
    class Following(schema.as_state_machine()):  # type: ignore[misc]
        def get_call_kwargs(self, case: Case) -> dict[str, str]:  # noqa: ARG002 - its interface
            return {"base_url": site.url}

        def validate_response(self, response: Any, case: Case, **_how: Any) -> None:
            case.validate_response(response, excluded_checks=beyond_schemas(case))

    Following.run(settings=settings(few, stateful_step_count=8))


@some
@given(BODIES, st.sampled_from(["/deposit", "/withdraw"]))
def test_a_body_is_stored_as_it_says_or_not_at_all(site: Site, raw: bytes, path: str) -> None:
    fields = {"user_id": "fuzz", "Idempotency-Key": f"body-{next(numbers)}"}
    json_fields = {**fields, "Content-Type": "application/json"}
    with httpx.Client(base_url=site.url) as client:
        answer = client.post(path, content=raw, headers=json_fields)
        stored = client.get("/operation", headers=fields)
    expected = oracle.body(raw, 2, LARGEST, "USD")
    if isinstance(expected, str):
        assert (answer.status_code, answer.json()["outcome"]) == (400, "not_applied")
        assert stored.status_code == 404
    else:
        minor, reference = expected
        assert answer.status_code in {201, 402, 403}
        receipt = stored.json()
        assert (receipt["amount"], receipt["reference"]) == (
            f"{minor // 100}.{minor % 100:02}",
            reference,
        )


WHOLE = (
    b"POST /deposit HTTP/1.1\r\nhost: teller\r\nuser_id: wire\r\nidempotency-key: %08d\r\n"
    b'content-type: application/json\r\ncontent-length: 13\r\n\r\n{"amount":"1"}'
)
STATUSES_BELOW_500 = {b"1", b"2", b"3", b"4"}


@some
@given(st.data())
def test_a_request_damaged_on_the_wire_is_refused_or_carried_out_and_the_next_is_served(
    site: Site, data: st.DataObject
) -> None:
    raw = WHOLE % next(numbers)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw)))
        lost = data.draw(st.sampled_from([0, 0, 1, 2, 30]))
        raw = raw[:at] + data.draw(st.binary(max_size=3)) + raw[at + lost :]
    for status in _statuses(site.url, raw):
        assert status[:1] in STATUSES_BELOW_500
    assert httpx.get(f"{site.url}/livez").status_code == 200


def _statuses(url: str, raw: bytes) -> list[bytes]:
    """The status of each answer to those bytes, after which nothing more is sent."""
    parts = urlsplit(url)
    said = b""
    with socket.create_connection((parts.hostname, parts.port), PATIENCE_S) as connection:
        try:
            connection.sendall(raw)
            connection.shutdown(socket.SHUT_WR)
            while chunk := connection.recv(65_536):
                said += chunk
        except ConnectionError:
            pass  # it hung up on what it could not read
    return [part[:3] for part in said.split(b"HTTP/1.1 ")[1:]]

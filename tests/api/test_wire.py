"""At the socket: what a client meets that a client in the same process would not."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.processes import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.processes import Served

TIMEOUT_S = 30


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    path = tmp_path_factory.mktemp("wire") / "ledger.db"
    env = {"TELLER_BODY_TIMEOUT_MS": "300", "TELLER_ACCOUNT_OPENING": "on_first_deposit"}
    with serving(f"sqlite+aiosqlite:///{path}", env=env) as server:
        yield server


def talk(served: Served, sent: bytes) -> bytes:
    """Everything the service says until it closes the connection."""
    address = urlsplit(served.url)
    with socket.create_connection((address.hostname or "", address.port or 0)) as connection:
        connection.settimeout(TIMEOUT_S)
        connection.sendall(sent)
        said = b""
        while chunk := connection.recv(65_536):
            said += chunk
        return said


def head(*lines: str, path: str = "/deposit", user: str = "user_id: alice") -> bytes:
    fixed = (f"POST {path} HTTP/1.1", "Host: t", user, "Content-Type: application/json")
    return "\r\n".join([*fixed, *lines, "", ""]).encode()


def test_a_whole_request_is_answered(served: Served) -> None:
    fields = ("Idempotency-Key: whole", "Content-Length: 13", "Connection: close")
    said = talk(served, head(*fields) + b'{"amount": 1}')
    assert said.startswith(b"HTTP/1.1 201 ")
    assert b'"amount":"1.00"' in said
    assert b"x-request-id: " in said.lower()
    assert b"\r\nserver:" not in said.lower()


def test_a_header_s_case_and_spaces_around_it_do_not_matter(served: Served) -> None:
    fields = ('IDEMPOTENCY-KEY:   "spaces"  ', "Content-Length: 13", "Connection: close")
    said = talk(served, head(*fields, user="USER_ID:  alice ") + b'{"amount": 1}')
    assert said.startswith(b"HTTP/1.1 201 ")


@pytest.mark.parametrize("part", [b"", b'{"amount"'])
def test_a_body_that_stops_is_a_408_and_the_connection_closes(served: Served, part: bytes) -> None:
    said = talk(served, head("Idempotency-Key: stops", "Content-Length: 13") + part)
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in said.lower()
    assert b'"code": "request-timeout"' in said


def test_a_body_in_chunks_is_taken_and_a_large_one_is_a_413(served: Served) -> None:
    fields = ("Transfer-Encoding: chunked", "Connection: close")
    chunks = b'8\r\n{"amount\r\n5\r\n": 1}\r\n0\r\n\r\n'
    assert talk(served, head("Idempotency-Key: chunks", *fields) + chunks).startswith(
        b"HTTP/1.1 201 "
    )
    large = b"".join(b"4000\r\n" + b" " * 0x4000 + b"\r\n" for _ in range(64)) + b"0\r\n\r\n"
    said = talk(served, head("Idempotency-Key: large", *fields) + large)
    assert said.startswith(b"HTTP/1.1 413 ")
    assert b'"code": "body-too-large"' in said


def test_a_body_announced_as_endless_is_answered_without_being_read_to_its_end(
    served: Served,
) -> None:
    fields = ("Idempotency-Key: endless", "Content-Length: 1000000000000")
    said = talk(served, head(*fields) + b" " * (2**21 + 1))
    assert said.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in said.lower()


def test_a_request_that_waits_for_100_continue_is_told_to_go_on(served: Served) -> None:
    address = urlsplit(served.url)
    fields = ("Idempotency-Key: expects", "Content-Length: 13", "Connection: close")
    with socket.create_connection((address.hostname or "", address.port or 0)) as connection:
        connection.settimeout(TIMEOUT_S)
        connection.sendall(head(*fields, "Expect: 100-continue"))
        assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
        connection.sendall(b'{"amount": 1}')
        assert connection.recv(1_000).startswith(b"HTTP/1.1 201 ")


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
        b"GET\r\n\r\n",
        b"POST /deposit HTTP/9.9\r\nHost: t\r\n\r\n",
        head("Content-Length: x"),
        head("Content-Length: -1"),
        head("Content-Length: 5", "Transfer-Encoding: chunked") + b"zzz\r\n",
        head("Idempotency-Key: nul\x00"),
    ],
)
def test_what_is_not_http_is_a_400_and_the_service_goes_on(served: Served, sent: bytes) -> None:
    said = talk(served, sent)
    assert said.startswith(b"HTTP/1.1 400 ")
    alive = talk(served, b"GET /livez HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
    assert alive.startswith(b"HTTP/1.1 200 ")

"""What the log says of a request and of a failure, and what it never says."""

from __future__ import annotations

import io
import json
import logging
import re
from typing import TYPE_CHECKING, Any

import pytest

from service.telemetry import configure_logging
from service.teller import opened
from tests.conftest import client_of, headers
from tests.stores import gated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    import httpx

    from service.settings import Settings
    from service.teller import Teller

KEY_HASH = "96efbc43a462ab9d"  # of kkk: SHA-256, 16 hexadecimal digits
SECRETS = re.compile("kkk|zzz|alice|mallory|77.77|7777|a-note")


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where the whole process logs to, at DEBUG; afterwards logging is as it was."""
    root = logging.getLogger()
    loggers = [root, *map(logging.getLogger, logging.root.manager.loggerDict)]
    before = [(logger, logger.level, logger.handlers[:], logger.propagate) for logger in loggers]
    flags = logging.logThreads, logging.logProcesses, logging.logMultiprocessing
    stream = io.StringIO()
    configure_logging("DEBUG", stream)
    yield stream
    for logger, level, handlers, propagate in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers
        logger.propagate = propagate
    logging.logThreads, logging.logProcesses, logging.logMultiprocessing = flags


@pytest.fixture
async def teller(
    stream: io.StringIO, make_settings: Callable[..., Settings]
) -> AsyncIterator[Teller]:
    async with opened(make_settings(request_log=True)) as teller:
        await teller.store.open_accounts(["alice"])
        yield teller


@pytest.fixture
async def client(teller: Teller) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(teller) as client:
        yield client


def events(stream: io.StringIO, message: str) -> list[dict[str, Any]]:
    for handler in logging.root.handlers:
        handler.flush()  # a request's line waits for the end of the event loop's turn
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    return [line for line in lines if line["message"] == message]


async def test_a_request_is_one_json_line_with_these_fields(
    stream: io.StringIO, client: httpx.AsyncClient
) -> None:
    for _ in range(2):
        await client.post(
            "/deposit",
            content='{"amount": "77.77", "reference": "a-note"}',
            headers={**headers("kkk"), "X-Request-Id": "req-1"},
        )
    first, again = events(stream, "request")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", first.pop("timestamp"))
    assert first.pop("duration_ms") >= 0
    expected = {
        "level": "INFO",
        "logger": "service.request",
        "message": "request",
        "request_id": "req-1",
        "method": "POST",
        "route": "/deposit",
        "status": 201,
        "outcome": "applied",
        "replayed": False,
        "key_hash": KEY_HASH,
    }
    assert expected.items() <= first.items()
    assert (again["replayed"], again["key_hash"]) == (True, KEY_HASH)


@pytest.mark.parametrize(
    ("path", "body", "key", "expected"),
    [
        ("/withdraw", '{"amount": "77.77"}', "kkk", (402, "refused", False, KEY_HASH)),
        ("/deposit", '{"amount": "7777.001"}', "kkk", (400, "not_applied", None, KEY_HASH)),
        ("/deposit", '{"amount": 77.77', "kkk", (400, "not_applied", None, KEY_HASH)),
        ("/deposit", '{"amount": "1"}', "kkk zzz", (400, "not_applied", None, None)),
        ("/deposit", '{"a-note": "7777"}', "kkk", (400, "not_applied", None, KEY_HASH)),
    ],
)
async def test_a_refused_request_is_one_line_and_repeats_nothing_of_what_was_sent(
    stream: io.StringIO,
    client: httpx.AsyncClient,
    *,
    path: str,
    body: str,
    key: str,
    expected: tuple[int, str, bool | None, str | None],
) -> None:
    await client.post(path, content=body, headers=headers(key))
    (line,) = events(stream, "request")
    assert (line["status"], line["outcome"], line["replayed"], line["key_hash"]) == expected
    assert SECRETS.findall(stream.getvalue()) == []


async def test_addresses_that_do_not_exist_share_one_route_in_the_log(
    stream: io.StringIO, client: httpx.AsyncClient
) -> None:
    await client.get("/accounts/mallory")
    await client.get("/problems/key-reused")
    await client.get("/deposit")
    lines = events(stream, "request")
    assert [(line["route"], line["status"]) for line in lines] == [
        ("unmatched", 404),
        ("/problems/{name}", 200),
        ("/deposit", 405),
    ]
    assert SECRETS.findall(stream.getvalue()) == []


async def test_a_bug_is_logged_with_its_traceback_and_without_what_was_sent(
    stream: io.StringIO, client: httpx.AsyncClient, teller: Teller
) -> None:
    gate = gated(teller, ZeroDivisionError("division by zero"))
    gate.open.set()
    answer = await client.post(
        "/deposit",
        content='{"amount": "77.77", "reference": "a-note"}',
        headers=headers("kkk"),
    )
    assert answer.status_code == 500
    (line,) = events(stream, "movement failed")
    assert (line["level"], line["logger"]) == ("ERROR", "service.committer")
    assert "ZeroDivisionError: division by zero" in line["exc_info"]
    assert len(line["exc_info"]) <= 2_000
    (request,) = events(stream, "request")
    assert (request["status"], request["outcome"]) == (500, "unknown")
    assert SECRETS.findall(stream.getvalue()) == []


async def test_a_database_error_says_nothing_of_the_movement_that_met_it(
    stream: io.StringIO, client: httpx.AsyncClient, teller: Teller, engine_name: str
) -> None:
    """A row that the database refuses: its own error reaches the log."""
    store: Any = teller.store
    if engine_name == "sqlite":
        await store._writer.run(
            lambda connection, _: connection.execute(
                "CREATE TRIGGER broken BEFORE INSERT ON movements "
                "BEGIN SELECT RAISE(ABORT, 'broken'); END"
            ).close(),
            None,
        )
    else:
        # PostgreSQL's error shows the whole row.
        await store._writers[0].driver.execute(
            "ALTER TABLE movements ADD CONSTRAINT broken CHECK (key <> 'kkk')"
        )
    answer = await client.post(
        "/deposit",
        content='{"amount": "77.77", "reference": "a-note"}',
        headers=headers("kkk"),
    )
    assert answer.status_code == 500
    (line,) = events(stream, "movement failed")
    assert "broken" in line["exc_info"]
    assert SECRETS.findall(stream.getvalue()) == []


async def test_the_request_lines_can_be_switched_off(
    stream: io.StringIO, make_settings: Callable[..., Settings]
) -> None:
    async with opened(make_settings(request_log=False)) as teller, client_of(teller) as client:
        await client.get("/livez")
    assert events(stream, "request") == []

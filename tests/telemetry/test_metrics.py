"""What the metrics say, against the README and against a real listener."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from service.errors import StartError, UnavailableError
from service.ledger import Movement
from service.metrics import Metrics, listening
from service.teller import listening as teller_listening
from service.teller import opened
from tests.conftest import client_of, headers
from tests.stores import gated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from service.settings import Settings
    from service.teller import Teller

README = Path(__file__).parents[2] / "README.md"
OPENMETRICS = {"Accept": "application/openmetrics-text; version=1.0.0"}
BODY = {"amount": "12.34"}
USERS = ("alice", "bob")


@pytest.fixture
async def counted(make_settings: Callable[..., Settings]) -> AsyncIterator[Teller]:
    """A teller with metrics, and accounts for alice and bob."""
    async with opened(make_settings(metrics_port=0)) as teller:
        await teller.store.open_accounts(["alice", "bob"])
        yield teller


@pytest.fixture
async def counted_client(counted: Teller) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(counted) as client:
        yield client


def value(teller: Teller, sample: str, **labels: Any) -> float | None:
    assert teller.metrics is not None
    return teller.metrics.registry.get_sample_value(sample, labels)


def results(teller: Teller) -> dict[str, float]:
    assert teller.metrics is not None
    return {
        sample.labels["result"]: sample.value
        for family in teller.metrics.registry.collect()
        for sample in family.samples
        if sample.name == "teller_idempotency_results_total" and sample.value
    }


@pytest.mark.engines("sqlite", reason="a ledger on a server has no file to watch")
async def test_the_readme_lists_every_metric_with_its_kind_and_labels(counted: Teller) -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) \|", README.read_text(), re.MULTILINE)
    listed = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    assert counted.metrics is not None
    counted.metrics.request("GET", "/livez", 200, 0.001, code=None)
    counted.metrics.failed("unavailable", "SQLITE_BUSY")
    made = {}
    for family in counted.metrics.registry.collect():
        if family.name.startswith("process_"):
            continue  # the client library's own
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        made[family.name + suffix] = (family.type, labels)
    assert {name: listed.get(name) for name in made} == made
    assert listed.keys() == made.keys()


async def test_no_metric_ever_names_a_user_or_a_key(
    counted: Teller, counted_client: httpx.AsyncClient
) -> None:
    answer = await counted_client.post(
        "/deposit", json=BODY, headers=headers("planted-key", user="alice")
    )
    assert answer.status_code == 201
    assert counted.metrics is not None
    shown = [
        value
        for family in counted.metrics.registry.collect()
        for sample in family.samples
        for value in sample.labels.values()
    ]
    assert not [value for value in shown if "alice" in value or "planted" in value]


async def test_each_result_of_a_key_is_counted_once(
    counted: Teller, counted_client: httpx.AsyncClient
) -> None:
    for body in (BODY, BODY, {"amount": "1"}):
        await counted_client.post("/deposit", json=body, headers=headers("one"))
    await counted_client.post("/withdraw", json={"amount": "99"}, headers=headers("two"))
    await counted_client.post("/deposit", json=BODY, headers=headers("one", user="nobody"))
    for movement in (
        Movement("bob", "three", "burn", None, None),
        Movement("bob", "three", "deposit", 5, None),
        Movement("alice", "one", "burn", None, None),
    ):
        await counted.committer.submit(movement)
    assert results(counted) == {
        "new": 3,
        "replay": 1,
        "mismatch": 1,
        "no_account": 1,
        "burned": 1,
        "settled": 1,
    }
    moved = "teller_movements_total"
    assert value(counted, moved, operation="deposit", outcome="applied") == 1
    assert value(counted, moved, operation="withdrawal", outcome="refused") == 1
    assert value(counted, moved, operation="burn", outcome="burned") == 1


async def test_requests_are_counted_by_route_pattern_and_status(
    counted: Teller, counted_client: httpx.AsyncClient
) -> None:
    await counted_client.post("/deposit", json=BODY, headers=headers("one"))
    await counted_client.post("/deposit", json={"amount": "0"}, headers=headers("two"))
    await counted_client.get("/problems/internal")
    await counted_client.request("BREW", "/nowhere")
    counted_requests = {
        (method, route, status): value(
            counted,
            "http_server_request_duration_seconds_count",
            http_request_method=method,
            http_route=route,
            http_response_status_code=status,
        )
        for method, route, status in (
            ("POST", "/deposit", "201"),
            ("POST", "/deposit", "400"),
            ("GET", "/problems/{name}", "200"),
            ("_OTHER", "unmatched", "404"),
        )
    }
    assert set(counted_requests.values()) == {1}
    assert value(counted, "teller_problems_total", code="amount-not-positive") == 1
    assert value(counted, "teller_problems_total", code="internal") == 0


@pytest.mark.engines("sqlite", reason="a ledger on a server has no file to watch")
async def test_a_batch_shows_its_size_its_wait_and_its_phases(
    counted: Teller, counted_client: httpx.AsyncClient
) -> None:
    await counted_client.post("/deposit", json=BODY, headers=headers("one"))
    assert value(counted, "teller_batch_movements_sum") == 1
    assert value(counted, "teller_queue_wait_seconds_count") == 1
    for phase in ("lock", "decide", "commit"):
        assert value(counted, "teller_batch_phase_seconds_count", phase=phase) == 1
        assert (value(counted, "teller_batch_phase_seconds_sum", phase=phase) or 0) > 0
    await counted.committer._checkpoint()
    assert value(counted, "teller_checkpoints_total", result="complete") == 1
    assert value(counted, "teller_checkpoint_duration_seconds_count") == 1
    assert (value(counted, "teller_wal_size_bytes") or 0) > 0
    assert (value(counted, "teller_database_size_bytes") or 0) > 0


async def test_a_batch_that_fails_is_counted_by_code_by_error_and_by_how_it_was_split(
    counted: Teller, counted_client: httpx.AsyncClient
) -> None:
    gate = gated(counted, UnavailableError("full", cause="SQLITE_FULL"))
    gate.open.set()
    await counted_client.post("/deposit", json=BODY, headers=headers("one"))
    assert value(counted, "teller_batch_failures_total", code="unavailable") == 1
    assert value(counted, "teller_database_errors_total", error="SQLITE_FULL") == 1
    gate.error = ZeroDivisionError()
    await asyncio.gather(
        *(counted_client.post("/deposit", json=BODY, headers=headers("two", u)) for u in USERS)
    )
    assert value(counted, "teller_batch_retries_total", reason="split") == 1
    assert value(counted, "teller_batch_failures_total", code="internal") == 2


async def test_a_movement_s_wait_counts_from_its_arrival_to_its_batch(
    counted: Teller, monkeypatch: pytest.MonkeyPatch
) -> None:
    times_s = iter([100.0, 103.0])  # it arrives, its batch begins
    monkeypatch.setattr("service.committer.monotonic", lambda: next(times_s, 103.0))
    await counted.committer.submit(Movement("alice", "one", "deposit", 1, None))
    assert value(counted, "teller_queue_wait_seconds_sum") == 3.0


@pytest.mark.engines("sqlite", reason="it is the engine that the release names")
async def test_the_listener_answers_openmetrics_and_says_which_release_runs(
    counted: Teller,
) -> None:
    assert counted.metrics is not None
    counted.metrics.request(
        "POST", "/deposit", 201, 0.0015, code=None, exemplar={"trace_id": "0af7651916cd43dd"}
    )
    with listening(counted.metrics, "127.0.0.1", 0) as port:
        async with httpx.AsyncClient() as client:
            url = f"http://127.0.0.1:{port}/metrics"
            answer = await client.get(url, headers=OPENMETRICS)
    parsed = text_string_to_metric_families(answer.text)  # type: ignore[no-untyped-call]
    families = {family.name: family for family in parsed}
    assert families["teller_build"].samples[0].labels == {
        "version": "0.1.0",
        "python": families["teller_build"].samples[0].labels["python"],
        "engine": "sqlite",
    }
    exemplars = [
        (sample.labels["le"], sample.exemplar.labels)
        for sample in families["http_server_request_duration_seconds"].samples
        if sample.exemplar
    ]
    assert exemplars == [("0.0025", {"trace_id": "0af7651916cd43dd"})]


async def test_without_a_port_there_are_no_metrics(teller: Teller) -> None:
    assert teller.metrics is None
    with teller_listening(teller):
        pass


def test_a_taken_metrics_port_is_refused_by_the_name_of_its_setting() -> None:
    metrics = Metrics(version="1", engine="sqlite")
    with (
        listening(metrics, "127.0.0.1", 0) as port,
        pytest.raises(StartError, match=f"port {port} for metrics.*TELLER_METRICS_PORT"),
        listening(metrics, "127.0.0.1", port),
    ):
        pass

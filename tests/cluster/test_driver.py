"""The driver's own logic: its trials pass where they should, and fail where they must.

Real: helm, kubectl, the chart, Teller, its ledger, the checker. Stand-ins: the API server, the
controller and the plugin of Argo Rollouts, Istio's gateway (`stand_ins.py`).
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from service.checker import check
from service.history import parsed
from tests import processes
from tests.chart import api_server, helm
from tests.cluster import cluster as clusters
from tests.cluster import trials

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.chart.api_server import ApiServer
    from tests.cluster.stand_ins import Controller, LocalCluster
    from tests.delivery.issuer import Issuer
    from tests.processes import Served

RELEASED = "1"


@pytest.fixture
def issuer() -> Issuer:
    from tests.delivery.issuer import Issuer

    return Issuer()


@pytest.fixture
def teller(tmp_path: Path) -> Iterator[Served]:
    """A real Teller; its ledger is the cluster's."""
    url = f"sqlite+aiosqlite:///{tmp_path / 'ledger.db'}"
    env = {"TELLER_ACCOUNT_OPENING": "on_first_deposit"}
    with processes.serving(url, env=env) as served:
        yield served


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with api_server.serving() as api:
        yield api


@pytest.fixture
def cluster(
    api: ApiServer, tmp_path: Path, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> LocalCluster:
    from tests.cluster import __main__ as driver
    from tests.cluster.stand_ins import LocalCluster, plugin

    monkeypatch.setattr(clusters, "POLL_S", 0.05)
    config = api_server.kubeconfig(api, tmp_path)
    file = tmp_path / "values.json"
    file.write_text(json.dumps(driver.values("localhost/teller", "teller.localhost", issuer.jwks)))
    kubectl = str(helm.binary("kubectl"))
    plugin(tmp_path, (kubectl,))
    LocalCluster.database_url = f"sqlite+aiosqlite:///{tmp_path / 'ledger.db'}"
    environment = {
        **os.environ,
        "KUBECONFIG": str(config),
        "HELM_CACHE_HOME": str(tmp_path),
        "HELM_NO_PLUGINS": "1",
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
    }
    return LocalCluster(
        *("pay", "teller", file, environment, (str(helm.binary("helm")),), (kubectl,)),
        # As in the chart's own tests of upgrades.
        flags=("--server-side=false", "--wait=hookOnly", "--disable-openapi-validation"),
    )


@pytest.fixture
def gateway_url(teller: Served, issuer: Issuer) -> Iterator[str]:
    from tests.cluster.stand_ins import gateway

    with gateway(teller.url, issuer.jwks) as url:
        yield url


@pytest.fixture
def controlled(api: ApiServer, tmp_path: Path) -> Iterator[Callable[..., Controller]]:
    """Starts the controller's stand-in; ended at the end."""
    from tests.cluster.stand_ins import Controller

    started: list[Controller] = []

    def start(*, hold: bool = False) -> Controller:
        started.append(Controller(api, tmp_path, hold=hold))
        started[-1].start()
        return started[-1]

    yield start
    for controller in started:
        controller.stop()


# -- releases -----------------------------------------------------------------------------------


def test_a_bad_release_that_nobody_aborts_fails_its_trial(
    cluster: LocalCluster, controlled: Callable[..., Controller]
) -> None:
    controlled()
    cluster.upgrade(RELEASED)
    cluster.followed(timeout_s=30)
    trial = trials.bad(cluster, "2")
    assert "aborted: False, not True" in trial.wrong
    assert "`status` failed: False, not True" in trial.wrong


def test_a_good_release_that_is_aborted_fails_its_trial(
    cluster: LocalCluster, controlled: Callable[..., Controller]
) -> None:
    controlled()
    cluster.upgrade(RELEASED)
    cluster.followed(timeout_s=30)
    cluster.upgrade("bad")
    trial = trials.promoted(cluster, weights=[5, 25, 50, 100])
    assert "exit of `status`: 1, not 0" in trial.wrong
    assert "settled: False, not True" in trial.wrong


def test_an_upgrade_in_mid_canary_is_refused_and_the_trial_notices_one_that_is_not(
    cluster: LocalCluster, controlled: Callable[..., Controller]
) -> None:
    controller = controlled(hold=True)
    cluster.upgrade(RELEASED)
    cluster.followed(timeout_s=30)
    trials.begun(cluster, "2", percent=5)
    refused = trials.refused_in_flight(cluster, "3")
    let_through = trials.refused_in_flight(cluster, "3", "rollout.allowUpgradeInCanary=true")
    controller.go_on()
    assert refused.wrong == []
    assert "helm failed: False, not True" in let_through.wrong


def test_the_namespace_gets_sidecars_and_the_smoke_test_its_token(
    cluster: LocalCluster, api: ApiServer, issuer: Issuer
) -> None:
    from tests.cluster import __main__ as driver

    driver.prepared(cluster, issuer)
    made = api.objects["namespaces", "pay"]
    assert made["metadata"]["labels"] == {"istio-injection": "enabled"}
    assert ("secrets", "teller-smoke") in api.objects


def test_a_command_that_fails_says_what_it_said(cluster: LocalCluster) -> None:
    with pytest.raises(clusters.ClusterError, match="not found"):
        cluster.get("rollouts.argoproj.io")


# -- identity -----------------------------------------------------------------------------------


def test_the_spoofed_header_s_trial_passes_behind_a_gateway_that_verifies(
    teller: Served, issuer: Issuer
) -> None:
    from tests.cluster.stand_ins import gateway
    from tests.delivery.issuer import Issuer

    with gateway(teller.url, issuer.jwks) as url:
        trial = asyncio.run(trials.spoofed(url, "teller.localhost", issuer, Issuer()))
    assert trial.wrong == []
    assert len(trial.seen) == 10


def test_the_spoofed_header_s_trial_fails_where_a_client_s_header_goes_through(
    teller: Served, issuer: Issuer
) -> None:
    from tests.cluster.stand_ins import gateway
    from tests.delivery.issuer import Issuer

    with gateway(teller.url, issuer.jwks, believing=True) as url:
        trial = asyncio.run(trials.spoofed(url, None, issuer, Issuer()))
    assert any(wrong.startswith("alice has it") for wrong in trial.wrong)
    assert any("without a token" in wrong for wrong in trial.wrong)


# -- load and checker ---------------------------------------------------------------------------


def test_every_key_is_settled_though_the_service_is_killed_under_load_and_the_log_holds(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    from tests.cluster.load import Load

    log = tmp_path / "history.jsonl"
    url = cluster.database_url
    env = {"TELLER_ACCOUNT_OPENING": "on_first_deposit"}
    with log.open("w") as lines:
        with processes.serving(url, env=env) as first:
            port = first.url.rpartition(":")[2]
            load = Load(first.url, None, lambda user: {"user_id": user}, lines, pause_s=0.001)
            thread = threading.Thread(target=lambda: asyncio.run(load.drive(settle_timeout_s=30)))
            thread.start()
            wait_until(lambda: load.answers["201"] > 50)
            first.kill()
            wait_until(lambda: load.answers["no answer"] > 0)
        with processes.serving(url, "--port", port, env=env):
            wait_until(lambda: load.answers["201"] > 200)
            load.stop()
            thread.join(60)
    assert load.unsettled == 0
    assert load.answers["402"] > 0
    trial = trials.checked(cluster, log.read_text())
    assert trial.wrong == []
    assert '"unsettled": 0' in trial.seen[0]


def test_a_log_of_a_movement_that_the_ledger_does_not_have_fails_the_check(
    cluster: LocalCluster, teller: Served
) -> None:
    answer = {"transaction": 1, "type": "deposit", "amount": "1.00", "balance": "1.00"}
    said = {"event": "ok", "at_s": 2, "user_id": "alice", "key": "k", "answer": answer}
    asked = {"event": "invoked", "at_s": 1, "user_id": "alice", "key": "k", "type": "deposit"}
    log = f"{json.dumps({**asked, 'amount': '1'})}\n{json.dumps(said)}\n"
    assert check(parsed(log.splitlines(), "log"), []).counts["lost"] == 1
    trial = trials.checked(cluster, log)
    assert "exit of `teller check-log`: 3, not 0" in trial.wrong
    assert "lost" in trial.seen[0]


# -- the bad release ----------------------------------------------------------------------------


def test_the_bad_release_fails_every_third_movement_but_the_smoke_test_s(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "tests.cluster.bad.serve")
    env = {"TELLER_ACCOUNT_OPENING": "on_first_deposit"}
    url = f"sqlite+aiosqlite:///{tmp_path / 'bad.db'}"
    with processes.serving(url, command=command, env=env) as served:
        assert statuses(served.url, "alice") == [201, 201, 500, 201, 201, 500]
        assert statuses(served.url, "smoke-test") == [201] * 6


def statuses(url: str, user: str) -> list[int]:
    from tests.clients import request

    fields = {"content-type": "application/json", "user_id": user}
    return [
        asyncio.run(
            request(url, "POST", "/deposit", b'{"amount": "1"}', {**fields, "idempotency-key": key})
        ).status
        for key in "abcdef"
    ]


def wait_until(true: Callable[[], bool], timeout_s: float = 60) -> None:
    end_s = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end_s
        time.sleep(0.02)


# -- the whole ----------------------------------------------------------------------------------


def test_the_whole_run_reports_each_trial_and_the_clients_log(
    cluster: LocalCluster,
    controlled: Callable[..., Controller],
    gateway_url: str,
    issuer: Issuer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from tests.cluster import __main__ as driver

    controller = controlled(hold=True)
    promoted = trials.promoted

    def go_on(*arguments: Any, **options: Any) -> trials.Trial:
        controller.go_on()
        return promoted(*arguments, **options)

    monkeypatch.setattr(trials, "promoted", go_on)
    cluster.upgrade(RELEASED)
    cluster.followed(timeout_s=30)
    output = cluster.values.parent
    done = driver.run(
        cluster,
        tags=("1", "2", "bad"),
        url=gateway_url,
        host="teller.localhost",
        issuer=issuer,
        output=output,
    )
    told = driver.report(done)
    assert [trial.claim for trial in done if trial.wrong] == []
    assert told.count("| ok |") == len(done) == 9
    assert "weights: [5, 25, 50, 100, 0]" in told
    assert "why: success-rate" in told
    assert "no acknowledged movement is lost or doubled" in told
    assert (output / "history.jsonl").stat().st_size > 0

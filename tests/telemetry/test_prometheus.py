"""A real Prometheus scrapes a real Teller under load; a real Alertmanager hands on an alert."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx
import pytest
import yaml

from tests.conftest import headers
from tests.parts import part
from tests.ports import free_port
from tests.processes import serving
from tests.telemetry.queries import CLUSTER, queries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.processes import Served

HERE: Final = Path(__file__).parent
RULES: Final = HERE.parents[1] / "chart" / "files" / "rules.yaml"
RECORDED: Final = (HERE / "recorded.prom").read_bytes()
PACKAGES: Final = "apt-get install --no-install-recommends prometheus prometheus-alertmanager"
WAIT_S: Final = 40
# Another process's work on the ledger: an edit past every rule, and a lock held for a second.
EDIT: Final = (
    "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); "
    "db.execute(\"UPDATE accounts SET balance_minor = 7 WHERE user_id = 'mallory'\"); db.commit()"
)
HOLD: Final = (
    "import sqlite3, sys, time; db = sqlite3.connect(sys.argv[1], isolation_level=None); "
    "db.execute('BEGIN IMMEDIATE'); print('held', flush=True); time.sleep(1); db.rollback()"
)


class Watched:
    """A Teller under load, seen by Prometheus; what Alertmanager's receiver got."""

    def __init__(self) -> None:
        self.prometheus = ""
        self.received: list[dict[str, Any]] = []

    def ask(self, expr: str) -> list[Any]:
        answer = httpx.get(f"{self.prometheus}/api/v1/query", params={"query": expr}).json()
        assert answer["status"] == "success", answer
        found: list[Any] = answer["data"]["result"]
        return found

    def until(self, seen: Callable[[], bool]) -> bool:
        deadline = time.monotonic() + WAIT_S
        while not seen():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.25)
        return True


@contextmanager
def beside(received: list[dict[str, Any]]) -> Iterator[int]:
    """Serves the recorded samples at /metrics, and takes Alertmanager's notifications."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(RECORDED)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.extend(json.loads(body)["alerts"])
            self._answer(b"")

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def running(folder: Path, command: str, *options: str) -> Iterator[None]:
    with (folder / f"{Path(command).name}.log").open("wb") as output:
        process = subprocess.Popen([command, *options], stdout=output, stderr=subprocess.STDOUT)
        try:
            yield
        finally:
            process.kill()
            process.wait()


def load(server: Served, ledger: Path, stop: threading.Event) -> None:
    """Everything a key can be found to be, a refusal, a bad request, and a lock held elsewhere."""
    with httpx.Client(base_url=server.url, timeout=20) as client:
        number = 0
        while not stop.wait(0.02):
            number += 1
            key = f"key-{number // 3}"
            amount = "2" if number % 9 == 8 else "1"
            for path in ("/deposit", "/withdraw"):
                user = path.removeprefix("/")
                client.post(path, json={"amount": amount}, headers=headers(key, user))
            client.post("/deposit", json={"amount": "0"}, headers=headers(key))
            client.get("/balance", headers=headers(key, "deposit"))
            if number % 100 == 10:
                hold = subprocess.Popen(
                    [sys.executable, "-c", HOLD, ledger], stdout=subprocess.PIPE, text=True
                )
                assert hold.stdout is not None
                with hold.stdout:
                    hold.stdout.readline()
                    client.post("/deposit", json={"amount": "1"}, headers=headers(f"held-{number}"))
                hold.wait()


def configure(folder: Path, metrics_port: int, other_port: int, alerts_port: int) -> None:
    scraped = {
        "labels": {
            "job": "teller",
            "namespace": "bank",
            "pod": "teller-0",
            "rollouts_pod_template_hash": "5d4f8c7b9",
        },
        "targets": [f"127.0.0.1:{metrics_port}"],
    }
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "alerting": {
            "alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{alerts_port}"]}]}]
        },
        "scrape_configs": [
            {"job_name": "teller", "static_configs": [scraped]},
            {
                "job_name": "recorded",
                "honor_labels": True,
                "static_configs": [{"targets": [f"127.0.0.1:{other_port}"]}],
            },
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    receiver = {"name": "test", "webhook_configs": [{"url": f"http://127.0.0.1:{other_port}/"}]}
    route = {"receiver": "test", "group_wait": "0s", "group_interval": "1s"}
    (folder / "alertmanager.yml").write_text(
        yaml.safe_dump({"route": route, "receivers": [receiver]})
    )


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    prometheus = part("prometheus", PACKAGES)
    alertmanager = part("prometheus-alertmanager", PACKAGES)
    folder = tmp_path_factory.mktemp("watched")
    ledger = folder / "ledger.db"
    url = f"sqlite+aiosqlite:///{ledger}"
    env = {
        "TELLER_ACCOUNT_OPENING": "on_first_deposit",
        "TELLER_METRICS_PORT": str(metrics_port := free_port()),
        "TELLER_BUSY_TIMEOUT_MS": "100",
        "TELLER_WAL_ROWS_MAX": "20",
        # Every request is sampled, so that there are exemplars; nobody collects the spans.
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
    }
    with serving(url, env=env) as server:
        answer = httpx.post(
            f"{server.url}/deposit", json={"amount": "1"}, headers=headers("first", "mallory")
        )
        assert answer.status_code == 201
        server.terminate()
    subprocess.run([sys.executable, "-c", EDIT, ledger], check=True, timeout=30)
    found = Watched()
    alerts_port, prometheus_port = free_port(), free_port()
    found.prometheus = f"http://127.0.0.1:{prometheus_port}"
    stop = threading.Event()
    with ExitStack() as stack:
        other_port = stack.enter_context(beside(found.received))
        configure(folder, metrics_port, other_port, alerts_port)
        server = stack.enter_context(serving(url, env=env))
        stack.enter_context(
            running(
                folder,
                alertmanager,
                f"--config.file={folder}/alertmanager.yml",
                f"--storage.path={folder}/alerts",
                f"--web.listen-address=127.0.0.1:{alerts_port}",
                "--cluster.listen-address=",
            )
        )
        stack.enter_context(
            running(
                folder,
                prometheus,
                f"--config.file={folder}/prometheus.yml",
                f"--storage.tsdb.path={folder}/samples",
                f"--web.listen-address=127.0.0.1:{prometheus_port}",
                "--enable-feature=exemplar-storage",
            )
        )
        loading = threading.Thread(target=load, args=(server, ledger, stop))
        loading.start()
        stack.callback(loading.join)
        stack.callback(stop.set)
        assert found.until(lambda: _answers(found)), (folder / "prometheus.log").read_text()
        yield found


def _answers(watched: Watched) -> bool:
    try:
        return httpx.get(f"{watched.prometheus}/-/ready").status_code == 200
    except httpx.TransportError:
        return False


def test_prometheus_scrapes_teller(watched: Watched) -> None:
    assert watched.until(lambda: bool(watched.ask('up{job="teller"} == 1')))


def test_every_query_of_the_dashboards_and_every_record_returns_data(watched: Watched) -> None:
    wanted = {query.expr for query in queries("prometheus")}
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        wanted |= {rule["record"] for rule in group["rules"] if "record" in rule}
    silent = sorted(wanted)

    def all_speak() -> bool:
        silent[:] = [expr for expr in silent if not watched.ask(expr)]
        return not silent

    watched.until(all_speak)
    assert silent == []


def test_only_the_clusters_own_series_are_recorded(watched: Watched) -> None:
    recorded = {
        line.split("{")[0] for line in RECORDED.decode().splitlines() if not line.startswith("#")
    }
    assert all(CLUSTER.fullmatch(name) for name in recorded)
    assert watched.until(lambda: bool(watched.ask('{job="teller", __name__=~"teller_.+"}')))
    names = {one["metric"]["__name__"] for one in watched.ask('{job="teller"}')}
    assert names.isdisjoint(recorded)


def test_a_slow_request_leads_to_its_trace_by_an_exemplar(watched: Watched) -> None:
    def exemplars() -> list[Any]:
        answer = httpx.get(
            f"{watched.prometheus}/api/v1/query_exemplars",
            params={
                "query": "http_server_request_duration_seconds_bucket",
                "start": time.time() - 600,
                "end": time.time() + 60,
            },
        )
        found: list[Any] = answer.json()["data"]
        return found

    assert watched.until(lambda: bool(exemplars()))
    labels = exemplars()[0]["exemplars"][0]["labels"]
    assert len(labels["trace_id"]) == 32
    assert len(labels["span_id"]) == 16


def test_an_edited_balance_is_found_by_the_audit_and_alertmanager_hands_on_the_page(
    watched: Watched,
) -> None:
    def arrived() -> bool:
        return any(alert["labels"]["alertname"] == "TellerLedgerImbalance" for alert in pages())

    def pages() -> list[dict[str, Any]]:
        return [alert for alert in watched.received if alert["labels"]["severity"] == "page"]

    assert watched.until(arrived), watched.received
    assert watched.ask('teller_ledger_violations{kind="head-wrong"} > 0')

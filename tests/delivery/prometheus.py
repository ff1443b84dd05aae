"""A real Prometheus that scrapes the pods as the chart's PodMonitor says, and the gateway.

The PodMonitor becomes a scrape configuration as the Prometheus Operator writes it; a file with the
pods' labels stands in for Kubernetes' discovery. From Envoy's own counters, renamed by relabelling,
come the series that Istio's telemetry filter would write.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import httpx
import yaml

from tests.delivery import envoy
from tests.parts import part

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from tests.chart.manifests import Manifest
    from tests.delivery.pods import Pod

PACKAGE: Final = "apt-get install --no-install-recommends prometheus"
START_TIMEOUT_S: Final = 60
PORT: Final = 9_090
_LABEL: Final = "__meta_kubernetes_pod_label"


def scrape_config(monitor: Manifest, targets: Path) -> dict[str, Any]:
    """The scrape configuration of a PodMonitor with one endpoint."""
    spec, metadata = monitor["spec"], monitor["metadata"]
    (endpoint,) = spec["podMetricsEndpoints"]
    known = {"port", "path", "interval", "relabelings", "filterRunning"}
    assert endpoint.keys() <= known, f"not translated: {endpoint.keys() - known}"
    rules: list[dict[str, Any]] = []
    if endpoint.get("filterRunning", True):
        phase = ["__meta_kubernetes_pod_phase"]
        rules.append({"source_labels": phase, "regex": "(Failed|Succeeded)", "action": "drop"})
    for name, value in spec["selector"]["matchLabels"].items():
        here = [f"{_LABEL}_{_sanitized(name)}", f"{_LABEL}present_{_sanitized(name)}"]
        wanted = f"({re.escape(value)});true"
        rules.append({"source_labels": here, "regex": wanted, "action": "keep"})
    port = ["__meta_kubernetes_pod_container_port_name"]
    rules.append({"source_labels": port, "regex": endpoint["port"], "action": "keep"})
    for label, source in (("namespace", "namespace"), ("container", "pod_container_name")):
        rules.append({"source_labels": [f"__meta_kubernetes_{source}"], "target_label": label})
    rules.append({"source_labels": ["__meta_kubernetes_pod_name"], "target_label": "pod"})
    for name in spec["podTargetLabels"]:
        label = _sanitized(name)
        carried = {"source_labels": [f"{_LABEL}_{label}"], "regex": "(.+)", "replacement": "$1"}
        rules.append({**carried, "target_label": label})
    job = f"{metadata['namespace']}/{metadata['name']}"
    rules.append({"target_label": "job", "replacement": job})
    rules.append({"target_label": "endpoint", "replacement": endpoint["port"]})
    for rule in endpoint["relabelings"]:
        assert rule.keys() == {"targetLabel", "replacement"}
        rules.append({"target_label": rule["targetLabel"], "replacement": rule["replacement"]})
    return {
        "job_name": f"podMonitor/{job}/0",
        "metrics_path": endpoint["path"],
        "scrape_interval": endpoint["interval"],
        "scrape_timeout": endpoint["interval"],
        "file_sd_configs": [{"files": [str(targets)], "refresh_interval": "1s"}],
        "relabel_configs": rules,
    }


def discovered(pods: Iterable[Pod], namespace: str) -> list[dict[str, Any]]:
    """What Kubernetes' discovery would say of those pods, one target for each port."""
    groups = []
    for pod in pods:
        (container,) = pod.chart.pod["spec"]["containers"]
        labels = {
            "__meta_kubernetes_namespace": namespace,
            "__meta_kubernetes_pod_name": f"{pod.chart.name}-{pod.chart.pod_hash}",
            "__meta_kubernetes_pod_phase": "Running",
            "__meta_kubernetes_pod_container_name": container["name"],
        }
        for name, value in pod.labels.items():
            labels[f"{_LABEL}_{_sanitized(name)}"] = value
            labels[f"{_LABEL}present_{_sanitized(name)}"] = "true"
        groups += [
            {
                "targets": [f"{pod.host}:{port['containerPort']}"],
                "labels": {**labels, "__meta_kubernetes_pod_container_port_name": port["name"]},
            }
            for port in container["ports"]
        ]
    return groups


def mesh_config(gateway: str, interval: str, namespace: str) -> dict[str, Any]:
    """Envoy's counters of requests by cluster and status, under the names that Istio gives."""
    renamed = [
        {
            "source_labels": ["__name__"],
            "regex": "envoy_cluster_upstream_rq",
            "action": "keep",
        },
        {"target_label": "__name__", "replacement": "istio_requests_total"},
        {"target_label": "reporter", "replacement": "source"},
        {"target_label": "destination_service_namespace", "replacement": namespace},
        {"source_labels": ["envoy_cluster_name"], "target_label": "destination_service_name"},
        {"source_labels": ["envoy_response_code"], "target_label": "response_code"},
        {"action": "labeldrop", "regex": "envoy_.*"},
    ]
    return {
        "job_name": "gateway",
        "metrics_path": "/stats/prometheus",
        "scrape_interval": interval,
        "scrape_timeout": interval,
        "static_configs": [{"targets": [f"{gateway}:{envoy.ADMIN_PORT}"]}],
        "metric_relabel_configs": renamed,
    }


def _sanitized(name: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_]", "_", name)


class Prometheus:
    """A running Prometheus: what it scrapes, and what it answers."""

    def __init__(self, url: str, targets: Path, namespace: str) -> None:
        self._targets = targets
        self._namespace = namespace
        self._client = httpx.Client(base_url=url, timeout=10)

    def ready(self) -> bool:
        try:
            return self._client.get("/-/ready").status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def scrape(self, pods: Iterable[Pod]) -> None:
        """From now on these pods and no others."""
        draft = self._targets.with_name(self._targets.name + ".new")
        draft.write_text(json.dumps(discovered(pods, self._namespace)))
        draft.replace(self._targets)

    def values(self, query: str) -> list[float]:
        """The values of an instant query, as Argo Rollouts reads them.

        Raises:
            ValueError: Prometheus refused the query, or was not there.
        """
        data = self._asked("query", {"query": query})
        if data["resultType"] == "scalar":
            return [float(data["result"][1])]
        return [float(it["value"][1]) for it in data["result"]]

    def labelled(self, query: str) -> list[str]:
        """The pods' hashes in the answer to an instant query."""
        data = self._asked("query", {"query": query})
        return [it["metric"]["rollouts_pod_template_hash"] for it in data["result"]]

    def series(
        self, query: str, start_s: float, end_s: float, label: str
    ) -> dict[str, list[tuple[float, float]]]:
        """A range query, a point a second; by that label, (seconds since the start, value)."""
        asked = {"query": query, "start": start_s, "end": end_s, "step": 1}
        data = self._asked("query_range", asked)
        return {
            it["metric"].get(label, ""): [(at_s - start_s, float(v)) for at_s, v in it["values"]]
            for it in data["result"]
        }

    def _asked(self, what: str, parameters: dict[str, Any]) -> dict[str, Any]:
        try:
            said = self._client.get(f"/api/v1/{what}", params=parameters).json()
        except httpx.TransportError as error:
            raise ValueError(str(error)) from error
        if said["status"] != "success":
            raise ValueError(said["error"])
        data: dict[str, Any] = said["data"]
        return data

    def close(self) -> None:
        self._client.close()


@contextmanager
def running(folder: Path, host: str, monitor: Manifest, gateway: str) -> Iterator[Prometheus]:
    """A Prometheus at that address, with that PodMonitor, for pods behind that gateway."""
    program = part("prometheus", PACKAGE)
    folder.mkdir(parents=True)
    targets = folder / "pods.json"
    targets.write_text("[]")
    namespace = monitor["metadata"]["namespace"]
    interval = monitor["spec"]["podMetricsEndpoints"][0]["interval"]
    scrapes = [scrape_config(monitor, targets), mesh_config(gateway, interval, namespace)]
    (folder / "prometheus.yml").write_text(yaml.safe_dump({"scrape_configs": scrapes}))
    command = [
        program,
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/samples",
        f"--web.listen-address={host}:{PORT}",
        "--log.level=warn",
    ]
    with (folder / "prometheus.log").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    found = Prometheus(f"http://{host}:{PORT}", targets, namespace)
    try:
        end_s = time.monotonic() + START_TIMEOUT_S
        while not found.ready():
            said = (folder / "prometheus.log").read_text()
            assert process.poll() is None, said
            assert time.monotonic() < end_s, said
            time.sleep(0.1)
        yield found
    finally:
        found.close()
        process.kill()
        process.wait(30)

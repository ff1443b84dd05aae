"""What the chart's objects become in Envoy and Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.chart import helm
from tests.delivery import mesh, prometheus, rendered

if TYPE_CHECKING:
    from pathlib import Path

    from tests.delivery.rendered import Chart


@pytest.fixture
def chart() -> Chart:
    helm.needed()
    return rendered.chart(jwks='{"keys": []}')


def routes(chart: Chart) -> dict[str, Any]:
    (resource,) = mesh.routes(chart.one("VirtualService"), version="1")["resources"]
    (host,) = resource["virtual_hosts"]
    return {it["name"]: it for it in host["routes"]}


def test_only_what_the_key_makes_safe_is_retried(chart: Chart) -> None:
    policies = {name: it["route"].get("retry_policy") for name, it in routes(chart).items()}
    assert policies["other"] is None
    for name in ("keyed-post", "read"):
        policy = policies[name]
        assert policy["num_retries"] == 2
        assert policy["retry_on"] == "connect-failure,refused-stream,reset"
        assert "retriable_status_codes" not in policy


def test_every_route_drops_a_clients_own_user(chart: Chart) -> None:
    removed = [it["request_headers_to_remove"] for it in routes(chart).values()]
    assert removed == [["user_id", "x-user-id"]] * 3


def test_a_weight_of_0_sends_nothing(chart: Chart) -> None:
    stable = "outbound|80||teller-stable.pay.svc.cluster.local"
    assert [it["route"]["cluster"] for it in routes(chart).values()] == [stable] * 3


def test_a_service_without_a_virtual_service_has_the_mesh_s_own_retries(chart: Chart) -> None:
    service = chart.one("Service", "teller-canary")
    made = mesh.sidecar_routes([service], chart.one("VirtualService"), version="1")
    hosts = {it["name"]: it["routes"] for it in made["resources"][0]["virtual_hosts"]}
    assert [it["name"] for it in hosts["teller"]] == ["keyed-post", "read", "other"]
    (only,) = hosts["teller-canary"]
    assert only["route"]["retry_policy"]["retry_on"] == (
        "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes"
    )


def test_what_is_not_translated_is_refused(chart: Chart) -> None:
    virtual_service = chart.one("VirtualService")
    virtual_service["spec"]["http"][0]["fault"] = {}
    with pytest.raises(AssertionError, match="not translated"):
        mesh.routes(virtual_service, version="1")


def test_the_scrape_carries_the_hash_and_the_jobs_name(chart: Chart, tmp_path: Path) -> None:
    config = prometheus.scrape_config(chart.one("PodMonitor"), tmp_path / "pods.json")
    rules = config["relabel_configs"]
    carried = {
        rule["target_label"]: rule["source_labels"]
        for rule in rules
        if rule.get("replacement") == "$1"
    }
    assert carried["rollouts_pod_template_hash"] == [
        "__meta_kubernetes_pod_label_rollouts_pod_template_hash"
    ]
    assert rules[-1] == {"target_label": "job", "replacement": "teller"}
    assert config["scrape_interval"] == "1s"

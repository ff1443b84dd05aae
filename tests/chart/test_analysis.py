"""Every metric of a canary's analysis judges, and none can pass for want of data unseen."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.chart import helm
from tests.chart.manifests import of_kind, one

if TYPE_CHECKING:
    from tests.chart.manifests import Manifest

WITH_ROLLOUT: Final = ("full", "postgresql", "sqlite")


@pytest.fixture(params=WITH_ROLLOUT)
def metrics(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The metrics of the analysis beside the steps, by name."""
    templates = of_kind(helm.rendered(request.param), "AnalysisTemplate")
    (judging,) = [it for it in templates if it["metadata"]["name"].endswith("-canary")]
    return {it["name"]: it for it in judging["spec"]["metrics"]}


def test_each_concern_has_its_metric(metrics: dict[str, Any]) -> None:
    assert list(metrics) == [
        "success-rate",
        "latency-p99-ratio",
        "transaction-time-ratio",
        "ledger-audit",
        "key-mismatch-rate",
        "mesh-success-rate",
    ]


def test_every_metric_has_both_conditions(metrics: dict[str, Any]) -> None:
    """Argo Rollouts counts a measurement without a condition as successful."""
    for metric in metrics.values():
        assert metric["successCondition"]
        assert metric["failureCondition"]


def test_no_condition_reads_an_answer_that_may_be_empty(metrics: dict[str, Any]) -> None:
    """``result[0]`` of an empty answer is an error, and errors abort."""
    for metric in metrics.values():
        for condition in (metric["successCondition"], metric["failureCondition"]):
            assert re.match(r"len\(result\) (> 0 &&|== 0 \|\|) result\[0\] ", condition)


def test_no_traffic_is_inconclusive_but_no_audit_fails(metrics: dict[str, Any]) -> None:
    for name, metric in metrics.items():
        failing = metric["failureCondition"].startswith("len(result) == 0 ||")
        assert failing == (name == "ledger-audit")
    assert metrics["ledger-audit"]["failureLimit"] == 0
    assert "inconclusiveLimit" not in metrics["ledger-audit"]


def test_the_audit_is_asked_of_stable_never_of_the_canary(metrics: dict[str, Any]) -> None:
    query = metrics["ledger-audit"]["provider"]["prometheus"]["query"]
    assert "{{args.stable-hash}}" in query
    assert "canary" not in query


def test_every_query_parses_and_tells_the_versions_apart(metrics: dict[str, Any]) -> None:
    import promql_parser

    for name, metric in metrics.items():
        query = metric["provider"]["prometheus"]["query"]
        promql_parser.parse(query)
        hashed = re.findall(
            r'rollouts_pod_template_hash="\{\{args\.(?:canary|stable)-hash\}\}"', query
        )
        # Istio reports one workload for both versions; their Services differ.
        assert hashed or 'destination_service_name="' in query, name
        assert 'namespace="pay"' in query or 'service_namespace="pay"' in query


def test_the_pod_monitor_carries_the_label_that_the_queries_use() -> None:
    monitor = one(helm.rendered("sqlite"), "PodMonitor")
    assert "rollouts-pod-template-hash" in monitor["spec"]["podTargetLabels"]


def test_the_smoke_test_is_a_job_judged_by_its_exit(metrics: dict[str, Any]) -> None:
    template = one(helm.rendered("sqlite"), "AnalysisTemplate", "teller-smoke")
    (metric,) = template["spec"]["metrics"]
    assert (metric["count"], metric["failureLimit"]) == (1, 0)
    job = metric["provider"]["job"]["spec"]
    assert job["backoffLimit"] == 0
    (container,) = job["template"]["spec"]["containers"]
    assert container["args"] == ["http://teller-canary:80"]
    assert {"name": "SMOKE_RUN", "value": "{{args.canary-hash}}"} in container["env"]


def test_without_an_identity_there_is_no_smoke_test() -> None:
    templates: list[Manifest] = of_kind(helm.rendered("postgresql"), "AnalysisTemplate")
    assert [it["metadata"]["name"] for it in templates] == ["teller-canary"]

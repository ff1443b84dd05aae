"""What the rendered objects say of each other holds: every name, port and selector resolves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from service.settings import Settings
from tests.chart import helm
from tests.chart.manifests import (
    containers,
    environment,
    of_kind,
    one,
    pod_templates,
    selects,
    workload,
)

if TYPE_CHECKING:
    from tests.chart.manifests import Manifest

WITH_ROLLOUT: Final = ("full", "postgresql", "sqlite")
# Made outside the chart, and named by its values.
GIVEN_SECRETS: Final = {
    "teller-smoke",
    "teller-db-app",
    "ledger-replica",
    "ledger-smoke",
    "teller-example-com",
    "registry-credentials",
}


# -- references ---------------------------------------------------------------------------------


def test_every_reference_to_a_config_map_secret_claim_or_account_resolves(
    objects: list[Manifest],
) -> None:
    there = {(it["kind"], it["metadata"]["name"]) for it in objects}
    there |= {("Secret", name) for name in GIVEN_SECRETS} | {("ServiceAccount", "default")}
    wanted = {it for _, pod in pod_templates(objects) for it in _references(pod["spec"])}
    assert wanted
    assert wanted - there == set()


def test_every_mount_has_its_volume_and_every_volume_its_mount(objects: list[Manifest]) -> None:
    for label, pod in pod_templates(objects):
        volumes = {it["name"] for it in pod["spec"].get("volumes", [])}
        mounts = {it["name"] for each in containers(pod) for it in each.get("volumeMounts", [])}
        assert mounts == volumes, label


def test_every_service_finds_the_pods_and_a_port_of_theirs(
    objects: list[Manifest], server: Manifest
) -> None:
    ports = {it["name"]: it["containerPort"] for it in server["spec"]["containers"][0]["ports"]}
    assert ports == {"http": 8000, "metrics": 9090}
    for service in of_kind(objects, "Service"):
        assert [it["targetPort"] for it in service["spec"]["ports"]] == ["http"]
        selector = service["spec"].get("selector", {})
        assert selects(selector, server["metadata"]["labels"])


def test_every_selector_finds_the_pods_it_is_for(objects: list[Manifest]) -> None:
    labels = [pod["metadata"]["labels"] for _, pod in pod_templates(objects)]
    selectors = [
        found["spec"][key].get("matchLabels", found["spec"][key])
        for found in objects
        for key in ("selector", "podSelector")
        if key in found.get("spec", {}) and found["kind"] != "Gateway"
    ]
    for found in of_kind(objects, "NetworkPolicy"):
        for rule in (*found["spec"].get("ingress", []), *found["spec"].get("egress", [])):
            for peer in (*rule.get("from", []), *rule.get("to", [])):
                own = peer.get("podSelector", {}).get("matchLabels", {})
                if "app.kubernetes.io/instance" in own:
                    selectors.append(own)
    for _, pod in pod_templates(objects):
        affinity = pod["spec"].get("affinity", {}).get("podAffinity", {})
        selectors += [
            term["labelSelector"]["matchLabels"]
            for term in affinity.get("requiredDuringSchedulingIgnoredDuringExecution", [])
        ]
    assert selectors
    smoke = "smoke"  # its policy stands even where a release has no smoke test
    for selector in selectors:
        if selector.get("app.kubernetes.io/component") != smoke:
            assert any(selects(selector, each) for each in labels), selector


def test_probes_and_policies_name_ports_that_the_pod_has(
    objects: list[Manifest], server: Manifest
) -> None:
    (container,) = server["spec"]["containers"]
    named = {it["name"] for it in container["ports"]}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] in named
    for policy in of_kind(objects, "NetworkPolicy"):
        for rule in policy["spec"].get("ingress", []):
            ports = {it["port"] for it in rule["ports"]}
            assert {port for port in ports if isinstance(port, str)} <= named
    for monitor in of_kind(objects, "PodMonitor"):
        assert [it["port"] for it in monitor["spec"]["podMetricsEndpoints"]] == ["metrics"]


def test_every_setting_of_the_pod_is_one_that_teller_knows(server: Manifest) -> None:
    known = {f"TELLER_{name.upper()}" for name in Settings.model_fields}
    for container in containers(server):
        given = {name for name in environment(container) if name.startswith("TELLER_")}
        assert given - known == set()


# -- the pods -----------------------------------------------------------------------------------


def test_every_pod_is_locked_down(objects: list[Manifest]) -> None:
    for label, pod in pod_templates(objects):
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False, label
        # Kubernetes would inject TELLER_PORT=tcp://… for a Service named teller.
        assert spec["enableServiceLinks"] is False, label
        assert spec["securityContext"]["runAsUser"] == 10001, label
        for container in containers(pod):
            assert container["securityContext"] == {
                "runAsNonRoot": True,
                "runAsUser": 10001,
                "runAsGroup": 10001,
                "readOnlyRootFilesystem": True,
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "seccompProfile": {"type": "RuntimeDefault"},
            }, label
            assert container["resources"]["limits"].keys() == {"cpu", "memory"}, label


def test_the_grace_period_exceeds_the_pause_and_the_drain(server: Manifest) -> None:
    (container,) = server["spec"]["containers"]
    pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain = int(environment(container)["TELLER_DRAIN_TIMEOUT_S"])
    assert (pause, drain) == (5, 20)
    assert server["spec"]["terminationGracePeriodSeconds"] == 45


def test_the_image_is_named_by_digest_where_there_is_one() -> None:
    by_digest = workload(helm.rendered("sqlite"))["spec"]["template"]
    for container in containers(by_digest):
        assert container["image"] == (
            "ghcr.io/example/teller@sha256:"
            "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
        )
    by_tag = workload(helm.rendered("full"))["spec"]["template"]["spec"]["containers"][0]
    assert by_tag["image"] == "registry.example.com/teller:0.1.0"


def test_a_container_gets_its_settings_from_its_own_revision(server: Manifest) -> None:
    """A ConfigMap would change under a stable pod that restarts in mid-canary."""
    for container in containers(server):
        for source in container.get("envFrom", []):
            assert "configMapRef" not in source


# -- SQLite -------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["full", "no-mesh", "sqlite"])
def test_on_sqlite_every_pod_with_the_volume_is_on_its_node(variant: str) -> None:
    objects = helm.rendered(variant)
    server = {
        "app.kubernetes.io/name": "teller",
        "app.kubernetes.io/instance": "teller",
        "app.kubernetes.io/component": "server",
    }
    holders = [
        pod
        for _, pod in pod_templates(objects)
        if any("persistentVolumeClaim" in it for it in pod["spec"].get("volumes", []))
    ]
    assert len(holders) == (2 if variant == "full" else 1)
    for pod in holders:
        terms = pod["spec"]["affinity"]["podAffinity"][
            "requiredDuringSchedulingIgnoredDuringExecution"
        ]
        assert terms == [
            {
                "topologyKey": "kubernetes.io/hostname",
                "labelSelector": {"matchLabels": server},
            }
        ]


def test_the_ledgers_volume_is_kept_on_uninstall() -> None:
    claim = one(helm.rendered("sqlite"), "PersistentVolumeClaim")
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]


def test_sqlite_migrates_in_the_pod_after_a_restore() -> None:
    (_, pod), *_ = [
        it for it in pod_templates(helm.rendered("full")) if it[0].startswith("Rollout/")
    ]
    assert [it["name"] for it in pod["spec"]["initContainers"]] == [
        "restore",
        "migrate",
        "smoke-user",
    ]
    assert pod["spec"]["initContainers"][0]["args"][:3] == [
        "restore",
        "-if-db-not-exists",
        "-if-replica-exists",
    ]


def test_there_is_exactly_one_replicator_and_it_is_no_sidecar() -> None:
    replicators = [
        (label, each)
        for label, pod in pod_templates(helm.rendered("full"))
        for each in pod["spec"]["containers"]
        if "litestream" in each["image"]
    ]
    assert [label for label, _ in replicators] == ["Deployment/ledger-litestream"]
    deployment = one(helm.rendered("full"), "Deployment", "ledger-litestream")
    assert deployment["spec"]["replicas"] == 1
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}


def test_postgresql_migrates_before_anything_else_in_a_job_of_its_own() -> None:
    objects = helm.rendered("postgresql")
    job = one(objects, "Job")
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    pod = job["spec"]["template"]["spec"]
    assert [it["args"] for it in pod["containers"]] == [["migrate"]]
    # Nothing of the chart's own is there yet when it runs.
    assert pod["serviceAccountName"] == "default"
    assert "initContainers" not in workload(objects)["spec"]["template"]["spec"]


# -- the release --------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", WITH_ROLLOUT)
def test_weights_move_between_two_services_without_a_selector(variant: str) -> None:
    objects = helm.rendered(variant)
    canary = workload(objects)["spec"]["strategy"]["canary"]
    for name in (canary["stableService"], canary["canaryService"]):
        assert "selector" not in one(objects, "Service", name)["spec"]


@pytest.mark.parametrize("variant", WITH_ROLLOUT)
def test_the_steps_name_routes_that_weigh_stable_and_canary(variant: str) -> None:
    objects = helm.rendered(variant)
    canary = workload(objects)["spec"]["strategy"]["canary"]
    managed = canary["trafficRouting"]["istio"]["virtualService"]
    service = one(objects, "VirtualService", managed["name"])
    routes = {it["name"]: it for it in service["spec"]["http"]}
    assert managed["routes"] == ["keyed-post", "read", "other"] == list(routes)
    for route in routes.values():
        assert [(it["destination"]["host"], it["weight"]) for it in route["route"]] == [
            (canary["stableService"], 100),
            (canary["canaryService"], 0),
        ]
        for each in route["route"]:
            port = each["destination"]["port"]["number"]
            listed = one(objects, "Service", each["destination"]["host"])["spec"]["ports"]
            assert port in [it["port"] for it in listed]


def test_the_canary_is_tried_before_it_gets_traffic_and_judged_from_then_on() -> None:
    canary = workload(helm.rendered("sqlite"))["spec"]["strategy"]["canary"]
    assert [_said(step) for step in canary["steps"]] == [
        "scale 1",
        "analysis teller-smoke",
        "weight 5",
        "pause 5m",
        "weight 25",
        "pause 5m",
        "weight 50",
        "pause 5m",
        "weight 100",
        "pause 1m",
    ]
    assert canary["analysis"]["startingStep"] == 2
    assert canary["abortScaleDownDelaySeconds"] == 300
    assert "dynamicStableScale" not in canary


def test_more_pods_match_the_weight_before_the_first_one() -> None:
    canary = workload(helm.rendered("postgresql"))["spec"]["strategy"]["canary"]
    steps = [_said(step) for step in canary["steps"]]
    assert steps[:3] == ["scale 1", "scale by weight", "weight 5"]
    assert [step for step in steps[3:] if step.startswith("scale")] == []
    assert canary["analysis"]["startingStep"] == 2


@pytest.mark.parametrize("variant", WITH_ROLLOUT)
def test_every_analysis_names_a_template_and_gives_its_arguments(variant: str) -> None:
    objects = helm.rendered(variant)
    canary = workload(objects)["spec"]["strategy"]["canary"]
    runs = [canary["analysis"], *(it["analysis"] for it in canary["steps"] if "analysis" in it)]
    for run in runs:
        for used in run["templates"]:
            template = one(objects, "AnalysisTemplate", used["templateName"])
            wanted = {it["name"] for it in template["spec"]["args"]}
            assert wanted <= {it["name"] for it in run["args"]}


def test_the_scaler_and_the_budget_are_of_the_workload() -> None:
    objects = helm.rendered("postgresql-scaled")
    target = one(objects, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert target == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "teller"}
    assert "replicas" not in workload(objects)["spec"]
    assert one(objects, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


# -- identity and retries -----------------------------------------------------------------------


def test_identity_has_three_layers() -> None:
    objects = helm.rendered("sqlite")
    pods = {
        "app.kubernetes.io/name": "teller",
        "app.kubernetes.io/instance": "teller",
        "app.kubernetes.io/component": "server",
    }
    for route in one(objects, "VirtualService")["spec"]["http"]:
        assert route["headers"]["request"]["remove"] == ["user_id", "x-user-id"]
    request = one(objects, "RequestAuthentication")["spec"]
    assert request["selector"]["matchLabels"] == pods
    (rule,) = request["jwtRules"]
    assert rule["outputClaimToHeaders"] == [
        {"header": "user_id", "claim": "sub"},
        {"header": "x-user-id", "claim": "sub"},
    ]
    policy = one(objects, "AuthorizationPolicy")["spec"]
    assert policy["selector"]["matchLabels"] == pods
    assert policy["action"] == "ALLOW"
    assert policy["rules"] == [
        {
            "from": [{"source": {"requestPrincipals": ["https://id.example.com/*"]}}],
            "to": [{"operation": {"ports": ["8000"]}}],
        },
        {
            "to": [
                {
                    "operation": {
                        "ports": ["8000"],
                        "methods": ["GET"],
                        "paths": ["/problems*", "/docs*", "/assets/*", "/openapi.json"],
                    }
                }
            ]
        },
        {
            "to": [
                {"operation": {"ports": ["9090"], "methods": ["GET"], "paths": ["/metrics"]}},
            ]
        },
    ]


def test_only_metrics_may_be_read_without_a_certificate_of_the_mesh() -> None:
    policy = one(helm.rendered("sqlite"), "PeerAuthentication")["spec"]
    assert policy["mtls"] == {"mode": "STRICT"}
    assert policy["portLevelMtls"] == {"9090": {"mode": "PERMISSIVE"}}


@pytest.mark.parametrize("variant", ["full", "postgresql", "postgresql-scaled", "sqlite"])
def test_retries_are_bound_to_the_key(variant: str) -> None:
    keyed, read, other = one(helm.rendered(variant), "VirtualService")["spec"]["http"]
    assert keyed["match"] == [
        {"method": {"exact": "POST"}, "headers": {"idempotency-key": {"regex": ".+"}}}
    ]
    assert read["match"] == [{"method": {"exact": "GET"}}]
    assert "match" not in other
    # No status codes: a 503 is Teller shedding load.
    safe = {"attempts": 2, "retryOn": "connect-failure,refused-stream,reset"}
    assert (keyed["retries"], read["retries"], other["retries"]) == (safe, safe, {"attempts": 0})
    for route in (keyed, read, other):
        assert route["timeout"] == "30s"


# -- what is observed ---------------------------------------------------------------------------


def test_rules_and_dashboards_are_carried_and_the_objectives_are_values() -> None:
    objects = helm.rendered("sqlite")
    rules = one(objects, "PrometheusRule")
    groups = {it["name"]: it["rules"] for it in rules["spec"]["groups"]}
    assert [it["expr"] for it in groups["teller-objectives"]] == ["vector(0.999)", "vector(0.99)"]
    dashboards = [
        it
        for it in of_kind(objects, "ConfigMap")
        if it["metadata"]["labels"].get("grafana_dashboard")
    ]
    assert sorted(name for it in dashboards for name in it["data"]) == sorted(
        path.name for path in helm.CHART.glob("dashboards/*.json")
    )
    other = helm.rendered(
        *("sqlite", "--set-json", "slo.availability=0.9995", "--set-json", "slo.latency=0.95"),
        *("--set-json", "slo.latencySeconds=1"),
    )
    changed = one(other, "PrometheusRule")
    groups = {it["name"]: it["rules"] for it in changed["spec"]["groups"]}
    assert [it["expr"] for it in groups["teller-objectives"]] == ["vector(0.9995)", "vector(0.95)"]
    assert 'le="1.0"' in str(groups)
    assert 'le="0.25"' not in str(groups)


# -- how it is read -----------------------------------------------------------------------------


def _said(step: dict[str, Any]) -> str:
    if "setCanaryScale" in step:
        scale = step["setCanaryScale"]
        return f"scale {scale['replicas']}" if "replicas" in scale else "scale by weight"
    if "analysis" in step:
        return "analysis " + " ".join(it["templateName"] for it in step["analysis"]["templates"])
    if "setWeight" in step:
        return f"weight {step['setWeight']}"
    return f"pause {step['pause']['duration']}"


def _references(spec: dict[str, Any]) -> set[tuple[str, str]]:
    found = {("ServiceAccount", spec["serviceAccountName"])}
    found |= {("Secret", it["name"]) for it in spec.get("imagePullSecrets", [])}
    for volume in spec.get("volumes", []):
        if "configMap" in volume:
            found.add(("ConfigMap", volume["configMap"]["name"]))
        if "persistentVolumeClaim" in volume:
            found.add(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]))
    for container in (*spec.get("initContainers", []), *spec["containers"]):
        for source in container.get("envFrom", []):
            found.add(("Secret", source["secretRef"]["name"]))
        for value in environment(container).values():
            if isinstance(value, dict):
                found.add(("Secret", value["secretKeyRef"]["name"]))
    return found

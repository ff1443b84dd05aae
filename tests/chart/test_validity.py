"""Every variant is what Kubernetes, Argo Rollouts, Istio and Prometheus' operator accept."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.chart import helm

if TYPE_CHECKING:
    from tests.chart.manifests import Manifest

KUBERNETES: Final = ("1.35", "1.36", "1.37")
CORE: Final = ("v1", "apps/v1", "batch/v1", "policy/v1", "autoscaling/v2", "networking.k8s.io/v1")
# Read now: a test's own environment holds no TELLER_ variables.
SCHEMAS: Final = os.environ.get("TELLER_SCHEMAS", "")
EXAMPLE: Final = helm.CHART / "examples" / "postgresql-cluster.yaml"


def test_lint_finds_nothing(variant: str) -> None:
    answer = helm.run("lint", "--strict", str(helm.CHART), "-f", helm.values_file(variant))
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "[WARNING]" not in answer.stdout


def test_the_defaults_alone_lint_but_ask_for_what_is_theirs_to_choose() -> None:
    assert helm.run("lint", "--strict", str(helm.CHART)).returncode == 0
    answer = helm.run("template", "teller", str(helm.CHART))
    assert answer.returncode != 0
    assert "auth.jwt.issuer is empty" in answer.stderr


@pytest.mark.parametrize("release", KUBERNETES)
def test_core_kinds_fit_kubernetes_schemas(objects: list[Manifest], release: str) -> None:
    import kubernetes_validate

    core = [found for found in objects if found["apiVersion"] in CORE]
    assert core
    for found in core:
        kubernetes_validate.validate(found, release, strict=True)


def test_custom_resources_fit_strict_schemas(objects: list[Manifest]) -> None:
    for found in objects:
        if found["apiVersion"] not in CORE:
            assert _problems(found) == []


def test_the_example_of_a_postgresql_cluster_fits_its_strict_schema() -> None:
    import yaml

    assert _problems(yaml.safe_load(EXAMPLE.read_text())) == []


def test_the_schemas_refuse_an_unknown_field() -> None:
    """A control: the two tests above can fail."""
    import kubernetes_validate

    rollout = next(it for it in helm.rendered("sqlite") if it["kind"] == "Rollout")
    spec = {**rollout["spec"], "replica": 1}
    assert _problems({**rollout, "spec": spec}) == [
        "$.spec: Additional properties are not allowed ('replica' was unexpected)"
    ]
    service = next(it for it in helm.rendered("sqlite") if it["kind"] == "Service")
    broken = {**service, "spec": {**service["spec"], "selectors": {}}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, KUBERNETES[-1], strict=True)


def test_no_object_is_rendered_twice(objects: list[Manifest]) -> None:
    named = [(it["apiVersion"], it["kind"], it["metadata"]["name"]) for it in objects]
    assert len(named) == len(set(named))


def test_every_object_is_of_the_release_and_its_namespace(objects: list[Manifest]) -> None:
    for found in objects:
        assert found["metadata"]["namespace"] == "pay"
        assert found["metadata"]["labels"]["app.kubernetes.io/instance"] == "teller"
        assert len(found["metadata"]["name"]) <= 63


def _problems(found: dict[str, Any]) -> list[str]:
    validator = _validator(found["apiVersion"], found["kind"])
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(found)]


@cache
def _validator(version: str, kind: str) -> Any:
    import jsonschema

    if not SCHEMAS or not Path(SCHEMAS).is_dir():
        line = (
            "The custom resources' strict schemas are missing. Set TELLER_SCHEMAS to a folder of "
            "them, GROUP_VERSION_KIND.json each, made from the CRDs of the pinned releases."
        )
        if os.environ.get("CI") == "true":
            pytest.fail(line)
        pytest.skip(line)
    path = Path(SCHEMAS, f"{version.replace('/', '_')}_{kind}.json")
    return jsonschema.Draft202012Validator(json.loads(path.read_text()))

"""An upgrade leaves live weights alone: real helm against a stand-in that records its writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.chart import api_server, helm
from tests.chart.manifests import one

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.chart.api_server import ApiServer
    from tests.chart.manifests import Manifest

    Helm = Callable[..., str]

STABLE: Final = "6f7c9d8b5"
CANARY: Final = "7b8d5c4f9"
NEXT: Final = ("--set", f"image.digest=sha256:{'b' * 64}")
# The stand-in has no schemas; and helm polls every two seconds for what is there at once.
FLAGS: Final = ("--server-side=false", "--wait=hookOnly", "--disable-openapi-validation")
# What the chart's README tells its reader to write; the last flag of a kind counts.
AS_TOLD: Final = ("--server-side=false", "--wait=legacy")


@pytest.fixture
def api() -> Iterator[ApiServer]:
    """The stand-in."""
    with api_server.serving() as api:
        yield api


@pytest.fixture
def upgrade(api: ApiServer, tmp_path: Path) -> Helm:
    """``helm upgrade --install`` of the SQLite variant; gives what helm says when it refuses."""
    config = api_server.kubeconfig(api, tmp_path)

    def run(*arguments: str, refused: bool = False) -> str:
        answer = helm.run(
            *("upgrade", "--install", "teller", str(helm.CHART), "-n", "pay", *FLAGS),
            *("-f", helm.values_file("sqlite"), *arguments),
            env={"KUBECONFIG": str(config), "HELM_CACHE_HOME": str(tmp_path)},
        )
        assert (answer.returncode != 0) == refused, answer.stderr
        return answer.stderr

    return run


def settled(api: ApiServer) -> None:
    """The controller has made the first release stable."""

    def fill(rollout: Manifest) -> None:
        rollout["status"] = {
            "stableRS": STABLE,
            "currentPodHash": STABLE,
            "observedGeneration": str(rollout["metadata"]["generation"]),
        }

    api.change("rollouts", "teller", fill)
    for name in ("teller-stable", "teller-canary"):
        api.change("services", name, lambda it: it["spec"].update(selector=_hash(STABLE)))


def in_flight(api: ApiServer, stable: int, canary: int) -> None:
    """The controller has sent that share to a canary."""

    def move(service: Manifest) -> None:
        for route in service["spec"]["http"]:
            route["route"][0]["weight"] = stable
            route["route"][1]["weight"] = canary

    def fly(rollout: Manifest) -> None:
        rollout["status"] = {
            "stableRS": STABLE,
            "currentPodHash": CANARY,
            "observedGeneration": str(rollout["metadata"]["generation"]),
        }

    api.change("virtualservices", "teller", move)
    api.change("rollouts", "teller", fly)
    api.change("services", "teller-canary", lambda it: it["spec"].update(selector=_hash(CANARY)))


# -- without a cluster --------------------------------------------------------------------------


def test_two_versions_render_an_equal_virtual_service_spec(tmp_path: Path) -> None:
    newer = tmp_path / "teller"
    _copy(newer)
    text = (newer / "Chart.yaml").read_text()
    (newer / "Chart.yaml").write_text(text.replace("0.1.0", "0.2.0"))
    answer = helm.run(
        *("template", "teller", str(newer), "-n", "pay", "-f", helm.values_file("sqlite")), *NEXT
    )
    import yaml

    now = one(helm.rendered("sqlite"), "VirtualService")
    later = one([it for it in yaml.safe_load_all(answer.stdout) if it], "VirtualService")
    assert later["metadata"]["labels"]["app.kubernetes.io/version"] == "0.2.0"
    assert now["metadata"]["labels"]["app.kubernetes.io/version"] == "0.1.0"
    assert yaml.safe_dump(now["spec"]) == yaml.safe_dump(later["spec"])


# -- against the stand-in -----------------------------------------------------------------------


def test_an_upgrade_between_releases_sends_no_route_and_no_selector(
    api: ApiServer, upgrade: Helm
) -> None:
    upgrade()
    settled(api)
    api.writes.clear()
    upgrade(*NEXT, *AS_TOLD)
    (rollout,) = api.writes_to("rollouts")
    assert "b" * 64 in str(rollout.body)
    assert [it for it in api.writes_to("virtualservices") if "spec" in it.body] == []
    assert [it for it in api.writes_to("services") if "spec" in it.body] == []
    assert api.objects["services", "teller-stable"]["spec"]["selector"] == _hash(STABLE)


def test_an_upgrade_in_mid_canary_is_refused_before_anything_is_sent(
    api: ApiServer, upgrade: Helm
) -> None:
    upgrade()
    settled(api)
    in_flight(api, 75, 25)
    api.writes.clear()
    said = upgrade(*NEXT, refused=True)
    assert "A canary of teller is in flight (stable 75 %, canary 25 %)" in said
    assert "--set rollout.allowUpgradeInCanary=true" in said
    assert api.writes == []


def test_a_canary_without_traffic_yet_is_in_flight_too(api: ApiServer, upgrade: Helm) -> None:
    upgrade()
    settled(api)
    in_flight(api, 100, 0)
    api.writes.clear()
    assert "in flight (stable 100 %, canary 0 %)" in upgrade(*NEXT, refused=True)
    assert api.writes == []


def test_an_upgrade_that_the_controller_has_not_seen_is_in_flight_too(
    api: ApiServer, upgrade: Helm
) -> None:
    upgrade()
    settled(api)
    upgrade(*NEXT)
    api.writes.clear()
    third = ("--set", f"image.digest=sha256:{'c' * 64}")
    assert "is in flight" in upgrade(*third, refused=True)
    assert api.writes == []


def test_after_an_abort_the_next_release_may_come(api: ApiServer, upgrade: Helm) -> None:
    upgrade()
    settled(api)
    in_flight(api, 100, 0)
    api.change("rollouts", "teller", lambda it: it["status"].update(abort=True))
    api.writes.clear()
    upgrade(*NEXT)
    assert len(api.writes_to("rollouts")) == 1


def test_the_override_keeps_75_to_25(api: ApiServer, upgrade: Helm) -> None:
    upgrade()
    settled(api)
    in_flight(api, 75, 25)
    api.writes.clear()
    # Together with an edit of the routes, which replaces the whole list.
    upgrade(*NEXT, "--set", "rollout.allowUpgradeInCanary=true", "--set", "istio.timeout=40s")
    (write,) = [it for it in api.writes_to("virtualservices") if "spec" in it.body]
    assert [_weights(route) for route in write.body["spec"]["http"]] == [(75, 25)] * 3
    live = api.objects["virtualservices", "teller"]["spec"]["http"]
    assert [(_weights(route), route["timeout"]) for route in live] == [((75, 25), "40s")] * 3
    assert api.objects["services", "teller-canary"]["spec"]["selector"] == _hash(CANARY)


def test_after_an_override_the_next_upgrade_sends_the_weights_of_its_own_time(
    api: ApiServer, upgrade: Helm
) -> None:
    upgrade()
    settled(api)
    in_flight(api, 75, 25)
    upgrade(*NEXT, "--set", "rollout.allowUpgradeInCanary=true")
    in_flight(api, 100, 0)
    settled(api)
    upgrade("--set", f"image.digest=sha256:{'c' * 64}")
    live = api.objects["virtualservices", "teller"]["spec"]["http"]
    assert [_weights(route) for route in live] == [(100, 0)] * 3


def test_without_the_chart_s_care_a_route_s_edit_would_reset_the_weights(
    api: ApiServer, upgrade: Helm, tmp_path: Path
) -> None:
    """A control: the same edit by a chart that renders 100 to 0 loses the canary's traffic."""
    careless = tmp_path / "careless"
    _copy(careless)
    release = careless / "templates" / "_release.tpl"
    release.write_text(
        '{{- define "teller.weights" }}{"stable": 100, "canary": 0}{{ end }}'
        '{{- define "teller.guard" }}{{ end }}'
    )
    upgrade()
    settled(api)
    in_flight(api, 75, 25)
    answer = helm.run(
        *("upgrade", "teller", str(careless), "-n", "pay", *FLAGS),
        *("-f", helm.values_file("sqlite"), "--set", "istio.timeout=40s"),
        env={"KUBECONFIG": str(tmp_path / "kubeconfig"), "HELM_CACHE_HOME": str(tmp_path)},
    )
    assert answer.returncode == 0, answer.stderr
    live = api.objects["virtualservices", "teller"]["spec"]["http"]
    assert [_weights(route) for route in live] == [(100, 0)] * 3


# -- how it is read -----------------------------------------------------------------------------


def _hash(value: str) -> dict[str, str]:
    return {"rollouts-pod-template-hash": value}


def _weights(route: dict[str, Any]) -> tuple[int, int]:
    stable, canary = route["route"]
    return stable["weight"], canary["weight"]


def _copy(folder: Path) -> None:
    for path in helm.CHART.rglob("*"):
        if path.is_file():
            target = folder / path.relative_to(helm.CHART)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())

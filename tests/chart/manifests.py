"""Finding one's way in rendered objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Manifest = dict[str, Any]


def of_kind(objects: Iterable[Manifest], *kinds: str) -> list[Manifest]:
    return [found for found in objects if found["kind"] in kinds]


def one(objects: Iterable[Manifest], kind: str, name: str | None = None) -> Manifest:
    """The only object of that kind, or the one of that name."""
    found = [it for it in of_kind(objects, kind) if name in {None, it["metadata"]["name"]}]
    assert len(found) == 1, f"{len(found)} of {kind} {name or ''}"
    return found[0]


def pod_templates(objects: Iterable[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Every pod that the objects make, by the object's kind and name: metadata and spec."""
    for found in objects:
        label = f"{found['kind']}/{found['metadata']['name']}"
        if found["kind"] == "Pod":
            yield label, {"metadata": found["metadata"], "spec": found["spec"]}
        elif found["kind"] == "AnalysisTemplate":
            for metric in found["spec"]["metrics"]:
                if "job" in metric["provider"]:
                    yield label, metric["provider"]["job"]["spec"]["template"]
        elif "template" in found.get("spec", {}):
            yield label, found["spec"]["template"]


def containers(pod: Manifest) -> list[Manifest]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def environment(container: Manifest) -> dict[str, Any]:
    return {it["name"]: it.get("value", it.get("valueFrom")) for it in container.get("env", [])}


def workload(objects: Iterable[Manifest]) -> Manifest:
    """The Rollout, or the Deployment that stands for it."""
    return next(
        found
        for found in of_kind(objects, "Rollout", "Deployment")
        if found["metadata"]["labels"]["app.kubernetes.io/component"] == "server"
    )


def selects(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()

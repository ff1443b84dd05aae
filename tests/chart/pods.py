"""Write every variant's objects into a folder, for checkers of manifests: `pods FOLDER`.

Such checkers know no Rollout and no AnalysisTemplate, so their pods are written as Pods beside.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.chart import helm
from tests.chart.manifests import Manifest, pod_templates

CUSTOM = ("Rollout", "AnalysisTemplate")


def written(variant: str) -> list[Manifest]:
    """The objects of a variant, and the pods of its custom resources as objects of their own."""
    objects = helm.rendered(variant)
    pods = []
    for label, pod in pod_templates(objects):
        kind, name = label.split("/")
        if kind in CUSTOM:
            metadata = {**pod["metadata"], "name": name, "namespace": helm.NAMESPACE}
            pods.append({"apiVersion": "v1", "kind": "Pod", **pod, "metadata": metadata})
    return [*objects, *pods]


def main() -> None:
    """Write one file for each variant."""
    import yaml

    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for variant in helm.VARIANTS:
        (folder / f"{variant}.yaml").write_text(yaml.safe_dump_all(written(variant)))


if __name__ == "__main__":
    main()

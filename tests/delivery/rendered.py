"""The chart as helm renders it for these runs: one site's values, and times made short."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tests.chart import helm, manifests

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.chart.manifests import Manifest

VARIANT: Final = "sqlite"
# What makes a release last a minute instead of a quarter of an hour; all else is the default.
# The proportions are the defaults': a window of 4 intervals, and two measurements in a step.
SHORT: Final = {
    "rollout.analysis.window": "10s",
    "rollout.analysis.interval": "2s",
    "rollout.stepPause": "15s",
    "rollout.finalPause": "12s",
    "observability.podMonitor.interval": "1s",
}
ISSUER: Final = "https://id.example.com"
DIGESTS: Final = {"stable": "sha256:" + "a" * 64, "canary": "sha256:" + "b" * 64}
_UNITS_S: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}


def seconds(duration: str) -> float:
    """Go's notation of a time, such as 1m30s, in seconds."""
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", duration)
    assert "".join(number + unit for number, unit in parts) == duration, duration
    return sum(float(number) * _UNITS_S[unit] for number, unit in parts)


@dataclass(frozen=True, slots=True)
class Chart:
    """The objects of one render."""

    objects: list[Manifest]

    def one(self, kind: str, name: str | None = None) -> Manifest:
        return manifests.one(self.objects, kind, name)

    @property
    def name(self) -> str:
        name: str = self.rollout["metadata"]["name"]
        return name

    @property
    def rollout(self) -> Manifest:
        return self.one("Rollout")

    @property
    def canary(self) -> dict[str, Any]:
        """The strategy."""
        strategy: dict[str, Any] = self.rollout["spec"]["strategy"]["canary"]
        return strategy

    @property
    def pod(self) -> Manifest:
        """The template of Teller's pods."""
        template: Manifest = self.rollout["spec"]["template"]
        return template

    @property
    def pod_hash(self) -> str:
        """What stands in for the hash that Argo Rollouts makes of the template."""
        return hashlib.sha256(json.dumps(self.pod, sort_keys=True).encode()).hexdigest()[:10]

    def file(self, config: str, name: str) -> str:
        """A file of a ConfigMap."""
        text: str = self.one("ConfigMap", config)["data"][name]
        return text


def chart(
    *, jwks: str, digest: str = DIGESTS["stable"], values: Mapping[str, str] | None = None
) -> Chart:
    """Render the default variant (SQLite, tokens, a canary) with those values on top.

    Args:
        jwks: the issuer's public keys.
        digest: of the image, by which stable and canary differ.
        values: to set beside, ``SHORT`` unless given.
    """
    settings = {
        "image.digest": digest,
        "auth.jwt.issuer": ISSUER,
        "auth.jwt.jwksUri": "",
        **(SHORT if values is None else values),
    }
    arguments = [f"--set={name}={value}" for name, value in settings.items()]
    # A literal: helm would read the braces and commas of JSON as its own.
    objects = helm.rendered(VARIANT, *arguments, f"--set-literal=auth.jwt.jwks={jwks}")
    # A controller writes into them; the render is kept for whoever asks for the same.
    return Chart(copy.deepcopy(objects))

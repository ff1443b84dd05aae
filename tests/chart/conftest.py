"""Everything here needs helm and what reads its output; without them it says how to have them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.chart import helm, manifests

if TYPE_CHECKING:
    from tests.chart.manifests import Manifest


@pytest.fixture(autouse=True)
def _parts() -> None:
    helm.needed()


@pytest.fixture(params=helm.VARIANTS)
def variant(request: pytest.FixtureRequest) -> str:
    """The name of each variant under chart/ci in turn."""
    name: str = request.param
    return name


@pytest.fixture
def objects(variant: str) -> list[Manifest]:
    """What that variant renders to."""
    return helm.rendered(variant)


@pytest.fixture
def server(objects: list[Manifest]) -> Manifest:
    """The pod template of the service in that variant."""
    template: Manifest = manifests.workload(objects)["spec"]["template"]
    return template

"""The image is built once for all tests; without a container engine they say how to have one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.chart import helm
from tests.container import engine as engines
from tests.container import image as images

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.container.engine import Engine


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """Podman and buildah with a store of their own."""
    helm.needed()
    with engines.opened() as engine:
        yield engine


@pytest.fixture(scope="session")
def image(engine: Engine) -> str:
    """The name of Teller's image, built from this checkout."""
    return images.build(engine, "test")

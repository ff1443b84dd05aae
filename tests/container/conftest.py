"""The image is built once for all tests; without a container engine they say how to have one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from tests.chart import helm
from tests.container import engine as engines
from tests.container import image as images
from tests.container.__main__ import report

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.container.engine import Engine

REPORT: Final = pytest.StashKey[str]()


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """Podman and buildah with a store of their own."""
    helm.needed()
    with engines.opened() as engine:
        yield engine


@pytest.fixture(scope="session")
def image(engine: Engine, request: pytest.FixtureRequest) -> str:
    """The name of Teller's image, built from this checkout; what is in it is printed at the end."""
    image = images.build(engine, "test")
    request.config.stash[REPORT] = report(engine, image)
    return image


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Leave in the log what the image holds."""
    if REPORT in config.stash:
        terminalreporter.write_sep("-", "the image")
        terminalreporter.write_line(config.stash[REPORT])

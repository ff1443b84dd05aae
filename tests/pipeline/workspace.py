"""The runner of a workflow's step, on this machine: its files, its variables, its programs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT: Final = Path(__file__).parents[2]
WORKFLOWS: Final = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
NEEDED: Final = (
    *(".ci", ".github", "chart", "tests/cluster", "tests/chart", "tests/__init__.py"),
    *("Containerfile", "pyproject.toml", "uv.lock", "README.md"),
)
VERSION: Final = "1.2.0"
CHANGELOG: Final = (
    f"# Changelog\n\n## [Unreleased]\n\n## [{VERSION}] - 2026-12-01\n\n### Fixed\n\n- A thing.\n"
)
STEP_TIMEOUT_S: Final = 120


def steps() -> dict[str, dict[str, Any]]:
    """Each step that runs a command, by workflow, job and name."""
    found = {}
    for path in WORKFLOWS:
        for job_name, job in yaml.safe_load(path.read_text())["jobs"].items():
            for step in job.get("steps", []):
                if "run" in step:
                    found[f"{path.stem}/{job_name}/{step['name']}"] = step
    return found


class Workspace:
    """A checkout of release 1.2.0, and what GitHub sets for a step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "checkout"
        self.programs = folder / "programs"
        self.temp = folder / "temp"
        self.home = folder / "home"
        for made in (self.root, self.programs, self.temp, self.home):
            made.mkdir()
        for name in NEEDED:
            source = ROOT / name
            copy = shutil.copytree if source.is_dir() else shutil.copyfile
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            copy(source, self.root / name)
        chart = self.root / "chart" / "Chart.yaml"
        chart.write_text(chart.read_text().replace("0.1.0", VERSION))
        project = self.root / "pyproject.toml"
        project.write_text(project.read_text().replace('"0.1.0"', f'"{VERSION}"', 1))
        (self.root / "CHANGELOG.md").write_text(CHANGELOG)
        self.git("init", "-q")
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "release")

    def git(self, *arguments: str) -> None:
        who = ("-c", "user.name=T", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false")
        subprocess.run(["git", *who, *arguments], cwd=self.root, check=True, capture_output=True)

    def stand_in(self, name: str, body: str = "") -> None:
        """A program of that name that notes its words and then does what ``body`` says in Bash."""
        path = self.programs / name
        calls = self.folder / "calls"
        path.write_text(f'#!/usr/bin/env bash\necho "{name} $*" >>"{calls}"\n{body}\n')
        path.chmod(0o755)

    def program(self, path: Path) -> None:
        """A real program, found under its own name."""
        (self.programs / path.name).symlink_to(path)

    @property
    def calls(self) -> list[str]:
        """What the stand-ins were called with."""
        file = self.folder / "calls"
        return file.read_text().splitlines() if file.exists() else []

    def run(self, step: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """Run a step's own words with Bash as a workflow does."""
        environment = {
            "PATH": f"{self.programs}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(self.home),
            "CI": "true",
            "UV_CACHE_DIR": os.environ.get("UV_CACHE_DIR", str(Path.home() / ".cache" / "uv")),
            "GITHUB_WORKSPACE": str(self.root),
            "GITHUB_REPOSITORY": "acme/teller",
            "GITHUB_REF_NAME": f"v{VERSION}",
            "GITHUB_ENV": str(self.temp / "env"),
            "GITHUB_OUTPUT": str(self.temp / "output"),
            "GITHUB_PATH": str(self.temp / "path"),
            "RUNNER_TEMP": str(self.temp),
            **env,
        }
        return subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", steps()[step]["run"]],
            cwd=self.root,
            env=environment,
            capture_output=True,
            text=True,
            timeout=STEP_TIMEOUT_S,
            check=False,
        )

"""Secrets, licences and the SBOM: the scripts find what they are for, and nothing in this tree."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / ".github" / "scripts"
LICENCES = ROOT / ".github" / "LICENCES.md"
# In two parts, so that this file is not what it tests for.
KEY_OF_A_CLOUD = "AKIA" + "IOSFODNN7EXAMPLF"
PASSWORD_IN_A_URL = "postgresql://teller:" + "correcthorse@db/ledger"


def run(
    script: str, *arguments: str, cwd: Path, env: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    command = [str(SCRIPTS / script), *arguments]
    return subprocess.run(command, cwd=cwd, env=env, check=False, capture_output=True, text=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository of one harmless commit."""
    git(tmp_path, "init", "-q")
    commit(tmp_path, "nothing = 1\n")
    return tmp_path


def git(where: Path, *arguments: str) -> None:
    who = ("-c", "user.name=T", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false")
    subprocess.run(["git", *who, *arguments], cwd=where, check=True, capture_output=True)


def commit(where: Path, text: str) -> None:
    (where / "settings.py").write_text(text)
    git(where, "add", "-A")
    git(where, "commit", "-q", "-m", "a change")


def test_a_tree_without_a_secret_passes(repository: Path, supply_chain: dict[str, str]) -> None:
    ran = run("secrets", cwd=repository, env=supply_chain)
    assert (ran.returncode, ran.stdout) == (0, "1 commits, 0 secrets\n")


@pytest.mark.parametrize(
    ("secret", "kind"),
    [(KEY_OF_A_CLOUD, "AWS Access Key"), (PASSWORD_IN_A_URL, "Basic Auth Credentials")],
)
def test_a_secret_that_a_later_commit_took_away_is_found_and_not_printed(
    repository: Path, supply_chain: dict[str, str], secret: str, kind: str
) -> None:
    commit(repository, f"where = '{secret}'\n")
    commit(repository, "nothing = 1\n")
    ran = run("secrets", cwd=repository, env=supply_chain)
    assert (ran.returncode, ran.stdout) == (1, "3 commits, 1 secrets\n")
    assert f"settings.py: {kind} " in ran.stderr
    assert secret not in ran.stdout + ran.stderr


def test_every_shipped_package_is_listed_with_its_licence(supply_chain: dict[str, str]) -> None:
    ran = run("shipped", "licences", str(LICENCES), cwd=ROOT, env=supply_chain)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        (r"\| fastapi +\| MIT +\|\n", ""),
        (r"\| fastapi +\| MIT +\|", "| fastapi | AGPL-3.0-only |"),
    ],
)
def test_a_package_that_is_not_listed_or_changed_its_licence_is_refused_by_name(
    tmp_path: Path, supply_chain: dict[str, str], line: str, instead: str
) -> None:
    text, times = re.subn(line, instead, LICENCES.read_text())
    assert times == 1
    (tmp_path / "list.md").write_text(text)
    ran = run("shipped", "licences", str(tmp_path / "list.md"), cwd=ROOT, env=supply_chain)
    assert ran.returncode == 1
    assert "| fastapi | MIT |" in ran.stderr


def test_the_sbom_names_what_is_shipped_and_nothing_of_the_tests(
    tmp_path: Path, supply_chain: dict[str, str]
) -> None:
    ran = run("shipped", "sbom", str(tmp_path / "sbom.json"), cwd=ROOT, env=supply_chain)
    assert ran.returncode == 0, ran.stderr
    sbom = json.loads((tmp_path / "sbom.json").read_text())
    names = {component["name"] for component in sbom["components"]}
    assert sbom["metadata"]["component"]["name"] == "teller"
    assert {"fastapi", "SQLAlchemy", "pysqlite3"} <= names
    assert names & {"pytest", "hypothesis", "ruff", "matplotlib"} == set()
    assert all(component["purl"].startswith("pkg:pypi/") for component in sbom["components"])

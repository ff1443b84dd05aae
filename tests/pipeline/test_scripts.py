"""The scripts of the workflows' steps, run here."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / ".github" / "scripts"
CHANGELOG = """# Changelog

## [Unreleased]

## [1.2.0] - 2026-12-01

### Fixed

- A thing.

## [1.1.0] - 2026-11-30

### Added

- Another.
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A repository of version 1.2.0, as far as the scripts look at it."""
    (tmp_path / "chart").mkdir()
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.0"\n')
    (tmp_path / "chart" / "Chart.yaml").write_text('version: 1.2.0\nappVersion: "1.2.0"\n')
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    return tmp_path


def run(tree: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(SCRIPTS / script), *arguments]
    return subprocess.run(command, cwd=tree, check=False, capture_output=True, text=True)


def test_a_tag_that_everything_agrees_with_passes(tree: Path) -> None:
    assert run(tree, "check-versions", "v1.2.0").returncode == 0


def test_a_tag_that_the_chart_does_not_know_is_refused_naming_it(tree: Path) -> None:
    (tree / "chart" / "Chart.yaml").write_text('version: 1.1.0\nappVersion: "1.2.0"\n')
    ran = run(tree, "check-versions", "v1.2.0")
    assert ran.returncode == 1
    assert ran.stderr == "chart/Chart.yaml, version: 1.1.0, where the tag says 1.2.0\n"


def test_a_tag_without_a_section_in_the_changelog_is_refused(tree: Path) -> None:
    ran = run(tree, "check-versions", "v1.3.0")
    assert ran.returncode == 1
    assert "CHANGELOG.md, a section: absent" in ran.stderr


def test_a_release_s_notes_are_its_section_alone(tree: Path) -> None:
    assert run(tree, "changelog-section", "1.2.0").stdout == "### Fixed\n\n- A thing.\n"


def test_an_empty_section_is_no_release_s_notes(tree: Path) -> None:
    assert run(tree, "changelog-section", "Unreleased").returncode == 1


def test_a_chart_is_not_packaged_with_a_tag_for_a_digest(tree: Path) -> None:
    ran = run(tree, "package-chart", "latest")
    assert ran.returncode == 2
    assert "latest is not a digest" in ran.stderr


def test_a_kubeconfig_without_its_variables_names_the_one_missing(tree: Path) -> None:
    ran = run(tree, "kubeconfig")
    assert ran.returncode == 1
    assert "CLUSTER_SERVER: https://host:port" in ran.stderr


def test_deploy_without_its_arguments_says_what_they_are(tree: Path) -> None:
    ran = run(tree, "deploy")
    assert ran.returncode == 2
    assert "REPOSITORY  owner/name on GitHub" in ran.stderr

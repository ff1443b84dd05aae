"""The workflows: least permissions, pinned actions, steps that exist here, time limits."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
JOBS = [
    pytest.param(job, id=f"{path.stem}-{name}")
    for path in WORKFLOWS
    for name, job in yaml.safe_load(path.read_text())["jobs"].items()
]
USES = re.compile(r"uses: ([\w.-]+/[\w.-]+)[\w./-]*@(\S+) # (\S+)")


def test_every_action_is_pinned_as_the_table_says() -> None:
    table = (ROOT / ".github" / "PINS.md").read_text()
    rows = set(re.findall(r"^\| (\S+) \| (\S+) \| ([0-9a-f]{40}) \|$", table, re.MULTILINE))
    text = "\n".join(path.read_text() for path in WORKFLOWS)
    used = {(name, tag, sha) for name, sha, tag in USES.findall(text)}
    assert used == rows
    # All but this repository's own workflows, which are of the same commit.
    assert len(USES.findall(text)) == len(re.findall(r"\buses: (?!\$/)", text))


def test_every_image_is_pinned_as_the_table_says() -> None:
    table = (ROOT / ".github" / "PINS.md").read_text()
    rows = re.findall(r"^\| (\S+) \| (\S+) \| (sha256:[0-9a-f]{64}) \|$", table, re.MULTILINE)
    pinned = {f"{name}:{tag}@{digest}" for name, tag, digest in rows}
    files = [*WORKFLOWS, ROOT / "Containerfile"]
    text = "\n".join(path.read_text() for path in files)
    assert set(re.findall(r"[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}", text)) == pinned


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_has_no_permission_of_its_own(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {}
    assert "group" in workflow["concurrency"]


@pytest.mark.parametrize("job", JOBS)
def test_a_job_is_bounded_and_names_its_permissions(job: dict[str, Any]) -> None:
    assert job["permissions"]
    if job.get("uses", "").startswith("$/"):
        return  # a workflow of this repository, with limits of its own
    assert 0 < job["timeout-minutes"] <= 120


@pytest.mark.parametrize("job", JOBS)
def test_a_checkout_leaves_no_token_behind(job: dict[str, Any]) -> None:
    for step in job.get("steps", []):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


def test_every_script_and_stage_that_a_step_calls_is_there() -> None:
    text = "\n".join(path.read_text() for path in WORKFLOWS)
    scripts = set(re.findall(r"\.github/scripts/([\w-]+)", text))
    there = {path.name for path in (ROOT / ".github" / "scripts").iterdir()}
    assert scripts <= there
    stages = re.search(r"^stages=\((.*)\)$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert stages is not None
    called = re.findall(r"(?:\.ci/run|stages:) (?:--without )?([a-z][a-z ]*)$", text, re.MULTILINE)
    assert {name for call in called for name in call.split()} == {
        *("install", "tests", "container", "delivery")
    }
    assert {name for call in called for name in call.split()} <= set(stages[1].split())
    for name in re.findall(r"(tests/cluster/\w+)", text):
        assert (ROOT / name).exists()


def test_every_supported_python_is_tested() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    tested = {entry["python"] for entry in jobs["stages"]["strategy"]["matrix"]["include"]}
    assert tested == {"3.11", "3.12", "3.13", "3.14"}


def test_no_job_reads_a_cache_that_a_fork_could_have_written() -> None:
    text = "\n".join(path.read_text() for path in WORKFLOWS)
    assert "actions/cache" not in text
    assert "pull_request_target" not in text
    assert text.count("setup-uv@") == text.count("enable-cache: false")

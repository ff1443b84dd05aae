"""README.md keeps its word: every command is run in a fresh clone, every answer compared."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from service.cli import main
from tests.documents.settings_table import rows

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
START, DEPOSIT, WITHDRAW = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)[:3]
FIRST, AGAIN, REFUSED = re.findall(r"```http\n(.*?)```", README, re.DOTALL)[:3]
START_TIMEOUT_S = 120


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last commit, as somebody new gets it."""
    where = tmp_path_factory.mktemp("clone") / "teller"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(where)], check=True)
    return where


@contextmanager
def serving(clone: Path) -> Iterator[None]:
    """The README's first command, with `pip install uv` left out: the tests run by uv."""
    install, start = START.strip().split(" && ")
    assert install == "pip install uv"
    own = ("TELLER_", "COVERAGE_", "PYTEST_", "VIRTUAL_ENV")
    env = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    process = subprocess.Popen(
        start.split(),
        cwd=clone,
        env=env,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for("http://127.0.0.1:8000/readyz", process)
        yield
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(30) == 0


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    end_s = time.monotonic() + START_TIMEOUT_S
    while subprocess.run(["curl", "-sf", "-o", os.devnull, url], check=False).returncode:
        assert process.poll() is None, "the service ended; is port 8000 free?"
        assert time.monotonic() < end_s, "the service did not get ready"
        time.sleep(0.2)


def said(command: str) -> str:
    """What a command of the README prints, with one end of line."""
    assert shutil.which("curl"), "the README's commands need curl: apt-get install curl"
    answer = subprocess.run(["bash", "-c", command], check=True, capture_output=True)
    return answer.stdout.decode().replace("\r\n", "\n")


def told(answer: str, example: str) -> list[str]:
    """The lines of the example that an answer does not have, its moments left out of both."""

    def without_moment(text: str) -> str:
        return re.sub(r'"created_at":"[^"]+"', '"created_at":"T"', text)

    lines = without_moment(answer).splitlines()
    return [line for line in without_moment(example).splitlines() if line not in lines]


def body(answer: str) -> str:
    return answer.partition("\n\n")[2]


def test_the_first_curl_its_retries_and_the_refusal_are_answered_as_printed(clone: Path) -> None:
    with serving(clone):
        first = said(DEPOSIT)
        assert told(first, FIRST) == []
        again = said(DEPOSIT)
        assert told(again, AGAIN) == []
        assert body(again) == body(first)
        assert told(said(WITHDRAW), REFUSED) == []
    with serving(clone):
        after_restart = said(DEPOSIT)
        assert told(after_restart, AGAIN) == []
        assert body(after_restart) == body(first)


def test_the_test_command_is_the_one_that_ci_calls() -> None:
    test_it = README.partition("## Test it")[2]
    assert "pip install uv && uv run pytest\n" in test_it
    assert "uv run --locked pytest" in (ROOT / ".ci" / "run").read_text()


def test_the_table_of_settings_is_the_class() -> None:
    assert rows() in README, "write it: uv run python -m tests.documents.settings_table"


def test_every_command_of_teller_is_named() -> None:
    missing = [name for name in main.commands if f"`teller {name}" not in README]
    assert missing == []


@pytest.mark.parametrize("name", ["README.md", "NOTES.md", "CHANGELOG.md"])
def test_relative_links_resolve(name: str) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / name).read_text())
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("name", ["README.md", "NOTES.md"])
def test_links_within_a_page_meet_a_heading(name: str) -> None:
    text = (ROOT / name).read_text()
    headings = {
        re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in text.splitlines()
        if line.startswith("#")
    }
    links = re.findall(r"\]\(#([^)]+)\)", text)
    assert [link for link in links if link not in headings] == []


def test_the_changelog_is_kept_as_it_says() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert "\n## [Unreleased]\n" in text
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.+)$", text, re.MULTILINE)) <= kinds

"""README.md keeps its word: every command is run in a fresh clone, every answer compared."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from service.app import app
from service.cli import main
from service.errors import CODES
from tests.documents.settings_table import rows
from tests.parts import part

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
START, DEPOSIT, WITHDRAW = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)[:3]
FIRST, AGAIN, REFUSED = re.findall(r"```http\n(.*?)```", README, re.DOTALL)[:3]
START_TIMEOUT_S = 120
PRINTED = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last commit, as somebody new gets it."""
    where = tmp_path_factory.mktemp("clone") / "teller"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(where)], check=True)
    return where


def clean_environment() -> dict[str, str]:
    """Somebody else's shell: nothing of this test run's."""
    own = ("TELLER_", "COVERAGE_", "COV_", "PYTEST_", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if not name.startswith(own)}


@contextmanager
def serving(clone: Path) -> Iterator[str]:
    """The address served by the README's first command.

    `pip install uv` is left out, since the tests run by uv, and the port is another one where
    something on this machine has the README's.
    """
    install, start = START.strip().split(" && ")
    assert install == "pip install uv"
    for port in ("8000", "0"):
        process, address = begun(start, clone, port=port)
        if address:
            break
    try:
        assert address, "the service ended"
        yield address
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(30) == 0


def begun(start: str, clone: Path, *, port: str) -> tuple[subprocess.Popen[bytes], str]:
    """The process, and the address it says it serves; none if it ended before that."""
    output = clone.parent / f"output-{port}"
    with output.open("w") as file:
        process = subprocess.Popen(
            start.split(),
            cwd=clone,
            env=clean_environment() | ({} if port == "8000" else {"TELLER_PORT": port}),
            stdout=file,
            start_new_session=True,
        )
    end_s = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < end_s:
        found = re.search(r'"message": "serving", "address": "([^"]+)"', output.read_text())
        if found:
            return process, found[1]
        time.sleep(0.1)
    return process, ""


def said(command: str, address: str) -> str:
    """What a command of the README prints, with one end of line."""
    part("curl", "apt-get install curl")
    assert PRINTED in command
    command = command.replace(PRINTED, address)
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
    with serving(clone) as address:
        first = said(DEPOSIT, address)
        assert told(first, FIRST) == []
        again = said(DEPOSIT, address)
        assert told(again, AGAIN) == []
        assert body(again) == body(first)
        assert told(said(WITHDRAW, address), REFUSED) == []
    with serving(clone) as address:
        after_restart = said(DEPOSIT, address)
        assert told(after_restart, AGAIN) == []
        assert body(after_restart) == body(first)


def test_a_fresh_clone_runs_its_tests_with_uv_run_pytest_alone(clone: Path) -> None:
    command = ["uv", "run", "pytest", "-q", "tests/documents/test_tree.py"]
    done = subprocess.run(
        command, cwd=clone, env=clean_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def test_the_table_of_answers_gives_every_status_of_a_movement_its_retry() -> None:
    table = re.findall(r"^\| `retry: (\w+)` \(([\d, ]+)\)", README, re.MULTILINE)
    printed = {retry: {int(status) for status in statuses.split(", ")} for retry, statuses in table}
    answers: dict[str, set[int]] = {}
    paths = app.openapi()["paths"]
    for route in (paths["/deposit"]["post"], paths["/withdraw"]["post"]):
        for response in route["responses"].values():
            for media in response["content"].values():
                for name in media["examples"].keys() & CODES.keys():
                    answers.setdefault(CODES[name].retry, set()).add(CODES[name].status)
    assert printed == answers


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


@pytest.mark.parametrize("name", ["README.md", "NOTES.md", "CHANGELOG.md"])
def test_the_documents_name_no_place_on_anybody_s_machine(name: str) -> None:
    text = (ROOT / name).read_text()
    assert re.findall(r"(?:/home|/Users|/root|/tmp|/work|/opt|/mnt|[A-Z]:\\)[^\s`]*", text) == []


def test_what_the_code_says_of_the_documents_is_there() -> None:
    headings = {
        name: re.findall(
            r"^#+ (?:\d{4}-\d\d-\d\d: )?(.+)$", (ROOT / name).read_text(), re.MULTILINE
        )
        for name in ("README.md", "NOTES.md")
    }
    missing = [
        (path.name, name, heading)
        for path in sorted((ROOT / "service").glob("*.py"))
        for name, heading in re.findall(r'(README|NOTES)(?:\.md)?, "(.+?)"', path.read_text())
        if heading not in headings[f"{name}.md"]
    ]
    assert missing == []


def test_the_changelog_is_kept_as_it_says() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert "\n## [Unreleased]\n" in text
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.+)$", text, re.MULTILINE)) <= kinds

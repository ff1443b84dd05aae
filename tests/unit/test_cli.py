"""The command line's own checks: what it refuses before it opens anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from service.cli import main

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["", "a b", "a\tb", "a\n", "é", "\x7f", "u" * 129])
def test_a_name_that_no_request_could_carry_opens_no_account(folder: Path, name: str) -> None:
    result = CliRunner().invoke(main, ["users", "add", "alice", name])
    assert result.exit_code == 2
    assert "is not a user id: 1 to 128 visible ASCII characters, without spaces." in result.output
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [["serv"], ["serve", "--prot", "1"], ["users", "add"], ["users", "remove", "u"]]
)
def test_a_command_line_that_is_not_understood_exits_2_and_opens_nothing(
    folder: Path, arguments: list[str]
) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "--help" in result.output
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [[], ["serve"], ["migrate"], ["seed"], ["users"], ["users", "add"]]
)
def test_every_command_has_a_page_of_help(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, [*arguments, "--help"])
    assert result.exit_code == 0
    assert len(result.output.splitlines()) > 5


def test_a_mistyped_variable_is_refused_by_name_without_a_traceback(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TELLER_PROT", "1")
    result = CliRunner().invoke(main, ["serve"])
    assert result.exit_code == 2
    assert result.output == (
        "teller: TELLER_PROT is not a setting of Teller. Did you mean TELLER_PORT?\n"
    )
    assert list(folder.iterdir()) == []

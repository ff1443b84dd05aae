"""The tree keeps the house's rules."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVICE = sorted((ROOT / "service").glob("*.py"))
PYTHON = [
    path
    for folder in ("service", "alembic", "tests", "chart")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
BANNED = {"utils", "helpers", "common", "base", "manager", "misc", "shared"}
LINES_MAX = 400
EXACT = ("money", "ledger", "movements", "schema", "sqlite_store", "receipts")


def test_no_file_has_a_name_that_says_nothing() -> None:
    assert [path.name for path in PYTHON if path.stem in BANNED] == []


def test_files_are_short_enough_to_be_read() -> None:
    lengths = {path.name: len(path.read_text().splitlines()) for path in SERVICE}
    assert {name: length for name, length in lengths.items() if length > LINES_MAX} == {}


def test_every_module_of_the_service_begins_with_its_promise() -> None:
    assert [
        path.name for path in SERVICE if not ast.get_docstring(ast.parse(path.read_text()))
    ] == []


@pytest.mark.parametrize("name", EXACT)
def test_no_float_comes_near_money(name: str) -> None:
    tree = ast.parse((ROOT / "service" / f"{name}.py").read_text())
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    literals = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, float)
    }
    assert "float" not in names
    assert literals == set()


def test_one_module_alone_knows_the_standard_library_s_sqlite() -> None:
    # A second SQLite library in the process would drop the first one's locks.
    importing = re.compile(r"^\s*(?:import|from) (?:sqlite3|pysqlite3)\b", re.MULTILINE)
    found = [path.name for path in SERVICE if importing.search(path.read_text())]
    assert found == ["sqlite.py"]


def test_migrations_do_not_shadow_the_library() -> None:
    assert not (ROOT / "alembic" / "__init__.py").exists()


def test_the_lock_names_the_public_index_alone() -> None:
    hosts = set(re.findall(r"https?://([^/\"]+)", (ROOT / "uv.lock").read_text()))
    assert hosts <= {"pypi.org", "files.pythonhosted.org"}

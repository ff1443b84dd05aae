"""The ways besides `teller` to start from a checkout, and `teller migrate` from a built wheel."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from service import schema
from tests.migration.ledgers import ask
from tests.parts import part

if TYPE_CHECKING:
    import pytest

CHECKOUT = Path(__file__).parents[2]
TOOLS = Path(sys.executable).parent
VERSION = "SELECT version_num FROM alembic_version"


def run(*command: str | Path, cwd: Path = CHECKOUT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )


async def test_alembic_upgrade_head_works_from_a_checkout_and_makes_the_tables_in_code(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TELLER_DATABASE_URL", database_url)
    done = run(TOOLS / "alembic", "upgrade", "head")
    assert done.returncode == 0, done.stderr
    assert await ask(database_url, VERSION) == [(schema.REVISION,)]
    checked = run(TOOLS / "alembic", "check")
    assert (checked.returncode, checked.stdout) == (0, "No new upgrade operations detected.\n")


def test_alembic_says_a_wrong_setting_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TELLER_CURENCY", "EUR")
    refused = run(TOOLS / "alembic", "upgrade", "head")
    assert refused.returncode == 1
    assert refused.stderr == (
        "TELLER_CURENCY is not a setting of Teller. Did you mean TELLER_CURRENCY?\n"
    )


def test_fastapi_dev_starts_and_answers_from_a_checkout(database_url: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with (tmp_path / "output").open("w") as output:
        server = subprocess.Popen(
            [TOOLS / "fastapi", "dev", "service/app.py", "--port", str(port)],
            cwd=CHECKOUT,
            env={**os.environ, "TELLER_DATABASE_URL": database_url},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # it has a reloader and a server: both are to end
        )
    try:
        assert answered(f"http://127.0.0.1:{port}/readyz"), (tmp_path / "output").read_text()
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(20)
        finally:
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()


def answered(url: str) -> bool:
    for _ in range(300):
        try:
            return httpx.get(url).status_code == 200
        except httpx.TransportError:
            time.sleep(0.1)
    return False


def test_a_built_wheel_carries_the_migrations_and_migrates(
    database_url: str, tmp_path: Path
) -> None:
    uv = part("uv", "pip install uv")
    built = run(uv, "build", "--quiet", "--wheel", "--out-dir", tmp_path)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("teller-*.whl")
    requirements = tmp_path / "requirements.txt"
    exported = run(
        *(uv, "export", "--quiet", "--locked", "--no-default-groups", "--no-emit-project"),
        *("--no-hashes", "--output-file", requirements),
    )
    assert exported.returncode == 0, exported.stderr
    migrated = run(
        *(uv, "run", "--quiet", "--isolated", "--no-project", "--python", sys.executable),
        *("--with-requirements", requirements, "--with", wheel),
        *("teller", "migrate", "--database", database_url),
        cwd=tmp_path,
    )
    assert migrated.returncode == 0, migrated.stderr
    assert migrated.stdout == f"The database is at revision {schema.REVISION}.\n"

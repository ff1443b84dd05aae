"""What is compiled for machines without a wheel has the pinned bytes, or the build ends."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import re
import tarfile
import tomllib
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

from tests.container import image as images

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = images.ROOT / ".github" / "scripts" / "pysqlite3_source.py"


@pytest.fixture
def script() -> Any:
    """The build's script as a module."""
    spec = importlib.util.spec_from_file_location("pysqlite3_source", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def sqlite(tmp_path: Path) -> Path:
    """An archive as sqlite.org's, in its form alone."""
    path = tmp_path / "sqlite.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("sqlite3.c", "sqlite3.h", "shell.c"):
            archive.writestr(f"sqlite-amalgamation-3530400/{name}", name)
    return path


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    """A lock of pysqlite3 alone, whose source is an archive in its form."""
    path = tmp_path / "pysqlite3.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("pysqlite3-0.6.1/setup.py")
        member.size = len(b"setup()")
        archive.addfile(member, io.BytesIO(b"setup()"))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    found = tmp_path / "uv.lock"
    found.write_text(
        '[[package]]\nname = "pysqlite3"\n'
        f'sdist = {{ url = "{path.as_uri()}", hash = "sha256:{digest}" }}\n'
    )
    return found


def test_sqlites_two_files_lie_beside_pysqlite3_s_own(
    script: Any, sqlite: Path, lock: Path, tmp_path: Path
) -> None:
    sha3 = hashlib.sha3_256(sqlite.read_bytes()).hexdigest()
    script.lay_out(lock, tmp_path / "out", sqlite=sqlite.as_uri(), sha3=sha3)
    found = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert found == {"setup.py": "setup()", "sqlite3.c": "sqlite3.c", "sqlite3.h": "sqlite3.h"}


def test_an_archive_with_another_hash_ends_the_build(
    script: Any, sqlite: Path, lock: Path, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit, match=r"sha3_256 is .*, where 628a44cf.* is pinned"):
        script.lay_out(lock, tmp_path / "out", sqlite=sqlite.as_uri())
    assert not (tmp_path / "out").exists()
    lock.write_text(lock.read_text().replace("sha256:", "sha256:0"))
    sha3 = hashlib.sha3_256(sqlite.read_bytes()).hexdigest()
    with pytest.raises(SystemExit, match="sha256 is "):
        script.lay_out(lock, tmp_path / "out", sqlite=sqlite.as_uri(), sha3=sha3)


def test_the_lock_has_the_source_and_sqlite_is_the_wheels_release(script: Any) -> None:
    packages = tomllib.loads((images.ROOT / "uv.lock").read_text())["package"]
    (package,) = [it for it in packages if it["name"] == "pysqlite3"]
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", package["sdist"]["hash"])
    # test_image.py: the wheel's library says 3.53.4.
    assert script.SQLITE == "https://sqlite.org/2026/sqlite-amalgamation-3530400.zip"

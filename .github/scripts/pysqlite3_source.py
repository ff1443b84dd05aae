"""Lay out pysqlite3's source with SQLite's own beside it, so that compiling gives one library.

``pysqlite3_source.py UV_LOCK FOLDER``: pysqlite3 is the version of the lock by the lock's hash,
SQLite the release that its wheels carry by the hash that sqlite.org publishes beside it. For
machines without a wheel; needs nothing but Python.
"""

from __future__ import annotations

import hashlib
import io
import sys
import tarfile
import tomllib
import urllib.request
import zipfile
from pathlib import Path
from typing import Final

SQLITE: Final = "https://sqlite.org/2026/sqlite-amalgamation-3530400.zip"
SQLITE_SHA3: Final = "628a44cfe82c66aed1ccbbe85a562d2e33ebe64b3288981ed76285612227934e"
TIMEOUT_S: Final = 60


def fetched(url: str, algorithm: str, wanted: str) -> bytes:
    """The bytes at an address, if they have that hash; ends the program otherwise."""
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:  # noqa: S310 - a pinned address
        data: bytes = answer.read()
    found = hashlib.new(algorithm, data).hexdigest()
    if found != wanted:
        sys.exit(f"{url}: {algorithm} is {found}, where {wanted} is pinned")
    return data


def lay_out(lock: Path, folder: Path, *, sqlite: str = SQLITE, sha3: str = SQLITE_SHA3) -> None:
    """Fill the folder with pysqlite3's source and SQLite's two files."""
    packages = tomllib.loads(lock.read_text())["package"]
    (package,) = [it for it in packages if it["name"] == "pysqlite3"]
    algorithm, _, wanted = package["sdist"]["hash"].partition(":")
    source = fetched(package["sdist"]["url"], algorithm, wanted)
    amalgamation = fetched(sqlite, "sha3_256", sha3)
    with tarfile.open(fileobj=io.BytesIO(source)) as archive:
        for member in archive.getmembers():
            member.name = member.name.partition("/")[2]
            archive.extract(member, folder, filter="data")
    with zipfile.ZipFile(io.BytesIO(amalgamation)) as files:
        for name in files.namelist():
            if Path(name).name in {"sqlite3.c", "sqlite3.h"}:
                (folder / Path(name).name).write_bytes(files.read(name))


if __name__ == "__main__":
    lay_out(Path(sys.argv[1]), Path(sys.argv[2]))

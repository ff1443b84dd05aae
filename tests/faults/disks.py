"""A disk that is soon full: a small file system of memory, mounted for a while."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def small_disk(folder: Path, *, size_mib: int = 1) -> Iterator[Path]:
    """A file system of that size on the folder, which takes the right to mount one."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", str(folder)],
        check=False,
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted here: run as root, in a container privileged")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(ballast: Path) -> None:
    """Take all that is free of the ballast's file system; without it all is free again."""
    disk = os.statvfs(ballast.parent)
    with suppress(OSError), ballast.open("wb", buffering=0) as file:  # others write meanwhile
        file.write(bytes(disk.f_bavail * disk.f_frsize))


def resize(folder: Path, *, kib: int) -> None:
    """Give a small disk another size."""
    subprocess.run(["mount", "-o", f"remount,size={kib}k", str(folder)], check=True)

"""Where a SQLite ledger lies: the library, the file system, the locks and the room under it."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import select, text

from service import scan, schema, sqlite
from service.doctor import Finding
from service.errors import OperatingError, StartError
from service.store import Revision

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sqlalchemy.ext.asyncio import AsyncConnection

    from service.settings import Settings

MOUNTS: Final = Path("/proc/self/mountinfo")
FREE_BYTES_MIN: Final = 256 * 2**20
WAL_BYTES_MAX: Final = 4 * sqlite.WAL_BYTES_KEPT

# Locks that another machine does not see, or memory that is not shared, break a write-ahead log
# (https://sqlite.org/wal.html, "all processes using a database must be on the same host").
_REMOTE: Final = {
    *("9p", "afs", "ceph", "cifs", "fuse.glusterfs", "fuse.sshfs", "gfs2", "glusterfs", "lustre"),
    *("nfs", "nfs4", "ocfs2", "smb3", "virtiofs"),
}
_FLEETING: Final = {"overlay": "with its container", "tmpfs": "with the machine's memory"}


async def examine(settings: Settings) -> AsyncIterator[Finding]:
    """Look at the ledger's surroundings without changing it, one finding at a time."""
    path = sqlite.file_of(settings.database_url)
    yield _library()
    yield _folder(path)
    yield _file_system(path, MOUNTS)
    yield _room(path)
    yield _log(path)
    yield await _ledger(settings)


def _library() -> Finding:
    version = sqlite.driver.sqlite_version
    if sqlite.wal_reset_fixed(sqlite.driver.sqlite_version_info):
        return Finding(
            "library", ok=True, seen=f"SQLite {version}: two processes may share a file."
        )
    return Finding(
        "library",
        ok=False,
        seen=f"SQLite {version} has the WAL-reset bug: only one process may open the file.",
        remedy={"this Python": "pip install pysqlite3"},
    )


def _folder(path: Path) -> Finding:
    folder = path.parent
    if not folder.is_dir():
        return Finding(
            "folder",
            ok=False,
            seen=f"{folder} is not there.",
            remedy={"the ledger": "make it, or set TELLER_DATABASE_URL"},
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        return Finding(
            "folder",
            ok=False,
            seen=f"{folder} cannot be written; SQLite keeps its log beside the file.",
            remedy={
                "a pod": "securityContext: {fsGroup: THE_GROUP_OF_THE_PROCESS}",
                "a machine": f"chown THE_USER {folder}",
            },
        )
    return Finding("folder", ok=True, seen=f"{folder} can be written.")


def _file_system(path: Path, mounts: Path) -> Finding:
    name = "file system"
    if not mounts.exists():
        return Finding(name, ok=True, seen=f"Not known on {sys.platform}: see that it is local.")
    kind, point = file_system(path, mounts.read_text())
    if kind in _REMOTE:
        return Finding(
            name,
            ok=False,
            seen=f"{point} is {kind}: its locks or shared memory do not hold a write-ahead log.",
            remedy={
                "a pod": "a ReadWriteOnce volume of a block storage class",
                "a machine": "a local disk, or PostgreSQL",
            },
        )
    if kind in _FLEETING:
        return Finding(
            name,
            ok=False,
            seen=f"{point} is {kind}: the ledger would vanish {_FLEETING[kind]}.",
            remedy={
                "a pod": "mount a PersistentVolumeClaim and point TELLER_DATABASE_URL into it",
                "a container": "--volume teller:/data",
            },
        )
    return Finding(name, ok=True, seen=f"{point} is {kind}, on this machine.")


def file_system(path: Path, mountinfo: str) -> tuple[str, str]:
    """The type and the mount point of the file system under a path (proc_pid_mountinfo(5))."""
    best = ("unknown", "")
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        point = before.split()[4].replace("\\040", " ")
        # Of equals the last one is mounted over the others.
        if path.is_relative_to(point) and len(point) >= len(best[1]):
            best = (after.split()[0], point)
    return best


def _room(path: Path) -> Finding:
    if not path.parent.is_dir():
        return Finding("room", ok=False, seen="There is no folder to measure.")
    free_bytes = shutil.disk_usage(path.parent).free
    seen = f"{free_bytes // 2**20} MiB are free."
    if free_bytes < FREE_BYTES_MIN:
        remedy = {"the volume": "enlarge it; a full disk stops writes, loses nothing"}
        return Finding("room", ok=False, seen=seen, remedy=remedy)
    return Finding("room", ok=True, seen=seen)


def _log(path: Path) -> Finding:
    name = "write-ahead log"
    log = path.with_name(path.name + "-wal")
    # stat() takes no lock and drops none, unlike opening the file.
    size = log.stat().st_size if log.exists() and stat.S_ISREG(log.stat().st_mode) else 0
    seen = f"It has {size // 2**20} MiB."
    if size > WAL_BYTES_MAX:
        return Finding(
            name,
            ok=False,
            seen=f"{seen} Something reads for so long that it cannot be copied back.",
            remedy={
                "another process": "end the transaction that it keeps open, such as a backup's"
            },
        )
    return Finding(name, ok=True, seen=seen)


async def _ledger(settings: Settings) -> Finding:
    name = "ledger"
    try:
        async with scan.opened(settings) as reader:
            ledger = scan.Scan(reader)
            currency = await ledger.currency()
            revision = await reader.read(_revision)
    except (StartError, OperatingError) as error:
        words = getattr(error, "detail", None) or str(error)
        return Finding(name, ok=False, seen=words)
    seen = f"{currency.code} with {currency.scale} decimals, revision {revision.revision}."
    if revision.revision < schema.REVISION:
        remedy = {"teller": "teller migrate"}
        return Finding(
            name, ok=False, seen=f"{seen} This release needs {schema.REVISION}.", remedy=remedy
        )
    if revision.runs_from > schema.REVISION:
        seen += f" It runs from {revision.runs_from}; this release is {schema.REVISION}."
        return Finding(name, ok=False, seen=seen, remedy={"teller": "install a newer release"})
    return Finding(name, ok=True, seen=f"{seen} Locks are free.")


async def _revision(connection: AsyncConnection) -> Revision:
    revision = await connection.scalar(text("SELECT version_num FROM alembic_version"))
    return Revision(str(revision), str(await connection.scalar(select(schema.ledger.c.runs_from))))

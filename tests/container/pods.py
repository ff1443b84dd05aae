"""A pod of the chart as helm renders it, run by podman.

Podman plays what of it is about the container: the image, its arguments and environment, users,
capabilities, the read-only root, limits, volumes, init containers in their order. It has no
kubelet: probes, the preStop hook and fsGroup do nothing here. Two fields are the test's:
`restartPolicy`, since podman would restart an init container that has ended well, and the name of
the volume.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any, Final, Self

from tests.chart import helm, manifests

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.container.engine import Engine, Network

PORT: Final = 8000
METRICS_PORT: Final = 9090
START_TIMEOUT_S: Final = 60
VARIANT: Final = "no-mesh"
SMOKE: Final = helm.CHART / "files" / "smoke.py"


class Pod:
    """One pod at work in a network of its own."""

    def __init__(self, engine: Engine, network: Network, name: str, spec: dict[str, Any]) -> None:
        self._engine = engine
        self.network = network
        self.container = f"{name}-teller"
        self.grace_s = int(spec["terminationGracePeriodSeconds"])

    def ask(
        self, method: str, path: str, fields: dict[str, str], body: object = None
    ) -> tuple[int, dict[str, str], bytes]:
        """One request from beside the pod: status, header fields in lower case, and body."""
        connection = HTTPConnection("127.0.0.1")
        connection.sock = self.network.connection(METRICS_PORT if path == "/metrics" else PORT)
        data = None if body is None else json.dumps(body)
        connection.request(method, path, data, {"Content-Type": "application/json", **fields})
        answer = connection.getresponse()
        whole = answer.read()
        connection.close()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, whole

    def deposit(self, key: str, amount: str = "1") -> tuple[int, dict[str, str], bytes]:
        """A deposit for the user whose account the pod opened."""
        fields = {"user_id": "smoke-test", "Idempotency-Key": key}
        return self.ask("POST", "/deposit", fields, {"amount": amount})

    def smoke(self, run: str) -> subprocess.CompletedProcess[str]:
        """What the chart's own smoke test says."""
        return subprocess.run(
            [*self.network.enter, sys.executable, SMOKE, f"http://127.0.0.1:{PORT}"],
            env={**os.environ, "SMOKE_USER": "smoke-test", "SMOKE_RUN": run},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def execute(self, *command: str) -> str:
        """What a command in the service's container says."""
        return self._engine.run("podman", "exec", self.container, *command)

    def stop(self) -> int:
        """SIGTERM, SIGKILL after the pod's own grace period; the service's exit status."""
        self._engine.run(
            *("podman", "stop", "--time", str(self.grace_s), self.container),
            within=self.network.enter,
        )
        return int(self.inspected()["State"]["ExitCode"])

    def log(self) -> str:
        """What the service wrote."""
        return self._engine.run("podman", "logs", self.container)

    def wait_for(self, message: str) -> Self:
        """Until the service has logged that message."""
        give_up = time.monotonic() + START_TIMEOUT_S
        while f'"{message}"' not in self.log():
            assert time.monotonic() < give_up, self.log()
            time.sleep(0.1)
        return self

    def inspected(self) -> dict[str, Any]:
        """What podman knows of the service's container."""
        (found,) = json.loads(self._engine.run("podman", "inspect", self.container))
        return dict(found)


def rendered(image: str, *, name: str, volume: str) -> list[dict[str, Any]]:
    """The claim and the pod of the chart with that image."""
    repository, _, tag = image.rpartition(":")
    settings = (f"image.repository={repository}", f"image.tag={tag}", "image.pullPolicy=Never")
    objects = helm.rendered(VARIANT, *(it for setting in settings for it in ("--set", setting)))
    template = manifests.workload(objects)["spec"]["template"]
    claimed = json.dumps(template).replace("teller-ledger", volume)
    pod = {"apiVersion": "v1", "kind": "Pod", **json.loads(claimed)}
    pod["metadata"]["name"] = name
    pod["spec"]["restartPolicy"] = "Never"
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": volume}}
    return [{**manifests.one(objects, "PersistentVolumeClaim"), **claim}, pod]


@contextmanager
def playing(engine: Engine, image: str, *, name: str, volume: str) -> Iterator[Pod]:
    """A pod that serves on that volume, which is made if it is not there and outlives the pod."""
    import yaml

    claim, manifest = rendered(image, name=name, volume=volume)
    there = engine.run("podman", "volume", "ls", "--quiet").split()
    objects = [manifest] if volume in there else [claim, manifest]
    path = engine.folder / "tmp" / f"{name}.yaml"
    path.write_text(yaml.safe_dump_all(objects))
    with engine.network(f"teller-{name}-{os.getpid()}") as network:
        try:
            engine.run("podman", "kube", "play", path, within=network.enter)
            pod = Pod(engine, network, name, manifest["spec"])
            yield pod.wait_for("serving")
        finally:
            engine.run("podman", "pod", "rm", "--force", "--ignore", "--time", "0", name,
                       within=network.enter)  # fmt: skip

"""Teller's pods as the chart renders them, as processes: init containers, then the server.

An address of 127.0.0.0/8 stands for a pod's own: its proxy listens there. The application is on a
second one, as if iptables led every connection through the proxy. The volume is a folder.
"""

from __future__ import annotations

import itertools
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import httpx

from tests import processes
from tests.chart import manifests
from tests.delivery import commands, envoy, mesh

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.delivery.rendered import Chart
    from tests.processes import Served

READY_TIMEOUT_S: Final = 30


class Network:
    """Addresses of this run: no two runs on a machine get the same, nor any server of others."""

    def __init__(self) -> None:
        pid = os.getpid()
        self._prefix = f"127.{64 + (pid >> 8) % 128}.{pid % 256}"
        self._numbers = itertools.count(1)

    def address(self) -> str:
        return f"{self._prefix}.{next(self._numbers)}"


class Pod:
    """A running pod: its proxy's address and process, the server, and its labels."""

    def __init__(
        self, chart: Chart, host: str, application: str, proxy: envoy.Proxy, served: Served
    ) -> None:
        self.chart = chart
        self.host = host
        self.application = application
        self.proxy = proxy
        self.served = served

    @property
    def labels(self) -> dict[str, str]:
        """As Argo Rollouts and the template give them."""
        return {
            **self.chart.pod["metadata"]["labels"],
            "rollouts-pod-template-hash": self.chart.pod_hash,
        }

    def wait_until_ready(self) -> None:
        """Return once the rendered readiness probe passes."""
        (container,) = self.chart.pod["spec"]["containers"]
        path = container["readinessProbe"]["httpGet"]["path"]
        end_s = time.monotonic() + READY_TIMEOUT_S
        while not httpx.get(f"http://{self.application}:8000{path}").is_success:
            assert time.monotonic() < end_s, self.served.output()
            time.sleep(0.1)

    def stop(self) -> int:
        """End it as the kubelet does: the rendered preStop hook, then SIGTERM; its exit status."""
        spec = self.chart.pod["spec"]
        (container,) = spec["containers"]
        pause_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        time.sleep(pause_s)
        return self.served.terminate(spec["terminationGracePeriodSeconds"] - pause_s)


def environment(container: dict[str, Any], ledger: Path, host: str) -> dict[str, str]:
    """The rendered variables, the volume and the address being those of this machine."""
    said = {**manifests.environment(container)}
    said["TELLER_DATABASE_URL"] = said["TELLER_DATABASE_URL"].replace("////data/", f"///{ledger}/")
    if "TELLER_HOST" in said:
        assert said["TELLER_HOST"] == "0.0.0.0"  # noqa: S104 - as rendered; not bound here
        said["TELLER_HOST"] = host
    return said


def initialize(chart: Chart, ledger: Path, build: str) -> None:
    """Run the init containers that are Teller's own, in their order."""
    for container in chart.pod["spec"]["initContainers"]:
        if container["name"] != "restore":
            variables = environment(container, ledger, "")
            done = commands.teller(*container["args"], env=variables, build=build)
            assert done.status == 0, done.output


@contextmanager
def running(
    chart: Chart,
    folder: Path,
    ledger: Path,
    network: Network,
    *,
    build: str = "",
    upstream: str | None = None,
) -> Iterator[Pod]:
    """A pod with its proxy, ready.

    Args:
        chart: as rendered for it.
        folder: of its proxy's files.
        ledger: the folder that stands for the volume.
        network: gives its addresses.
        build: the code in its image: of tests.delivery.builds, or the released one.
        upstream: where its proxy leads to instead of the server, such as a saboteur's address.
    """
    initialize(chart, ledger, build)
    (container,) = chart.pod["spec"]["containers"]
    assert container["args"] == ["serve"]
    host, application = network.address(), network.address()
    variables = environment(container, ledger, application)
    filters = [
        mesh.token_filter(chart.one("RequestAuthentication")),
        mesh.authorization_filter(chart.one("AuthorizationPolicy")),
    ]
    config = envoy.pod(host, filters, upstream or application)
    listening = ("--host", application, "--port", variables["TELLER_PORT"])
    url = variables["TELLER_DATABASE_URL"]
    with (
        processes.serving(
            url, *listening, env=variables, command=commands.command_of(build)
        ) as served,
        envoy.running(folder, host, config) as proxy,
    ):
        pod = Pod(chart, host, application, proxy, served)
        pod.wait_until_ready()
        yield pod

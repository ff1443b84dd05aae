"""What stands around the pods: the gateway, the Services' endpoints, Prometheus, the volume."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final

from tests.delivery import commands, envoy, mesh, pods, prometheus, rendered
from tests.delivery.clients import PATIENCE_S, USERS, Clients
from tests.delivery.issuer import Issuer
from tests.delivery.pods import Network

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from tests.chart.manifests import Manifest
    from tests.delivery.commands import Ended
    from tests.delivery.pods import Pod

SERVICES: Final = ("stable", "canary")


class Cluster:
    """One release's surroundings; ``stable`` is the pod that serves until it is replaced."""

    def __init__(self, folder: Path, network: Network, values: Mapping[str, str]) -> None:
        self.folder = folder
        self.ledger = folder / "volume"
        self.ledger.mkdir()
        self.network = network
        self.issuer = Issuer()
        jwks = self.issuer.jwks
        self.charts = {
            name: rendered.chart(jwks=jwks, digest=digest, values={**rendered.SHORT, **values})
            for name, digest in rendered.DIGESTS.items()
        }
        self.chart = self.charts["stable"]
        self.stack = ExitStack()
        self._versions = {"ingress": 0, **dict.fromkeys(SERVICES, 0)}
        self.pods: list[Pod] = []

    @property
    def url(self) -> str:
        """Of the ledger."""
        return f"sqlite+aiosqlite:///{self.ledger}/teller.db"

    # -- the parts ------------------------------------------------------------------------------

    def start(self, *, upstream: str | None) -> None:
        """The stable pod, the users' accounts, the gateway, Prometheus."""
        self.stable = self.start_pod("stable", upstream=upstream)
        opened = self.teller("users", "add", *USERS)
        assert opened.status == 0, opened.output
        services = [self.chart.one("Service", f"{self.chart.name}-{it}") for it in SERVICES]
        self._services = dict(zip(SERVICES, services, strict=True))
        virtual_service = self.chart.one("VirtualService")
        rules = [it for it in self.chart.objects if it["kind"] == "DestinationRule"]
        xds = self.folder / "xds"
        xds.mkdir()
        self._files = {name: xds / f"{name}.json" for name in (*self._versions, "sidecar")}
        envoy.replace(
            self._files["sidecar"], mesh.sidecar_routes(services, virtual_service, version="1")
        )
        self._write_routes({"stable": 100, "canary": 0})
        self._write_endpoints("stable", [self.stable.host])
        self._write_endpoints("canary", [])
        clusters = [mesh.cluster(it, rules, self._files[n]) for n, it in self._services.items()]
        host = self.network.address()
        front = envoy.front(
            host, clusters, ingress=self._files["ingress"], sidecar=self._files["sidecar"]
        )
        self.gateway = self.stack.enter_context(envoy.running(self.folder / "gateway", host, front))
        monitor = self.chart.one("PodMonitor")
        self.prometheus = self.stack.enter_context(
            prometheus.running(self.folder / "prometheus", self.network.address(), monitor, host)
        )
        self.prometheus.scrape(self.pods)

    def start_pod(self, name: str, *, build: str = "", upstream: str | None = None) -> Pod:
        """A pod of the stable or the canary render, ready, scraped, without traffic yet."""
        pod = self.stack.enter_context(
            pods.running(
                self.charts[name],
                self.folder / f"pod-{name}",
                self.ledger,
                self.network,
                build=build,
                upstream=upstream,
            )
        )
        self.pods.append(pod)
        return pod

    def remove(self, pod: Pod) -> int:
        """End a pod as Kubernetes does; its exit status."""
        self.pods.remove(pod)
        status = pod.stop()
        self.prometheus.scrape(self.pods)
        return status

    def teller(self, *arguments: str) -> Ended:
        """Run a teller command on the ledger."""
        return commands.teller(*arguments, env={"TELLER_DATABASE_URL": self.url})

    def clients(self, *, seed: int = 1, patience_s: float = PATIENCE_S) -> Clients:
        """Clients with tokens, to the gateway."""
        host = self.chart.one("VirtualService")["spec"]["hosts"][0]
        address = (self.gateway.host, envoy.GATEWAY_PORT)
        return Clients(f"http://{host}", address, self._token_of, seed, patience_s)

    def _token_of(self, user: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.issuer.token(user)}"}

    # -- what the controller writes -------------------------------------------------------------

    def route(self, weights: dict[str, int]) -> None:
        """Write the VirtualService's weights; returns once the gateway goes by them."""
        if weights == self._weights:
            return  # Envoy passes over routes that are the same
        self._write_routes(weights)
        self.gateway.wait_for_routes("ingress", str(self._versions["ingress"]))

    def point(self, service: str, *hosts: str) -> None:
        """Write the Service's selector, so that the pods at those addresses are its endpoints."""
        self._write_endpoints(service, hosts)
        self.gateway.wait_for_endpoints(
            mesh.cluster_name(f"{self.chart.name}-{service}", 80, self._namespace), set(hosts)
        )

    @property
    def _namespace(self) -> str:
        namespace: str = self.chart.rollout["metadata"]["namespace"]
        return namespace

    def _write_routes(self, weights: dict[str, int]) -> None:
        self._weights = weights
        virtual_service = self.chart.one("VirtualService")
        managed = self.chart.canary["trafficRouting"]["istio"]["virtualService"]["routes"]
        assert managed == [http["name"] for http in virtual_service["spec"]["http"]]
        for http in virtual_service["spec"]["http"]:
            for destination in http["route"]:
                host = destination["destination"]["host"]
                destination["weight"] = weights[host.removeprefix(f"{self.chart.name}-")]
        version = self._next("ingress")
        envoy.replace(self._files["ingress"], mesh.routes(virtual_service, version=version))

    def _write_endpoints(self, service: str, hosts: Iterable[str]) -> None:
        said = mesh.endpoints_of(self._services[service], hosts, version=self._next(service))
        envoy.replace(self._files[service], said)

    def _next(self, name: str) -> str:
        self._versions[name] += 1
        return str(self._versions[name])

    # -- the smoke script -----------------------------------------------------------------------

    def smoke(self, pod: Manifest, run: str, *, timeout_s: float) -> tuple[bool, str]:
        """Run a rendered pod of files/smoke.py to its end: whether it passed, and its last line.

        Its sidecar is the second listener of the gateway's Envoy, reached as an HTTP proxy.
        """
        (container,) = pod["spec"]["containers"]
        assert container["command"] == ["python", "/smoke/smoke.py"]
        script = self.folder / "smoke.py"
        script.write_text(self.chart.file(f"{self.chart.name}-smoke", "smoke.py"))
        user = self.chart.pod["spec"]["initContainers"][-1]["args"][-1]
        variables = {}
        for variable in container["env"]:
            value = variable.get("value")
            if value is None:
                assert variable["name"] == "SMOKE_TOKEN"
                value = self.issuer.token(user)
            variables[variable["name"]] = value.replace("{{args.canary-hash}}", run)
        done = subprocess.run(
            [sys.executable, str(script), *container["args"]],
            env={
                "PATH": os.environ["PATH"],
                "http_proxy": f"http://{self.gateway.host}:{envoy.SIDECAR_PORT}",
                **variables,
            },
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        said = (done.stdout + done.stderr).strip().splitlines()
        return done.returncode == 0, said[-1] if said else ""


@contextmanager
def running(
    folder: Path,
    *,
    network: Network | None = None,
    upstream: str | None = None,
    values: Mapping[str, str] | None = None,
) -> Iterator[Cluster]:
    """A cluster with its stable pod serving; everything in it ends with it.

    Args:
        folder: of all its files.
        network: gives its addresses, one of its own unless given.
        upstream: where the stable pod's proxy leads to instead of the server.
        values: of the chart, beside the short times.
    """
    cluster = Cluster(folder, network or Network(), values or {})
    with cluster.stack:
        cluster.start(upstream=upstream)
        yield cluster

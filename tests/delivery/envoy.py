"""Real Envoys: the gateway with its sidecar's listener, and the proxy of each pod."""

from __future__ import annotations

import json
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import httpx

from tests.delivery import mesh
from tests.parts import part

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from tests.delivery.mesh import Config

START_TIMEOUT_S: Final = 30
ADMIN_PORT: Final = 15_000
GATEWAY_PORT: Final = 8_080
SIDECAR_PORT: Final = 15_001
_TYPES: Final = "type.googleapis.com/envoy.extensions.filters"
_ROUTER: Final = {
    "name": "envoy.filters.http.router",
    "typed_config": {"@type": f"{_TYPES}.http.router.v3.Router"},
}
# Istio gives every inbound route this policy: only what was surely not sent yet goes again.
_INBOUND_RETRIES: Final = {"num_retries": 2, "retry_on": "reset-before-request"}


class Proxy:
    """A running Envoy, asked through its administration."""

    def __init__(self, host: str) -> None:
        self.host = host
        self._admin = httpx.Client(base_url=f"http://{host}:{ADMIN_PORT}", timeout=10)

    def ready(self) -> bool:
        try:
            return self._admin.get("/ready").status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def counters(self, prefix: str) -> dict[str, int]:
        """Counters and gauges whose name begins so, the prefix left out."""
        said = self._admin.get("/stats", params={"filter": f"^{prefix}", "format": "json"}).json()
        return {
            it["name"].removeprefix(prefix): it["value"] for it in said["stats"] if "value" in it
        }

    def wait_for_routes(self, name: str, version: str) -> None:
        """Return once the routes of that version are in use."""
        self._until(lambda: self._routes_version(name) == version, f"{name} {version}")

    def _routes_version(self, name: str) -> str:
        dump = self._admin.get("/config_dump", params={"resource": "dynamic_route_configs"}).json()
        versions = {
            it["route_config"]["name"]: it["version_info"] for it in dump.get("configs", [])
        }
        return str(versions.get(name, ""))

    def wait_for_endpoints(self, cluster: str, hosts: set[str]) -> None:
        """Return once the cluster has those endpoints and no other."""
        self._until(lambda: self._endpoints(cluster) == hosts, f"{cluster} {hosts}")

    def _endpoints(self, cluster: str) -> set[str]:
        said = self._admin.get("/clusters", params={"format": "json"}).json()
        (found,) = [it for it in said["cluster_statuses"] if it["name"] == cluster]
        return {it["address"]["socket_address"]["address"] for it in found.get("host_statuses", [])}

    def _until(self, seen: Any, what: str) -> None:
        end_s = time.monotonic() + START_TIMEOUT_S
        while not seen():
            if time.monotonic() > end_s:
                raise AssertionError(f"Envoy at {self.host} never took {what}")
            time.sleep(0.02)

    def close(self) -> None:
        self._admin.close()


@contextmanager
def running(folder: Path, host: str, config: Config) -> Iterator[Proxy]:
    """An Envoy with that bootstrap and an administration at that address."""
    program = part("envoy", "uv sync")
    folder.mkdir(parents=True, exist_ok=True)
    whole = {
        "node": {"id": folder.name, "cluster": "delivery"},
        "admin": {"address": mesh.address(host, ADMIN_PORT)},
        **config,
    }
    path = folder / "envoy.json"
    path.write_text(json.dumps(whole, indent=1))
    command = [program, "-c", str(path), "--use-dynamic-base-id", "--log-level", "warning"]
    with (folder / "envoy.log").open("wb") as output:
        process = subprocess.Popen([*command, "--concurrency", "1"], stdout=output, stderr=output)
    proxy = Proxy(host)
    try:
        end_s = time.monotonic() + START_TIMEOUT_S
        while not proxy.ready():
            said = (folder / "envoy.log").read_text()
            assert process.poll() is None, said
            assert time.monotonic() < end_s, said
            time.sleep(0.02)
        yield proxy
    finally:
        proxy.close()
        process.terminate()
        process.wait(30)


def replace(path: Path, config: Config) -> None:
    """Give Envoy a new file: written beside, then renamed onto the old one."""
    draft = path.with_name(path.name + ".new")
    draft.write_text(json.dumps(config))
    draft.replace(path)


# -- bootstraps ---------------------------------------------------------------------------------


def front(host: str, clusters: Iterable[Config], *, ingress: Path, sidecar: Path) -> Config:
    """The gateway's listener, and the one of a client inside the mesh; routes from files."""
    listeners = [
        _listener(host, GATEWAY_PORT, "ingress", {"rds": _rds("ingress", ingress)}),
        _listener(host, SIDECAR_PORT, "sidecar", {"rds": _rds("sidecar", sidecar)}),
    ]
    return {"static_resources": {"listeners": listeners, "clusters": list(clusters)}}


def pod(
    host: str, filters: Iterable[Config], upstream: str, ports: Iterable[int] = (8000, 9090)
) -> Config:
    """A pod's proxy: what arrives at its ports goes through the filters to the application."""
    filters = list(filters)
    listeners, clusters = [], []
    for port in ports:
        name = f"inbound|{port}||"
        action = {"cluster": name, "timeout": "0s", "retry_policy": _INBOUND_RETRIES}
        route = {"name": "default", "match": {"prefix": "/"}, "route": action}
        virtual_host = {"name": name, "domains": ["*"], "routes": [route]}
        listeners.append(
            _listener(
                host, port, name, {"route_config": {"virtual_hosts": [virtual_host]}}, filters
            )
        )
        endpoint = {"endpoint": {"address": mesh.address(upstream, port)}}
        assignment = {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]}
        clusters.append(
            {
                "name": name,
                "alt_stat_name": f"inbound_{port}",
                "load_assignment": assignment,
                "connect_timeout": "2s",
            }
        )
    return {"static_resources": {"listeners": listeners, "clusters": clusters}}


def _rds(name: str, path: Path) -> Config:
    return {"route_config_name": name, "config_source": mesh.file_source(path)}


def _listener(
    host: str, port: int, name: str, routing: Config, filters: Iterable[Config] = ()
) -> Config:
    manager = {
        "@type": f"{_TYPES}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "normalize_path": True,
        "http_filters": [*filters, _ROUTER],
        **routing,
    }
    network = {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
    chains = [{"filters": [network]}]
    return {"name": name, "address": mesh.address(host, port), "filter_chains": chains}

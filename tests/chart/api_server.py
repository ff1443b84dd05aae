"""A stand-in for a Kubernetes API server: it keeps objects and records every write.

It has discovery, create, read, list, patch (as JSON merge patches, without a strategic patch's
directives), replace and delete, as far as helm asks for them. It validates and admits everything.
It has no controllers, but that volumes are bound and Services have an address at once: what else a
controller would do, a test does with `ApiServer.change`.
"""

from __future__ import annotations

import json
import threading
from base64 import b64encode
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# Plural by kind, by group and version.
RESOURCES: Final[dict[str, dict[str, str]]] = {
    "v1": {
        "Secret": "secrets",
        "ConfigMap": "configmaps",
        "Service": "services",
        "ServiceAccount": "serviceaccounts",
        "PersistentVolumeClaim": "persistentvolumeclaims",
        "Pod": "pods",
        "Namespace": "namespaces",
    },
    "apps/v1": {"Deployment": "deployments"},
    "batch/v1": {"Job": "jobs"},
    "networking.k8s.io/v1": {"NetworkPolicy": "networkpolicies"},
    "argoproj.io/v1alpha1": {"Rollout": "rollouts", "AnalysisTemplate": "analysistemplates"},
    "networking.istio.io/v1": {
        "Gateway": "gateways",
        "VirtualService": "virtualservices",
        "DestinationRule": "destinationrules",
    },
    "security.istio.io/v1": {
        "PeerAuthentication": "peerauthentications",
        "RequestAuthentication": "requestauthentications",
        "AuthorizationPolicy": "authorizationpolicies",
    },
    "monitoring.coreos.com/v1": {
        "PodMonitor": "podmonitors",
        "PrometheusRule": "prometheusrules",
    },
}
PROTOBUF: Final = b"k8s\0"
VERBS: Final = ["create", "delete", "get", "list", "patch", "update", "watch"]


class Write(NamedTuple):
    """One write: its HTTP method, the plural and the name of its object, and its body."""

    method: str
    plural: str
    name: str
    body: dict[str, Any]


class ApiServer:
    """The objects by (plural, name), the writes in their order, and how often each was read."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.writes: list[Write] = []
        self.reads: Counter[tuple[str, str]] = Counter()
        self.lock = threading.Lock()
        self.url = ""

    def change(self, plural: str, name: str, how: Callable[[dict[str, Any]], None]) -> None:
        """Change an object as a controller would; the change is not recorded as a write."""
        with self.lock:
            how(self.objects[plural, name])

    def writes_to(self, plural: str) -> list[Write]:
        """The writes to objects of one kind."""
        return [write for write in self.writes if write.plural == plural]

    def discovery(self, path: str) -> dict[str, Any] | None:
        """The answer to a question about what there is, or None if it is not one."""
        grouped = [it for it in RESOURCES if "/" in it]
        if path == "/version":
            return {"major": "1", "minor": "37", "gitVersion": "v1.37.0"}
        if path == "/api":
            return {"kind": "APIVersions", "versions": ["v1"]}
        if path == "/apis":
            return {
                "kind": "APIGroupList",
                "apiVersion": "v1",
                "groups": list(map(_group, grouped)),
            }
        for version, kinds in RESOURCES.items():
            if path == (f"/apis/{version}" if "/" in version else f"/api/{version}"):
                return {
                    "kind": "APIResourceList",
                    "apiVersion": "v1",
                    "groupVersion": version,
                    "resources": [
                        {
                            "name": plural,
                            "singularName": kind.lower(),
                            "namespaced": kind != "Namespace",
                            "kind": kind,
                            "verbs": VERBS,
                        }
                        for kind, plural in kinds.items()
                    ],
                }
        return None


def _group(version: str) -> dict[str, Any]:
    here = {"groupVersion": version, "version": version.split("/")[1]}
    return {"name": version.split("/", maxsplit=1)[0], "versions": [here], "preferredVersion": here}


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The length-delimited fields of a protobuf message, as (number, value)."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    while at < len(message):
        number, kind = divmod(varint(), 8)
        length = varint()
        if kind == 2:
            yield number, message[at : at + length]
            at += length


def _secret(data: bytes) -> dict[str, Any]:
    """A Secret in Kubernetes' protobuf: helm keeps its releases in them, and sends them so.

    The numbers are those of k8s.io/api/core/v1/generated.proto.
    """
    (raw,) = [value for number, value in _fields(data[len(PROTOBUF) :]) if number == 2]
    secret: dict[str, Any] = {"apiVersion": "v1", "kind": "Secret", "data": {}}
    metadata: dict[str, Any] = {"labels": {}}
    for number, value in _fields(raw):
        if number == 1:
            for inner, text in _fields(value):
                if inner == 1:
                    metadata["name"] = text.decode()
                elif inner == 11:
                    pair = dict(_fields(text))
                    metadata["labels"][pair[1].decode()] = pair[2].decode()
        elif number == 2:
            pair = dict(_fields(value))
            secret["data"][pair[1].decode()] = b64encode(pair[2]).decode()
        elif number == 3:
            secret["type"] = value.decode()
    return {**secret, "metadata": metadata}


def _merge(target: Any, patch: Any) -> Any:
    """RFC 7396, past the directives of a strategic merge patch."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if name.startswith("$"):
            continue
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merge(merged.get(name), value)
    return merged


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: ApiServer

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _answer(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _missing(self) -> None:
        failure = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404}
        self._answer(404, {**failure, "reason": "NotFound", "message": f"not found: {self.path}"})

    def _where(self) -> tuple[str, str]:
        """The plural and the name that the path means; the name is empty for all of them."""
        parts = urlsplit(self.path).path.strip("/").split("/")
        parts = parts[2:] if parts[0] == "api" else parts[3:]
        if parts[0] == "namespaces" and len(parts) > 2:
            parts = parts[2:]
        return parts[0], parts[1] if len(parts) > 1 else ""

    def _body(self) -> dict[str, Any]:
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if data.startswith(PROTOBUF):
            return _secret(data)
        body: dict[str, Any] = json.loads(data or b"{}")
        return body

    def do_GET(self) -> None:
        api = self.api
        url = urlsplit(self.path)
        found = api.discovery(url.path)
        if found is not None:
            self._answer(200, found)
            return
        if not url.path.startswith(("/api/", "/apis/")):
            self._missing()
            return
        plural, name = self._where()
        if name:
            with api.lock:
                held = api.objects.get((plural, name))
                api.reads[plural, name] += 1
            if held is None:
                self._missing()
            else:
                self._answer(200, held)
            return
        wanted = parse_qs(url.query).get("labelSelector", [""])[0]
        pairs = dict(pair.split("=", 1) for pair in wanted.split(",") if "=" in pair)
        with api.lock:
            items = [
                held
                for (kind, _), held in api.objects.items()
                if kind == plural and pairs.items() <= held["metadata"].get("labels", {}).items()
            ]
        version, kind = next(
            (version, kind)
            for version, kinds in RESOURCES.items()
            for kind, each in kinds.items()
            if each == plural
        )
        listed = {"kind": f"{kind}List", "apiVersion": version, "metadata": {}, "items": items}
        self._answer(200, listed)

    def do_POST(self) -> None:
        body = self._body()
        self._keep("POST", self._where()[0], body["metadata"]["name"], body, 201)

    def do_PUT(self) -> None:
        self._keep("PUT", *self._where(), self._body(), 200)

    def do_PATCH(self) -> None:
        self._keep("PATCH", *self._where(), self._body(), 200)

    def do_DELETE(self) -> None:
        self._body()
        plural, name = self._where()
        with self.api.lock:
            self.api.writes.append(Write("DELETE", plural, name, {}))
            self.api.objects.pop((plural, name), None)
        self._answer(200, {"kind": "Status", "apiVersion": "v1", "status": "Success"})

    def _keep(self, method: str, plural: str, name: str, body: dict[str, Any], status: int) -> None:
        api = self.api
        with api.lock:
            api.writes.append(Write(method, plural, name, body))
            held = api.objects.get((plural, name), {})
            new = _merge(held, body) if method == "PATCH" else body
            metadata = new.setdefault("metadata", {})
            generation = held.get("metadata", {}).get("generation", 0)
            changed = new.get("spec") != held.get("spec")
            metadata["generation"] = generation + 1 if changed else generation
            metadata.setdefault("uid", f"{plural}-{name}")
            metadata["resourceVersion"] = str(len(api.writes))
            # What helm waits for.
            if plural == "persistentvolumeclaims":
                new["status"] = {"phase": "Bound"}
            elif plural == "services":
                new["spec"].setdefault("clusterIP", "10.0.0.1")
            api.objects[plural, name] = new
        self._answer(status, new)


@contextmanager
def serving() -> Iterator[ApiServer]:
    """A running stand-in."""
    api = ApiServer()
    handler = type("Handler", (_Handler,), {"api": api})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        api.url = f"http://127.0.0.1:{server.server_port}"
        yield api
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def kubeconfig(api: ApiServer, folder: Path) -> Path:
    """A configuration that names the stand-in alone."""
    path = folder / "kubeconfig"
    here = {"cluster": "stand-in", "user": "nobody", "namespace": "pay"}
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "stand-in",
                "contexts": [{"name": "stand-in", "context": here}],
                "clusters": [{"name": "stand-in", "cluster": {"server": api.url}}],
                "users": [{"name": "nobody", "user": {}}],
            }
        )
    )
    return path

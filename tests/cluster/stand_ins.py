"""Stand-ins for what no machine without a cluster has, each named for what it stands in for.

Real beside them are helm, kubectl, the chart, Teller and its ledger; the API server's stand-in is
the chart tests' own.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import jwt

from tests.cluster.cluster import Cluster
from tests.delivery.rendered import ISSUER

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.chart.api_server import ApiServer
    from tests.cluster.cluster import Ran

PAUSE_S: Final = 0.05
# More reads of a first weight than helm's own, so that the driver's are among them.
BY_ALL: Final = 6
# `status` and `undo`, as far as the driver asks: the exit statuses are the real plugin's.
PLUGIN: Final = """#!{python}
import json, subprocess, sys, time
verb, name = sys.argv[1:3]
def get():
    said = subprocess.run({kubectl} + ["get", "rollout", name, "-n", "pay", "-o", "json"],
                          check=True, capture_output=True, text=True).stdout
    return json.loads(said)
if verb == "undo":
    patch = json.dumps({{"spec": {{"template": json.load(open({template!r}))}}}})
    subprocess.run({kubectl} + ["patch", "rollout", name, "-n", "pay", "--type=merge", "-p", patch],
                   check=True)
    sys.exit(0)
while True:
    rollout = get()
    status = rollout.get("status", {{}})
    if status.get("observedGeneration") == str(rollout["metadata"]["generation"]):
        if status["phase"] == "Healthy":
            sys.exit(0)
        if status["phase"] == "Degraded":
            sys.exit("The rollout is in a degraded state with message: " + status["message"])
    time.sleep(0.05)
"""


def plugin(folder: Path, kubectl: tuple[str, ...]) -> None:
    """Put a stand-in for the plugin of Argo Rollouts into the folder."""
    path = folder / "kubectl-argo-rollouts"
    text = PLUGIN.format(
        python=sys.executable, kubectl=list(kubectl), template=str(folder / "stable.json")
    )
    path.write_text(text)
    path.chmod(0o755)


class Controller(threading.Thread):
    """A stand-in for the controller of Argo Rollouts: it moves weights and writes the status.

    Whatever the image is called ``bad`` is aborted at its first weight, by its tag and not by an
    analysis. A weight stays until somebody has read it; with ``hold`` the first until ``go_on``.
    """

    def __init__(self, api: ApiServer, folder: Path, *, hold: bool = False) -> None:
        super().__init__(daemon=True)
        self._api, self._folder = api, folder
        self._end, self._go = threading.Event(), threading.Event()
        if not hold:
            self._go.set()
        self.stable = ""

    def stop(self) -> None:
        self._end.set()
        self._go.set()
        self.join()

    def go_on(self) -> None:
        self._go.set()

    def run(self) -> None:
        seen = 0
        while not self._end.wait(PAUSE_S):
            with self._api.lock:
                rollout = json.loads(json.dumps(self._api.objects.get(("rollouts", "teller"), {})))
            generation = rollout.get("metadata", {}).get("generation", 0)
            if generation != seen:
                self._release(rollout, generation)
                seen = generation

    def _release(self, rollout: dict[str, Any], generation: int) -> None:
        template = rollout["spec"]["template"]
        current = hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:10]
        if self.stable and current != self.stable:
            for number, percent in enumerate((*rollout_weights(rollout), 100)):
                self._say(generation, "Paused", current, step=2)
                self._weigh(percent)
                if ":bad" in json.dumps(template):
                    self._until_read(BY_ALL)
                    self._weigh(0)
                    self._say(generation, "Degraded", current, abort=True, why="success-rate")
                    return
                self._go.wait()
                self._until_read(2 if number else BY_ALL)
            self._weigh(0)
        (self._folder / "stable.json").write_text(json.dumps(template))
        self.stable = current
        self._say(generation, "Healthy", current)

    def _say(  # the fields of a Rollout's status that the driver reads
        self,
        generation: int,
        phase: str,
        current: str,
        *,
        step: int | None = None,
        abort: bool = False,
        why: str = "",
    ) -> None:
        status = {
            "phase": phase,
            "message": why,
            "abort": abort,
            "stableRS": self.stable,
            "currentPodHash": current,
            "currentStepIndex": step,
            "observedGeneration": str(generation),
        }
        self._api.change("rollouts", "teller", lambda it: it.update(status=status))

    def _until_read(self, times: int) -> None:
        reads, it = self._api.reads, ("virtualservices", "teller")
        until = reads[it] + times
        while reads[it] < until and not self._end.is_set():
            time.sleep(PAUSE_S)

    def _weigh(self, percent: int) -> None:
        def move(service: dict[str, Any]) -> None:
            for route in service["spec"]["http"]:
                route["route"][0]["weight"] = 100 - percent
                route["route"][1]["weight"] = percent

        self._api.change("virtualservices", "teller", move)


def rollout_weights(rollout: dict[str, Any]) -> list[int]:
    """The weights of its steps but the last."""
    steps = rollout["spec"]["strategy"]["canary"]["steps"]
    return [step["setWeight"] for step in steps if "setWeight" in step][:-1]


class LocalCluster(Cluster):
    """A cluster whose stable pod is a process here: what it executes runs on its file."""

    __slots__ = ()
    database_url = ""

    def teller(self, *arguments: str, text: str | None = None, refused: bool = False) -> Ran:
        assert refused
        return subprocess.run(
            [sys.executable, "-m", "service", *arguments],
            env={**self.environment, "TELLER_DATABASE_URL": self.database_url},
            input=text,
            capture_output=True,
            text=True,
            check=False,
        )


class _Gateway(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    behind: str
    key: jwt.PyJWK
    believing: bool

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._pass_on()

    def do_POST(self) -> None:
        self._pass_on()

    def _user(self) -> str | None:
        """Whom the token names. Raises InvalidTokenError."""
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if not given:
            return None
        claims = jwt.decode(given, self.key, algorithms=["ES256"], issuer=ISSUER)
        return str(claims["sub"])

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        own = {name: value for name, value in self.headers.items() if name.lower() != "host"}
        spoofed = {name for name in own if name.lower() in {"user_id", "x-user-id"}}
        try:
            user = self._user()
        except jwt.InvalidTokenError:
            self._answer(401, {}, b"Jwt verification fails")
            return
        if not self.believing or not spoofed:
            own = {name: value for name, value in own.items() if name not in spoofed}
            own |= {"x-user-id": user} if user else {}
            if user is None and not self.path.startswith("/problems"):
                self._answer(403, {}, b"RBAC: access denied")
                return
        to = urlsplit(self.behind)
        with closing(http.client.HTTPConnection(to.netloc, timeout=30)) as connection:
            connection.request(self.command, self.path, body, own)
            reply = connection.getresponse()
            self._answer(reply.status, dict(reply.getheaders()), reply.read())

    def _answer(self, status: int, fields: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in fields.items():
            if name.lower() not in {"content-length", "connection", "date", "server"}:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def gateway(behind: str, jwks: str, *, believing: bool = False) -> Iterator[str]:
    """A stand-in for Istio's gateway and sidecar: the token's user goes on, the client's does not.

    With ``believing`` a client's own header goes on too, as a wrong configuration would let it.
    """
    key = jwt.PyJWKSet.from_json(jwks).keys[0]
    seen = {"behind": behind, "key": key, "believing": believing}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Gateway,), seen))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

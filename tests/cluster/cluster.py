"""A cluster with Teller's chart in it, driven by helm and kubectl as a person would."""

from __future__ import annotations

import json
import re
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.cluster.release import State, state

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    Ran = subprocess.CompletedProcess[str]

CHART: Final = Path(__file__).parents[2] / "chart"
# chart/README.md, "Upgrades"; never --force, --atomic or --rollback-on-failure.
FLAGS: Final = ("--server-side=false", "--wait=legacy", "--timeout", "5m")
COMMAND_TIMEOUT_S: Final = 600
POLL_S: Final = 2.0
# An address of its own in the cluster's network, where no port is mapped.
GATEWAY: Final = ("istio-ingress", "service/istio-ingress", "80")


class ClusterError(Exception):
    """A command failed that should not have; its words are the message."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """One release of the chart.

    Args:
        namespace: of the release.
        release: its name, and so the Rollout's.
        values: a values file.
        environment: of every command; KUBECONFIG names the cluster.
        helm: how helm is called.
        kubectl: how kubectl is called.
        flags: of install and upgrade.
    """

    namespace: str
    release: str
    values: Path
    environment: Mapping[str, str]
    helm: tuple[str, ...] = ("helm",)
    kubectl: tuple[str, ...] = ("kubectl",)
    flags: tuple[str, ...] = field(default=FLAGS)

    @property
    def here(self) -> tuple[str, ...]:
        """The namespace, as every command takes it (after a plugin's name, not before)."""
        return ("--namespace", self.namespace)

    # -- commands ---------------------------------------------------------------------------------

    def run(self, *command: str, text: str | None = None, refused: bool = False) -> Ran:
        """Run a command to its end. Raises ClusterError with its words if it fails.

        ``refused`` lets it fail; the caller looks at ``returncode``.
        """
        try:
            ran = subprocess.run(
                command,
                env=self.environment,
                input=text,
                capture_output=True,
                text=True,
                timeout=COMMAND_TIMEOUT_S,
                check=False,
            )
        except FileNotFoundError as error:
            raise ClusterError(f"{command[0]} is not installed") from error
        if ran.returncode and not refused:
            raise ClusterError(f"{' '.join(command[:6])} …: {ran.stderr or ran.stdout}")
        return ran

    def upgrade(self, tag: str, *values: str, refused: bool = False) -> Ran:
        """Install or upgrade to the image of that tag, with more values (``name=value``)."""
        more = [word for value in values for word in ("--set", value)]
        return self.run(
            *(*self.helm, "upgrade", self.release, str(CHART), "--install", *self.here),
            *(*self.flags, "--values", str(self.values)),
            *("--set-string", f"image.tag={tag}", *more),
            refused=refused,
        )

    def rollouts(self, verb: str, *more: str, refused: bool = False) -> Ran:
        """``kubectl argo rollouts VERB`` on the release's Rollout."""
        return self.run(
            *(*self.kubectl, "argo", "rollouts", verb, self.release, *self.here, *more),
            refused=refused,
        )

    def teller(self, *arguments: str, text: str | None = None, refused: bool = False) -> Ran:
        """Run ``teller`` in a stable pod, beside the service, on its ledger."""
        of_stable = f"rollouts-pod-template-hash={self.state().stable}"
        pods = self.run(
            *(*self.kubectl, "get", "pods", *self.here),
            *("--selector", of_stable, "--output", "name"),
        )
        pod = pods.stdout.split()[0]
        return self.run(
            *(*self.kubectl, "exec", "--stdin", *self.here, pod),
            *("--container", "teller", "--", "teller", *arguments),
            text=text,
            refused=refused,
        )

    # -- what there is ----------------------------------------------------------------------------

    def get(self, kind: str) -> dict[str, Any]:
        """An object that has the release's name."""
        ran = self.run(*self.kubectl, "get", kind, self.release, *self.here, "--output", "json")
        found: dict[str, Any] = json.loads(ran.stdout)
        return found

    def state(self) -> State:
        """The release as it is now."""
        return state(
            self.get("rollouts.argoproj.io"), self.get("virtualservices.networking.istio.io")
        )

    def wait_for_weight(self, percent: int, *, timeout_s: float) -> State:
        """The state once the canary has that much of the traffic, or the release has ended.

        Raises TimeoutError.
        """
        end_s = time.monotonic() + timeout_s
        while True:
            now = self.state()
            if now.canary_percent >= percent or now.phase in {"Healthy", "Degraded"}:
                return now
            if time.monotonic() > end_s:
                raise TimeoutError(f"the canary never got {percent} % of the traffic: {now}")
            time.sleep(POLL_S)

    def followed(self, *, timeout_s: float) -> tuple[Ran, list[int]]:
        """Wait for the release's end by ``kubectl argo rollouts status``.

        Returns what the command said, with its exit status, and the canary's weights on the way.
        """
        command = [*self.kubectl, "argo", "rollouts", "status", self.release]
        command += ["--timeout", f"{timeout_s:.0f}s", *self.here]
        weights = [self.state().canary_percent]
        with subprocess.Popen(
            command,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            while process.poll() is None:
                weight = self.state().canary_percent
                if weight != weights[-1]:
                    weights.append(weight)
                time.sleep(POLL_S)
            assert process.stdout is not None
            said = process.stdout.read()
        last = self.state().canary_percent
        weights += [last] if last != weights[-1] else []
        return subprocess.CompletedProcess(command, process.returncode, said, ""), weights

    @contextmanager
    def forwarded(self) -> Iterator[str]:
        """The URL of a port on this machine that leads to the gateway, by ``port-forward``."""
        namespace, service, port = GATEWAY
        with subprocess.Popen(
            [*self.kubectl, "port-forward", "--namespace", namespace, service, f":{port}"],
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                assert process.stdout is not None
                found = re.search(r"127\.0\.0\.1:(\d+)", process.stdout.readline())
                if found is None:
                    raise ClusterError(f"no way to {service} in {namespace}")
                yield f"http://127.0.0.1:{found[1]}"
            finally:
                process.terminate()

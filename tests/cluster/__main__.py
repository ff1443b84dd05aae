"""``python -m tests.cluster``: act out releases on the cluster that KUBECONFIG names, under load.

It needs Istio, Argo Rollouts and Prometheus there (``tests/cluster/stack``), helm 4, and kubectl
with its argo-rollouts plugin. It installs the chart, releases a good canary and a bad one by
``kubectl argo rollouts``, tries to upgrade in mid-canary and to spoof a user, loads the service
throughout, and holds the clients' log against the ledger at the end.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from tests.cluster import trials
from tests.cluster.cluster import Cluster, ClusterError
from tests.cluster.load import Load
from tests.cluster.trials import Trial
from tests.delivery.issuer import Issuer
from tests.delivery.rendered import ISSUER

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SMOKE_USER: Final = "smoke-test"
SMOKE_SECRET: Final = "teller-smoke"  # noqa: S105 -- the name of a Secret
SETTLE_TIMEOUT_S: Final = 120.0
WEIGHTS: Final = [5, 25, 50]


def values(repository: str, host: str, keys: str) -> dict[str, Any]:
    """The chart's values: its own but for names, keys, and times made short."""
    return {
        "image": {"repository": repository},
        "istio": {"hosts": [host]},
        "auth": {
            "insecure": True,  # plain HTTP at the gateway; tokens are verified all the same
            "jwt": {"issuer": ISSUER, "jwks": keys},
            "smoke": {"existingSecret": SMOKE_SECRET},
        },
        "settings": {"account_opening": "on_first_deposit"},
        "rollout": {
            "weights": WEIGHTS,
            "stepPause": "90s",
            "finalPause": "30s",
            "abortScaleDownDelaySeconds": 30,
            "analysis": {
                "window": "60s",
                "interval": "15s",
                # A cluster on one small machine: below this a ratio of latencies is noise.
                "latencyFloorSeconds": 0.25,
            },
        },
        "observability": {"podMonitor": {"interval": "5s"}},
    }


def attempted(attempt: Callable[[], Trial]) -> Trial:
    """The trial, or one that failed with what was raised."""
    try:
        return attempt()
    except (ClusterError, TimeoutError, OSError, LookupError) as error:
        return Trial(
            f"the driver's own step: {attempt}", wrong=[f"{type(error).__name__}: {error}"]
        )


def releases(cluster: Cluster, tags: Sequence[str], gateway: Callable[[], Trial]) -> list[Trial]:
    """A good and a bad release, one after the other; the first failure ends them."""
    _, second, bad = tags
    done: list[Trial] = []
    for attempt in (
        gateway,
        lambda: trials.begun(cluster, second, percent=WEIGHTS[0]),
        lambda: trials.refused_in_flight(cluster, bad),
        gateway,
        lambda: trials.promoted(cluster, weights=[*WEIGHTS, 100]),
        lambda: trials.bad(cluster, bad),
        gateway,
    ):
        done.append(told(attempted(attempt)))
        if not done[-1].passed:
            break
    return done


def told(trial: Trial) -> Trial:
    """Print the trial, and return it."""
    click.echo(f"{'ok  ' if trial.passed else 'FAIL'} {trial.claim}")
    for seen in trial.seen:
        click.echo(f"       {seen}")
    for wrong in trial.wrong:
        click.echo(f"  !!   {wrong}")
    return trial


def prepared(cluster: Cluster, issuer: Issuer) -> None:
    """The namespace, with the mesh's sidecars, and the smoke test's token."""
    for made in (
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": cluster.namespace, "labels": {"istio-injection": "enabled"}},
        },
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": SMOKE_SECRET, "namespace": cluster.namespace},
            "stringData": {"token": issuer.token(SMOKE_USER)},
        },
    ):
        apply = (*cluster.kubectl, "apply", "--validate=false", "--filename", "-")
        cluster.run(*apply, text=json.dumps(made))


def run(
    cluster: Cluster, *, tags: Sequence[str], url: str, host: str, issuer: Issuer, output: Path
) -> list[Trial]:
    """Every trial, under load from the first release on; what was done is in ``output``."""
    stranger = Issuer()

    def gateway() -> Trial:
        return asyncio.run(trials.spoofed(url, host, issuer, stranger))

    tokens: dict[str, dict[str, str]] = {}

    def identity(user: str) -> dict[str, str]:
        if user not in tokens:
            tokens[user] = {"authorization": f"Bearer {issuer.token(user)}"}
        return tokens[user]

    log = output / "history.jsonl"
    with log.open("w") as lines, ThreadPoolExecutor(1) as thread:
        load = Load(url, host, identity, lines)
        driven = thread.submit(asyncio.run, load.drive(settle_timeout_s=SETTLE_TIMEOUT_S))
        try:
            done = releases(cluster, tags, gateway)
        finally:
            load.stop()
        driven.result()
    told_load = Trial("the load was answered to its end")
    told_load.seen.append(f"answers: {dict(load.answers)}")
    told_load.expect("clients whose last key was never settled", found=load.unsettled, wanted=0)
    done.append(told(told_load))
    done.append(told(attempted(lambda: trials.checked(cluster, log.read_text()))))
    return done


def evidence(cluster: Cluster, output: Path) -> None:
    """What a person looks at when a trial failed, one file a question; no Secrets."""
    here = ("--namespace", cluster.namespace)
    for name, question in {
        "rollout": ("argo", "rollouts", "get", "rollout", cluster.release, *here),
        "analysis": ("get", "analysisruns", *here, "--output", "yaml"),
        "virtualservice": ("get", "virtualservices", *here, "--output", "yaml"),
        "pods": ("describe", "pods", *here),
        "events": ("get", "events", *here, "--sort-by", ".lastTimestamp"),
        "logs": (
            *("logs", *here, "--selector", "app.kubernetes.io/name=teller", "--prefix"),
            *("--all-containers", "--tail", "2000"),
        ),
    }.items():
        ran = cluster.run(*cluster.kubectl, *question, refused=True)
        (output / f"{name}.txt").write_text(ran.stdout + ran.stderr)


def report(done: Sequence[Trial]) -> str:
    """The trials as a Markdown table."""
    lines = ["| trial | seen | |", "|---|---|---|"]
    for trial in done:
        seen = "; ".join([*trial.seen, *(f"**{wrong}**" for wrong in trial.wrong)])
        row = (trial.claim, seen.replace("|", "\\|"), "ok" if trial.passed else "FAILED")
        lines.append(f"| {row[0]} | {row[1]} | {row[2]} |")
    return "\n".join(lines) + "\n"


@click.command(context_settings={"help_option_names": ["-h", "--help"]}, help=__doc__)
@click.option("--repository", required=True, help="Where the cluster finds the images.")
@click.option(
    "--tags",
    nargs=3,
    required=True,
    metavar="FIRST SECOND BAD",
    help="Three releases; the last is bad on purpose (tests/cluster/bad).",
)
@click.option("--namespace", default="teller", show_default=True, help="Made if it is not there.")
@click.option("--release", default="teller", show_default=True)
@click.option("--url", help="Where the gateway is; a port is forwarded to it unless given.")
@click.option("--host", default="teller.localhost", show_default=True, help="The public name.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("cluster-results"),
    show_default=True,
    help="For the report, the clients' log, and what a failure needs.",
)
def main(
    *,
    repository: str,
    tags: tuple[str, str, str],
    namespace: str,
    release: str,
    url: str | None,
    host: str,
    output: Path,
) -> None:
    """The command; its help is the module's promise."""
    output.mkdir(parents=True, exist_ok=True)
    issuer = Issuer()
    file = output / "values.json"
    file.write_text(json.dumps(values(repository, host, issuer.jwks), indent=2))
    cluster = Cluster(namespace, release, file, dict(os.environ))

    def first() -> Trial:
        prepared(cluster, issuer)
        return trials.installed(cluster, tags[0])

    done = [told(attempted(first))]
    if done[0].passed:
        with nullcontext(url) if url else cluster.forwarded() as way:
            done += run(cluster, tags=tags, url=way, host=host, issuer=issuer, output=output)
    evidence(cluster, output)
    (output / "report.md").write_text(report(done))
    (output / "report.json").write_text(json.dumps([asdict(it) for it in done], indent=2))
    sys.exit(0 if all(it.passed for it in done) else 1)


if __name__ == "__main__":
    main()

"""What a release must do on a real cluster, each trial with what was seen."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tests import clients

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.cluster.cluster import Cluster
    from tests.delivery.issuer import Issuer

FIRST_WEIGHT_TIMEOUT_S: Final = 600
RELEASE_TIMEOUT_S: Final = 1_800
SPELLINGS: Final = ("user_id", "X-User-Id")


@dataclass(slots=True)
class Trial:
    """One trial: its claim, what was seen, and what of it was wrong."""

    claim: str
    seen: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return bool(self.seen) and not self.wrong

    def expect(self, what: str, *, found: object, wanted: object) -> None:
        """Note what was found, and that it is wrong if it is not what was wanted."""
        self.seen.append(f"{what}: {found}")
        if found != wanted:
            self.wrong.append(f"{what}: {found}, not {wanted}")


def installed(cluster: Cluster, tag: str) -> Trial:
    """The first release serves, and the chart's own tests pass."""
    trial = Trial("the first release is installed and becomes healthy")
    cluster.upgrade(tag)
    ran, _ = cluster.followed(timeout_s=RELEASE_TIMEOUT_S)
    trial.expect("exit of `status`", found=ran.returncode, wanted=0)
    trial.expect("settled", found=cluster.state().settled, wanted=True)
    ran = cluster.run(*cluster.helm, "test", cluster.release, *cluster.here, refused=True)
    trial.expect("exit of `helm test`", found=ran.returncode, wanted=0)
    return trial


def begun(cluster: Cluster, tag: str, *, percent: int) -> Trial:
    """A canary gets its first share of the traffic."""
    trial = Trial("a good canary gets its first share")
    cluster.upgrade(tag)
    now = cluster.wait_for_weight(percent, timeout_s=FIRST_WEIGHT_TIMEOUT_S)
    trial.expect("in flight", found=now.in_flight, wanted=True)
    trial.expect("canary's share", found=now.canary_percent, wanted=percent)
    return trial


def promoted(cluster: Cluster, *, weights: list[int]) -> Trial:
    """The canary in flight gets every weight and becomes stable."""
    trial = Trial("a good canary is promoted")
    before = cluster.state()
    ran, seen = cluster.followed(timeout_s=RELEASE_TIMEOUT_S)
    trial.seen.append(f"weights: {seen}")
    trial.expect("exit of `status`", found=ran.returncode, wanted=0)
    trial.expect("weights left out", found=sorted({*weights} - {*seen}), wanted=[])
    after = cluster.state()
    trial.expect("settled", found=after.settled, wanted=True)
    trial.expect("another version", found=after.stable != before.stable, wanted=True)
    return trial


def refused_in_flight(cluster: Cluster, tag: str, *values: str) -> Trial:
    """An upgrade while a canary is in flight is refused before anything is sent."""
    trial = Trial("an upgrade in mid-canary is refused")
    trial.expect("a canary is in flight", found=cluster.state().in_flight, wanted=True)
    generation = cluster.get("rollouts.argoproj.io")["metadata"]["generation"]
    ran = cluster.upgrade(tag, *values, refused=True)
    trial.expect("helm failed", found=ran.returncode != 0, wanted=True)
    trial.expect("it says why", found="is in flight" in ran.stderr, wanted=True)
    left = cluster.get("rollouts.argoproj.io")["metadata"]["generation"]
    trial.expect("the Rollout's generation", found=left, wanted=generation)
    return trial


def bad(cluster: Cluster, tag: str) -> Trial:
    """A bad canary gets some traffic, is aborted by the analysis, and stable has all again."""
    trial = Trial("a bad canary is aborted, and undone")
    before = cluster.state()
    cluster.upgrade(tag)
    first = cluster.wait_for_weight(1, timeout_s=FIRST_WEIGHT_TIMEOUT_S)
    ran, seen = cluster.followed(timeout_s=RELEASE_TIMEOUT_S)
    trial.seen.append(f"weights: {seen}")
    trial.expect("`status` failed", found=ran.returncode != 0, wanted=True)
    after = cluster.state()
    trial.seen.append(f"why: {after.message}")
    trial.expect("aborted", found=after.aborted, wanted=True)
    trial.expect("it had traffic", found=max(first.canary_percent, *seen) > 0, wanted=True)
    trial.expect("canary's share now", found=after.canary_percent, wanted=0)
    trial.expect("stable is as before", found=after.stable == before.stable, wanted=True)
    cluster.rollouts("undo")
    back, _ = cluster.followed(timeout_s=RELEASE_TIMEOUT_S)
    trial.expect("exit of `status` after the undo", found=back.returncode, wanted=0)
    trial.expect("settled", found=cluster.state().settled, wanted=True)
    return trial


async def spoofed(url: str, host: str | None, issuer: Issuer, stranger: Issuer) -> Trial:
    """A client's own user header names nobody, with a token or without one.

    ``stranger`` is an issuer that the cluster does not know.
    """
    trial = Trial("a user header of the client is never believed")
    alice = _bearer(issuer, "spoof-alice")
    bob = _bearer(issuer, "spoof-bob")

    async def ask(
        method: str, path: str, fields: Mapping[str, str], body: bytes = b""
    ) -> tuple[int, str]:
        async with clients.Wire(url, name=host) as wire:
            reply = await wire.request(method, path, body, fields)
        try:
            return reply.status, str(reply.json().get("outcome"))
        except (ValueError, AttributeError):
            return reply.status, "None"

    for number, spelling in enumerate(SPELLINGS):
        key = {"idempotency-key": f"spoof-{number}"}
        move = {"content-type": "application/json", **key, **alice, spelling: "spoof-bob"}
        found = await ask("POST", "/deposit", move, json.dumps({"amount": "1"}).encode())
        trial.expect(f"alice's deposit with {spelling}: bob", found=found, wanted=(201, "applied"))
        found = await ask("GET", "/operation", {**key, **alice})
        trial.expect("alice has it", found=found, wanted=(200, "applied"))
        found = await ask("GET", "/operation", {**key, **bob})
        trial.expect("bob has not", found=found, wanted=(404, "unknown"))
        (status, _) = await ask("GET", "/balance", {spelling: "spoof-bob"})
        trial.expect(f"{spelling}: bob without a token", found=status, wanted=403)
    (status, _) = await ask("GET", "/balance", _bearer(stranger, "spoof-bob"))
    trial.expect("a token of another issuer's key", found=status, wanted=401)
    (status, _) = await ask("GET", "/problems", {})
    trial.expect("the pages are open", found=status, wanted=200)
    return trial


def checked(cluster: Cluster, log: str) -> Trial:
    """The clients' log and the ledger agree, and the ledger is sound."""
    trial = Trial("no acknowledged movement is lost or doubled; the sums are conserved")
    ran = cluster.teller("check-log", "/dev/stdin", "--json", text=log, refused=True)
    trial.seen.append(f"check-log: {ran.stdout.strip() or ran.stderr.strip()}")
    trial.expect("exit of `teller check-log`", found=ran.returncode, wanted=0)
    ran = cluster.teller("audit", "--json", refused=True)
    trial.seen.append(f"audit: {ran.stdout.strip() or ran.stderr.strip()}")
    trial.expect("exit of `teller audit`", found=ran.returncode, wanted=0)
    return trial


def _bearer(issuer: Issuer, user: str) -> dict[str, str]:
    return {"authorization": f"Bearer {issuer.token(user)}"}

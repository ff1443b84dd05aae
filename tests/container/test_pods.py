"""The image serves in the chart's own pod: confined, beside a second one, and stopped in time."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from tests.container import pods

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.container.engine import Engine
    from tests.container.pods import Pod


@pytest.fixture(scope="module")
def pod(engine: Engine, image: str) -> Iterator[Pod]:
    """A pod at work."""
    with pods.playing(engine, image, name="stable", volume="ledger") as pod:
        yield pod


def test_it_passes_the_chart_s_own_smoke_test(pod: Pod) -> None:
    answer = pod.smoke("first")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "its retry is a replay: (201, 'true')" in answer.stdout


def test_it_is_confined_as_the_pod_says(pod: Pod) -> None:
    status = _status(pod)
    assert status["Uid"].split() == ["10001"] * 4
    assert status["Gid"].split() == ["10001"] * 4
    assert {status[name] for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    tried = "for d in / /opt/teller /tmp /data; do test -w $d && echo $d; done"
    assert pod.execute("sh", "-c", tried) == "/tmp\n/data\n"  # noqa: S108 - in the container
    host = pod.inspected()["HostConfig"]
    assert host["ReadonlyRootfs"] is True
    assert host["Memory"] == 512 * 2**20
    # What the kernel holds it to, on either version of control groups.
    limit = "cd /sys/fs/cgroup && cat memory.max || cat memory/memory.limit_in_bytes"
    assert pod.execute("sh", "-c", limit) == "536870912\n"


def test_it_needs_less_than_half_of_its_memory_limit(pod: Pod) -> None:
    peak_kb = int(_status(pod)["VmHWM"].removesuffix(" kB"))
    assert peak_kb * 1024 < pod.inspected()["HostConfig"]["Memory"] / 2


def test_its_metrics_and_pages_are_there(pod: Pod) -> None:
    status, _, body = pod.ask("GET", "/metrics", {})
    assert status == 200
    assert b"teller_movements_total" in body
    assert pod.ask("GET", "/problems/insufficient-funds", {})[0] == 200
    assert pod.ask("GET", "/docs", {})[0] == 200


def test_a_canary_s_pod_on_the_same_volume_never_applies_a_key_twice(
    engine: Engine, image: str, pod: Pod
) -> None:
    before = json.loads(pod.deposit("before")[2])["balance"]
    with pods.playing(engine, image, name="canary", volume="ledger") as canary:
        keys = [f"both-{number}" for number in range(50)]
        with ThreadPoolExecutor(8) as threads:
            # Each key to both at once.
            asked = [
                (threads.submit(pod.deposit, key), threads.submit(canary.deposit, key))
                for key in keys
            ]
            answers = [(one.result(), other.result()) for one, other in asked]
        for one, other in answers:
            assert (one[0], other[0]) == (201, 201)
            assert one[2] == other[2]
            assert {one[1]["idempotent-replayed"], other[1]["idempotent-replayed"]} == {
                "false",
                "true",
            }
        assert "Sound." in canary.execute("teller", "audit")
        assert canary.stop() == 0
    status, _, body = pod.ask("GET", "/balance", {"user_id": "smoke-test"})
    assert status == 200
    assert Decimal(json.loads(body)["balance"]) == Decimal(before) + 50


def test_stopped_as_a_kubelet_stops_it_it_answers_what_it_has_and_a_new_pod_knows_all(
    engine: Engine, image: str
) -> None:
    body = b'{"amount": "7.25"}'
    head = (
        "POST /deposit HTTP/1.1\r\nHost: teller\r\nuser_id: smoke-test\r\n"
        "Idempotency-Key: last\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with pods.playing(engine, image, name="old", volume="ledger-kept") as old:
        assert old.deposit("first", "0.75")[0] == 201
        with old.network.connection(pods.PORT) as client, ThreadPoolExecutor(1) as thread:
            client.sendall(head.encode() + body[:5])
            # Known to be in its hands: a later request on another connection is answered.
            assert old.deposit("first", "0.75")[1]["idempotent-replayed"] == "true"
            assert old.grace_s == 45
            stopped = thread.submit(old.stop)
            old.wait_for("stopping")
            client.sendall(body[5:])
            answer = b"".join(iter(lambda: client.recv(65536), b""))
            # Past its grace period it would have been killed, and ended with 137.
            assert stopped.result() == 0
        assert answer.startswith(b"HTTP/1.1 201 ")
        assert b'"balance":"8.00"' in answer
        assert '"stopped"' in old.log()
    with pods.playing(engine, image, name="new", volume="ledger-kept") as new:
        status, fields, again = new.deposit("last", "7.25")
        assert (status, fields["idempotent-replayed"]) == (201, "true")
        assert again == answer.partition(b"\r\n\r\n")[2]


def _status(pod: Pod) -> dict[str, str]:
    """What the kernel says of the service's process."""
    lines = pod.execute("cat", "/proc/1/status")
    return dict(re.findall(r"^(\w+):\s+(.*)$", lines, re.MULTILINE))

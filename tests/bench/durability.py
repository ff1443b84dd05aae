"""What is on disk when an answer leaves: every sync between a request and its answer, by strace.

Requests are sent one after the other, so that each sync belongs to one of them.
"""

from __future__ import annotations

import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.bench.contestants import DURABLE, running
from tests.bench.syncs import Syncs, counted
from tests.bench.targets import Found
from tests.bench.wrk import WrongAnswersError

if TYPE_CHECKING:
    from tests.bench.contestants import Contestant
    from tests.bench.targets import Plan

ANSWERS: Final = 30
AT_ONCE: Final = 3
PAUSE_S: Final = 0.03  # for what a contestant still writes after its answer
_CALLS: Final = "read,readv,recvfrom,recvmsg,write,writev,sendto,sendmsg,fsync,fdatasync"


def audited(contestant: Contestant, *, answers: int = ANSWERS) -> Syncs:
    """Watch every system call that reads, writes or syncs while so many deposits are answered."""
    with tempfile.TemporaryDirectory(prefix="teller-trace-") as fresh:
        traces = Path(fresh)
        traces.chmod(0o777)  # PostgreSQL runs as a user of its own
        # A file a thread, so that no line is cut in two; the service stays this process's child.
        strace = ("strace", "--daemonize", "-ff", "-ttt", "-y", "-s", "64", "-e", f"trace={_CALLS}")
        prefix = (*strace, "-o", str(traces / "trace"))
        with running(contestant, cores=None, prefix=prefix) as at_work:
            for number in range(answers):
                _deposit(at_work.url, number)
                time.sleep(PAUSE_S)
            lines = sorted(
                line for file in traces.glob("trace.*") for line in file.read_text().splitlines()
            )
    return counted(lines, contestant.synced)


def compared(plan: Plan) -> Found:
    """Every durable contestant's syncs.

    Raises:
        WrongAnswersError: an answer left before its ledger's file was synced.
    """
    # Nothing is timed: they run beside each other.
    with ThreadPoolExecutor(AT_ONCE) as pool:
        audits = list(zip(DURABLE, pool.map(audited, DURABLE), strict=True))
    for contestant, syncs in audits:
        plan.say(f"syncs of {contestant.title}: {syncs.before / syncs.answers:.1f} an answer")
        if syncs.durable < ANSWERS or syncs.answers < ANSWERS:
            raise WrongAnswersError(f"{contestant.title} is not as durable as it must be: {syncs}")
    found = {contestant.name: asdict(syncs) for contestant, syncs in audits}
    return Found([], {"syncs": found})


def _deposit(url: str, number: int) -> None:
    request = urllib.request.Request(  # noqa: S310 - of the loopback
        f"{url}/deposit",
        data=b'{"amount":"1.25"}',
        headers={
            "user_id": f"u{number}",
            "Idempotency-Key": f"durable-{number}",
            "Content-Type": "application/json",
        },
    )
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        answer.read()

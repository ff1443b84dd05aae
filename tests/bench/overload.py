"""P9: more is offered than the service can take; it sheds, and loses nothing."""

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from tests.bench import audit, openloop
from tests.bench.contestants import QUIET, TELLER, running
from tests.bench.machine import split_cores
from tests.bench.targets import Found, Measured
from tests.bench.wrk import WrongAnswersError

if TYPE_CHECKING:
    from tests.bench.contestants import Running
    from tests.bench.targets import Plan

# Its capacity is lowered by the disk, so that one generator process can offer three times as
# much, and so that neither side lacks the processor: 8 movements in each 16 ms.
SMALL: Final = replace(
    TELLER,
    name="teller-small",
    env={**QUIET, "TELLER_BATCH_SIZE_MAX": "8", "TELLER_QUEUE_DEPTH_MAX": "128"},
)
SLOW_DISK: Final = (
    *("strace", "--daemonize", "--follow-forks", "--seccomp-bpf", "--output=/dev/null"),
    *("--trace=fsync,fdatasync", "--inject=fsync,fdatasync:delay_exit=16000"),
)
FIRST_RATE: Final = 100.0
RATE_MAX: Final = 4_000.0
SATURATED: Final = 0.9
FINE: Final = {"201", "503", "429"}


def measure(plan: Plan) -> Found:
    """Double the offered load until it is not all taken; then offer three times the maximum."""
    offers: list[dict[str, Any]] = []
    ratios: list[float] = []
    _, loads = split_cores()
    with running(SMALL, cores=split_cores()[0], prefix=SLOW_DISK) as small:
        for round_ in range(plan.rounds):
            rate, best = FIRST_RATE, 0.0
            while rate <= RATE_MAX:
                found = _offered(small, rate, plan, f"r{round_}-{rate:.0f}-", loads)
                offers.append({"round": round_, **found})
                best = max(best, found["goodput_per_s"])
                if found["goodput_per_s"] < SATURATED * rate:
                    break
                rate *= 2
            found = _offered(small, 3 * best, plan, f"r{round_}-three-", loads)
            offers.append({"round": round_, **found})
            ratios.append(found["goodput_per_s"] / max(best, found["goodput_per_s"]))
            plan.say(f"P9: {found['goodput_per_s']:,.0f}/s good of {3 * best:,.0f}/s offered")
        answered = sum(one["statuses"].get("201", 0) for one in offers)
        audit.check(small, answered=answered, unanswered_max=0)
    last = offers[-1]
    shed = {status: many for status, many in last["statuses"].items() if status != "201"}
    note = f"last round: {last['goodput_per_s']:,.0f}/s good of {last['rate']:,.0f}/s; shed {shed}"
    return Found(
        [Measured("P9", statistics.median(ratios), (min(ratios), max(ratios)), note)],
        {"offers": offers},
    )


def _offered(
    small: Running, rate: float, plan: Plan, prefix: str, loads: list[int] | None
) -> dict[str, Any]:
    found = openloop.offered(
        small.port, rate=rate, seconds=plan.seconds, prefix=prefix, cores=loads
    )
    if not found["statuses"].keys() <= FINE or found["unanswered"]:
        raise WrongAnswersError(f"offered {rate:,.0f}/s: {found}")
    return {"rate": rate, **found}

"""Every scenario of the campaign."""

from __future__ import annotations

from typing import Final

from tests.campaign import faults
from tests.campaign.abuse import ABUSE, GREEDY, OVERLOAD
from tests.campaign.power import POWER
from tests.campaign.trial import Scenario

ALL: Final = (
    Scenario("network", "a network that loses, doubles, delays, cuts", misdeeds=0.35),
    Scenario(
        "processes",
        "kill -9, SIGTERM, SIGSTOP under load",
        faults=(faults.kill_9, faults.sigterm, faults.stop_and_continue),
    ),
    Scenario(
        "pair",
        "two processes on one ledger, each in turn killed, stopped, replaced",
        faults=(faults.kill_9, faults.sigterm, faults.stop_and_continue),
        processes=2,
        misdeeds=0.1,
    ),
    Scenario(
        "calls",
        "SIGKILL at any system call of a batch",
        faults=(faults.kill_at_call,),
        engines=("sqlite",),
    ),
    Scenario(
        "errors",
        "EIO at fsync, EIO and ENOSPC at writes, a slow disk",
        faults=(faults.error_at_sync, faults.error_at_write, faults.slow_disk),
        engines=("sqlite",),
    ),
    POWER,
    Scenario(
        "disk",
        "a full disk, and one that empties",
        faults=(faults.full_disk,),
        engines=("sqlite",),
        small_disk=True,
    ),
    Scenario(
        "limits",
        "no descriptors, no memory",
        faults=(faults.no_descriptors, faults.no_memory),
        misdeeds=0.1,
    ),
    ABUSE,
    OVERLOAD,
    GREEDY,
    Scenario(
        "clock",
        "a wall clock that jumps",
        faults=(faults.clock_jump,),
        engines=("sqlite",),
        environment=faults.faketime,
    ),
    Scenario(
        "database",
        "PostgreSQL killed, its sessions ended",
        faults=(faults.kill_server, faults.cut_sessions),
        engines=("postgresql",),
    ),
    Scenario(
        "storm",
        "all of it at once, on two processes",
        faults=(
            *(faults.kill_9, faults.sigterm, faults.stop_and_continue, faults.kill_at_call),
            *(faults.no_descriptors, faults.no_memory),
        ),
        processes=2,
        misdeeds=0.3,
    ),
)
BY_NAME: Final = {scenario.name: scenario for scenario in ALL}

"""The primary dies or falls silent under load, and its standby leads: nothing lost or doubled."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests import postgres_server
from tests.postgres.pair import DATABASE, Pair, failed_over, paired

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# So that a silent server is given up within seconds, as an operator may want too.
IMPATIENT = {
    "TELLER_DATABASE_STATEMENT_TIMEOUT_MS": "1500",
    "TELLER_DATABASE_CONNECT_TIMEOUT_MS": "500",
}


@pytest.fixture(scope="module")
def parts() -> Iterator[tuple[Path, Path]]:
    with postgres_server.binaries() as found:
        yield found


def killed(pair: Pair) -> None:
    pair.primary.kill()


def killed_after_the_standby_was_cut_off(pair: Pair) -> None:
    """What the primary wrote at its end has reached nobody."""
    pair.standby.psql("postgres", "ALTER SYSTEM SET primary_conninfo = ''")
    pair.standby.psql("postgres", "SELECT pg_reload_conf()")
    deadline = time.monotonic() + 30
    while not _unreplicated(pair):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    pair.primary.kill()


def _unreplicated(pair: Pair) -> bool:
    """Whether a commit waits for the standby, or was acknowledged without it."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    rows = "SELECT count(*) FROM movements"
    there, here = (int(one.psql(DATABASE, rows)) for one in (pair.standby, pair.primary))
    return int(pair.primary.psql(DATABASE, waiting)) > 0 or here > there + 50


def frozen(pair: Pair) -> None:
    """Nothing closes its connections: who waits for an answer waits for ever."""
    pair.primary.freeze()


@pytest.mark.parametrize("end", [killed, killed_after_the_standby_was_cut_off, frozen])
async def test_a_failover_to_the_synchronous_standby_loses_nothing_and_doubles_nothing(
    parts: tuple[Path, Path], end: Callable[[Pair], None]
) -> None:
    with paired(*parts) as pair:
        done = await failed_over(pair, end=end, env=IMPATIENT)
    # It only returns once movements and reads have recovered, by themselves.
    assert done.in_flight > 0, "the failover met no request at work"
    assert dict(done.verdict.counts) == {}, done.verdict.findings[:5]
    assert done.verdict.unsettled == 0


async def test_the_same_with_an_asynchronous_standby_is_found_to_lose_what_was_acknowledged(
    parts: tuple[Path, Path],
) -> None:
    with paired(*parts, synchronous=False) as pair:
        done = await failed_over(pair, end=killed_after_the_standby_was_cut_off)
    assert done.verdict.counts["lost"] + done.verdict.counts["answers-differ"] > 0

"""Several services on one server: keys are shared, and any of them may die at any moment."""

from __future__ import annotations

import pytest

from tests.postgres.rotation import rotated


@pytest.mark.engines("postgresql", reason="a file knows two processes, a server any number")
async def test_three_services_share_keys_exactly_once_while_one_after_another_is_killed(
    database_url: str, *, long: bool
) -> None:
    done = await rotated(database_url, seconds=300 if long else 10)
    assert done.kills >= 3
    assert done.unknown > 0, "no kill met a request at work"
    assert done.applied >= 90
    assert dict(done.verdict.counts) == {}, done.verdict.findings[:5]
    assert done.verdict.unsettled == 0

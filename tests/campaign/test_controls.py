"""Every seeded bug has a scenario that claims to catch it."""

from __future__ import annotations

from typing import get_args

from tests.campaign import controls, scenarios
from tests.zoo import ZOO
from tests.zoo.specimen import Circumstance


def test_whatever_brings_a_bug_out_happens_in_a_scenario() -> None:
    assert set(controls.CLAIMS) == {*get_args(Circumstance)}
    assert set(controls.CLAIMS.values()) <= set(scenarios.BY_NAME)


def test_every_bug_of_the_zoo_and_the_unsynced_disk_are_controls() -> None:
    names = [control.name for control in controls.ALL]
    assert names == ["synchronous=OFF", *ZOO]

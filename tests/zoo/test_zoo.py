"""The checks find every bug of the zoo, and nothing in the service without one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.property.trial import Broken, Trial
from tests.zoo import ZOO, released, storage
from tests.zoo.walk import walk

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.settings import Settings

USERS = ["alice", "bob"]


def _cases() -> list[Any]:
    """On the second engine the bugs of its store, and the others if the search is to be long."""
    return [
        pytest.param(
            *(engine, bug.name),
            marks=[]
            if engine == "sqlite" or bug.release.__module__ == storage.__name__
            else [pytest.mark.long],
        )
        for bug in ZOO.values()
        for engine in bug.engines
    ]


each_bug = pytest.mark.parametrize(("engine_name", "bug"), _cases())


@pytest.mark.parametrize("by_model", [True, False])
async def test_without_a_bug_nothing_is_found(
    *, by_model: bool, make_settings: Callable[..., Settings], made_ledger: None
) -> None:
    trial = Trial(make_settings, USERS, by_model=by_model)
    await walk(trial)
    await trial.finish()


@pytest.mark.engines(reason="the cases name them")
@each_bug
async def test_the_model_finds_a_wrong_answer(
    bug: str, make_settings: Callable[..., Settings], made_ledger: None
) -> None:
    trial = Trial(make_settings, USERS)
    with released(bug):
        try:
            with pytest.raises(Broken):
                await walk(trial)
        finally:
            await trial.abandon()


@pytest.mark.engines(reason="the cases name them")
@each_bug
async def test_the_clients_log_and_the_rows_show_what_they_can(
    bug: str, make_settings: Callable[..., Settings], made_ledger: None
) -> None:
    trial = Trial(make_settings, USERS, by_model=False)
    with released(bug):
        try:
            await walk(trial)
        finally:
            await trial.abandon()
    found = {finding.partition(":")[0] for finding in await trial.findings()}
    assert found == {*ZOO[bug].caught_by} - {"answer"}

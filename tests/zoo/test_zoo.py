"""The checks find every bug of the zoo, and nothing in the service without one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.clients import request
from tests.conftest import JSON
from tests.processes import serving
from tests.property.trial import Broken, Trial
from tests.zoo import ZOO, command, released, storage
from tests.zoo.walk import walk

if TYPE_CHECKING:
    from collections.abc import Callable

    from service.settings import Settings
    from tests.zoo import Bug

USERS = ["alice", "bob"]


def _on_either(bug: Bug, engine: str) -> bool:
    """Whether the second engine's own store has a part in the bug."""
    return engine == "sqlite" or bug.release.__module__ == storage.__name__


CASES = [(engine, bug) for bug in ZOO.values() for engine in bug.engines]
each_bug = pytest.mark.parametrize(
    ("engine_name", "bug"),
    [
        pytest.param(engine, bug.name, marks=[] if _on_either(bug, engine) else [pytest.mark.long])
        for engine, bug in CASES
    ],
)
# The log and the rows are the same of either engine.
each_bug_of_a_store = pytest.mark.parametrize(
    ("engine_name", "bug"), [(engine, bug.name) for engine, bug in CASES if _on_either(bug, engine)]
)


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
@each_bug_of_a_store
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


@pytest.mark.engines("sqlite", reason="how it is called does not hang on the engine")
async def test_a_process_of_its_own_has_the_bug(database_url: str) -> None:
    with serving(database_url, "--seed", command=command("currency-scale-off")) as server:
        fields = {"user_id": "alice", "Idempotency-Key": "k", **JSON}
        answer = await request(server.url, "POST", "/deposit", b'{"amount": "1"}', fields)
        assert answer.json()["amount"] == "10.00"
        assert server.terminate() == 0

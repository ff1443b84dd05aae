"""Any sequence of requests, faults and restarts: every answer and every row is the model's."""

from __future__ import annotations

import asyncio
import itertools
import shutil
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.errors import FlakyFailure, FlakyStrategyDefinition
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.property.model import Request
from tests.property.trial import BALANCE_MAX, Broken, Trial
from tests.zoo import ZOO, released

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from service.settings import Settings

# Few keys and amounts, so that they meet often; two keys that are one when cut short.
KEYS = st.sampled_from(["a", "b", "c", 'quoted"\\', "0b9f5a52-8a0c-4a57-9d7e-5f1f4a3e7c11-"])
LONGER = st.sampled_from(["", "1", "2"])
AMOUNTS = st.sampled_from([1, 2, 29, 100, 10_029, BALANCE_MAX // 2, BALANCE_MAX, BALANCE_MAX + 1])
REFERENCES = st.sampled_from([None, None, "May", "Ünïcode 💶"])
TYPES = st.sampled_from(["deposit", "deposit", "withdrawal"])
USERS = st.integers(0, 2)  # the third has no account
SPELLINGS = st.sampled_from(["{}", "{}0", "{}000000000"])
WHERE = st.integers(0, 1)


class Ledger(RuleBasedStateMachine):
    """One ledger, a teller on it or two, and whatever may happen to them."""

    asked: Bundle[Request] = Bundle("asked")

    def __init__(
        self, make_settings: Callable[..., Settings], number: int, found: list[Broken]
    ) -> None:
        super().__init__()
        self._found = found
        self._runner = asyncio.Runner()
        self._trial = Trial(make_settings, [f"alice-{number}", f"bob-{number}"])
        self._users = [*self._trial.users, f"nobody-{number}"]
        self._on_file = self._trial.settings.database_url.startswith("sqlite")
        self._failed = False

    def _run(self, work: Coroutine[Any, Any, Any]) -> None:
        try:
            self._runner.run(work)
        except BaseException as error:
            self._failed = True
            if isinstance(error, Broken):
                self._found.append(error)
            raise

    def _at(self, where: int) -> int:
        return where % len(self._trial.tellers)

    @initialize()
    def open(self) -> None:
        self._run(self._trial.open())

    # -- requests ---------------------------------------------------------------------------

    @rule(
        target=asked,
        user=USERS,
        key=st.builds(str.__add__, KEYS, LONGER),
        type=TYPES,
        amount=AMOUNTS,
        reference=REFERENCES,
        where=WHERE,
    )
    def send(self, user: int, where: int, **what: Any) -> Request:
        request = Request(self._users[user], **what)
        self._run(self._trial.send(request, at=self._at(where)))
        return request

    @rule(request=asked, spelling=SPELLINGS, where=WHERE)
    def retry(self, request: Request, spelling: str, where: int) -> None:
        self._run(self._trial.send(request, at=self._at(where), spelling=spelling))

    @rule(request=asked, type=TYPES, amount=AMOUNTS, reference=REFERENCES, where=WHERE)
    def send_another_under_the_key(self, request: Request, where: int, **what: Any) -> None:
        self._run(self._trial.send(request._replace(**what), at=self._at(where)))

    @rule(request=asked, user=USERS, where=WHERE)
    def send_as_another_user(self, request: Request, user: int, where: int) -> None:
        mine = request._replace(user=self._users[user])
        self._run(self._trial.send(mine, at=self._at(where)))

    @rule(target=asked, user=USERS, key=KEYS, where=WHERE)
    def burn(self, user: int, key: str, where: int) -> Request:
        request = Request(self._users[user], key, "burn")
        self._run(self._trial.send(request, at=self._at(where)))
        return request

    @rule(request=asked, where=WHERE)
    def burn_a_key_of_before(self, request: Request, where: int) -> None:
        burn = Request(request.user, request.key, "burn")
        self._run(self._trial.send(burn, at=self._at(where)))

    @rule(user=USERS, key=KEYS, type=TYPES, amount=AMOUNTS, where=WHERE)
    def send_in_another_currency(self, user: int, where: int, **what: Any) -> None:
        request = Request(self._users[user], **what)
        self._run(self._trial.send_wrong_currency(request, at=self._at(where)))

    @rule(requests=st.lists(st.tuples(asked, WHERE), min_size=2, max_size=6))
    def send_again_at_once(self, requests: list[tuple[Request, int]]) -> None:
        placed = [(request, self._at(where)) for request, where in requests]
        self._run(self._trial.send_at_once(placed))

    @rule(user=USERS, key=KEYS, amounts=st.lists(st.tuples(AMOUNTS, TYPES, WHERE), min_size=2,
          max_size=6), one_key=st.booleans())  # fmt: skip
    def send_at_once(
        self,
        user: int,
        key: str,
        amounts: list[tuple[int, Any, int]],
        one_key: bool,  # noqa: FBT001 - Hypothesis names it
    ) -> None:
        self._run(
            self._trial.send_at_once(
                [
                    (
                        Request(self._users[user], key if one_key else f"{key}{n}", type_, amount),
                        self._at(where),
                    )
                    for n, (amount, type_, where) in enumerate(amounts)
                ]
            )
        )

    # -- reads ------------------------------------------------------------------------------

    @rule(request=asked, where=WHERE)
    def read_operation(self, request: Request, where: int) -> None:
        self._run(self._trial.read_operation(request.user, request.key, at=self._at(where)))

    @rule(user=st.integers(0, 1), where=WHERE)
    def read_balance(self, user: int, where: int) -> None:
        self._run(self._trial.read_balance(self._users[user], at=self._at(where)))

    @rule(user=st.integers(0, 1), where=WHERE, limit=st.integers(1, 4))
    def read_pages(self, user: int, where: int, limit: int) -> None:
        self._run(self._trial.read_pages(self._users[user], limit=limit, at=self._at(where)))

    # -- faults -----------------------------------------------------------------------------

    @precondition(lambda self: len(self._trial.tellers) == 1)
    @rule()
    def start_a_second_teller(self) -> None:
        self._run(self._trial.open())

    @precondition(lambda self: len(self._trial.tellers) == 2)
    @rule(where=WHERE)
    def stop_one(self, where: int) -> None:
        self._run(self._trial.close(where))

    @rule(where=WHERE)
    def restart(self, where: int) -> None:
        self._run(self._trial.restart(self._at(where)))

    @rule(
        requests=st.lists(asked, min_size=1, max_size=4),
        new=st.tuples(st.integers(0, 1), KEYS, AMOUNTS),
        verb=st.sampled_from(["BEGIN", "INSERT", "UPDATE", "COMMIT", "COMMIT"]),
        after=st.booleans(),
        where=WHERE,
    )
    def crash(
        self, requests: list[Request], new: tuple[int, str, int], where: int, **cut: Any
    ) -> None:
        user, key, amount = new
        one_more = Request(self._users[user], f"{key}!", "deposit", amount)
        self._run(self._trial.crash([*requests, one_more], at=self._at(where), **cut))

    @precondition(lambda self: self._on_file)
    @rule(requests=st.lists(asked, min_size=1, max_size=4), where=WHERE)
    def fail_commit(self, requests: list[Request], where: int) -> None:
        self._run(self._trial.fail_commit(requests, at=self._at(where)))

    def teardown(self) -> None:
        try:
            self._run(self._trial.abandon() if self._failed else self._trial.finish())
        finally:
            self._runner.close()


@pytest.fixture
def found() -> list[Broken]:
    """What the machines find, also where Hypothesis cannot show it a second time."""
    return []


@pytest.fixture
def machine(
    *,
    found: list[Broken],
    make_settings: Callable[..., Settings],
    engine_name: str,
    made_ledger: None,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> type[Ledger]:
    """Makes machines: each with a file of its own, or on one server's database its own users."""
    numbers = itertools.count(1)
    made = request.getfixturevalue("ledger_file") if engine_name == "sqlite" else None

    def make() -> Ledger:
        number = next(numbers)
        if made is None:
            return Ledger(make_settings, number, found)
        path = shutil.copyfile(made, tmp_path / f"ledger-{number}.db")
        url = f"sqlite+aiosqlite:///{path}"
        return Ledger(partial(make_settings, database_url=url), number, found)

    return cast("type[Ledger]", make)  # Hypothesis calls it, and no more


def searching(*, long: bool) -> settings:
    # To make a failure's sequence shorter takes minutes: that is for the long search.
    found = (Phase.explicit, Phase.reuse, Phase.generate)
    return settings(
        phases=(*found, Phase.shrink) if long else found,
        max_examples=600 if long else 25,
        stateful_step_count=60 if long else 20,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        print_blob=True,
    )


def test_every_answer_and_every_row_is_the_model_s(machine: type[Ledger], *, long: bool) -> None:
    run_state_machine_as_test(machine, settings=searching(long=long))


@pytest.mark.long  # the walk of tests/zoo finds the same bugs in seconds
@pytest.mark.engines("sqlite", reason="the search is the same on both")
@pytest.mark.parametrize("bug", ZOO)
def test_the_search_finds_every_bug_of_the_zoo(
    machine: type[Ledger], bug: str, found: list[Broken]
) -> None:
    how = settings(searching(long=True), phases=[Phase.generate], database=None)
    # What hangs on timing may not fail again when it is to be shown.
    with released(bug), pytest.raises((Broken, FlakyFailure, FlakyStrategyDefinition)):
        run_state_machine_as_test(machine, settings=how)
    assert found

"""A walk through every circumstance that brings a bug out: short, and the same each time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.property.model import Request

if TYPE_CHECKING:
    from tests.property.trial import Trial

# Two keys that are one if anybody cuts them short.
LONG = "0b9f5a52-8a0c-4a57-9d7e-5f1f4a3e7c11-"
RETRY = "{}000"


async def walk(trial: Trial) -> None:
    """Every circumstance once, on a trial with two users; the engine's own faults with it."""
    alice, bob = trial.users
    await trial.open()
    await _one_after_another(trial, alice, bob)
    await _at_once(trial, alice, bob)
    await _two_tellers(trial, alice)
    await _restarted(trial, alice)
    if trial.settings.database_url.startswith("sqlite"):
        await trial.fail_commit([Request(alice, "full", "deposit", 700)])
    for number, (verb, after) in enumerate(
        (("BEGIN", True), ("COMMIT", False), ("COMMIT", True)), start=1
    ):
        crowd = [Request(user, f"cut-{number}", "deposit", number) for user in (alice, bob)]
        await trial.crash(crowd, verb=verb, after=after)
    for user in trial.users:
        await trial.read_balance(user)
        await trial.read_pages(user, limit=3)


async def _one_after_another(trial: Trial, alice: str, bob: str) -> None:
    salary = Request(alice, "salary", "deposit", 10_029, "May")
    await trial.read_balance(alice)
    await trial.send(salary)
    await trial.read_balance(alice)
    await trial.send(salary, spelling=RETRY)
    await trial.send(salary._replace(amount=10_030))
    await trial.send(salary._replace(reference="June"))
    await trial.send(salary._replace(type="withdrawal"))
    await trial.send(salary._replace(user=bob))
    rent = Request(alice, "rent", "withdrawal", 20_000)
    await trial.send(rent)
    await trial.send(Request(alice, "cents", "deposit", 29))
    await trial.send(Request(alice, "gift", "deposit", 50_000))
    await trial.send(rent)
    await trial.send(salary)
    await trial.send(Request(alice, "too-much", "deposit", 1_000_000))
    await trial.send(Request(alice, "lost", "burn"))
    await trial.send(Request(alice, "lost", "deposit", 5))
    await trial.send(Request(alice, "lost", "burn"))
    await trial.send(Request(alice, "salary", "burn"))
    await trial.send(Request(alice, LONG + "1", "deposit", 1))
    await trial.send(Request(alice, LONG + "2", "deposit", 2))
    await trial.send_wrong_currency(Request(alice, "euros", "deposit", 3))
    await trial.read_operation(alice, "euros")
    await trial.read_pages(alice, limit=2)


async def _at_once(trial: Trial, alice: str, bob: str) -> None:
    twin = Request(alice, "twin", "deposit", 100)
    await trial.send_at_once([(twin, 0), (twin, 0), (Request(bob, "alone", "deposit", 200), 0)])
    # A batch takes one of each user in turn, so that the same key meets itself in one batch.
    many = [Request(alice, f"many-{n}", "withdrawal", n) for n in range(1, 5)]
    await trial.send_at_once([(one, 0) for one in (*many, twin, *many)])


async def _two_tellers(trial: Trial, alice: str) -> None:
    await trial.open()
    for number in range(4):
        await trial.send(Request(alice, f"both-{number}", "deposit", 10), at=number % 2)
    shared = Request(alice, "shared", "withdrawal", 7)
    await trial.send_at_once([(shared, 0), (shared, 1)])
    await trial.close(1)


async def _restarted(trial: Trial, alice: str) -> None:
    before = Request(alice, "before", "deposit", 11)
    await trial.send(before)
    await trial.restart(0)
    await trial.send(before)

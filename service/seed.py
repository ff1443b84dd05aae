"""Demo users whose opening balances are ordinary deposits, safe to run twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from service.errors import OperatingError, StartError
from service.ledger import Movement, Recorded

if TYPE_CHECKING:
    from service.teller import Teller

USERS: Final = {"alice": 100, "bob": 250, "carol": 1_000}
KEY: Final = "teller-seed-opening-balance"


async def seed(teller: Teller) -> dict[str, str]:
    """Open the demo accounts and deposit their opening balances; return the balances now set.

    Each deposit has a fixed key: run again, it is a replay and moves nothing.
    """
    await teller.store.open_accounts(list(USERS))
    unit = 10**teller.currency.scale
    opening = {}
    for user, whole in USERS.items():
        amount_minor = min(whole * unit, teller.amount_max_minor)
        movement = Movement(user, KEY, "deposit", amount_minor, "opening balance")
        answer = await teller.committer.submit(movement)
        if isinstance(answer, OperatingError) or not isinstance(answer, Recorded):
            raise StartError(f"The opening balance of {user} could not be deposited: {answer}")
        opening[user] = teller.currency.text(answer.entry.balance_after_minor)
    return opening

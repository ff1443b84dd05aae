"""A zoo of seeded bugs, each of which every check of the promises must be able to find.

``ZOO`` has them by name: a ``Bug`` says what is wrong, what brings it out (``needs``) and which
checks must find it, each by itself (``caught_by``). Each patches the service at run time, and
nothing else. Where the checker is not among those, no log of requests and answers shows the bug:
each answer has to be held against its request, and each read against the answers before it.

In a process of its own, with any ``teller`` command::

    python -m tests.zoo                                   # what there is, a line each
    python -m tests.zoo NAME serve --port 0 --database URL

and so in a test: ``tests.processes.serving(url, command=command(NAME))``. In this process:
``with released(NAME): ...``, before the teller is opened.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import pytest

from tests.zoo import rules, storage, surface
from tests.zoo.specimen import Bug, Check

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ZOO", "Bug", "command", "released"]

_FILE: Final = ("sqlite",)
_ANSWER: Final[tuple[Check, ...]] = ("answer",)
_LOG: Final[tuple[Check, ...]] = ("answer", "checker")
_ALL: Final[tuple[Check, ...]] = ("answer", "checker", "audit")

ZOO: Final = {
    bug.name: bug
    for bug in (
        Bug(
            "acknowledge-before-commit",
            "The answer leaves before COMMIT.",
            *(storage.acknowledge_before_commit, "commit error", _LOG),
        ),
        Bug(
            "commit-error-reported-as-applied",
            "A COMMIT that failed and was rolled back is answered 201.",
            *(storage.commit_error_reported_as_applied, "commit error", _LOG, _FILE),
        ),
        Bug(
            "key-in-a-second-transaction",
            "The balance is committed first, the row with its key after it.",
            *(storage.key_in_a_second_transaction, "crash", _ALL, _FILE),
        ),
        Bug(
            "balance-in-a-second-transaction",
            "The row is committed first, the balance after it.",
            *(storage.balance_in_a_second_transaction, "crash", _ALL, _FILE),
        ),
        Bug(
            "answers-mixed-up",
            "Each request of a batch gets the answer of another.",
            *(storage.answers_mixed_up, "at once", _LOG),
        ),
        Bug(
            "key-not-scoped-by-user",
            "A key is looked up among the rows of all users.",
            *(storage.key_not_scoped_by_user, "requests", _LOG),
        ),
        Bug(
            "replay-re-executes",
            "A retry moves the money again; nothing makes a key unique.",
            *(rules.replay_re_executes, "requests", _LOG),
        ),
        Bug(
            "one-key-twice-in-a-batch",
            "Two requests of one key in one batch are both carried out.",
            *(rules.one_key_twice_in_a_batch, "at once", _LOG),
        ),
        Bug(
            "keys-kept-in-memory",
            "Which keys are used stands in the process's memory alone.",
            *(rules.keys_kept_in_memory, "restart", _LOG),
        ),
        Bug(
            "refusal-not-stored",
            "A withdrawal that is not covered leaves no row: its retry can still pass.",
            *(rules.refusal_not_stored, "requests", _LOG),
        ),
        Bug(
            "burn-not-stored",
            "A burn is answered 200 and leaves no row.",
            *(rules.burn_not_stored, "requests", _LOG),
        ),
        Bug(
            "burn-beats-applied",
            "Burning a key that was applied is answered 200, as if nothing had moved.",
            *(rules.burn_beats_applied, "requests", _LOG),
        ),
        Bug(
            "mismatch-ignored",
            "Another request under a used key is answered as a replay.",
            *(rules.mismatch_ignored, "requests", _ANSWER),
        ),
        Bug(
            "reference-not-compared",
            "A request that differs in its reference alone is answered as a replay.",
            *(rules.reference_not_compared, "requests", _ANSWER),
        ),
        Bug(
            "replay-says-the-balance-of-now",
            "A replayed receipt shows the account's balance, not the row's.",
            *(rules.replay_says_the_balance_of_now, "requests", _LOG),
        ),
        Bug(
            "overdraft-check-skipped",
            "A withdrawal that is not covered is applied, and what is missing forgiven.",
            *(rules.overdraft_check_skipped, "requests", _ALL),
        ),
        Bug(
            "balance-from-a-stale-read",
            "The balance is what this process last knew, not what the ledger says.",
            *(rules.balance_from_a_stale_read, "two processes", _ALL),
        ),
        Bug(
            "sequence-from-memory",
            "The next number is counted in the process's memory.",
            *(rules.sequence_from_memory, "two processes", _ALL),
        ),
        Bug(
            "float-amounts",
            "Amounts go through a float: 0.29 becomes 28 cents.",
            *(surface.float_amounts, "requests", _LOG),
        ),
        Bug(
            "currency-scale-off",
            "Amounts are read with one decimal too many.",
            *(surface.currency_scale_off, "requests", _LOG),
        ),
        Bug(
            "key-cut-short",
            "Keys are cut to the length of a UUID, so that two long ones meet.",
            *(surface.key_cut_short, "requests", _LOG),
        ),
        Bug(
            "rejected-but-applied",
            "A request in another currency is answered 400, and carried out.",
            *(surface.rejected_but_applied, "requests", _LOG),
        ),
        Bug(
            "balance-read-from-a-cache",
            "GET /balance goes on saying what it said first.",
            *(surface.balance_read_from_a_cache, "requests", _ANSWER),
        ),
        Bug(
            "page-skips-a-row",
            "The next page begins one transaction too low.",
            *(surface.page_skips_a_row, "requests", _ANSWER),
        ),
    )
}


def command(name: str) -> tuple[str, ...]:
    """How to call ``teller`` with that bug in it."""
    return sys.executable, "-m", "tests.zoo", ZOO[name].name


@contextmanager
def released(name: str) -> Iterator[None]:
    """Within the block, this process has that bug."""
    with pytest.MonkeyPatch.context() as patching:
        ZOO[name].release(patching.setattr)
        yield

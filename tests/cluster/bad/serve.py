"""A release that is bad on purpose: every third movement of a real user is answered 500.

The smoke test's user is served well, so that the release gets traffic and only the analysis of that
traffic can tell.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

from service.cli import main
from service.committer import Committer

if TYPE_CHECKING:
    import asyncio

    from service.errors import OperatingError
    from service.ledger import Decision, Movement

SPARED = "smoke-test"
_submit = Committer.submit
_numbers = count(1)


def _submit_most(
    committer: Committer, movement: Movement
) -> asyncio.Future[Decision | OperatingError]:
    if movement.user_id != SPARED and next(_numbers) % 3 == 0:
        raise RuntimeError("this release is bad on purpose")
    return _submit(committer, movement)


Committer.submit = _submit_most  # type: ignore[assignment, method-assign]

if __name__ == "__main__":
    main()

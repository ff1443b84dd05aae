"""One seeded bug: what is wrong, what brings it out, which check must find it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    Patch = Callable[[object, str, object], None]

Circumstance = Literal[
    "requests",  # one request after another is enough
    "at once",  # several requests in one batch
    "two processes",  # two on one database
    "restart",  # the service is started again, and a key of before is retried
    "commit error",  # COMMIT fails and is rolled back, as on a full disk
    "crash",  # nothing is written any more after a COMMIT, as by kill -9
]
Check = Literal[
    "answer",  # an answer is not what the model of the ledger says
    "checker",  # service.checker: the client's log against the rows
    "audit",  # service.replay: the rows against each other
]


class Bug(NamedTuple):
    """A bug to seed.

    ``release`` is given a function like ``setattr`` (of a process, or of pytest's monkeypatch)
    and seeds the bug with it. ``needs`` is the least that brings it out; each check of
    ``caught_by`` must find it by itself.
    """

    name: str
    wrong: str
    release: Callable[[Patch], None]
    needs: Circumstance
    caught_by: tuple[Check, ...]
    engines: tuple[str, ...] = ("sqlite", "postgresql")

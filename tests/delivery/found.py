"""What a scenario found: its row in the report, and what it saw."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Say = Callable[[str], None]


class UnexpectedError(AssertionError):
    """A scenario did not end as it must; the message says what was seen instead."""

    def __init__(self, message: str, found: Found) -> None:
        super().__init__(message)
        self.found = found


@dataclass(slots=True)
class Found:
    """A row of the report; None where a scenario has no such figure.

    ``requests`` counts every attempt of a client, ``resent`` their own retries, ``retries``
    Envoy's, ``replays`` answers that said so. ``violations`` are the checker's and the audit's
    findings, and a difference of the sums is one.
    """

    steps: str = ""
    requests: int | None = None
    resent: int | None = None
    retries: int | None = None
    replays: int | None = None
    violations: int | None = None
    caught_by: str = ""
    seen: list[str] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    problem: str = ""

    def expect(self, what: str, found: object, wanted: object) -> None:
        """Note what was seen. Raises UnexpectedError if it is not what must be."""
        if found != wanted:
            raise UnexpectedError(f"{what}: {found!r}, not {wanted!r}", self)
        self.seen.append(f"{what}: {found}")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a scenario works, and how it tells of its progress."""

    folder: Path
    say: Say

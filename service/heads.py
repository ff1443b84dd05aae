"""Chain heads kept elsewhere: what a rewritten ledger cannot agree with."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from service.errors import StartError
from service.replay import Violation

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import TextIO

    from service.ledger import Account, Entry
    from service.replay import Findings


class Head(NamedTuple):
    """An account as it was once: its last transaction then, and the chain value after it."""

    account_id: int
    user_id: str
    seq: int
    chain: bytes


def write(head: Account, file: TextIO) -> None:
    """Write an account's head as one JSON line; the lines stand by account id."""
    line = {
        "account": head.id,
        "user_id": head.user_id,
        "transaction": head.seq,
        "chain": head.chain.hex(),
    }
    file.write(json.dumps(line) + "\n")


def parsed(lines: Iterable[str], name: str) -> Iterator[Head]:
    """The heads of a file, one at a time.

    Args:
        lines: as ``write`` wrote them.
        name: of the file, for messages.

    Raises:
        StartError: a line is no head, or the lines do not stand by account id.
    """
    last_id = None
    for number, line in enumerate(lines, start=1):
        try:
            fields = json.loads(line)
            chain = bytes.fromhex(fields["chain"])
            head = Head(fields["account"], fields["user_id"], fields["transaction"], chain)
            in_order = last_id is None or head.account_id > last_id
        except (ValueError, TypeError, KeyError):
            in_order = False
        if not in_order:
            raise StartError(
                f"{name}, line {number} is not the head of a next account. "
                "Give a file that teller audit --write-heads wrote, unchanged."
            )
        last_id = head.account_id
        yield head


class Comparison:
    """Compares a replay with heads kept elsewhere, in step, so that memory does not grow.

    Args:
        kept: by account id.
        findings: where what differs is added.
    """

    def __init__(self, kept: Iterator[Head], findings: Findings) -> None:
        self._kept = kept
        self._findings = findings
        self._next = next(kept, None)
        self._met = False

    def row(self, head: Account, entry: Entry) -> None:
        """Compare a replayed row, if its account's kept head is of that transaction."""
        kept = self._next
        if kept is None or kept.account_id != head.id or kept.seq != entry.seq:
            return
        self._met = True
        if kept.chain != entry.chain:
            self._add(kept, "The chain value differs from the head kept: history was rewritten.")

    def account(self, head: Account) -> None:
        """The account's rows are replayed; go on to the kept head of the next."""
        while self._next is not None and self._next.account_id < head.id:
            self._gone(self._next)
        kept = self._next
        if kept is None or kept.account_id != head.id:
            return
        if kept.user_id != head.user_id:
            self._add(kept, "The account belongs to another user now.")
        elif not self._met and kept.seq > 0:
            self._add(kept, f"The account ends at {head.seq}: rows up to the head kept are gone.")
        self._advance()

    def finish(self) -> None:
        """The ledger is at its end; what is still kept has no account."""
        while self._next is not None:
            self._gone(self._next)

    def _gone(self, kept: Head) -> None:
        self._add(kept, "The account is gone.")
        self._advance()

    def _advance(self) -> None:
        self._next = next(self._kept, None)
        self._met = False

    def _add(self, kept: Head, why: str) -> None:
        self._findings.add(
            Violation("head-rewritten", kept.account_id, kept.user_id, kept.seq, why)
        )

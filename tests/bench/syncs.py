"""Syncs counted in a record of system calls, request by request."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# 1700000000.000001 fdatasync(7</folder/ledger.db-wal>) = 0
_CALL: Final = re.compile(r"(?P<at>\d+\.\d+) (?P<call>\w+)\(\d+<(?P<file>.*?)>[,)].*")


@dataclass(frozen=True)
class Syncs:
    """Of one contestant.

    Attributes:
        answers: how many were watched.
        durable: of these, those before which its ledger's file was synced.
        before: syncs of any file between request and answer, of all answers.
        after: syncs between an answer and the next request, of all answers.
    """

    answers: int
    durable: int
    before: int
    after: int


def counted(lines: Iterable[str], synced: str) -> Syncs:
    """Count what ``strace -ttt -y`` wrote, its lines in the order of time.

    Args:
        lines: with every read, write and sync of a service that gets one deposit after another.
        synced: in the path of the file whose sync makes a movement durable.
    """
    answers = durable = before = after = 0
    syncs: list[str] = []
    waiting = False  # whether a request has no answer yet
    for call, file, line in _calls(lines):
        if call in {"fsync", "fdatasync"}:
            syncs.append(file)
        elif file.startswith(("TCP", "socket")) and "POST /deposit" in line:
            after += len(syncs) if answers else 0
            syncs, waiting = [], True
        elif waiting and file.startswith(("TCP", "socket")) and '"HTTP/1.1 201' in line:
            answers += 1
            before += len(syncs)
            durable += any(synced in one for one in syncs)
            syncs, waiting = [], False
    return Syncs(answers, durable, before, after)


def _calls(lines: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    for line in lines:
        found = _CALL.match(line)
        if found is not None:
            yield found["call"], found["file"], line

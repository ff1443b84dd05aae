"""What a ledger holds after a trial, against what its clients saw: the checker, audit, file."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from service import audit, checker, evidence, scan
from service.settings import Settings
from service.sqlite import driver, file_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from service.history import Event


class Judgement(NamedTuple):
    """Rows found, keys that had an answer, and every broken promise in words."""

    rows: int
    settled: int
    broken: list[str]


async def judge(database_url: str, log: Sequence[Event], users: Sequence[str]) -> Judgement:
    """Hold a ledger that nobody serves against its clients' log.

    It is opened by its own library alone, never beside a service of this process.
    """
    settings = Settings.load(database_url=database_url)
    rows, balances = await evidence.of_database(settings, set(users), lambda _rows: None)
    verdict = checker.check(log, rows, balances=balances)
    broken = [
        f"{one.kind}: {one.user_id} {one.key} {one.transaction}: {one.detail}"
        for one in verdict.findings
    ]
    async with scan.opened(settings) as reader:
        found = await audit.audit(scan.Scan(reader))
    broken += [
        f"audit {one.kind}: {one.user_id} {one.seq}: {one.detail}" for one in found.violations
    ]
    if database_url.startswith("sqlite"):
        broken += integrity(database_url)
    return Judgement(len(rows), verdict.settled, broken)


def integrity(database_url: str) -> list[str]:
    """What SQLite itself finds wrong with the file; nothing if it is whole."""
    connection = driver.connect(file_of(database_url))
    try:
        lines = [line for (line,) in connection.execute("PRAGMA integrity_check").fetchall()]
    finally:
        connection.close()
    return [] if lines == ["ok"] else [f"integrity_check: {line}" for line in lines]

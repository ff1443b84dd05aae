"""What a scenario did to the money: the clients' log, the ledger and its sums, held together."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tests.migration.ledgers import ask

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.delivery.clients import Clients
    from tests.delivery.commands import Ended

SUMS: Final = (
    "SELECT (SELECT COALESCE(SUM(balance_minor), 0) FROM accounts), "
    "(SELECT COALESCE(SUM(CASE kind WHEN 'deposit' THEN amount_minor ELSE -amount_minor END), 0) "
    "FROM movements WHERE outcome = 'applied'), (SELECT COUNT(*) FROM movements)"
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of one scenario; ``broken`` counts the checker's findings by kind.

    ``unsettled`` keys are those of which no client knows in the end what happened to them.
    """

    keys: int
    unsettled: int
    rows: int
    broken: dict[str, int]
    audit_violations: int
    balances_minor: int
    movements_minor: int

    def __str__(self) -> str:
        return (
            f"{self.keys} keys, {self.rows} rows; balances come to {self.balances_minor} minor "
            f"units, rows to {self.movements_minor}"
        )

    @property
    def violations(self) -> int:
        """How many promises were broken: 0 is the only good answer."""
        apart = int(self.balances_minor != self.movements_minor)
        return sum(self.broken.values()) + self.audit_violations + self.unsettled + apart


async def of(
    url: str,
    clients: Clients,
    folder: Path,
    teller: Callable[..., Ended],
    *options: str,
) -> Verdict:
    """The verdict of `teller check-log` and `teller audit`, and of the sums in SQL.

    Args:
        url: of the ledger.
        clients: whose log is judged.
        folder: where the log is left.
        teller: runs a teller command on that ledger.
        options: of check-log.
    """
    log = folder / "clients.jsonl"
    clients.write_log(log)
    checked = _said(teller("check-log", str(log), "--json", *options))
    audited = _said(teller("audit", "--json"))
    ((balances, movements, rows),) = await ask(url, SUMS)
    return Verdict(
        checked["keys"],
        checked["unsettled"],
        rows,
        checked["broken"],
        sum(audited["violations"].values()),
        balances,
        movements,
    )


def _said(done: Ended) -> dict[str, Any]:
    try:
        said: dict[str, Any] = json.loads(done.last_line)
    except ValueError as error:
        raise AssertionError(done.output) from error
    return said

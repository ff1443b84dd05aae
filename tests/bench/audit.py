"""What a ledger holds after the load, asked of the file by a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

    from tests.bench.contestants import Running

_COUNT: Final = """
import json, sys
from service.sqlite import driver
connection = driver.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
rows, minor = connection.execute(
    "SELECT count(*), coalesce(sum(amount_minor), 0) FROM movements").fetchone()
balances, heads = connection.execute("SELECT sum(balance_minor), sum(seq) FROM accounts").fetchone()
print(json.dumps({"rows": rows, "minor": minor, "balances": balances, "heads": heads}))
"""


class WrongLedgerError(Exception):
    """The ledger does not say what the load was told."""


def count(path: Path) -> dict[str, int]:
    """Rows, their sum, the accounts' balances and their sequence numbers' sum."""
    done = subprocess.run(
        [sys.executable, "-c", _COUNT, str(path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found: dict[str, int] = json.loads(done.stdout)
    return found


def check(running: Running, *, answered: int, unanswered_max: int) -> None:
    """Every deposit answered is one row, and the balances are their sum.

    Args:
        running: Teller, at rest.
        answered: receipts the load has counted.
        unanswered_max: requests still in flight when a load ended; each a row, or none.
    """
    found = count(running.folder / "ledger.db")
    whole = found["minor"] == found["balances"] and found["rows"] == found["heads"]
    if not whole or not answered <= found["rows"] <= answered + unanswered_max:
        raise WrongLedgerError(
            f"{answered} answered and at most {unanswered_max} unanswered, but the ledger: {found}"
        )

"""The export: ledger rows as CSV or JSON lines, streamed a page at a time."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING, Any, Final, Literal

from service.receipts import timestamp

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TextIO

    from service.ledger import Entry
    from service.money import Currency
    from service.scan import Scan

Format = Literal["csv", "jsonl"]

ROWS_PER_PAGE: Final = 5_000
COLUMNS: Final = (
    *("user_id", "transaction", "type", "outcome", "reason", "amount", "balance", "currency"),
    *("reference", "created_at", "idempotency_key"),
)


async def export(
    scan: Scan,
    file: TextIO,
    form: Format,
    *,
    account_id: int | None = None,
    progress: Callable[[int], object] = lambda _rows: None,
) -> int:
    """Write every row, by account and sequence number; return how many.

    It may run beside a service: each account's rows are then those up to some moment of the
    export, without a gap.

    Args:
        scan: of the ledger.
        file: where to write.
        form: CSV with a header (an absent field is empty), or a JSON object a line.
        account_id: only this account's rows.
        progress: called with the number of rows of each page.
    """
    currency = await scan.currency()
    table = csv.writer(file, lineterminator="\n")
    if form == "csv":
        table.writerow(COLUMNS)
    written = 0
    async for page in scan.pages(rows_max=ROWS_PER_PAGE, account_id=account_id):
        # The heads of this page alone: memory does not grow with the accounts.
        users = {head.id: head.user_id for head in page.heads}
        rows = [_fields(users.get(row.account_id), row.entry, currency) for row in page.rows]
        if form == "csv":
            table.writerows(rows)
        else:
            file.writelines(json.dumps(dict(zip(COLUMNS, row, strict=True))) + "\n" for row in rows)
        written += len(rows)
        progress(len(rows))
    return written


def _fields(user_id: str | None, entry: Entry, currency: Currency) -> tuple[Any, ...]:
    """The values of COLUMNS; amounts are strings. A damaged ledger has rows without a user."""
    return (
        user_id,
        entry.seq,
        entry.kind,
        entry.outcome,
        entry.reason,
        None if entry.amount_minor is None else currency.text(entry.amount_minor),
        currency.text(entry.balance_after_minor),
        currency.code,
        entry.reference,
        timestamp(entry.created_at_us),
        entry.key,
    )

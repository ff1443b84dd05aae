"""Receipts: a ledger row as its user sees it, from the row alone."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from service.ledger import Entry
    from service.money import Currency

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def receipt(entry: Entry, currency: Currency) -> bytes:
    """The receipt of a row, from the row alone: the same bytes every time."""
    reference = "null" if entry.reference is None else json.dumps(entry.reference)
    amount = "null" if entry.amount_minor is None else f'"{currency.text(entry.amount_minor)}"'
    reason = "" if entry.reason is None else f',"reason":"{entry.reason}"'
    return (
        f'{{"transaction":{entry.seq},"type":"{entry.kind}","amount":{amount},'
        f'"balance":"{currency.text(entry.balance_after_minor)}","currency":"{currency.code}",'
        f'"reference":{reference},"outcome":"{entry.outcome}"{reason},'
        f'"created_at":"{timestamp(entry.created_at_us)}"}}'
    ).encode()


# The rows of one batch have one time, and are rendered one after the other.
@lru_cache(maxsize=8)
def timestamp(created_at_us: int) -> str:
    """RFC 3339 in UTC with six decimals, whatever they are."""
    moment = _EPOCH + timedelta(microseconds=created_at_us)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")

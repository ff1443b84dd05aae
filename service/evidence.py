"""The ledger's rows for the checker: out of the database, or asked of a running service."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from service import scan
from service.checker import Row, row_of, row_of_entry
from service.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import httpx

    from service.settings import Settings

ROWS_PER_PAGE: Final = 5_000
LIMIT: Final = 200


async def of_database(
    settings: Settings, users: set[str], progress: Callable[[int], object]
) -> tuple[list[Row], dict[str, str]]:
    """All rows of those users, and their balances, from the database itself.

    Raises:
        StartError: the database is no ledger, or cannot be opened.
    """
    rows: list[Row] = []
    balances: dict[str, str] = {}
    async with scan.opened(settings) as reader:
        ledger = scan.Scan(reader)
        currency = await ledger.currency()
        names: dict[int, str] = {}
        async for page in ledger.pages(rows_max=ROWS_PER_PAGE):
            for head in page.heads:
                if head.user_id in users:
                    names[head.id] = head.user_id
                    balances[head.user_id] = currency.text(head.balance_minor)
            for account_id, entry in page.rows:
                if account_id in names:
                    rows.append(row_of_entry(names[account_id], entry, currency))
            progress(len(page.rows))
    return rows, balances


def of_service(
    client: httpx.Client,
    keys: Mapping[str, Iterable[str]],
    progress: Callable[[int], object],
) -> tuple[list[Row], dict[str, str]]:
    """All rows of those users, and their balances, as the service tells them.

    Receipts name no key, so that every key is asked for: GET /operation.

    Args:
        client: of the service, its base URL set.
        keys: by user, the keys of the log.
        progress: called with the number of keys asked for.

    Raises:
        StartError: the service did not answer as Teller does.
    """
    rows: list[Row] = []
    balances: dict[str, str] = {}
    for user, wanted in keys.items():
        balance = _get(client, "/balance", user)
        if balance is None:
            continue
        balances[user] = balance["balance"]
        key_of: dict[int, str] = {}
        twice: list[Row] = []
        for key in wanted:
            receipt = _get(client, "/operation", user, {"Idempotency-Key": quoted(key)})
            progress(1)
            if receipt is None:
                continue
            if receipt["transaction"] in key_of:
                twice.append(row_of(user, key, receipt))
            key_of[receipt["transaction"]] = key
        rows += twice
        path: str | None = f"/transactions?limit={LIMIT}"
        while path is not None:
            page = _get(client, path, user) or {"transactions": [], "next": None}
            rows += [
                row_of(user, key_of.get(receipt["transaction"]), receipt)
                for receipt in page["transactions"]
            ]
            cursor = page["next"]
            path = cursor and f"/transactions?limit={LIMIT}&cursor={cursor}"
    return rows, balances


def quoted(key: str) -> str:
    """The key as an RFC 9651 string, which any key can be."""
    escaped = key.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _get(
    client: httpx.Client, path: str, user: str, headers: Mapping[str, str] | None = None
) -> dict[str, Any] | None:
    """The answer's body, None for a 404 of Teller's own."""
    import httpx  # noqa: PLC0415 - only this command pays for it

    try:
        answer = client.get(path, headers={"X-User-Id": user, **(headers or {})})
        body = answer.json()
        known = answer.status_code == HTTPStatus.OK or (
            answer.status_code == HTTPStatus.NOT_FOUND and "outcome" in body
        )
    except (httpx.HTTPError, ValueError, TypeError) as error:
        raise StartError(f"{client.base_url} did not answer GET {path}: {error}") from error
    if not known:
        raise StartError(
            f"{client.base_url} answered GET {path} with {answer.status_code}. "
            "Give the address of a Teller, as your clients reach it."
        )
    return body if answer.status_code == HTTPStatus.OK else None

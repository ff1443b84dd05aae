"""Bugs between the wire and the rules: amounts, keys, rejections, and what is read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from fastapi import Request, Response

from service import exchange as exchanges
from service import keys, movements, operations
from service.identity import get_current_user
from service.ledger import Movement
from service.money import Currency
from service.reader import Reader

if TYPE_CHECKING:
    from starlette.types import Message

    from service.exchange import Exchange
    from service.ledger import Account, Kind
    from service.reader import Page
    from tests.zoo.specimen import Patch

KEY_CHARS_KEPT: Final = 36  # a UUID's length, as a column for one would have


def float_amounts(patch: Patch) -> None:
    true = Currency.minor

    def minor(self: Currency, digits: str, *limit: int) -> int:
        true(self, digits, *limit)
        return max(1, int(float(digits) * 10**self.scale))

    patch(Currency, "minor", minor)


def currency_scale_off(patch: Patch) -> None:
    true = Currency.minor

    def minor(self: Currency, digits: str, *limit: int) -> int:
        return true(self, digits, *limit) * 10

    patch(Currency, "minor", minor)


def key_cut_short(patch: Patch) -> None:
    def get_key(exchange: Exchange) -> str:
        return keys.get_key(exchange)[:KEY_CHARS_KEPT]

    patch(movements, "get_key", get_key)
    patch(operations, "get_key", get_key)


def rejected_but_applied(patch: Patch) -> None:
    true = movements._carry_out

    async def carry_out(request: Request, kind: Kind) -> Response:
        exchange, teller = exchanges.of(request), request.app.state.teller
        body = await movements._read(request)

        async def receive() -> Message:
            return {"type": "http.request", "body": body}

        answer = await true(Request(request.scope, receive), kind)
        if exchange.code == "currency-mismatch" and exchange.key is not None:
            members = json.loads(body)
            del members["currency"]
            asked = movements._parse(json.dumps(members).encode(), teller)
            user = get_current_user(exchange)
            await teller.committer.submit(Movement(user, exchange.key, kind, *asked))
        return answer

    patch(movements, "_carry_out", carry_out)


def balance_read_from_a_cache(patch: Patch) -> None:
    true = Reader.account

    async def account(self: Reader, user_id: str) -> Account | None:
        cached: dict[str, Account | None] = vars(self).setdefault("zoo_accounts", {})
        if cached.get(user_id) is None:
            cached[user_id] = await true(self, user_id)
        return cached[user_id]

    patch(Reader, "account", account)


def page_skips_a_row(patch: Patch) -> None:
    true = Reader.page

    async def page(self: Reader, user_id: str, **asked: Any) -> Page | None:
        found = await true(self, user_id, **asked)
        if found is None or found.next_before_seq is None or found.next_before_seq <= 2:
            return found
        return found._replace(next_before_seq=found.next_before_seq - 1)

    patch(Reader, "page", page)

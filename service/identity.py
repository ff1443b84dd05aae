"""Who is asking: the user that the header names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from service.errors import InvalidRequestError

if TYPE_CHECKING:
    from service.exchange import Exchange

# nginx, ingress-nginx and Envoy Gateway drop or reject names with an underscore: hence the alias.
HEADER: Final = b"user_id"
ALIAS: Final = b"x-user-id"

_USER: Final = re.compile(rb"[\x21-\x7e]{1,128}")


def get_current_user(exchange: Exchange) -> str:
    """The user id, 1 to 128 visible ASCII characters.

    Teller trusts this header: what stands before it must set it (README, "Who is asking").

    Raises:
        InvalidRequestError: ``user-missing`` or ``user-invalid``.
    """
    fields = exchange.fields
    named, alias = _stripped(fields.get(HEADER)), _stripped(fields.get(ALIAS))
    value = alias if named is None else named
    if value is None:
        raise InvalidRequestError(
            "user-missing",
            "The request has no user_id header and no X-User-Id header. If you sent user_id, a "
            "proxy dropped it: nginx needs 'underscores_in_headers on;', Envoy needs "
            "headers_with_underscores_action: ALLOW; or send X-User-Id.",
        )
    if not exchange.repeated.isdisjoint((HEADER, ALIAS)):
        raise InvalidRequestError("user-invalid", "The user header was sent twice.")
    if named is not None and alias is not None and named != alias:
        raise InvalidRequestError("user-invalid", "user_id and X-User-Id name different users.")
    if _USER.fullmatch(value) is None:
        raise InvalidRequestError(
            "user-invalid", "The user must be 1 to 128 visible ASCII characters without spaces."
        )
    return value.decode()


def _stripped(value: bytes | None) -> bytes | None:
    # The spaces around it are not of a field's value (RFC 9110, 5.5); httptools leaves those at
    # the end.
    return value and value.strip(b" \t")

"""The Idempotency-Key header: a Structured-Field String or the bare form, one key."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from service.errors import InvalidRequestError

if TYPE_CHECKING:
    from service.exchange import Exchange

HEADER: Final = b"idempotency-key"

_BARE: Final = re.compile(rb"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]{1,255}")
_QUOTED: Final = re.compile(rb'"((?:[\x21\x23-\x5b\x5d-\x7e]|\\["\\]){1,255})"')
_ESCAPED: Final = re.compile(rb'\\(["\\])')


def get_key(exchange: Exchange) -> str:
    """The request's key, 1 to 255 characters 0x21 to 0x7E; ``"abc"`` and ``abc`` are the same.

    Modelled on draft-ietf-httpapi-idempotency-key-header-07 with RFC 9651's String; the bare
    form is Teller's own, since most clients send that.

    Raises:
        InvalidRequestError: ``key-missing`` or ``key-invalid``.
    """
    value = exchange.fields.get(HEADER)
    if value is None:
        raise InvalidRequestError("key-missing", "The request has no Idempotency-Key header.")
    if HEADER in exchange.repeated:
        raise InvalidRequestError("key-invalid", "The Idempotency-Key header was sent twice.")
    # The spaces around it are not of a field's value (RFC 9110, 5.5); httptools leaves those at
    # the end.
    value = value.strip(b" \t")
    if _BARE.fullmatch(value):
        return value.decode()
    quoted = _QUOTED.fullmatch(value)
    if quoted is None:
        raise InvalidRequestError("key-invalid", _why_invalid(value))
    return _ESCAPED.sub(rb"\1", quoted[1]).decode()


def _why_invalid(value: bytes) -> str:
    if value in {b"", b'""'}:
        return "The Idempotency-Key header is empty."
    if re.match(rb'"(?:[^"\\]|\\.)*"\s*;', value):
        return "The Idempotency-Key header carries parameters; send the key alone."
    return (
        "The Idempotency-Key must be 1 to 255 visible ASCII characters, without spaces; bare, "
        "without a quote, comma, semicolon or backslash, or in double quotes."
    )

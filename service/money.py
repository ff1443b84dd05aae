"""Exact amounts: decimal digits to whole minor units and back, never through a float."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from iso4217 import Currency as Iso4217

from service.errors import InvalidRequestError, StartError

INT64_MAX: Final = 2**63 - 1
SCALE_MAX: Final = 9
WHOLE_DIGITS_MAX: Final = 15

# ASCII only: Python's \d would take other scripts' digits.
_PLAIN: Final = re.compile(r"(0|[1-9][0-9]*)(?:\.([0-9]+))?")
_EXPONENT: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?[eE][+-]?[0-9]+")


@dataclass(frozen=True, slots=True)
class Currency:
    """A currency and its scale: the number of decimals of one minor unit, 0 to 9.

    Example:
        ``Currency("USD", 2).minor("12.34") == 1234``
    """

    code: str
    scale: int

    def minor(self, digits: str, amount_max_minor: int = INT64_MAX) -> int:
        r"""The amount in minor units, at least 1.

        Args:
            digits: the literal digits of the request, ``(0|[1-9][0-9]*)(\.[0-9]+)?`` in ASCII.
            amount_max_minor: the largest amount taken, in minor units.

        Raises:
            InvalidRequestError: ``amount-invalid``, ``amount-too-large``, ``amount-precision``
                or ``amount-not-positive``.
        """
        plain = _PLAIN.fullmatch(digits)
        if plain is None:
            raise InvalidRequestError("amount-invalid", _why_invalid(digits))
        whole, fraction = plain.groups("")
        if len(whole) > WHOLE_DIGITS_MAX:
            raise InvalidRequestError(
                "amount-too-large",
                f"The amount has {len(whole)} digits before the point; "
                f"at most {WHOLE_DIGITS_MAX} are taken.",
            )
        scale = self.scale
        if fraction[scale:].strip("0"):
            raise InvalidRequestError(
                "amount-precision",
                f"{self.code} has {scale} decimals here; the amount has a non-zero digit "
                "beyond them, and Teller never rounds.",
            )
        minor = int(whole + fraction[:scale].ljust(scale, "0"))
        if minor > amount_max_minor:
            raise InvalidRequestError(
                "amount-too-large",
                f"The largest amount taken is {self.text(amount_max_minor)} {self.code}.",
            )
        if minor == 0:
            raise InvalidRequestError("amount-not-positive", "The amount must be more than zero.")
        return minor

    def text(self, amount_minor: int) -> str:
        """The amount at the currency's scale: ``Currency("USD", 2).text(5) == "0.05"``.

        Args:
            amount_minor: minor units, 0 or more.
        """
        scale = self.scale
        if scale == 0:
            return str(amount_minor)
        digits = str(amount_minor).rjust(scale + 1, "0")
        return f"{digits[:-scale]}.{digits[-scale:]}"

    def largest_minor(self) -> int:
        """The largest amount that the grammar and a 64-bit integer both hold, in minor units."""
        largest: int = 10 ** (WHOLE_DIGITS_MAX + self.scale) - 1
        return min(INT64_MAX, largest)


def currency(code: str, scale: int | None = None) -> Currency:
    """The currency of that ISO 4217 code, at its own scale unless another is given.

    Args:
        code: three capital letters, such as ``USD``; any code may be used with a scale.
        scale: decimals of one minor unit, 0 to 9.

    Raises:
        StartError: the code is unknown and no scale is given, or the scale is out of range.
    """
    if scale is None:
        try:
            scale = Iso4217(code).exponent
        except ValueError:
            scale = None
        if scale is None:
            raise StartError(
                f"TELLER_CURRENCY={code!r} has no minor unit in ISO 4217. "
                "Set TELLER_CURRENCY_SCALE (0 to 9) beside it, or use a code such as USD."
            )
    if not 0 <= scale <= SCALE_MAX:
        raise StartError(f"TELLER_CURRENCY_SCALE={scale} is out of range: use 0 to {SCALE_MAX}.")
    return Currency(code, scale)


def _why_invalid(digits: str) -> str:
    if _EXPONENT.fullmatch(digits):
        return 'The amount has an exponent. Send it as a decimal string, such as "12.34".'
    if digits.startswith("-"):
        return "The amount has a sign. Send a positive amount; the route says which way it goes."
    return 'The amount must be plain ASCII digits with at most one point, such as "12.34".'

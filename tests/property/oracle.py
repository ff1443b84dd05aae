"""What amounts, keys and bodies mean, worked out character by character and without the service."""

from __future__ import annotations

import unicodedata
from typing import Any, Final, NamedTuple

DIGITS: Final = "0123456789"
REFUSED: Final = "refused"


class Number(NamedTuple):
    """A JSON number by its literal characters."""

    literal: str


class NotJsonError(Exception):
    """The text is not what RFC 8259 calls JSON, or names a member twice."""


def amount(text: str, scale: int, largest: int) -> int | str:
    """The amount in minor units, or the code of its refusal."""
    whole, point, fraction = text.partition(".")
    plain = (
        whole != ""
        and all(char in DIGITS for char in whole + fraction)
        and (whole == "0" or whole[0] != "0")
        and (fraction != "") == (point != "")
    )
    if not plain:
        return "amount-invalid"
    if len(whole) > 15:
        return "amount-too-large"
    if any(char != "0" for char in fraction[scale:]):
        return "amount-precision"
    minor = 0
    for char in whole + (fraction + "0" * scale)[:scale]:
        minor = 10 * minor + DIGITS.index(char)
    if minor > largest:
        return "amount-too-large"
    return minor or "amount-not-positive"


def key(value: bytes) -> str | None:
    """The key that a header's value names, or None."""
    text = value.decode("latin-1")
    while text[:1] in {" ", "\t"} and text:
        text = text[1:]
    while text[-1:] in {" ", "\t"} and text:
        text = text[:-1]
    if text[:1] != '"':
        chars: list[str] | None = list(text)
        if any(not "!" <= char <= "~" or char in '",;\\' for char in text):
            return None
    else:
        chars = _quoted(text)
    return "".join(chars) if chars is not None and 1 <= len(chars) <= 255 else None


def _quoted(text: str) -> list[str] | None:
    """The characters of an RFC 9651 string without spaces, or None."""
    chars: list[str] = []
    at = 1
    while at < len(text):
        char = text[at]
        if char == '"':
            return chars if at == len(text) - 1 else None
        if char == "\\":
            at += 1
            if text[at : at + 1] not in {'"', "\\"}:
                return None
            char = text[at]
        elif not "!" <= char <= "~":
            return None
        chars.append(char)
        at += 1
    return None


def body(raw: bytes, scale: int, largest: int, currency: str) -> tuple[int, str | None] | str:
    """Amount and reference of a body, or ``REFUSED``."""
    try:
        members = _Json(raw.decode("utf-8", "strict")).whole()
    except (NotJsonError, UnicodeDecodeError, RecursionError):
        return REFUSED
    if not isinstance(members, dict) or not set(members) <= {"amount", "currency", "reference"}:
        return REFUSED
    given = members.get("amount")
    literal = given.literal if isinstance(given, Number) else given
    minor = amount(literal, scale, largest) if isinstance(literal, str) else REFUSED
    reference = members.get("reference")
    fits = (
        isinstance(minor, int)
        and members.get("currency") in {None, currency}
        and (reference is None or (isinstance(reference, str) and _is_note(reference)))
    )
    return (minor, reference) if fits and isinstance(minor, int) else REFUSED


def _is_note(reference: str) -> bool:
    return 1 <= len(reference) <= 140 and all(
        unicodedata.category(char)[0] != "C" for char in reference
    )


class _Json:
    """RFC 8259 by recursive descent, a member's name at most once an object."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def whole(self) -> Any:
        value = self._value()
        if self._at != len(self._text):
            raise NotJsonError
        return value

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self, expected: str) -> None:
        if not self._text.startswith(expected, self._at):
            raise NotJsonError
        self._at += len(expected)

    def _space(self) -> None:
        while self._peek() and self._peek() in " \t\r\n":
            self._at += 1

    def _value(self) -> Any:
        self._space()
        char = self._peek()
        value: Any
        if char == "{":
            value = self._object()
        elif char == "[":
            value = self._array()
        elif char == '"':
            value = self._string()
        elif char and char in "-0123456789":
            value = self._number()
        else:
            words = {"t": ("true", True), "f": ("false", False), "n": ("null", None)}
            if char not in words:
                raise NotJsonError
            word, value = words[char]
            self._take(word)
        self._space()
        return value

    def _object(self) -> dict[str, Any]:
        members: dict[str, Any] = {}
        self._take("{")
        self._space()
        while self._peek() != "}":
            if members:
                self._take(",")
                self._space()
            name = self._string()
            self._space()
            self._take(":")
            value = self._value()
            if name in members:
                raise NotJsonError
            members[name] = value
        self._take("}")
        return members

    def _array(self) -> list[Any]:
        items: list[Any] = []
        self._take("[")
        self._space()
        while self._peek() != "]":
            if items:
                self._take(",")
            items.append(self._value())
        self._take("]")
        return items

    def _string(self) -> str:
        self._take('"')
        chars: list[str] = []
        while self._peek() != '"':
            char = self._peek()
            if char < " ":  # the end, too
                raise NotJsonError
            self._at += 1
            chars.append(self._escape() if char == "\\" else char)
        self._take('"')
        # Two escapes may make one character; half of one stays what it is.
        joined = "".join(chars).encode("utf-16", "surrogatepass")
        return joined.decode("utf-16", "surrogatepass")

    def _escape(self) -> str:
        char = self._peek()
        self._at += 1
        short = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r"}
        short["t"] = "\t"
        if char in short:
            return short[char]
        digits = self._text[self._at : self._at + 4]
        if char != "u" or len(digits) < 4:
            raise NotJsonError
        code = 0
        for digit in digits.lower():
            if digit not in "0123456789abcdef":
                raise NotJsonError
            code = 16 * code + "0123456789abcdef".index(digit)
        self._at += 4
        return chr(code)

    def _number(self) -> Number:
        start = self._at
        if self._peek() == "-":
            self._at += 1
        if self._peek() == "0":
            self._at += 1
        else:
            self._digits()
        if self._peek() == ".":
            self._at += 1
            self._digits()
        if self._peek() and self._peek() in "eE":
            self._at += 1
            if self._peek() and self._peek() in "+-":
                self._at += 1
            self._digits()
        return Number(self._text[start : self._at])

    def _digits(self) -> None:
        start = self._at
        while self._peek() and self._peek() in DIGITS:
            self._at += 1
        if self._at == start:
            raise NotJsonError

"""The Idempotency-Key header: both forms are one key, and everything else is refused."""

from __future__ import annotations

import pytest

from service.errors import InvalidRequestError
from service.exchange import Exchange
from service.keys import get_key

VISIBLE = bytes(range(0x21, 0x7F))
BARE = VISIBLE.translate(None, b'",;\\')


def key_of(*values: bytes) -> str:
    return get_key(Exchange([(b"idempotency-key", value) for value in values]))


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (b"abc", "abc"),
        (b'"abc"', "abc"),
        (b' \t"abc" \t', "abc"),  # spaces around it are not of the value
        (b"abc ", "abc"),
        (b"ABC", "ABC"),  # case matters
        (b"7f0d5c1e-1f4b-4b0e-9a3e-0c5b8a2f6d11", "7f0d5c1e-1f4b-4b0e-9a3e-0c5b8a2f6d11"),
        (b"!", "!"),
        (b"~", "~"),
        (BARE, BARE.decode()),
        (b'"' + BARE + b'"', BARE.decode()),
        (b":YWJj:", ":YWJj:"),  # a byte sequence of RFC 9651 is a bare key like any other
        (b'"a,b;c"', "a,b;c"),
        (rb'"a\"b"', 'a"b'),
        (rb'"a\\b"', "a\\b"),
        (rb'"\\\""', '\\"'),
        (b"k" * 255, "k" * 255),
        (b'"' + b"k" * 255 + b'"', "k" * 255),
        (b'"' + rb"\"" * 255 + b'"', '"' * 255),  # 255 characters once unquoted
    ],
)
def test_a_key_is_read_in_both_forms(value: bytes, key: str) -> None:
    assert key_of(value) == key


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b'""',
        b" ",
        b'" a"',
        b'"',
        b'"abc',
        b'abc"',
        b'a"b',
        b"a,b",
        b'"a", "b"',
        b"a;b",
        b'"a";p=1',
        b'"a" ;p',
        b"a\\b",
        rb'"a\b"',
        b'"a\\"',
        b"a b",
        b'"a b"',
        b"a\tb",
        b"a\x7f",
        b"\x00",
        b"a\n",
        b'"a"\n',
        "é".encode(),
        '"é"'.encode(),
        b"\xff",
        b"k" * 256,
        b'"' + b"k" * 256 + b'"',
    ],
)
def test_a_malformed_key_is_refused(value: bytes) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        key_of(value)
    assert refused.value.code.name == "key-invalid"


def test_no_key_is_missing() -> None:
    with pytest.raises(InvalidRequestError) as refused:
        key_of()
    assert refused.value.code.name == "key-missing"


@pytest.mark.parametrize("values", [(b"a", b"a"), (b"a", b"b"), (b"a", b'"a"'), (b"", b"a")])
def test_a_key_sent_twice_is_refused_even_if_equal(values: tuple[bytes, ...]) -> None:
    with pytest.raises(InvalidRequestError, match="sent twice") as refused:
        key_of(*values)
    assert refused.value.code.name == "key-invalid"


def test_parameters_and_emptiness_are_named() -> None:
    with pytest.raises(InvalidRequestError, match="carries parameters"):
        key_of(b'"a";p=1')
    with pytest.raises(InvalidRequestError, match="is empty"):
        key_of(b'""')

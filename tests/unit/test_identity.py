"""Who is asking: both spellings of the header, alone and together."""

from __future__ import annotations

import pytest

from service.errors import InvalidRequestError
from service.exchange import Exchange
from service.identity import get_current_user

VISIBLE = bytes(range(0x21, 0x7F))


@pytest.mark.parametrize(
    ("fields", "user"),
    [
        ([(b"user_id", b"alice")], "alice"),
        ([(b"x-user-id", b"alice")], "alice"),
        ([(b"user_id", b"alice"), (b"x-user-id", b"alice")], "alice"),
        ([(b"user_id", b"alice "), (b"x-user-id", b"\talice")], "alice"),
        ([(b"user_id", b"Alice")], "Alice"),
        ([(b"user_id", VISIBLE)], VISIBLE.decode()),
        ([(b"user_id", b"u")], "u"),
        ([(b"x-user-id", b"u" * 128)], "u" * 128),
        # FastAPI's Header() would read this one: it is another header.
        ([(b"user-id", b"mallory"), (b"user_id", b"alice")], "alice"),
    ],
)
def test_the_user_is_read_from_either_spelling(
    fields: list[tuple[bytes, bytes]], user: str
) -> None:
    assert get_current_user(Exchange(fields)) == user


@pytest.mark.parametrize(
    "fields",
    [
        [(b"user_id", b"")],
        [(b"user_id", b" ")],
        [(b"x-user-id", b"")],
        [(b"user_id", b"u" * 129)],
        [(b"user_id", b"a b")],
        [(b"user_id", b"a\tb")],
        [(b"user_id", b"a\n")],
        [(b"user_id", b"a\x00")],
        [(b"user_id", b"a\x7f")],
        [(b"user_id", "é".encode())],
        [(b"user_id", b"\xff")],
        [(b"user_id", b"alice"), (b"x-user-id", b"bob")],
        [(b"user_id", b"alice"), (b"x-user-id", b"ALICE")],
        [(b"user_id", b""), (b"x-user-id", b"alice")],
        [(b"user_id", b"alice"), (b"x-user-id", b"")],
        [(b"user_id", b"alice"), (b"user_id", b"alice")],
        [(b"user_id", b"alice"), (b"user_id", b"bob")],
        [(b"x-user-id", b"alice"), (b"x-user-id", b"alice")],
        [(b"user_id", b"alice"), (b"x-user-id", b"alice"), (b"x-user-id", b"alice")],
    ],
)
def test_a_user_header_that_leaves_a_doubt_is_refused(fields: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        get_current_user(Exchange(fields))
    assert refused.value.code.name == "user-invalid"


@pytest.mark.parametrize("fields", [[], [(b"user-id", b"alice")], [(b"userid", b"alice")]])
def test_no_user_is_missing_and_the_text_names_the_proxies_settings(
    fields: list[tuple[bytes, bytes]],
) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        get_current_user(Exchange(fields))
    assert refused.value.code.name == "user-missing"
    assert "underscores_in_headers on;" in refused.value.detail
    assert "headers_with_underscores_action: ALLOW" in refused.value.detail
    assert "X-User-Id" in refused.value.detail

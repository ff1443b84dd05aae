"""Headers and bodies: whatever comes, it is a request or a refusal, never an exception."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from hypothesis import example, given
from hypothesis import strategies as st

from service.errors import InvalidRequestError
from service.exchange import Exchange
from service.identity import get_current_user
from service.keys import get_key
from service.ledger import Entry
from service.money import INT64_MAX, Currency
from service.movements import _parse as parse_body
from service.receipts import receipt

if TYPE_CHECKING:
    from service.teller import Teller

USD = Currency("USD", 2)
# All of a teller that the parsing looks at.
TELLER = cast("Teller", SimpleNamespace(currency=USD, amount_max_minor=USD.largest_minor()))

BARE = st.text(
    alphabet=[chr(code) for code in range(0x21, 0x7F) if chr(code) not in '",;\\'], min_size=1
)
VISIBLE = st.text(alphabet=[chr(code) for code in range(0x21, 0x7F)], min_size=1, max_size=255)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=4,
)
REFERENCES = st.text(
    alphabet=st.characters(exclude_categories=("Cc", "Cf", "Co", "Cn", "Cs")),
    min_size=1,
    max_size=140,
)


def key_of(value: bytes) -> str:
    return get_key(Exchange([(b"idempotency-key", value)]))


@given(BARE.filter(lambda key: len(key) <= 255))
def test_the_bare_and_the_quoted_form_are_one_key(key: str) -> None:
    assert key_of(key.encode()) == key_of(f'"{key}"'.encode()) == key


@given(VISIBLE)
def test_every_visible_key_can_be_sent_as_a_structured_field_string(key: str) -> None:
    escaped = key.replace("\\", "\\\\").replace('"', '\\"')
    assert key_of(f'"{escaped}"'.encode()) == key


@given(st.binary(max_size=300))
@example(b'"' + b"\\" * 2_000)
def test_any_bytes_are_a_key_and_a_user_or_a_refusal(value: bytes) -> None:
    for header, read, longest, code in (
        (b"idempotency-key", get_key, 255, "key-invalid"),
        (b"user_id", get_current_user, 128, "user-invalid"),
    ):
        try:
            text = read(Exchange([(header, value)]))
        except InvalidRequestError as refused:
            text = refused.code.name
            assert text == code
        assert 1 <= len(text) <= longest
        assert all("!" <= char <= "~" for char in text)


def parsed(body: bytes) -> tuple[int, str | None] | str:
    """Amount and reference, or the code of the refusal; anything else is a bug."""
    try:
        amount_minor, reference = parse_body(body, TELLER)
    except InvalidRequestError as refused:
        return refused.code.name
    assert 1 <= amount_minor <= USD.largest_minor()
    assert reference is None or 1 <= len(reference) <= 140
    return amount_minor, reference


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_a_refusal(body: bytes) -> None:
    parsed(body)


@given(JSON)
def test_any_json_is_a_request_or_a_refusal(value: Any) -> None:
    parsed(json.dumps(value).encode())


@given(st.dictionaries(st.sampled_from(["amount", "currency", "reference", "x"]), JSON))
def test_any_object_with_the_known_fields_is_a_request_or_a_refusal(value: Any) -> None:
    parsed(json.dumps(value).encode())
    parsed(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"))


@given(st.binary(max_size=6), st.integers(0, 40), st.integers(0, 6))
def test_a_request_damaged_anywhere_is_a_request_or_a_refusal(
    damage: bytes, at: int, lost: int
) -> None:
    whole = b'{"amount": "12.34", "reference": "order"}'
    parsed(whole[:at] + damage + whole[at + lost :])


@st.composite
def spelled(draw: st.DrawFn, minor: int, reference: str | None) -> bytes:
    """One of the many ways to write that request."""
    amount = USD.text(minor) + draw(st.sampled_from(["", "0", "000000000000"]))
    space = draw(st.sampled_from(["", " ", "\r\n\t"]))
    note = json.dumps(reference, ensure_ascii=draw(st.booleans()))
    members = [
        f'"amount":{space}' + draw(st.sampled_from([amount, f'"{amount}"'])),
        f'"reference":{space}{note}',
    ]
    ordered = f"{space},{space}".join(draw(st.permutations(members)))
    return f"{space}{{{space}{ordered}{space}}}{space}".encode()


@given(st.integers(1, USD.largest_minor()), REFERENCES | st.none(), st.data())
def test_two_spellings_of_one_request_are_the_same_request(
    minor: int, reference: str | None, data: st.DataObject
) -> None:
    one, other = data.draw(spelled(minor, reference)), data.draw(spelled(minor, reference))
    assert parsed(one) == parsed(other) == (minor, reference)


@given(
    st.integers(1, INT64_MAX),
    st.integers(0, INT64_MAX),
    REFERENCES | st.none(),
    st.integers(0, 4_102_444_800_000_000),
)
def test_every_receipt_is_json_that_says_its_row(
    amount_minor: int, balance_minor: int, reference: str | None, created_at_us: int
) -> None:
    row = Entry(
        7,
        "k",
        "deposit",
        "applied",
        None,
        amount_minor,
        balance_minor,
        reference,
        created_at_us,
        b"",
    )
    said = json.loads(receipt(row, USD))
    assert len(said.pop("created_at")) == len("2026-01-02T03:04:05.678901Z")
    assert said == {
        "transaction": 7,
        "type": "deposit",
        "amount": f"{amount_minor // 100}.{amount_minor % 100:02}",
        "balance": f"{balance_minor // 100}.{balance_minor % 100:02}",
        "currency": "USD",
        "reference": reference,
        "outcome": "applied",
    }

"""Amounts, keys and bodies: the parsers and an oracle of their own kind agree on everything."""

from __future__ import annotations

import json

from hypothesis import example, given, settings
from hypothesis import strategies as st

from service.errors import InvalidRequestError
from service.exchange import Exchange
from service.keys import get_key
from service.money import SCALE_MAX, Currency
from tests.property import oracle
from tests.property.test_requests import TELLER, USD, parsed

# A hundred in the default profile are too few for grammars this wide; they take milliseconds.
many = settings(max_examples=5 * settings().max_examples)


@st.composite
def damaged(draw: st.DrawFn, whole: st.SearchStrategy[str], alphabet: str) -> str:
    """One of the texts, with up to three places of it replaced, taken out or put in."""
    text = draw(whole)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(text)))
        lost = draw(st.integers(0, 2))
        text = text[:at] + draw(st.text(alphabet, max_size=2)) + text[at + lost :]
    return text


PLAIN = st.builds(
    lambda whole, fraction: f"{whole}.{fraction}" if fraction else str(whole),
    st.integers(0, 10**16),
    st.text("0123456789", max_size=12) | st.sampled_from(["0", "00", "50", "000000000"]),
)
AMOUNTS = damaged(PLAIN, "0123456789.-+eE_, ١½\n\x00") | st.text(max_size=12)


@many
@given(AMOUNTS, st.integers(0, SCALE_MAX), st.data())
@example("0.00", 2, None)
@example("999999999999999.99", 2, None)
@example("1000000000000000", 0, None)
def test_an_amount_is_what_the_oracle_reads(
    text: str, scale: int, data: st.DataObject | None
) -> None:
    money = Currency("XTS", scale)
    largest = money.largest_minor()
    limit = largest if data is None else data.draw(st.integers(1, largest) | st.just(largest))
    try:
        taken: int | str = money.minor(text, limit)
    except InvalidRequestError as refused:
        taken = refused.code.name
    assert taken == oracle.amount(text, scale, limit)


VISIBLE = st.text([chr(code) for code in range(0x21, 0x7F)], min_size=1, max_size=12)
LONG = st.integers(250, 260).flatmap(lambda size: st.sampled_from("k~\\").map(lambda c: c * size))
KEYS = damaged(
    VISIBLE
    | LONG
    | (VISIBLE | LONG).map(lambda key: '"{}"'.format(key.replace("\\", r"\\").replace('"', r"\"")))
    | (VISIBLE | LONG).map('"{}"'.format),
    'ab"\\,;= \t\x00\x7fé',
)


@many
@given(KEYS.map(lambda text: text.encode("latin-1")) | st.binary(max_size=20))
@example(b'""')
@example(b'"\\"')
@example(b'"a\\\\"')
@example(b'"' + b'\\"' * 255 + b'"')
@example(b'"' + b'\\"' * 256 + b'"')
def test_a_key_is_what_the_oracle_reads(value: bytes) -> None:
    try:
        taken: str | None = get_key(Exchange([(b"idempotency-key", value)]))
    except InvalidRequestError as refused:
        taken = None if refused.code.name == "key-invalid" else refused.code.name
    assert taken == oracle.key(value)


NOTES = st.text(max_size=12) | st.integers(138, 142).map(lambda size: "é" * size)
SCALARS = (
    st.sampled_from(["null", "true", "[]", "{}", "-0", "1e2", "NaN", "Infinity", '"USD"', '"EUR"'])
    | PLAIN
    | AMOUNTS.map(json.dumps)
    | NOTES.map(json.dumps)
    | NOTES.map(lambda note: json.dumps(note, ensure_ascii=False))
    | st.sampled_from([r'"\ud83d\ude00"', r'"\ud83d"', r'"\ude00\ud83d"', r'"\u0000"', '"\x7f"'])
)
NAMES = st.sampled_from(['"amount"', '"amount"', '"reference"', '"currency"', r'"\u0061mount"'])
OTHERS = st.sampled_from(['"x"', '"Amount"', '""', "amount"])
MEMBERS = st.tuples(st.one_of(NAMES, NAMES, OTHERS), SCALARS).map(":".join)
SENSIBLE = st.tuples(
    PLAIN.map('"amount": "{}"'.format) | PLAIN.map('"amount":{}'.format),
    st.sampled_from(["", ', "currency":"USD"', ',"currency": null']),
    st.just("") | NOTES.map(lambda note: f', "reference": {json.dumps(note)}'),
).map("".join)
BODIES = damaged(
    (SENSIBLE | st.lists(MEMBERS, max_size=4).map(",".join)).map("{{{}}}".format),
    '{}[]",:\\u0019.e+-\n\t\x00\ufeff\u2028é/ ',
).map(lambda text: text.encode("utf-8", "surrogatepass"))


@many
@given(BODIES | st.binary(max_size=40))
@example(b"")
@example(b"[" * 100_000)
@example(b'{"amount":1}\xff')
@example(b'{"amount":1,"amount":2}')
@example('\ufeff{"amount":1}'.encode())
def test_a_body_is_what_the_oracle_reads(raw: bytes) -> None:
    taken = parsed(raw)
    expected = oracle.body(raw, USD.scale, TELLER.amount_max_minor, USD.code)
    assert (oracle.REFUSED if isinstance(taken, str) else taken) == expected

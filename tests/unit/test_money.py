"""Exact amounts: the grammar at every scale, and the text that comes back."""

from __future__ import annotations

import pytest

from service.errors import InvalidRequestError, StartError
from service.money import INT64_MAX, Currency, currency

NINES = "999999999999999"  # 15 digits, the most before the point


@pytest.mark.parametrize(
    ("scale", "digits", "minor", "text"),
    [
        (0, "1", 1, "1"),
        (0, "1.000", 1, "1"),
        (0, NINES, 999999999999999, NINES),
        (1, "0.1", 1, "0.1"),
        (1, f"{NINES}.9", 9999999999999999, f"{NINES}.9"),
        (2, "0.01", 1, "0.01"),
        (2, "12.3", 1230, "12.30"),
        (2, "12.34000", 1234, "12.34"),
        (2, "123456789012345.67", 12345678901234567, "123456789012345.67"),
        (2, f"{NINES}.99", 99999999999999999, f"{NINES}.99"),
        (3, "0.001", 1, "0.001"),
        (3, f"{NINES}.999", 999999999999999999, f"{NINES}.999"),
        (4, "922337203685477.5807", INT64_MAX, "922337203685477.5807"),
        (5, "92233720368547.75807", INT64_MAX, "92233720368547.75807"),
        (6, "9223372036854.775807", INT64_MAX, "9223372036854.775807"),
        (7, "922337203685.4775807", INT64_MAX, "922337203685.4775807"),
        (8, "0.00000001", 1, "0.00000001"),
        (8, "92233720368.54775807", INT64_MAX, "92233720368.54775807"),
        (9, "0.000000001", 1, "0.000000001"),
        (9, "9223372036.854775807", INT64_MAX, "9223372036.854775807"),
    ],
)
def test_an_amount_is_exact_at_every_scale(scale: int, digits: str, minor: int, text: str) -> None:
    money = Currency("XTS", scale)
    assert money.minor(digits) == minor
    assert money.text(minor) == text


@pytest.mark.parametrize(
    ("scale", "digits", "code"),
    [
        (0, "1.5", "amount-precision"),
        (0, "0.1", "amount-precision"),
        (2, "1.001", "amount-precision"),
        (2, "0.00000000000000000000000000000000000001", "amount-precision"),
        (9, "1.0000000001", "amount-precision"),
        (0, "0", "amount-not-positive"),
        (2, "0.000", "amount-not-positive"),
        (9, "0.000000000", "amount-not-positive"),
        (0, "1000000000000000", "amount-too-large"),
        (4, "922337203685477.5808", "amount-too-large"),
        (9, "9223372036.854775808", "amount-too-large"),
        (9, NINES, "amount-too-large"),
        (2, "9" * 10_000, "amount-too-large"),
        (2, "", "amount-invalid"),
        (2, "00.01", "amount-invalid"),
        (2, "1.", "amount-invalid"),
        (2, ".1", "amount-invalid"),
        (2, "1e2", "amount-invalid"),
        (2, "1.5E+3", "amount-invalid"),
        (2, "-1", "amount-invalid"),
        (2, "1_0", "amount-invalid"),
        (2, "１", "amount-invalid"),
        (2, "1.٢", "amount-invalid"),
        (2, "1\n", "amount-invalid"),
        (2, "\x001", "amount-invalid"),
    ],
)
def test_an_amount_outside_the_grammar_or_the_scale_is_refused(
    scale: int, digits: str, code: str
) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        Currency("XTS", scale).minor(digits)
    assert refused.value.code.name == code


def test_precision_is_told_before_size_and_size_before_zero() -> None:
    with pytest.raises(InvalidRequestError) as refused:
        Currency("USD", 2).minor("5.001", amount_max_minor=100)
    assert refused.value.code.name == "amount-precision"


def test_the_largest_amount_is_taken_and_one_minor_unit_more_is_not() -> None:
    usd = Currency("USD", 2)
    assert usd.minor("10.00", amount_max_minor=1000) == 1000
    with pytest.raises(InvalidRequestError) as refused:
        usd.minor("10.01", amount_max_minor=1000)
    assert refused.value.code.name == "amount-too-large"
    assert refused.value.detail == "The largest amount taken is 10.00 USD."


@pytest.mark.parametrize(
    ("digits", "detail"),
    [
        ("1e2", 'The amount has an exponent. Send it as a decimal string, such as "12.34".'),
        ("-1e2", 'The amount has an exponent. Send it as a decimal string, such as "12.34".'),
        ("1.5E-3", 'The amount has an exponent. Send it as a decimal string, such as "12.34".'),
        (
            "-1",
            "The amount has a sign. Send a positive amount; the route says which way it goes.",
        ),
        (
            "1,5",
            'The amount must be plain ASCII digits with at most one point, such as "12.34".',
        ),
        (
            "1234567890123456",
            "The amount has 16 digits before the point; at most 15 are taken.",
        ),
        (
            "1.005",
            (
                "USD has 2 decimals here; the amount has a non-zero digit beyond them, and "
                "Teller never rounds."
            ),
        ),
        ("0.00", "The amount must be more than zero."),
    ],
)
def test_a_refused_amount_is_told_why_in_these_words(digits: str, detail: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        Currency("USD", 2).minor(digits)
    assert refused.value.detail == detail


@pytest.mark.parametrize(
    ("scale", "largest"),
    [(0, 10**15 - 1), (2, 10**17 - 1), (3, 10**18 - 1), (4, INT64_MAX), (9, INT64_MAX)],
)
def test_the_widest_amount_is_what_fifteen_digits_and_int64_both_hold(
    scale: int, largest: int
) -> None:
    assert Currency("XTS", scale).largest_minor() == largest


@pytest.mark.parametrize(
    ("amount_minor", "text"), [(0, "0.00"), (5, "0.05"), (50, "0.50"), (100, "1.00")]
)
def test_small_amounts_keep_their_zeros(amount_minor: int, text: str) -> None:
    assert Currency("USD", 2).text(amount_minor) == text


@pytest.mark.parametrize(("code", "scale"), [("USD", 2), ("JPY", 0), ("KWD", 3), ("CLF", 4)])
def test_a_currency_has_its_own_scale(code: str, scale: int) -> None:
    assert currency(code) == Currency(code, scale)


def test_a_scale_that_is_given_wins() -> None:
    assert currency("BTC", 8) == Currency("BTC", 8)


@pytest.mark.parametrize("scale", [0, 9])
def test_the_ends_of_the_range_of_scales_are_in_it(scale: int) -> None:
    assert currency("BTC", scale) == Currency("BTC", scale)


@pytest.mark.parametrize("code", ["ABC", "XAU"])
def test_a_currency_without_a_scale_is_refused_with_the_setting_to_set(code: str) -> None:
    with pytest.raises(StartError) as refused:
        currency(code)
    assert str(refused.value) == (
        f"TELLER_CURRENCY='{code}' has no minor unit in ISO 4217. Set TELLER_CURRENCY_SCALE "
        "(0 to 9) beside it, or use a code such as USD."
    )


@pytest.mark.parametrize("scale", [-1, 10])
def test_a_scale_out_of_range_is_refused(scale: int) -> None:
    with pytest.raises(StartError, match="use 0 to 9"):
        currency("USD", scale)

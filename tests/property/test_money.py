"""Amounts: whatever digits come, they are exact or refused."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidRequestError
from service.money import INT64_MAX, SCALE_MAX, Currency

CURRENCIES = st.integers(0, SCALE_MAX).map(lambda scale: Currency("XTS", scale))
AMOUNT_CODES = {"amount-invalid", "amount-precision", "amount-not-positive", "amount-too-large"}


@given(CURRENCIES, st.data())
def test_an_amount_comes_back_from_its_own_text(money: Currency, data: st.DataObject) -> None:
    minor = data.draw(st.integers(1, money.largest_minor()))
    assert money.minor(money.text(minor)) == minor


@given(CURRENCIES, st.data(), st.integers(0, 40))
def test_zeros_at_the_end_change_nothing(money: Currency, data: st.DataObject, zeros: int) -> None:
    text = money.text(data.draw(st.integers(1, money.largest_minor())))
    longer = (text if "." in text else f"{text}.") + "0" * (zeros + 1)
    shorter = text.rstrip("0").rstrip(".") if "." in text else text
    assert money.minor(text) == money.minor(longer) == money.minor(shorter)


def taken(money: Currency, digits: str) -> int | str:
    """The amount in minor units, or the code of the refusal; anything else is a bug."""
    try:
        return money.minor(digits)
    except InvalidRequestError as refused:
        return refused.code.name


@given(CURRENCIES, st.integers(0, 10**17), st.text("0019", max_size=12))
def test_digits_are_taken_exactly_or_refused_and_never_rounded(
    money: Currency, whole: int, fraction: str
) -> None:
    digits = f"{whole}.{fraction}" if fraction else str(whole)
    exact = Decimal(digits).scaleb(money.scale)
    outcome = taken(money, digits)
    if whole >= 10**15:
        assert outcome == "amount-too-large"
    elif exact != exact.to_integral_value():
        assert outcome == "amount-precision"
    elif exact > INT64_MAX:
        assert outcome == "amount-too-large"
    elif exact == 0:
        assert outcome == "amount-not-positive"
    else:
        assert outcome == exact


@given(CURRENCIES, st.text(alphabet="0123456789.,-+eE_ \n１٢x", max_size=24) | st.text())
def test_any_text_is_an_amount_within_bounds_or_one_of_four_codes(
    money: Currency, digits: str
) -> None:
    outcome = taken(money, digits)
    if isinstance(outcome, str):
        assert outcome in AMOUNT_CODES
    else:
        assert 1 <= outcome <= money.largest_minor()


@given(CURRENCIES, st.data())
def test_the_limit_is_exact(money: Currency, data: st.DataObject) -> None:
    minor = data.draw(st.integers(2, money.largest_minor()))
    limit = data.draw(st.integers(1, minor - 1))
    with pytest.raises(InvalidRequestError, match="The largest amount taken is"):
        money.minor(money.text(minor), limit)
    assert money.minor(money.text(minor), minor) == minor

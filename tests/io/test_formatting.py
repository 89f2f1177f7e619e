import math

import pytest

from nas_growclip.io.formatting import (
    DASH,
    brief,
    mebibytes,
    number,
    percent,
    si,
    two_digits,
    whole,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (999, "999"), (999.6, "1.00 k"), (12_345_678, "12.3 M"), (3.0e12, "3.00 T")],
)
def test_counts_have_three_digits_and_a_prefix(value: float, text: str) -> None:
    assert si(value) == text


@pytest.mark.parametrize("show", [si, number, percent])
@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_what_is_no_number_is_a_dash(show: object, value: float | None) -> None:
    assert show(value) == DASH  # type: ignore[operator]


def test_numbers_and_shares_and_bytes() -> None:
    assert (number(0.0), number(1.0), number(0.123456)) == ("0", "1.000", "0.1235")
    assert (percent(0.1234), percent(0.1234, 2)) == ("12.3", "12.34")
    assert (whole(12_345), whole(None), mebibytes(2**30)) == ("12,345", DASH, "1,024 MiB")


def test_a_brief_value_is_short_however_large_it_is() -> None:
    assert brief("a" * 1000) == "a" * 60
    assert len(brief([[[1] * 1000] * 1000] * 1000)) <= 60
    assert brief(10**5000) == "a number of thousands of digits"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (143.2, "140"), (99.6, "100"), (7.84, "7.8"), (12, "12"), (1.2e-5, "0.000012")],
)
def test_two_digits_have_no_exponent(value: float, text: str) -> None:
    assert two_digits(value) == text

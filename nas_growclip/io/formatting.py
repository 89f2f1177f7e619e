"""Values as people read them: in tables, in reports and in messages.

What was not measured, and what is no finite number, is a dash.
"""

import math
import reprlib
from decimal import Decimal

DASH = "–"  # noqa: RUF001 # an en dash is what is shown

BRIEF_LENGTH = 60
"""Most characters of a value in a message."""

_PREFIXES = ("", " k", " M", " G", " T", " P", " E", " Z", " Y")

_BRIEF = reprlib.Repr()
_BRIEF.maxlist = _BRIEF.maxdict = _BRIEF.maxstring = BRIEF_LENGTH
_BRIEF.maxother = _BRIEF.maxlong = BRIEF_LENGTH


def si(value: float | None) -> str:
    """A count with three digits and an SI prefix, as in ``12.3 M``."""
    if value is None or not math.isfinite(value):
        return DASH
    power = 0
    while abs(value) >= 999.5 and power < len(_PREFIXES) - 1:
        value, power = value / 1000, power + 1
    digits = f"{value:.0f}" if power == 0 and value == int(value) else f"{value:#.3g}".rstrip(".")
    return digits + _PREFIXES[power]


def whole(value: int | None) -> str:
    """A count with all its digits, as in ``12,345,678``, or a dash."""
    return DASH if value is None else f"{value:,}"


def number(value: float | None) -> str:
    """A number with four digits, or a dash."""
    if value is None or not math.isfinite(value):
        return DASH
    return f"{value:#.4g}".rstrip(".") if value else "0"


def two_digits(value: float) -> str:
    """A number with two digits and without an exponent, as in ``140`` and ``0.00012``."""
    return f"{Decimal(f'{value:.2g}'):f}"


def percent(value: float | None, digits: int = 1) -> str:
    """A share as percent with some digits after the point, or a dash."""
    return f"{100 * value:.{digits}f}" if value is not None and math.isfinite(value) else DASH


def duration(seconds: float) -> str:
    """A time with its two largest units, as in ``2 h 5 min``; below a minute in seconds."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def mebibytes(size: int) -> str:
    """Bytes in MiB, as in ``1,024 MiB``."""
    return f"{size / 2**20:,.0f} MiB"


def brief(value: object) -> str:
    """The beginning of a value as text for a message, however large or deep it is."""
    if isinstance(value, str):
        return value[:BRIEF_LENGTH]
    try:
        return _BRIEF.repr(value)[:BRIEF_LENGTH]
    except ValueError:  # Python writes no integers of more than 4,300 digits
        return "a number of thousands of digits"

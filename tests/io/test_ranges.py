import math
from dataclasses import dataclass

import pytest

from nas_growclip.io.ranges import above, at_least, check_ranges, within


@dataclass(frozen=True)
class Settings:
    batch: int = 1
    rate: float = 0.1
    sizes: tuple[int, ...] = ()
    limit: float | None = None

    def __post_init__(self) -> None:
        check_ranges(
            self, batch=at_least(1), rate=within(0, 1, "(]"), sizes=at_least(2), limit=above(0)
        )


def test_what_is_in_range_passes_and_none_is_no_number() -> None:
    assert Settings(batch=1, rate=1.0, sizes=(2, 3), limit=None) == Settings(rate=1.0, sizes=(2, 3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch": 0}, r"^batch: must be 1 or more, but got 0\.$"),
        ({"rate": 0.0}, r"^rate: must be in \(0, 1\], but got 0\.0\.$"),
        ({"rate": math.nan}, r"^rate: must be in \(0, 1\], but got nan\.$"),
        ({"sizes": (2, 1)}, r"^sizes: must be 2 or more, but got 1\.$"),
        ({"limit": 0.0}, r"^limit: must be above 0, but got 0\.0\.$"),
        ({"limit": math.inf}, r"^limit: must be above 0, but got inf\.$"),
        ({"batch": -(10**5000)}, r"^batch: must be 1 or more, but got a number of thousands"),
    ],
)
def test_what_is_not_says_the_range_and_the_value(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ends", "inside"), [("[]", (0, 1)), ("[)", (0,)), ("(]", (1,)), ("()", ())]
)
def test_brackets_say_which_ends_belong(ends: str, inside: tuple[int, ...]) -> None:
    allowed = within(0, 1, ends)  # type: ignore[arg-type]
    assert tuple(value for value in (0, 1) if value in allowed) == inside
    assert 0.5 in allowed
    assert -0.1 not in allowed
    assert str(allowed) == f"in {ends[0]}0, 1{ends[1]}"

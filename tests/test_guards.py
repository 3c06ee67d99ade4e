"""Each guard passes what it should, at the edge too, and refuses the rest in the caller's type of error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from clipjax.errors import DataError, UsageError
from clipjax.guards import at_least, groups_in, known_name, multiple_of


@pytest.mark.parametrize(
    ("guard", "passes", "refuses", "error", "sentence"),
    [
        (
            at_least,
            ("a k must be at least 2", 2, 2),
            ("a k must be at least 2", 1, 2),
            UsageError,
            "a k must be at least 2, not 1",
        ),
        (
            multiple_of,
            ("width", 12, 4, "heads"),
            ("width", 12, 5, "heads"),
            ValueError,
            "width 12 is not a multiple of heads 5",
        ),
        (multiple_of, ("width", 32, 32), ("width", 33, 32), ValueError, "width 33 is not a multiple of 32"),
        (multiple_of, ("width", 1, 1), ("width", 0, 4), ValueError, "width 0 is not a multiple of 4"),
        (
            multiple_of,
            ("width", 4, 2),
            ("width", 4, 0, "heads"),
            ValueError,
            "width 4 is not a multiple of heads 0",
        ),
    ],
)
def test_guards(
    guard: Callable[..., None],
    passes: tuple[Any, ...],
    refuses: tuple[Any, ...],
    error: type[Exception],
    sentence: str,
) -> None:
    guard(*passes, error=DataError)
    with pytest.raises(error) as refusal:
        guard(*refuses)
    assert str(refusal.value) == sentence
    with pytest.raises(DataError, match=r"^f\.toml: "):
        guard(f"f.toml: {refuses[0]}", *refuses[1:], error=DataError)


def test_known_names() -> None:
    frames = {"pandas": 1, "polars": 2}
    known_name("frame", "polars", frames)
    with pytest.raises(UsageError, match=r"^unknown frame 'panda'; did you mean pandas\?$"):
        known_name("frame", "panda", frames)
    with pytest.raises(UsageError, match=r"^unknown frame '3'; known: pandas, polars$"):
        known_name("frame", 3, frames)
    with pytest.raises(UsageError, match=r"^unknown frame '3'; known: pandas and 1 more$"):
        known_name("frame", 3, frames, shown=1)


def test_groups_of_a_regular_expression() -> None:
    assert (groups_in("a"), groups_in("(a)(b)")) == (0, 2)
    with pytest.raises(ValueError, match=r"^ids: '\(a' is not a regular expression \(missing \), .*\)$"):
        groups_in("(a", "ids: ")

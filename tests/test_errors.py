"""Messages are one line, whatever a file or a library put into them."""

from __future__ import annotations

import pytest

from clipjax.errors import DataError, UsageError


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("w.json is not JSON (x)", "w.json is not JSON (x)"),
        (
            "not Parquet: Invalid data\nDeserializing failed.\n",
            "not Parquet: Invalid data Deserializing failed.",
        ),
        ("a\r\nb", "a  b"),
        ("\x1b]0;title\x07\x1b[2J", r"\x1b]0;title\x07\x1b[2J"),
        ("moved \u202e backwards", r"moved \u202e backwards"),
        ("half a pair \ud800", r"half a pair \ud800"),
        ("ключ é 猫　b", "ключ é 猫　b"),
    ],
)
def test_a_message_is_one_line(given: str, shown: str) -> None:
    assert str(DataError(given)) == str(UsageError(given)) == shown

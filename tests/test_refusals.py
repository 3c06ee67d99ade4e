"""No refusal is lost unseen: what the code raises is the list beside this file, whose diff is reviewed."""

from __future__ import annotations

from pathlib import Path

import _refusals
import pytest
import records
from _refusals import COMMAND, GONE, ROOT, refusals


def test_the_list_is_what_the_code_raises() -> None:
    listed, raised = _refusals.listed(), set(refusals(ROOT))
    assert not listed - raised, GONE
    assert not raised - listed, f"refusals that the list lacks; {COMMAND}"


def test_make_records_does_not_drop_a_refusal_that_is_gone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mine = tmp_path / "refusals.txt"
    mine.write_text("DataError: a lost sentence\n", encoding="utf-8")
    monkeypatch.setattr(_refusals, "LIST", mine)
    monkeypatch.setattr(records, "ROOT", tmp_path)
    monkeypatch.setattr(_refusals, "refusals", lambda _: ["DataError: a new sentence"])
    with pytest.raises(records.NotRebuiltError, match=r"gone; .*\n    DataError: a lost sentence$"):
        records.refusals()
    assert _refusals.listed() == {"DataError: a lost sentence", "DataError: a new sentence"}


def test_a_refusal_is_found_with_its_holes(tmp_path: Path) -> None:
    (tmp_path / "clipjax").mkdir()
    (tmp_path / "clipjax" / "made_up.py").write_text(
        "def f(x, table):\n"
        "    problem = DataError(f'{x} is ' + ('empty' if x else 'too long'))\n"
        "    raise table.wrong(x, f'no number: {x!r}')\n"
    )
    assert refusals(tmp_path) == [
        "DataError: {} is empty",
        "DataError: {} is too long",
        "wrong: no number: {}",
    ]

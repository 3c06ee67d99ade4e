"""No refusal is lost unseen: what the code raises is the list beside this file, whose diff is reviewed."""

from __future__ import annotations

from pathlib import Path

from _refusals import LIST, ROOT, refusals

COMMAND = "write tests/refusals.txt anew: .venv/bin/python tests/_refusals.py"


def test_the_list_is_what_the_code_raises() -> None:
    listed, raised = set(LIST.read_text(encoding="utf-8").splitlines()), set(refusals(ROOT))
    gone, new = sorted(listed - raised), sorted(raised - listed)
    assert not gone, f"refusals that are gone; if each has a better successor, or no cause, {COMMAND}"
    assert not new, f"refusals that the list lacks; {COMMAND}"


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

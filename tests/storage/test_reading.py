"""Small files that a user may have damaged: each is refused in one sentence that names the file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clipjax.errors import DataError
from clipjax.storage import reading

BAD_JSON = {
    "empty": ("", "not JSON"),
    "cut": ('{"a": [1, 2', "not JSON"),
    "nested": ("[" * 100_000, "nested too deeply"),
    "NaN": ('{"a": NaN}', "NaN is not a JSON number"),
    "infinity": ('{"a": -Infinity}', "not a JSON number"),
    "1e400": ('{"a": 1e400}', "too large"),
    "long integer": ('{"a": ' + "9" * 5000 + "}", "too large"),
    "doubled name": ('{"a": 1, "b": 2, "a": 3}', "the name 'a' appears twice"),
    "half a surrogate pair": ('{"a": "\\ud800"}', "surrogate"),
    "other kind": ("[1]", "is not a JSON object"),
}


@pytest.mark.parametrize("case", BAD_JSON)
def test_bad_json_is_one_sentence(case: str, tmp_path: Path) -> None:
    text, problem = BAD_JSON[case]
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(DataError, match=problem) as caught:
        reading.read_json(path)
    assert str(caught.value).startswith(str(path))


def test_json_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('[{"a": "é\\ud83d\\ude00"}]', encoding="utf-8")
    assert reading.read_json(tmp_path / "x.json", list) == [{"a": "é😀"}]
    assert reading.parse_json(b"\xef\xbb\xbf3", "here", object) == 3


def test_jsonl_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n\n{"a": 2}\n{"a": \n')
    with pytest.raises(DataError, match=r"x\.jsonl:4 is not JSON"):
        list(reading.read_jsonl(path))


BAD_CSV = {
    "unbalanced quote": ('a,b\n1,"2\n3,4\n5,6\n', ":4: not CSV"),
    "text after a quote": ('a,b\n1,"2"3\n', ":2: not CSV"),
    "short row": ("a,b\n1\n", ":2: expected 2 cells"),
    "long row": ("a,b\n1,2,3\n", ":2: expected 2 cells"),
    "doubled column": ("a,b,a\n1,2,3\n", ":1: two columns have the name 'a'"),
}


@pytest.mark.parametrize("case", BAD_CSV)
def test_bad_csv_names_the_line(case: str, tmp_path: Path) -> None:
    text, problem = BAD_CSV[case]
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(DataError, match=r"x\.csv" + problem):
        reading.read_csv(tmp_path / "x.csv")


def test_csv_cells_may_hold_commas_quotes_and_line_breaks(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text('a,b\n"1,\n""x""",2\n')
    assert reading.read_csv(tmp_path / "x.csv") == [{"a": '1,\n"x"', "b": "2"}]


@pytest.mark.parametrize(
    ("text", "problem"),
    [("a = " + "[" * 5000, "nested"), ("a = " + "9" * 5000, "x.toml"), ("a = ?", "line 1")],
)
def test_bad_toml_names_the_file(text: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(DataError, match=problem):
        reading.read_toml(tmp_path / "x.toml")


def test_what_is_not_a_file_of_text_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    os.mkfifo(tmp_path / "fifo")
    for name, problem in {
        "latin": "not UTF-8 text",
        "fifo": "not a regular file",
        "": "is a folder",
        "absent": "does not exist",
        "latin/below": "does not exist",
        "x" * 300: "cannot be read",
        "a\0b": "cannot be read",
    }.items():
        with pytest.raises(DataError, match=problem):
            reading.read_text(tmp_path / name)
    with pytest.raises(DataError, match="not a regular file"):
        reading.read_bytes(Path("/dev/zero"))


def test_names_that_no_file_can_have_do_not_exist(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for name in ("x" * 5000, "a\0b", "\ud800", "loop", "absent"):
        for look in (reading.exists, reading.is_file, reading.is_dir):
            assert not look(tmp_path / name)
    assert reading.is_dir(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look everywhere")
def test_a_closed_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(DataError, match="Permission denied"):
        reading.exists(tmp_path / "closed" / "file")


def test_a_missing_path_is_refused_with_what_to_do(tmp_path: Path) -> None:
    reading.check_exists(tmp_path)
    with pytest.raises(DataError) as refusal:
        reading.check_exists(tmp_path / "a.csv", "; give a .csv file")
    assert str(refusal.value) == f"{tmp_path / 'a.csv'} does not exist; give a .csv file"

"""The record of a result row: its JSON Schema, its check (jsonschema is the reference), its columns."""

from __future__ import annotations

import copy
import functools
import json
import operator
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from _rows import row
from jsonschema import Draft202012Validator
from records import row_schema_text

from clipjax.errors import DataError
from clipjax.results.row import Row
from clipjax.results.store import new_run_id
from clipjax.storage.records import field_names, json_schema, read
from clipjax.storage.records.limits import Limit
from clipjax.storage.records.values import ChoiceType, PlainType

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "configs" / "result_row.schema.json"
SCHEMA = json_schema(Row, "clipjax result row")
ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 5.0, 0.5, 1.0, float("nan"), float("inf"), 10**30, "", "a" * 64, "A" * 64),
    *(
        "measured",
        "published",
        "pairs",
        "20261125T101020.123456Z-0123abcd",
        "x\n",
        [],
        [1],
        ["a"],
        {},
        {"a": 1},
    ),
    *({"a": "b"}, {"a": {}}, np.float64(0.5), (1, 2), ("a",), [None], [{}]),
    {"lo": 0.1, "hi": 0.2, "level": 0.95, "method": "wilson"},
    {"limit": 1.0, "seed": True, "of": 2},
    {"platform": "cpu", "kind": "cpu", "count": 1, "processes": 1},
]


def full() -> dict[str, Any]:
    """A good row that has every field, at every depth."""
    held = {"images": 5, "of": 6, "foreign": 1, "unit": "pairs"}
    return row(
        new_run_id(),
        sample={"limit": 5, "seed": 0, "of": 9, "unit": "pairs"},
        part=held,
        id_part=held,
        folder="a/b",
        reference=[{"value": 0.5, "source": "paper", "difference": 0.1, "note": None}],
        protocol={"name": "clip_80", "sha256": "a" * 64, "departures": ["images"]},
        framework="jax",
        versions={"jax": "1"},
        device={"platform": "cpu", "kind": "cpu", "count": 1, "processes": 1},
        plug_ins=[{"kind": "task", "name": "a", "package": "b", "version": "1"}],
        configs=[{"kind": "model", "name": "a", "file": "b", "sha256": "c"}],
    )


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every part of a value, with its path."""
    yield path, value
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield from places(part, (*path, key))


@functools.cache
def broken() -> list[Any]:
    """A good row with each part odd in every way, left out, and with one more key; what is no row."""
    good = full()
    rows: list[Any] = list(ODD)
    for path, part in places(good):
        *above, key = path or [None]
        if path:
            rows += [_edited(good, above, key, odd) for odd in ODD] + [_edited(good, above, key)]
        if isinstance(part, dict):
            rows.append(_edited(good, path, "colour", 1))
    return rows


def _edited(row: Any, above: Sequence[Any], key: Any, *value: Any) -> Any:
    """With `value` at a path, or, with none, without what is there."""
    row = copy.deepcopy(row)
    at = functools.reduce(operator.getitem, above, row)
    if value:
        [at[key]] = value
    else:
        del at[key]
    return row


def accepts(value: Any, part: bool = False) -> bool:
    try:
        assert read(Row, value, "row", part=part) is value
    except DataError:
        return False
    return True


def test_the_committed_schema_is_made_from_the_record() -> None:
    assert FILE.read_text(encoding="utf-8") == row_schema_text(), "run tests/records.py row_schema"
    assert json.loads(row_schema_text()) == SCHEMA
    Draft202012Validator.check_schema(SCHEMA)
    assert all(each["description"] for each in SCHEMA["properties"].values())


@pytest.mark.parametrize("part", [False, True])
def test_the_check_accepts_what_jsonschema_accepts(part: bool) -> None:
    reference = Draft202012Validator(SCHEMA | ({"required": []} if part else {}))
    rows = broken()[:: 7 if part else 2]
    found = [(value, accepts(value, part), reference.is_valid(value)) for value in [full(), *rows]]
    assert [value for value, ours, theirs in found if ours != theirs] == []
    accepted = sum(theirs for _, _, theirs in found) / len(found)
    assert 0.1 < accepted < 0.4


def test_every_check_counts() -> None:
    """Without it, some broken row would pass: so the comparison above can fail."""
    refused = [value for value in broken()[::3] if not accepts(value)]
    for cls, check in [
        *((limit, "allows") for limit in get_args(Limit)),
        (ChoiceType, "fits"),
        (PlainType, "fits"),
    ]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cls, check, lambda *_: True)
            assert any(map(accepts, refused)), cls


NEW_FIELD = '    colour: Annotated[Literal["red", "blue"] | None, "colour of the walls"]\n'
LOOK = """
import sys
sys.path.insert(0, sys.argv[1])
import clipjax
from _rows import row
from records import row_schema_text
from clipjax.errors import DataError
from clipjax.results.rows import validate_rows
from clipjax.results.store import ResultStore, new_run_id

assert clipjax.__file__.startswith(sys.argv[2]), clipjax.__file__
assert '"colour of the walls"' in row_schema_text()
for broken in (row(new_run_id()), row(new_run_id(), colour="green")):
    try:
        validate_rows([broken])
    except DataError as error:
        print(error)
ResultStore("results").add([row(new_run_id(), colour="red")])
[line] = clipjax.load_results("results").to_dict("records")
print(line["colour"])
"""


def test_a_new_field_is_written_in_one_place(tmp_path: Path) -> None:
    """A line in the record, in a copy of clipjax: schema, check and data frame have the field."""
    shutil.copytree(ROOT / "clipjax", tmp_path / "clipjax", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("configs", "converters"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "tests").mkdir()
    for name in ("records.py", "_rows.py"):
        shutil.copy2(ROOT / "tests" / name, tmp_path / "tests" / name)
    record = tmp_path / "clipjax" / "results" / "row.py"
    text, end = record.read_text(encoding="utf-8"), "    compile_count: Annotated[int | None, "
    assert end in text
    record.write_text(text.replace(end, NEW_FIELD + end), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", LOOK, str(tmp_path / "tests"), str(tmp_path)],
        env={"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1", "PATH": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "result row 'top1': the key 'colour' is missing",
        "result row 'top1': colour = 'green' must be 'red' or 'blue' or null",
        "red",
    ]
    assert "colour" not in field_names(Row)

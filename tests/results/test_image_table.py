"""Per-image tables have the bytes that pyarrow's own conversion gives, and are made without pandas."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipjax.results.image_table import images_table, read_images_table, values_of_column

RNG = np.random.default_rng(0)
COMMON = {
    "texts": ["a", "ß", "", "x" * 300],
    "absent texts": ["a", None, "", "ß"],
    "bools": [True, False, True, True],
    "absent bools": [True, None, False, True],
    "integers": [1, 2, -3, 2**62],
    "absent integers": [None, 1, 2, 3],
    "floats": [0.5, float("nan"), float("inf"), -0.0],
    "absent floats": [0.5, None, 1.0, 2.0],
    "lists of texts": [["a"], [], ["b", "c"], ["d"]],
    "lists of lists": [[[1], [2]], [[3]], [], [[4, 5], []]],
    "lists of absent bools": [[True], [False, None], [], [True]],
    "tuple": ("a", "b", "c", "d"),
    "float32": RNG.random(4).astype(np.float32),
    "every other float64": RNG.random(8)[::2],
    "int32": np.arange(4, dtype=np.int32),
    "uint8": np.arange(4, dtype=np.uint8),
    "float16": np.arange(4, dtype=np.float16),
    "array of bools": np.array([True, False, False, True]),
    "two axes": RNG.random((4, 3)).astype(np.float32),
    "three axes": np.arange(16).reshape(4, 2, 2),
    "array of texts": np.array(["a", "b", None, "c"], object),
}
OTHERS = {
    "nothing": [],
    "only absent": [None] * 4,
    "empty lists": [[], []],
    "mixed numbers": [1, 2.5],
    "numbers of numpy": [np.float32(1), np.float32(2)],
    "fixed texts": np.array(["a", "b"]),
    "records": [{"a": 1}, {"a": 2}],
    "bytes": [b"a", b"b"],
}


def written(table: pa.Table) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd")
    return out.getvalue()


def pyarrows(column: Any) -> pa.Table:
    if isinstance(column, np.ndarray) and (column.ndim > 1 or column.dtype.kind == "O"):
        column = column.tolist()
    return pa.table({"x": pa.array(column)})


@pytest.mark.parametrize("column", [*COMMON.values(), *OTHERS.values()], ids=[*COMMON, *OTHERS])
def test_a_column_is_pyarrows_own(column: Any) -> None:
    ours, theirs = images_table({"x": column}), pyarrows(column)
    ours.validate(full=True)
    assert ours.schema.equals(theirs.schema, check_metadata=True)
    data = written(ours)
    assert data == written(theirs)
    assert repr(read_images_table(data).to_pydict()) == repr(theirs.to_pydict())  # in words, since NaN != NaN


@pytest.mark.parametrize(
    "columns", [{"x": [1], "y": [1, 2]}, {"x": ["\ud800"]}, {"x": [1, "a"]}, {"x": [2**63]}]
)
def test_what_pyarrow_refuses_is_refused_alike(columns: dict[str, Any]) -> None:
    with pytest.raises((pa.ArrowException, ValueError, OverflowError)) as theirs:
        pa.table({name: pa.array(column) for name, column in columns.items()})
    with pytest.raises(type(theirs.value)) as ours:
        images_table(columns)
    assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize(
    "column", [np.arange(20) % 3 == 0, np.arange(20), np.arange(20, dtype=np.float32), np.arange(20) / 3]
)
def test_values_of_a_column_are_an_array_of_all_its_parts(column: np.ndarray) -> None:
    whole = images_table({"x": column})["x"]
    parts = pa.chunked_array([whole.slice(3, 10).chunk(0), whole.slice(13).chunk(0)])
    values = values_of_column(parts)
    assert isinstance(values, np.ndarray)
    assert values.dtype == column.dtype
    assert np.array_equal(values, column[3:])
    assert len(values_of_column(whole.slice(0, 0))) == 0


@pytest.mark.parametrize("column", [["a", "b"], [1, None], [[1], [2, 3]]])
def test_values_of_other_columns_are_a_list(column: list[Any]) -> None:
    assert values_of_column(images_table({"x": column})["x"]) == column


def test_common_columns_load_no_pandas() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from test_image_table import *; "
        "table = read_images_table(written(images_table(COMMON))); table.to_pydict(); "
        "[*map(values_of_column, table.columns)]; sys.exit('pandas' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code, __file__.rpartition("/")[0]], check=False).returncode == 0
    )

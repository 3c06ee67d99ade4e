"""Parquet made to fill the memory: refused by what it declares, or read in bounded memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from etils import epath

from clipjax.data.readers.hf_parquet import read_hf_parquet
from clipjax.errors import DataError
from clipjax.storage import parquet
from clipjax.storage.parquet_footer import read_footer

LIMIT = 800 * 2**20  # bytes; the bombs unpack to 2.5 GB


def _repeated(path: Path, *, nested: bool, rows: int = 2500, size: int = 1_000_000) -> int:
    """One value of `size` bytes in every row, as a dictionary holds it once; returns the size of the file."""
    values = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([bytes(size)]))
    image = pa.StructArray.from_arrays([values, pa.array(["x"] * rows)], ["bytes", "path"])
    table = pa.table({"image": image if nested else values, "text": pa.array(["t"] * rows)})
    pq.write_table(table, path, compression="zstd", store_schema=False)
    return path.stat().st_size


def _measured(code: str) -> str:
    """What a process prints; it takes at most LIMIT bytes more for its work than for its imports."""
    prologue = """
import resource
from pathlib import Path
from clipjax.storage import parquet
from clipjax.data.readers import hf_parquet
from clipjax.errors import DataError
from etils import epath
parquet.MAX_BYTES, parquet.BATCH_BYTES = 2**28, 2**26
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
"""
    epilogue = "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)"
    command = [sys.executable, "-c", prologue + code + epilogue]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    *said, taken = done.stdout.splitlines()
    assert int(taken) < LIMIT
    return "".join(said)


@pytest.mark.parametrize("nested", [False, True])
def test_a_bomb_of_images_is_refused(nested: bool, tmp_path: Path) -> None:
    assert _repeated(tmp_path / "bomb.parquet", nested=nested) < 2000
    code = f"""
manifest = hf_parquet.read_hf_parquet(epath.Path({str(tmp_path / "bomb.parquet")!r}), image="image")
try:
    manifest.open(1200)
except DataError as error:
    print(error)
"""
    assert "in row group 0 take more than 268,435,456 bytes" in _measured(code)


def test_a_bomb_of_texts_is_refused(tmp_path: Path) -> None:
    _repeated(tmp_path / "bomb.parquet", nested=False)
    code = f"""
try:
    parquet.read_columns(Path({str(tmp_path / "bomb.parquet")!r}))
except DataError as error:
    print(error)
"""
    assert "the values of image, text in the file take more than 268,435,456 bytes" in _measured(code)


def test_declared_sizes_are_checked_before_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"a": pa.array([b"x" * 1000, b"y" * 1000])}), path)
    monkeypatch.setattr(parquet, "MAX_BYTES", 1000)
    with pytest.raises(DataError, match=r"x\.parquet: a row group of the column 'a' unpacks to"):
        parquet.open_parquet(path)


def test_rows_are_counted_before_reading(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    rows = parquet.MAX_VALUES + 1
    pq.write_table(pa.table({"a": pa.array(np.zeros(rows, bool))}), path, compression="zstd")
    assert path.stat().st_size < 100_000
    for read in (lambda: parquet.read_columns(path), lambda: read_hf_parquet(epath.Path(path))):
        with pytest.raises(DataError, match="'a' declares more than"):
            read()


def test_rows_that_share_prefixes_are_counted_as_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.parquet"
    table = pa.table({"a": pa.array(["x" * 1000] * 3000)})
    pq.write_table(table, path, use_dictionary=False, column_encoding={"a": "DELTA_BYTE_ARRAY"})
    assert path.stat().st_size < 20_000
    monkeypatch.setattr(parquet, "MAX_BYTES", 2_000_000)
    with pytest.raises(DataError, match="the values of a in the file take more than"):
        parquet.read_columns(path)


def test_dictionaries_and_plain_pages_give_the_same_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [rng.bytes(int(size)) for size in rng.integers(1, 5000, 300)] + [b"same"] * 50 + [None] * 3
    paths = [f"{i}.png" for i in range(len(images))]
    for name, options in {"a": {"dictionary_pagesize_limit": 20_000}, "b": {"use_dictionary": False}}.items():
        struct = [None if i is None else {"bytes": i, "path": p} for i, p in zip(images, paths)]
        table = pa.table({"image": pa.array(struct, pa.struct({"bytes": pa.binary(), "path": pa.string()}))})
        pq.write_table(table, tmp_path / f"{name}.parquet", row_group_size=100, **options)
    for name in "ab":
        manifest = read_hf_parquet(epath.Path(tmp_path / f"{name}.parquet"))
        assert [manifest.open(i) for i in range(350)] == images[:350]
        with pytest.raises(DataError, match="row 350: has no image bytes"):
            manifest.open(350)


def test_what_is_read_is_what_pyarrow_reads(tmp_path: Path) -> None:
    table = pa.table(
        {"id": ["a", None, "a"], "lists": [["x", "x"], [], None], "score": [0.5, 1.0, None], "k": [1, 2, 3]}
    )
    pq.write_table(table, tmp_path / "x.parquet")
    assert parquet.read_columns(tmp_path / "x.parquet") == table.to_pydict()
    assert parquet.read_columns(tmp_path / "x.parquet", ["k"]) == {"k": [1, 2, 3]}


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1" + b"\0" * 100 + b"\xff\xff\xff\x7fPAR1"])
def test_what_is_no_parquet_is_named(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(data)
    with pytest.raises(DataError, match=r"x\.parquet: not a whole Parquet file"):
        parquet.read_columns(tmp_path / "x.parquet")


def test_the_footer_says_what_pyarrow_says(tmp_path: Path) -> None:
    path = tmp_path / "w.parquet"
    nested = [{"bytes": bytes([i]) * i, "path": f"{i}"} for i in range(20)]
    table = pa.table({"image": nested, "lists": [[i] * (i % 3) for i in range(20)], "x": np.arange(20.0)})
    pq.write_table(table, path, row_group_size=7)
    theirs = pq.ParquetFile(path).metadata
    ours = read_footer(path)
    assert [group.rows for group in ours] == [7, 7, 6]
    for number, group in enumerate(ours):
        columns = [theirs.row_group(number).column(i) for i in range(theirs.num_columns)]
        assert [tuple(column) for column in group.columns] == [
            (c.path_in_schema, c.physical_type == "BYTE_ARRAY", c.num_values, c.total_uncompressed_size)
            for c in columns
        ]


def test_a_footer_that_contradicts_itself_does_not_end_the_process(tmp_path: Path) -> None:
    """Each byte of a footer is made one more and one less. At 16 of these pyarrow's own `column` aborts."""
    path = tmp_path / "w.parquet"
    pq.write_table(pa.table({"image": [{"bytes": b"x", "path": "a"}] * 3, "label": [0, 1, 0]}), path)
    code = """
import sys
from pathlib import Path
from clipjax.storage import parquet
from clipjax.errors import DataError
path, refused = Path(sys.argv[1]), 0
whole = path.read_bytes()
start = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
for at in range(start, len(whole) - 8):
    for other in ((whole[at] - 1) % 256, (whole[at] + 1) % 256):
        path.write_bytes(whole[:at] + bytes([other]) + whole[at + 1 :])
        try:
            parquet.read_columns(path)
        except DataError as error:
            refused += 1
print(refused)
"""
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100


@pytest.mark.parametrize("at", range(0, 60, 3))
def test_a_cut_footer_is_refused(at: int, tmp_path: Path) -> None:
    path = tmp_path / "w.parquet"
    pq.write_table(pa.table({"x": [1, 2, 3]}), path)
    data = path.read_bytes()
    length = int.from_bytes(data[-8:-4], "little")
    footer = data[-8 - length : -8][:at]
    path.write_bytes(data[: -8 - length] + footer + len(footer).to_bytes(4, "little") + b"PAR1")
    with pytest.raises(ValueError, match="footer"):
        read_footer(path)

"""Predictions as .npz made to fill the memory, or over very many classes."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipjax.data.labels import LabelSpace
from clipjax.errors import ClipjaxError
from clipjax.evaluation.predictions import arrays
from clipjax.evaluation.predictions.scoring import evaluate_predictions
from clipjax.heads.head import identity_head, logits


def _write(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return path


def _array(array: Any, shape: tuple[int, ...] | None = None, **options: Any) -> bytes:
    """An .npy, with another shape in its header where one is given."""
    buffer = io.BytesIO()
    array = np.asarray(array, **options)
    header = np.lib.format.header_data_from_array_1_0(array)
    np.lib.format.write_array_header_1_0(buffer, header | ({} if shape is None else {"shape": shape}))
    return buffer.getvalue() + array.tobytes()


LOGITS = np.eye(4, dtype=np.float32)
HOSTILE = {
    "a shape beyond the bytes": _array(LOGITS, (2**40, 2**20)),
    "a negative shape": _array(LOGITS, (-4, 4)),
    "fewer bytes than the shape": _array(LOGITS)[:-8],
    "more bytes than the shape": _array(LOGITS) + b"1234",
    "objects": _array([None, "a"], dtype=object),
    "nested header": b"\x93NUMPY\x01\x00\x10\x27" + b"(" * 10_000,
    "no header": b"abc",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_header_is_checked_before_its_array_is_read(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _write(tmp_path / "x.npz", logits=HOSTILE[case], labels=_array(np.arange(4)))

    def read(*_: object) -> None:
        raise AssertionError("an array was read")

    monkeypatch.setattr(arrays, "_read_array", read)
    with pytest.raises(ClipjaxError, match=r"x\.npz is not an .npz of plain arrays: 'logits' is damaged"):
        evaluate_predictions("zeroshot", path)


def test_what_unpacks_to_far_more_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _write(tmp_path / "x.npz", logits=_array(np.zeros((1000, 1000), np.float32)))
    assert path.stat().st_size < 10_000
    monkeypatch.setattr(arrays, "MAX_UNPACKED", 10**6)
    with pytest.raises(ClipjaxError, match="unpack to 4,000,128, which no predictions do"):
        evaluate_predictions("zeroshot", path)


def test_a_fifo_is_refused(tmp_path: Path) -> None:
    for name in ("x.npz", "x.parquet"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(ClipjaxError, match="is not a regular file"):
            evaluate_predictions("zeroshot", tmp_path / name)


def test_logits_over_very_many_classes_need_no_square_matrix(tmp_path: Path) -> None:
    classes = 120_000  # squared in float32: 57 GB
    names = tuple(map(str, range(classes)))
    head = identity_head(LabelSpace("numbered", names, names))
    assert head.kernel.size == 0
    values = np.random.default_rng(0).normal(size=(3, classes)).astype(np.float32)
    assert np.array_equal(np.asarray(logits(head, values)), values)
    assert np.array_equal(head.columns, np.arange(classes))
    np.savez(tmp_path / "x.npz", logits=values, labels=values.argmax(axis=1))
    rows = evaluate_predictions("zeroshot", tmp_path / "x.npz", resamples=10).rows
    assert next(row["value"] for row in rows if row["metric"] == "top1") == 1

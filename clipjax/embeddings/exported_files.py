"""Embeddings as files for other programs. Imports no JAX.

images.npy           float32 [N, D]           images.parquet    id, label, embedding
images.json          the N ids                texts.parquet     id, embedding
labels.npy           int [N], if there are labels
texts.npy, texts.json
embeddings.json      the model, the data, how they were made, and the files with their SHA-256
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipjax.errors import DataError
from clipjax.guards import known_name
from clipjax.storage.replaced_folder import check_replaceable, written_files
from clipjax.storage.writing import whole_folder, writing

FORMATS = ("npy", "parquet")
RECORD = "embeddings.json"


class NamedRows(NamedTuple):
    """Rows of an array, each with its id.

    Attributes:
        ids: [N].
        array: [N, ...].
        labels: int [N], or None.
    """

    ids: Sequence[str]
    array: np.ndarray
    labels: np.ndarray | None = None


def check_target(folder: str | Path, form: str) -> Path:
    """The folder to write, refused before anything is computed.

    Raises:
        UsageError: an unknown format, or a URL.
        DataError: as `check_replaceable`.
    """
    known_name("format", form, FORMATS)
    return check_replaceable(folder, RECORD)


def write_embeddings(
    folder: str | Path, sets: Mapping[str, NamedRows], record: Mapping[str, Any], form: str = "npy"
) -> None:
    """Write a folder of embeddings, whole or not at all; it replaces an earlier one.

    Args:
        folder: as `check_target` allows.
        sets: the name of the files ("images", "texts") -> the rows.
        record: what `RECORD` says of them.
        form: one of `FORMATS`.

    Raises:
        DataError: the folder cannot be written, or rows for Parquet are not vectors.
    """
    path = check_target(folder, form)
    with writing(path), whole_folder(path) as draft:
        for name, rows in sets.items():
            if form == "npy":
                _write_npy(draft, name, rows)
            else:
                pq.write_table(_table(name, rows), draft / f"{name}.parquet")
        about = {**record, "files": written_files(draft, RECORD)}
        (draft / RECORD).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def _write_npy(folder: Path, name: str, rows: NamedRows) -> None:
    _save(folder / f"{name}.npy", rows.array)
    (folder / f"{name}.json").write_text(json.dumps(list(rows.ids), indent=0) + "\n", encoding="utf-8")
    if rows.labels is not None:
        _save(folder / "labels.npy", rows.labels)


def _save(path: Path, array: np.ndarray) -> None:
    """`numpy.save`, whose errors do not tell a full disk."""
    array = np.ascontiguousarray(array)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)


def _table(name: str, rows: NamedRows) -> pa.Table:
    if rows.array.ndim != 2:
        shape = list(rows.array.shape[1:])
        raise DataError(f"{name}: rows of the shape {shape} are not vectors: give --format npy")
    values = pa.array(np.ascontiguousarray(rows.array).reshape(-1))
    labels = {} if rows.labels is None else {"label": pa.array(rows.labels)}
    vectors = pa.FixedSizeListArray.from_arrays(values, rows.array.shape[1])
    return pa.table({"id": pa.array(list(rows.ids), pa.string()), **labels, "embedding": vectors})

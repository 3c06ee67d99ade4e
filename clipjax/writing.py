"""Files that appear whole or not at all, and survive a crash once they are there."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from clipjax.buckets import BucketPath, place
from clipjax.errors import DataError
from clipjax.uploaded import uploading

# In the order in which safetensors lays tensors out, last first (safetensors 0.8, Dtype).
DTYPES = {
    np.dtype(numpy): name
    for name, numpy in {
        "BOOL": np.bool_,
        "U8": np.uint8,
        "I8": np.int8,
        "I16": np.int16,
        "U16": np.uint16,
        "F16": np.float16,
        "BF16": ml_dtypes.bfloat16,
        "I32": np.int32,
        "U32": np.uint32,
        "F32": np.float32,
        "F64": np.float64,
        "I64": np.int64,
        "U64": np.uint64,
    }.items()
}


def write_safetensors(path: str | Path, tensors: Mapping[str, Any], metadata: Mapping[str, str]) -> str:
    """Write a safetensors file as its own library does, byte by byte; it appears whole or not at all.

    Args:
        path: of the file, or its URL on a bucket.
        tensors: arrays by name.
        metadata: strings for the header, e.g. {"format": "pt"}.

    Returns: the file's SHA-256.

    Raises:
        DataError: it cannot be written; nothing half-written is left.
    """
    path = place(path)
    with writing(path), whole_file(path) as draft:
        return write_tensors(draft, tensors, metadata)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file that appears whole or not at all. Raises DataError where it cannot be written."""
    path = place(path)
    with writing(path), whole_file(path) as draft, draft.open("wb") as file:
        file.write(data)
        flush(file.fileno(), file.flush)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Another name to write under: `path` is what was written there, at the end; after an error it is as it
    was. On a bucket that is an upload.

    Raises OSError, or of a bucket DataError (see `clipjax.uploaded.uploading`).
    """
    if isinstance(path, BucketPath):
        with uploading(path) as draft:
            yield draft
        return
    folder = path.absolute().parent
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{path.name}.{uuid.uuid4().hex}.tmp"
    try:
        yield draft
        os.replace(draft, path)
        flush_folder(folder)
    finally:
        draft.unlink(missing_ok=True)


def write_tensors(path: Path, tensors: Mapping[str, Any], metadata: Mapping[str, str]) -> str:
    """Write a safetensors file inside a folder that nobody sees yet; flushed to the disk. Returns its
    SHA-256."""
    rank = {dtype: -place for place, dtype in enumerate(DTYPES)}
    names = sorted(tensors, key=lambda name: (rank[tensors[name].dtype], name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in names:
        start, end = end, end + tensors[name].nbytes
        shape, dtype = list(tensors[name].shape), DTYPES[tensors[name].dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % 8)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        blocks = (_array(tensors[name]).reshape(-1).view(np.uint8) for name in names)
        for block in itertools.chain((len(raw).to_bytes(8, "little"), raw), blocks):
            file.write(block)  # type: ignore[arg-type]
            digest.update(block)  # type: ignore[arg-type]
        flush(file.fileno(), file.flush)
    return digest.hexdigest()


def _array(tensor: Any) -> np.ndarray:
    return np.ascontiguousarray(tensor.read() if hasattr(tensor, "read") else tensor)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the system says of a full disk into a DataError that names the file."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror}); nothing was left of it") from None


def flush(descriptor: int, push: Callable[[], Any]) -> None:
    """Brings an open file to the disk; `push` empties what Python holds back."""
    push()
    os.fsync(descriptor)


def flush_folder(folder: Path) -> None:
    """Makes a rename in the folder survive a crash."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

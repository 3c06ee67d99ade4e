"""safetensors: the length of the header (u64), the header (JSON), the tensors' bytes in the header's order.

Source: github.com/huggingface/safetensors. Every stated size is compared with the file's.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from clipjax.errors import DataError, cut
from clipjax.storage.formats.tensors import Source, Tensor, is_shape
from clipjax.storage.reading import parse_json
from clipjax.storage.remote.buckets import as_path
from clipjax.storage.writing import flush, whole_file, writing

# The library lays tensors out in the reverse of this order (safetensors 0.8, Dtype).
DTYPES = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "I16": np.dtype(np.int16),
    "U16": np.dtype(np.uint16),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I32": np.dtype(np.int32),
    "U32": np.dtype(np.uint32),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "I64": np.dtype(np.int64),
    "U64": np.dtype(np.uint64),
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_MOST_HEADER = 25_000_000  # bytes, as huggingface_hub; 5,000 tensors take 600 kB


def open_safetensors(path: Path) -> Source:
    """The tensors of a file, read lazily.

    Raises DataError: truncated or damaged, or a dtype that clipjax does not read. Raises OSError.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > size - 8:
            raise DataError(
                f"{path} is truncated: its header alone should take {length} bytes; get the file again"
            )
        if length > _MOST_HEADER:
            raise DataError(f"{path}: its header takes {length} bytes, clipjax reads {_MOST_HEADER} at most")
        raw = file.read(length)
    header = parse_json(raw, f"{path}: damaged safetensors header, which")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise DataError(f"{path}: damaged safetensors header (__metadata__ is not a table of strings)")
    tensors = {key: _safetensor(path, 8 + length, key, entry) for key, entry in header.items()}
    end = 8 + length
    for key, tensor in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].nbytes)):
        if tensor.offset != end:
            raise DataError(
                f"{path}: damaged safetensors header (tensor {cut(repr(key))} does not follow the one "
                "before it)"
            )
        end += tensor.nbytes
    if end < size:
        raise DataError(f"{path}: {size - end} bytes follow the last tensor; get the file again")
    return Source(tensors, "safetensors", (path,), metadata)


def _safetensor(path: Path, base: int, key: str, entry: Any) -> Tensor:
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [start, stop]}:
            pass
        case _:
            raise _damaged(path, key, "lacks a dtype, shape or data_offsets")
    if not is_shape(shape) or not is_shape((start, stop)):
        raise _damaged(path, key, "has a shape or offset that is not a natural number")
    if dtype not in DTYPES:
        raise _damaged(path, key, f"has the dtype {cut(dtype)}, which clipjax does not read")
    tensor = Tensor(path, base + start, tuple(shape), DTYPES[dtype])
    if tensor.nbytes != stop - start:
        raise _damaged(path, key, f"takes {stop - start} bytes for shape {shape} of {dtype}")
    return tensor


def _damaged(path: Path, key: str, what: str) -> DataError:
    return DataError(f"{path}: damaged safetensors header (tensor {cut(repr(key))} {what})")


def tensors_in(data: bytes) -> tuple[dict[str, np.ndarray], object]:
    """The tensors of a whole file in memory, as views of its bytes, and its metadata (perhaps damaged).

    For files with a checksum: little is checked. The library would copy every tensor.

    Raises ValueError, KeyError, TypeError, AttributeError or IndexError for damage.
    """
    start = 8 + int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8:start]), memoryview(data)[start:]
    about = header.pop("__metadata__", None)
    ends = [tensor["data_offsets"][1] for tensor in header.values()]
    if max(ends, default=0) != len(body):
        raise ValueError(f"{len(body)} bytes of tensors where {max(ends, default=0)} are expected")
    tensors = {
        name: np.frombuffer(body[slice(*tensor["data_offsets"])], DTYPES[tensor["dtype"]]).reshape(
            tensor["shape"]
        )
        for name, tensor in header.items()
    }
    return tensors, about


def write_safetensors(path: str | Path, tensors: Mapping[str, Any], metadata: Mapping[str, str]) -> str:
    """Write a file whole or not at all, byte for byte as the library of the format does.

    Args:
        path: also a bucket's URL.
        metadata: for the header, e.g. {"format": "pt"}.

    Returns: the file's SHA-256. Raises DataError if it cannot be written.
    """
    path = as_path(path)
    with writing(path), whole_file(path) as draft:
        return write_tensors(draft, tensors, metadata)


def write_tensors(path: Path, tensors: Mapping[str, Any], metadata: Mapping[str, str]) -> str:
    """Write and flush a draft of a file; returns its SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for block in blocks_of(tensors, metadata):
            file.write(block)
            digest.update(block)
        flush(file.fileno(), file.flush)
    return digest.hexdigest()


def blocks_of(tensors: Mapping[str, Any], metadata: Mapping[str, str]) -> Iterator[bytes | memoryview]:
    """The bytes of a file: its header, then a block a tensor, which is read when its turn comes."""
    rank = {dtype: -number for number, dtype in enumerate(_NAMES)}
    names = sorted(tensors, key=lambda name: (rank[tensors[name].dtype], name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in names:
        start, end = end, end + tensors[name].nbytes
        shape, dtype = list(tensors[name].shape), _NAMES[tensors[name].dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    raw = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % 8)
    yield len(raw).to_bytes(8, "little")
    yield raw
    for name in names:
        yield _array(tensors[name]).reshape(-1).view(np.uint8).data


def _array(tensor: Any) -> np.ndarray:
    return np.ascontiguousarray(tensor.read() if hasattr(tensor, "read") else tensor)

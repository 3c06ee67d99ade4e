"""Write a file of PyTorch without PyTorch: an uncompressed zip with a pickle and one member a tensor.

The pickle (protocol 2) names only what `torch.load(..., weights_only=True)` allows: dicts, texts, tensors and
the types of their storages.
"""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from clipjax.storage.remote.buckets import as_path
from clipjax.storage.writing import flush, whole_file, writing

_STORAGES = {
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "float64": "DoubleStorage",
}
_REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
_NO_HOOKS = b"ccollections\nOrderedDict\n)R"


def write_torch(path: str | Path, tree: Mapping[str, Any]) -> None:
    """Write nested dicts of float arrays, whole or not at all; `path` may be a bucket's URL.

    Raises DataError if it cannot be written.
    """
    path = as_path(path)
    with writing(path), whole_file(path) as draft, draft.open("wb") as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            tensors: list[np.ndarray] = []
            archive.writestr("archive/data.pkl", b"\x80\x02" + b"".join(_pickled(tree, tensors)) + b".")
            archive.writestr("archive/byteorder", "little")
            for number, tensor in enumerate(tensors):
                with archive.open(f"archive/data/{number}", "w", force_zip64=True) as member:
                    member.write(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data)
            archive.writestr("archive/version", "3\n")
        flush(file.fileno(), file.flush)


def _pickled(value: Any, tensors: list[np.ndarray]) -> Iterator[bytes]:
    """The opcodes of a value; its tensors are appended to `tensors`, which number them."""
    if not isinstance(value, Mapping):
        yield _tensor(value, len(tensors))
        tensors.append(value)
        return
    yield b"}("
    for name, each in value.items():
        yield _text(name)
        yield from _pickled(each, tensors)
    yield b"u"


def _tensor(array: np.ndarray, number: int) -> bytes:
    """The call that builds a contiguous tensor from storage `number`."""
    kind = f"ctorch\n{_STORAGES[array.dtype.name]}\n".encode()
    storage = _tuple(_text("storage"), kind, _text(str(number)), _text("cpu"), _integer(array.size)) + b"Q"
    sizes = _tuple(*map(_integer, array.shape))
    strides = _tuple(*(_integer(int(np.prod(array.shape[i + 1 :]))) for i in range(array.ndim)))
    return _REBUILD + _tuple(storage, _integer(0), sizes, strides, b"\x89", _NO_HOOKS) + b"R"


def _tuple(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def _text(text: str) -> bytes:
    raw = text.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def _integer(number: int) -> bytes:
    raw = pickle.encode_long(number)
    return b"\x8a" + bytes([len(raw)]) + raw

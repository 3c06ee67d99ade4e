"""Checkpoint files of any format as mappings of lazily read tensors.

    source = open_source("open_clip_model.safetensors")
    source["logit_scale"].shape, source["logit_scale"].read()

Content decides the format: safetensors, what archives.py reads, GGUF, or a JSON index of such files.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from clipjax.errors import DataError
from clipjax.storage.gguf import MAGIC
from clipjax.storage.reading import check_regular, exists, is_dir, parse_json, read_json
from converters.archives import open_legacy, open_zip
from converters.gguf_tensors import open_gguf
from converters.pickle_values import cut
from converters.pycontrast import with_classifier
from converters.tensors import Source, Tensor, is_shape

# In open_clip's order of preference (open_clip 3.3 factory.py, _find_checkpoint_in_dir).
WEIGHT_NAMES = (
    "open_clip_model.safetensors",
    "open_clip_model.safetensors.index.json",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
SAFETENSORS_DTYPES = {
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
# A part of a sharded checkpoint, as transformers and huggingface_hub name it.
_PART = re.compile(r"-(?P<part>\d{5})-of-(?P<of>\d{5})(?P<kind>\.\w+)$")
_MOST_HEADER = 25_000_000  # bytes of a safetensors header, as huggingface_hub; 5,000 tensors take 600 kB


def open_source(path: str | Path) -> Source:
    """Open a checkpoint file, or the weights in a folder (the first of `WEIGHT_NAMES`).

    Training checkpoints are unwrapped, and lose distributed training's prefix `module.`. A PyContrast encoder
    is joined with its classifier.

    Raises:
        DataError: no such file, an unknown format, a damaged file, or a pickle that names anything outside a
            state dict.
    """
    path = Path(path)
    if is_dir(path):
        path = _weights_in(path)
    if (part := _PART.search(path.name)) and int(part["of"]) > 1:
        raise DataError(
            f"{path} is part {int(part['part'])} of {int(part['of'])}: give the folder, or the index in it "
            f"({_PART.sub(part['kind'], path.name)}.index.json)"
        )
    return with_classifier(_open_file(path), path, _open_file)


def _open_file(path: Path, part: bool = False) -> Source:
    """A `part` of an index may not be an index."""
    check_regular(path)
    try:
        with path.open("rb") as file:
            start = file.read(64)
        reader = _reader(start, path)
        if part and reader is _open_index:
            raise DataError(f"{path} is an index, and another index names it as a file of weights")
        source = reader(path)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    if not source:
        raise DataError(f"{path} holds no tensors")
    for key, tensor in source.items():
        if tensor.offset + tensor.span > tensor.path.stat().st_size:
            raise DataError(
                f"{tensor.path} is truncated: tensor {cut(repr(key))} is beyond its end; get the file again"
            )
    return _without_module_prefix(source)


def _reader(start: bytes, path: Path) -> Callable[[Path], Source]:
    if start[:4] == b"PK\x03\x04":
        return open_zip
    if start[8:9] == b"{":
        return _open_safetensors
    if start[:1] == b"\x80":
        return open_legacy
    if start[:4] == MAGIC:
        return open_gguf
    if start.lstrip()[:1] == b"{":
        return _open_index
    if start.startswith(b"version https://git-lfs"):
        raise DataError(
            f"{path} is a git-lfs pointer, not the weights: run `git lfs pull`, or download the file"
        )
    raise DataError(
        f"{path} is not a checkpoint: neither safetensors, torch, TorchScript, npz, GGUF nor an index of such"
    )


def _weights_in(folder: Path) -> Path:
    for name in WEIGHT_NAMES:
        if exists(folder / name):
            return folder / name
    try:
        parts = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder} cannot be read ({error.strerror})") from None
    for part in parts:
        if match := _PART.search(part.name):
            index = _PART.sub(match["kind"], part.name) + ".index.json"
            raise DataError(
                f"{folder / index} is missing: it says what is in {part.name} and its other parts"
            )
    raise DataError(f"{folder} holds no weights: none of {', '.join(WEIGHT_NAMES)}; name the file itself")


def _without_module_prefix(source: Source) -> Source:
    if not all(key.startswith("module.") for key in source):
        return source
    tensors = {key.removeprefix("module."): tensor for key, tensor in source.items()}
    return Source(tensors, source.format, source.files, source.metadata)


# --- safetensors: u64 header length, JSON header, data (github.com/huggingface/safetensors) ---


def _open_safetensors(path: Path) -> Source:
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
    if dtype not in SAFETENSORS_DTYPES:
        raise _damaged(path, key, f"has the dtype {cut(dtype)}, which clipjax does not read")
    tensor = Tensor(path, base + start, tuple(shape), SAFETENSORS_DTYPES[dtype])
    if tensor.nbytes != stop - start:
        raise _damaged(path, key, f"takes {stop - start} bytes for shape {shape} of {dtype}")
    return tensor


def _damaged(path: Path, key: str, what: str) -> DataError:
    return DataError(f"{path}: damaged safetensors header (tensor {cut(repr(key))} {what})")


# --- an index: {"weight_map": {tensor name: file in the same folder}} ---


def index_parts(path: Path) -> dict[str, str]:
    """{tensor: file in the index's folder}. Raises DataError for anything else."""
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict):
        raise DataError(f"{path} is not an index of weight files: it has no object 'weight_map'")
    for name in weight_map.values():
        plain = isinstance(name, str) and Path(name).name == name and "\0" not in name
        if not plain or name in ("", ".", ".."):
            raise DataError(f"{path}: {cut(repr(name))} is not the name of a file in the same folder")
    return weight_map


def _open_index(path: Path) -> Source:
    weight_map = index_parts(path)
    names = sorted(set(weight_map.values()))
    shards = {name: _open_file(path.parent / name, part=True) for name in names}
    file_of = {key: name for name, shard in shards.items() for key in shard}
    if wrong := sorted(set(file_of.items()) ^ set(weight_map.items())):
        listed = ", ".join(f"{cut(key)} in {cut(name)}" for key, name in wrong[:10])
        raise DataError(f"{path} and its files do not hold the same tensors: {listed}")
    tensors = {key: shards[name][key] for key, name in weight_map.items()}
    formats = " and ".join(sorted({shard.format for shard in shards.values()}))
    return Source(tensors, f"sharded {formats}", tuple(path.parent / name for name in names))

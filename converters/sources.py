"""Checkpoint files as mappings of lazily read tensors, whatever they were written with.

    source = open_source("open_clip_model.safetensors")
    source["logit_scale"].shape, source["logit_scale"].read()

Formats are told apart by content: safetensors, torch's zip archives, its older plain pickles, TorchScript
archives, NumPy's npz (all of these in archives.py), and an index (JSON) of several such files. All of them
keep a tensor as a plain run of bytes, so a tensor is a place in a file (tensors.py).
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from clipjax.errors import DataError
from converters.archives import open_legacy, open_zip
from converters.tensors import Source, Tensor

# Weights in a folder, in open_clip's order of preference (open_clip 3.3 factory.py, _find_checkpoint_in_dir).
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
# A part of a checkpoint that an index puts together, as transformers and huggingface_hub name them.
_PART = re.compile(r"-(?P<part>\d{5})-of-(?P<of>\d{5})(?P<kind>\.\w+)$")
_MALFORMED = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RecursionError,
)  # of JSON that is something else


def open_source(path: str | Path) -> Source:
    """Open a checkpoint file, or the weights in a folder (safetensors first, see `WEIGHT_NAMES`).

    Training checkpoints are unwrapped as open_clip does: the state dict under `state_dict`, without the
    `module.` prefix of distributed training.

    Raises:
        DataError: nothing there, a format that is not read, a damaged or truncated file, or a pickle that
            names anything that is not part of a state dict.
    """
    path = Path(path)
    if path.is_dir():
        path = _weights_in(path)
    if (part := _PART.search(path.name)) and int(part["of"]) > 1:
        raise DataError(
            f"{path} is part {int(part['part'])} of {int(part['of'])}: give the folder, or the index in it "
            f"({_PART.sub(part['kind'], path.name)}.index.json)"
        )
    return _open_file(path)


def _open_file(path: Path) -> Source:
    try:
        with path.open("rb") as file:
            start = file.read(64)
        source = _reader(start, path)(path)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    if not source:
        raise DataError(f"{path} holds no tensors")
    for key, tensor in source.items():
        if tensor.offset + tensor.span > tensor.path.stat().st_size:
            raise DataError(
                f"{tensor.path} is truncated: tensor {key!r} lies beyond its end; get the file again"
            )
    return _without_module_prefix(source)


def _reader(start: bytes, path: Path) -> Callable[[Path], Source]:
    if start[:4] == b"PK\x03\x04":
        return open_zip
    if start[8:9] == b"{":
        return _open_safetensors
    if start[:1] == b"\x80":
        return open_legacy
    if start.lstrip()[:1] == b"{":
        return _open_index
    if start.startswith(b"version https://git-lfs"):
        raise DataError(
            f"{path} is a git-lfs pointer, not the weights: run `git lfs pull`, or download the file"
        )
    raise DataError(
        f"{path} is not a checkpoint: neither safetensors, torch, TorchScript, npz nor an index of such"
    )


def _weights_in(folder: Path) -> Path:
    for name in WEIGHT_NAMES:
        if (folder / name).exists():
            return folder / name
    for part in sorted(folder.iterdir()):
        if found := _PART.search(part.name):
            index = _PART.sub(found["kind"], part.name) + ".index.json"
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
        raw = file.read(length)
    try:
        header = json.loads(raw, object_pairs_hook=_no_doubles)
        metadata = header.pop("__metadata__", {})
        tensors = {key: _safetensor(path, 8 + length, entry) for key, entry in header.items()}
    except _MALFORMED as error:
        raise DataError(f"{path}: damaged safetensors header ({error})") from None
    end = 8 + length
    for key, tensor in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].nbytes)):
        if tensor.offset != end:
            raise DataError(
                f"{path}: damaged safetensors header (tensor {key!r} does not follow the one before it)"
            )
        end += tensor.nbytes
    if end < size:
        raise DataError(f"{path}: {size - end} bytes follow the last tensor; get the file again")
    return Source(tensors, "safetensors", (path,), metadata)


def _safetensor(path: Path, base: int, entry: dict[str, Any]) -> Tensor:
    shape = tuple(entry["shape"])
    start, stop = entry["data_offsets"]
    if not all(type(n) is int and n >= 0 for n in (*shape, start, stop)):
        raise ValueError("a shape or offset that is no natural number")
    tensor = Tensor(path, base + start, shape, SAFETENSORS_DTYPES[entry["dtype"]])
    if tensor.nbytes != stop - start:
        raise ValueError(f"{stop - start} bytes for shape {shape} of {entry['dtype']}")
    return tensor


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise ValueError("a name appears twice")
    return record


# --- an index: {"weight_map": {tensor name: file in the same folder}} ---


def _open_index(path: Path) -> Source:
    try:
        weight_map = json.loads(path.read_bytes(), object_pairs_hook=_no_doubles)["weight_map"]
        names = sorted(set(weight_map.values()))
    except _MALFORMED as error:
        raise DataError(f"{path} is not an index of weight files ({error!r})") from None
    for name in names:
        if not isinstance(name, str) or name in ("", ".", "..") or Path(name).name != name:
            raise DataError(f"{path}: {name!r} is not the name of a file in the same folder")
    shards = {name: _open_file(path.parent / name) for name in names}
    found = {key: name for name, shard in shards.items() for key in shard}
    if wrong := sorted(set(found.items()) ^ set(weight_map.items())):
        listed = ", ".join(f"{key} in {name}" for key, name in wrong[:10])
        raise DataError(f"{path} and its files do not hold the same tensors: {listed}")
    tensors = {key: shards[name][key] for key, name in weight_map.items()}
    formats = " and ".join(sorted({shard.format for shard in shards.values()}))
    return Source(tensors, f"sharded {formats}", tuple(path.parent / name for name in names))

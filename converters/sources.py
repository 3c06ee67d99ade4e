"""Checkpoint files as mappings of lazily read tensors, whatever they were written with.

    source = open_source("open_clip_model.safetensors")
    source["logit_scale"].shape, source["logit_scale"].read()

Formats are told apart by content: safetensors, torch's zip archives, its older plain pickles, TorchScript
archives, NumPy's npz, and an index (JSON) of several such files. All of them keep a tensor as a plain run of
bytes, so a tensor here is a place in a file: opening reads headers and pickles only, and data is read with
`preadv` into memory of the caller's choice. Nothing is memory-mapped, so no pages of the file count as ours;
nothing in a file is ever run.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import struct
import tokenize
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import ml_dtypes
import numpy as np

from clipjax.errors import DataError
from converters.pickles import Inert, StorageRef, TensorRef, read_pickle, tensor_names

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
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # torch/serialization.py, MAGIC_NUMBER
_LEGACY_PROTOCOL = 1001
_MALFORMED = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RecursionError,
)  # of JSON that is something else


@dataclass(frozen=True)
class Tensor:
    """A tensor in a file: where its first element lies and, unless C-contiguous, its strides in elements."""

    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype
    strides: tuple[int, ...] | None = None

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def span(self) -> int:
        """Bytes of the file from the first element to the last."""
        if self.strides is None or 0 in self.shape:
            return self.nbytes
        return (1 + sum((n - 1) * s for n, s in zip(self.shape, self.strides))) * self.dtype.itemsize

    def rows(self, start: int, stop: int) -> Tensor:
        """The tensor `self[start:stop]`, as lazy as this one."""
        step = math.prod(self.shape[1:]) if self.strides is None else self.strides[0]
        offset = self.offset + start * step * self.dtype.itemsize
        return replace(self, offset=offset, shape=(stop - start, *self.shape[1:]))

    def read(self, out: np.ndarray | None = None) -> np.ndarray:
        """The values, in a fresh array or in `out` (C-contiguous, of this shape and dtype).

        Raises:
            DataError: the file cannot be read, or is shorter than when it was opened.
        """
        if out is None:
            out = np.empty(self.shape, self.dtype)
        if self.strides is None:
            _fill(self.path, self.offset, out)
        else:
            flat = np.empty(self.span // self.dtype.itemsize, self.dtype)
            _fill(self.path, self.offset, flat)
            steps = tuple(s * self.dtype.itemsize for s in self.strides)
            out[...] = np.lib.stride_tricks.as_strided(flat, self.shape, steps, writeable=False)
        return out


def _fill(path: Path, offset: int, out: np.ndarray) -> None:
    view = memoryview(out.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
    try:
        with path.open("rb", buffering=0) as file:
            while view:
                count = os.preadv(file.fileno(), [view], offset)
                if count == 0:
                    raise DataError(f"{path} is truncated: it ends inside a tensor; get the file again")
                view, offset = view[count:], offset + count
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


class Source(Mapping[str, Tensor]):
    """The tensors of one checkpoint by name.

    Attributes:
        format: what the files were found to be, e.g. "safetensors" or "torch zip".
        files: the files that hold the tensors.
        metadata: the strings that a safetensors file carries beside its tensors.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        format: str,
        files: tuple[Path, ...],
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self._tensors = dict(tensors)
        self.format = format
        self.files = files
        self.metadata = dict(metadata or {})

    def __getitem__(self, key: str) -> Tensor:
        return self._tensors[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        return f"Source({self.format}, {len(self)} tensors, {', '.join(map(str, self.files))})"


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
        return _open_zip
    if start[8:9] == b"{":
        return _open_safetensors
    if start[:1] == b"\x80":
        return _open_legacy
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


# --- zip archives: torch.save, TorchScript, npz ---


def _open_zip(path: Path) -> Source:
    try:
        archive = _Archive(path)
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise DataError(f"{path}: damaged or truncated zip archive ({error}); get the file again") from None
    if all(name.endswith(".npy") for name in archive.entries):
        return Source({n.removesuffix(".npy"): archive.npy(n) for n in archive.entries}, "npz", (path,))
    pickles = [name for name in archive.entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise DataError(f"{path} is a zip archive, but neither torch nor NumPy wrote it")
    root = pickles[0].removesuffix("data.pkl")
    if archive.read(root + "byteorder", b"little") != b"little":
        raise DataError(f"{path} was written on a big-endian machine; save it again on a little-endian one")
    torchscript = root + "constants.pkl" in archive.entries
    value, storages = read_pickle(io.BytesIO(archive.read(pickles[0])), str(path), torchscript)
    places = {key: archive.locate(f"{root}data/{key}", ref) for key, ref in storages.items()}
    return _torch_source(value, places, path, "TorchScript" if torchscript else "torch zip")


class _Archive:
    """A zip archive whose entries are stored, not compressed: places in the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
        self.entries = {info.filename: info for info in infos}
        if len(self.entries) != len(infos):
            raise ValueError("an entry appears twice")

    def place(self, name: str) -> tuple[int, int]:
        """(offset, size) of an entry's data. Data of several entries may not be compressed: no bombs."""
        if name not in self.entries:
            raise DataError(f"{self.path}: entry {name} is missing; get the file again")
        info = self.entries[name]
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise DataError(
                f"{self.path}: entry {name} is compressed; write the file again without compression"
            )
        with self.path.open("rb") as file:
            file.seek(info.header_offset)
            header = file.read(30)
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            raise DataError(f"{self.path}: damaged zip archive (entry {name}); get the file again")
        name_length, extra_length = struct.unpack("<HH", header[26:30])
        return info.header_offset + 30 + name_length + extra_length, info.file_size

    def read(self, name: str, default: bytes | None = None) -> bytes:
        if default is not None and name not in self.entries:
            return default
        offset, size = self.place(name)
        if offset + size > self.path.stat().st_size:
            raise DataError(f"{self.path} is truncated: entry {name} lies beyond its end; get the file again")
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def locate(self, name: str, storage: StorageRef) -> int:
        offset, size = self.place(name)
        if size != storage.count * storage.dtype.itemsize:
            raise DataError(f"{self.path}: entry {name} has {size} bytes, its tensors need another number")
        return offset

    def npy(self, name: str) -> Tensor:
        """An array of an npz file (numpy.lib.format, versions 1 and 2)."""
        offset, size = self.place(name)
        with self.path.open("rb") as file:
            file.seek(offset)
            try:
                version = np.lib.format.read_magic(file)
                read_header = (
                    np.lib.format.read_array_header_1_0
                    if version == (1, 0)
                    else np.lib.format.read_array_header_2_0
                )
                shape, fortran, dtype = read_header(file)
            except (ValueError, SyntaxError, tokenize.TokenError) as error:
                raise DataError(f"{self.path}: entry {name} is not an array ({error})") from None
            start = file.tell()
        strides = tuple(math.prod(shape[:i]) for i in range(len(shape))) if fortran else None
        tensor = Tensor(self.path, start, shape, dtype, strides)
        if dtype.kind not in "fiub" or start + tensor.nbytes != offset + size:
            raise DataError(
                f"{self.path}: entry {name} is not a plain array of numbers of the size it states"
            )
        return tensor


# --- torch's pickles: what they hold, and the format before the zip archive ---


def _open_legacy(path: Path) -> Source:
    """Pickles of magic, protocol, system, state dict and storage keys; then each storage's count and data."""
    where = str(path)
    with path.open("rb") as file:
        magic, _ = read_pickle(file, where)
        if magic != _LEGACY_MAGIC:
            raise DataError(f"{path} is a pickle, but torch did not write it")
        protocol, _ = read_pickle(file, where)
        system, _ = read_pickle(file, where)
        if protocol != _LEGACY_PROTOCOL or not isinstance(system, dict) or not system.get("little_endian"):
            raise DataError(f"{path}: unknown version of torch's format; save it again with a current torch")
        value, storages = read_pickle(file, where)
        keys, _ = read_pickle(file, where)
        places = {}
        for key in cast(list, keys):
            if key not in storages:
                raise DataError(f"{path}: damaged file (storage {key!r} belongs to no tensor)")
            count = file.read(8)
            if len(count) < 8:
                raise DataError(f"{path} is truncated: storage {key} lies beyond its end; get the file again")
            if struct.unpack("<q", count)[0] != storages[key].count:
                raise DataError(f"{path}: storage {key} has another size than its tensors need")
            places[key] = file.tell()
            file.seek(storages[key].count * storages[key].dtype.itemsize, os.SEEK_CUR)
    return _torch_source(value, places, path, "torch legacy")


def _torch_source(value: Any, places: Mapping[str, int], path: Path, format: str) -> Source:
    if not isinstance(value, Inert):
        value = _state_dict(value, path)
    tensors = {}
    for name, ref in tensor_names(value, str(path)).items():
        if ref.storage.key not in places:
            raise DataError(f"{path}: damaged file (the data of tensor {name!r} is missing)")
        tensors[name] = _locate(ref, places[ref.storage.key], path)
    return Source(tensors, format, (path,))


def _state_dict(value: Any, path: Path) -> Any:
    """The state dict in a training checkpoint (open_clip: `state_dict`; others: `model`)."""
    if not isinstance(value, dict):
        raise DataError(f"{path} holds a {type(value).__name__}, not a state dict")
    wrappers = [key for key in ("state_dict", "model") if isinstance(value.get(key), dict)]
    if len(wrappers) > 1:
        raise DataError(f"{path} holds both a state_dict and a model: save the one you want alone")
    return value[wrappers[0]] if wrappers else value


def _locate(ref: TensorRef, place: int, path: Path) -> Tensor:
    dtype = ref.storage.dtype
    offset = place + (ref.storage.start + ref.offset) * dtype.itemsize
    contiguous = [math.prod(ref.shape[i + 1 :]) for i in range(len(ref.shape))]
    plain = all(n < 2 or s == c for n, s, c in zip(ref.shape, ref.strides, contiguous))
    return Tensor(path, offset, ref.shape, dtype, None if plain or 0 in ref.shape else ref.strides)

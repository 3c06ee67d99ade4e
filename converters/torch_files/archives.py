"""Zip archives (torch.save, TorchScript, npz) and torch's older plain pickles, as mappings of tensors.

Nothing in a file is run, and every stated size is checked against the file's.
"""

from __future__ import annotations

import io
import math
import os
import struct
import tokenize
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from clipjax.errors import DataError, cut
from clipjax.storage.formats.tensors import Source, Tensor, is_shape
from converters.torch_files.pickle_values import Inert, StorageRef, TensorRef
from converters.torch_files.pickles import DAMAGE, read_pickle, tensor_names

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # torch/serialization.py, MAGIC_NUMBER
_LEGACY_PROTOCOL = 1001
_MOST_DIRECTORY = 16 * 2**20  # bytes of a zip archive's directory, some 150,000 entries
_MOST_PICKLE = 64 * 2**20  # bytes of data.pkl, see `converters.torch_files.pickles`
_MOST_NPY_HEADER = 12 + 10_000  # numpy.lib.format reads no more than 10,000 characters


# --- zip archives: torch.save, TorchScript, npz ---


def open_zip(path: Path) -> Source:
    try:
        archive = _Archive(path)
    except (zipfile.BadZipFile, struct.error, NotImplementedError, *DAMAGE) as error:
        raise DataError(
            f"{path}: damaged or truncated zip archive ({cut(error)}); get the file again"
        ) from None
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
    offsets = {key: archive.locate(f"{root}data/{key}", ref) for key, ref in storages.items()}
    return _torch_source(value, offsets, path, "TorchScript" if torchscript else "torch zip")


class _Archive:
    def __init__(self, path: Path) -> None:
        self.path = path
        with _DirectoryFile(path) as file, zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
        self.entries = {info.filename: info for info in infos}
        if len(self.entries) != len(infos):
            raise ValueError("an entry appears twice")
        if sum(info.compress_size for info in infos) > path.stat().st_size:
            raise ValueError("its entries are larger than the file")
        for name in self.entries:
            if name.startswith("/") or "\\" in name or ".." in name.split("/"):
                raise ValueError(f"the entry {name!r} points out of the archive")

    def extent(self, name: str) -> tuple[int, int]:
        """(offset, size) of an entry's data. Compressed entries are refused: no zip bombs."""
        if name not in self.entries:
            raise DataError(f"{self.path}: entry {cut(name)} is missing; get the file again")
        info = self.entries[name]
        if info.flag_bits & 1:
            raise DataError(f"{self.path}: entry {cut(name)} is encrypted; write the file again in the clear")
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise DataError(
                f"{self.path}: entry {cut(name)} is compressed; write the file again without compression"
            )
        with self.path.open("rb") as file:
            file.seek(info.header_offset)
            header = file.read(30)
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            raise DataError(f"{self.path}: damaged zip archive (entry {cut(name)}); get the file again")
        name_length, extra_length = struct.unpack("<HH", header[26:30])
        return info.header_offset + 30 + name_length + extra_length, info.file_size

    def read(self, name: str, default: bytes | None = None) -> bytes:
        if default is not None and name not in self.entries:
            return default
        offset, size = self.extent(name)
        if size > _MOST_PICKLE:
            raise DataError(f"{self.path}: entry {cut(name)} has {size} bytes; no state dict takes so many")
        if offset + size > self.path.stat().st_size:
            raise DataError(
                f"{self.path} is truncated: entry {cut(name)} is beyond its end; get the file again"
            )
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def locate(self, name: str, storage: StorageRef) -> int:
        offset, size = self.extent(name)
        if size != storage.count * storage.dtype.itemsize:
            raise DataError(
                f"{self.path}: entry {cut(name)} has {size} bytes, its tensors need another number"
            )
        return offset

    def npy(self, name: str) -> Tensor:
        """numpy.lib.format, versions 1 and 2."""
        offset, size = self.extent(name)
        with self.path.open("rb") as file:
            file.seek(offset)
            start = file.read(min(size, _MOST_NPY_HEADER))
        try:
            shape, fortran, dtype, header = _npy_header(start)
        except (SyntaxError, tokenize.TokenError, *DAMAGE) as error:
            raise DataError(f"{self.path}: entry {cut(name)} is not an array ({cut(error)})") from None
        if dtype.kind not in "fiub" or not is_shape(shape):
            raise DataError(f"{self.path}: entry {cut(name)} is not a plain array of numbers")
        strides = tuple(math.prod(shape[:i]) for i in range(len(shape))) if fortran else None
        tensor = Tensor(self.path, offset + header, shape, dtype, strides)
        if header + tensor.nbytes != size:
            raise DataError(f"{self.path}: entry {cut(name)} is not an array of the size that it states")
        return tensor


class _DirectoryFile(io.FileIO):
    """Limits reads: zipfile reads a directory of whatever length the archive states."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > _MOST_DIRECTORY:
            raise ValueError(f"its directory takes {size} bytes")
        return super().read(size) or b""


def _npy_header(start: bytes) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """(shape, Fortran order, dtype, bytes of the header)."""
    file = io.BytesIO(start)
    version = np.lib.format.read_magic(file)
    read_header = (
        np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    )
    with warnings.catch_warnings(action="ignore"):  # about Python 2's headers and odd literals
        shape, fortran, dtype = read_header(file)
    return shape, fortran, dtype, file.tell()


# --- torch's pickles: what they hold, and the format before the zip archive ---


def open_legacy(path: Path) -> Source:
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
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise DataError(f"{path}: damaged file (the keys of its storages are not a list of names)")
        offsets = {key: _legacy_offset(file, key, storages.get(key), path) for key in keys}
    return _torch_source(value, offsets, path, "torch legacy")


def _legacy_offset(file: BinaryIO, key: str, storage: StorageRef | None, path: Path) -> int:
    """Start of the next storage's data; leaves `file` after it."""
    if storage is None:
        raise DataError(f"{path}: damaged file (storage {cut(repr(key))} belongs to no tensor)")
    count = file.read(8)
    offset = file.tell()
    size = storage.count * storage.dtype.itemsize
    if len(count) < 8 or offset + size > path.stat().st_size:
        raise DataError(f"{path} is truncated: storage {cut(key)} is beyond its end; get the file again")
    if struct.unpack("<q", count)[0] != storage.count:
        raise DataError(f"{path}: storage {cut(key)} has another size than its tensors need")
    file.seek(size, os.SEEK_CUR)
    return offset


def _torch_source(value: Any, offsets: Mapping[str, int], path: Path, format: str) -> Source:
    if not isinstance(value, Inert):
        value = _state_dict(value, path)
    tensors = {}
    for name, ref in tensor_names(value, str(path)).items():
        if ref.storage.key not in offsets:
            raise DataError(f"{path}: damaged file (the data of tensor {cut(repr(name))} is missing)")
        tensors[name] = _locate(ref, offsets[ref.storage.key], path)
    return Source(tensors, format, (path,))


_WRAPPERS = ("state_dict", "model", "module", "classifier")


def _state_dict(value: Any, path: Path) -> Any:
    """Unwrap `state_dict` (open_clip), `model`, `module` (DeepSpeed) or `classifier` (PyContrast)."""
    if not isinstance(value, dict):
        raise DataError(f"{path} holds a {type(value).__name__}, not a state dict")
    wrappers = [key for key in _WRAPPERS if isinstance(value.get(key), dict)]
    if len(wrappers) > 1:
        both = " and a ".join(wrappers)
        raise DataError(f"{path} holds both a {both}: save the one you want alone")
    return _of_parts(value[wrappers[0]] if wrappers else value)


_PARTS = {"projector", "llm_backbone", "vision_backbone"}


def _of_parts(value: dict[Any, Any]) -> dict[Any, Any]:
    """Prismatic has a state dict for each part of a model: their names, joined by a dot."""
    are_dicts = all(isinstance(part, dict) for part in value.values())
    if not value or not value.keys() <= _PARTS or not are_dicts:
        return value
    joined = {}
    for name, part in value.items():
        for key, tensor in part.items():
            # `tensor_names` refuses a key that is not a text.
            joined[f"{name}.{key}" if isinstance(key, str) else key] = tensor
    return joined


def _locate(ref: TensorRef, start: int, path: Path) -> Tensor:
    dtype = ref.storage.dtype
    offset = start + (ref.storage.start + ref.offset) * dtype.itemsize
    contiguous = [math.prod(ref.shape[i + 1 :]) for i in range(len(ref.shape))]
    # The stride of an axis of length 1 means nothing.
    plain = all(n < 2 or s == c for n, s, c in zip(ref.shape, ref.strides, contiguous))
    return Tensor(path, offset, ref.shape, dtype, None if plain or 0 in ref.shape else ref.strides)

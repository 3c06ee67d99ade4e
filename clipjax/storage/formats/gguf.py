"""GGUF: a header with metadata and where each tensor is, and the tensors as numbers.

Source: github.com/ggml-org/ggml docs/gguf.md, versions 2 and 3. Every stated size is compared with the file's
before memory is taken for it. Quantised tensors are read a few rows at a time, through the `gguf` package.
"""

from __future__ import annotations

import io
import math
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from clipjax.errors import DataError, cut
from clipjax.storage.formats.tensors import Tensor, fill, is_shape
from clipjax.storage.reading import check_regular

# `gguf` is loaded late: it takes a tenth of a second, and few models are in such a file.
if TYPE_CHECKING:
    from gguf import GGMLQuantizationType

MAGIC = b"GGUF"
_MOST_HEADER = 2**26  # bytes; a vocabulary of 256,000 tokens with its merges takes 12 million
_MOST_AXES = 4  # GGML_MAX_DIMS
_NUMBERS = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?"} | {
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
_STRING, _ARRAY = 8, 9
_PLAIN = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}
_QUANTISED = ("Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K")


@dataclass(frozen=True)
class GgufTensor:
    """Attributes:
    shape: NumPy's; the file lists axes reversed.
    kind: ggml's number of its type.
    offset: in bytes from the start of the file.
    """

    shape: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True)
class GgufHeader:
    """`metadata` has numbers, strings, booleans, and lists of one of them."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]


def is_gguf(path: Path) -> bool:
    """Whether a file begins as GGUF does. False if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(4) == MAGIC
    except (OSError, ValueError):
        return False


def read_gguf(path: Path) -> GgufHeader:
    """Raises DataError: not GGUF of version 2 or 3, truncated or damaged."""
    check_regular(path)
    try:
        with path.open("rb") as file:
            return _read(_Header(file, path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


class _Header:
    """The bytes of the header, from the front."""

    def __init__(self, file: io.BufferedReader, path: Path) -> None:
        self.file, self.path = file, path
        self.at, self.end = 0, min(path.stat().st_size, _MOST_HEADER)

    def take(self, count: int) -> bytes:
        data = self.file.read(count) if count <= self.end - self.at else b""
        if len(data) != count:
            long = self.end == _MOST_HEADER
            raise DataError(
                f"{self.path}: its header takes more than {_MOST_HEADER} bytes"
                if long
                else f"{self.path} is truncated: it ends inside its header; get the file again"
            )
        self.at += count
        return data

    def integer(self, format: str) -> int:
        return struct.unpack(format, self.take(struct.calcsize(format)))[0]

    def text(self) -> str:
        try:
            return self.take(self.integer("<Q")).decode()
        except UnicodeDecodeError:
            raise self.damaged("a string is not UTF-8") from None

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            return self.array()
        return self.numbers(kind, 1)[0]

    def array(self) -> list[Any]:
        kind, count = self.integer("<I"), self.integer("<Q")
        if kind != _STRING:
            return self.numbers(kind, count)
        if count > (self.end - self.at) // 8:  # each has its length before it
            self.take(self.end)
        return [self.text() for _ in range(count)]

    def numbers(self, kind: int, count: int) -> list[Any]:
        if kind not in _NUMBERS:
            raise self.damaged(f"a value of type {kind}, which clipjax does not read")
        dtype = np.dtype(_NUMBERS[kind])
        return np.frombuffer(self.take(count * dtype.itemsize), dtype).tolist()

    def damaged(self, what: str) -> DataError:
        return DataError(f"{self.path}: damaged GGUF header ({what})")


def _read(header: _Header) -> GgufHeader:
    if header.take(4) != MAGIC:
        raise DataError(f"{header.path} is not a GGUF file; get the file again")
    version = header.integer("<I")
    if version not in (2, 3):
        big = version in (2 << 24, 3 << 24)
        what = "was written for a big-endian machine" if big else f"is GGUF of version {version}"
        raise DataError(f"{header.path} {what}; clipjax reads versions 2 and 3, little-endian")
    tensors, values = header.integer("<Q"), header.integer("<Q")
    metadata: dict[str, Any] = {}
    for _ in range(values):
        key = header.text()
        if key in metadata:
            raise header.damaged(f"the key {key[:80]!r} appears twice")
        metadata[key] = header.value(header.integer("<I"))
    found: dict[str, GgufTensor] = {}
    for _ in range(tensors):
        name = header.text()
        if name in found:
            raise header.damaged(f"the tensor {name[:80]!r} appears twice")
        found[name] = _tensor(header, name)
    return GgufHeader(header.path, metadata, _placed(header, metadata, found))


def _tensor(header: _Header, name: str) -> GgufTensor:
    axes = header.integer("<I")
    if not 1 <= axes <= _MOST_AXES:
        raise header.damaged(f"tensor {name[:80]!r} has {axes} axes")
    sizes = struct.unpack(f"<{axes}Q", header.take(8 * axes))
    if not all(0 < size < 2**40 for size in sizes):
        raise header.damaged(f"tensor {name[:80]!r} has a shape of no tensor")
    return GgufTensor(sizes[::-1], header.integer("<I"), header.integer("<Q"))


def _placed(header: _Header, metadata: dict[str, Any], found: dict[str, GgufTensor]) -> dict[str, GgufTensor]:
    """Offsets from the start of the file; in the header they count from the first aligned byte after it."""
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 1 <= alignment <= 2**20 or alignment & (alignment - 1):
        raise header.damaged("general.alignment is not a power of two")
    base = -(-header.at // alignment) * alignment
    for name, tensor in found.items():
        if tensor.offset % alignment:
            raise header.damaged(f"tensor {name[:80]!r} does not begin at a multiple of {alignment} bytes")
    return {name: GgufTensor(t.shape, t.kind, base + t.offset) for name, t in found.items()}


# --- the tensors ---


@dataclass(frozen=True)
class QuantisedTensor(Tensor):
    """`shape` and `dtype` are those of the numbers that the blocks of `kind` stand for."""

    kind: GGMLQuantizationType | None = None

    @property
    def span(self) -> int:
        from gguf import GGML_QUANT_SIZES

        assert self.kind is not None
        block, size = GGML_QUANT_SIZES[self.kind]
        return math.prod(self.shape) // block * size

    def rows(self, start: int, stop: int) -> QuantisedTensor:
        """Rows `start` to `stop` of a tensor with two axes or more."""
        offset = self.offset + start * (self.span // self.shape[0])
        return replace(self, offset=offset, shape=(stop - start, *self.shape[1:]))

    def read(self, out: np.ndarray | None = None) -> np.ndarray:
        from gguf.quants import dequantize

        assert self.kind is not None
        raw = np.empty((math.prod(self.shape[:-1]), self.span // math.prod(self.shape[:-1])), np.uint8)
        fill(self.path, self.offset, raw)
        values = dequantize(raw, self.kind).reshape(self.shape)
        if out is None:
            return values
        out[...] = values
        return out


def tensors_of(header: GgufHeader) -> dict[str, Tensor]:
    """The tensors of a file, read lazily. Raises DataError: a type that clipjax does not read, or damage."""
    tensors = {name: _opened(header.path, name, tensor) for name, tensor in header.tensors.items()}
    _refuse_overlap(header.path, tensors)
    return tensors


def _opened(path: Path, name: str, tensor: GgufTensor) -> Tensor:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    known = {kind.value: kind for kind in GGMLQuantizationType}
    kind = known.get(tensor.kind)
    label = f"number {tensor.kind}" if kind is None else kind.name
    if kind is None or label not in (*_PLAIN, *_QUANTISED):
        raise DataError(
            f"{path}: tensor {cut(repr(name))} is quantised as {label}; clipjax reads "
            f"{', '.join((*_PLAIN, *_QUANTISED))}: get the file in one of these"
        )
    if not is_shape(tensor.shape) or math.prod(tensor.shape) >= 2**48:
        raise DataError(f"{path}: tensor {cut(repr(name))} has a shape that no file can hold")
    if label in _PLAIN:
        return Tensor(path, tensor.offset, tensor.shape, _PLAIN[label])
    if tensor.shape[-1] % GGML_QUANT_SIZES[kind][0]:
        raise DataError(
            f"{path}: tensor {cut(repr(name))} has rows of {tensor.shape[-1]} numbers, which blocks of "
            f"{label} do not fill"
        )
    return QuantisedTensor(path, tensor.offset, tensor.shape, np.dtype(np.float32), kind=kind)


def _refuse_overlap(path: Path, tensors: dict[str, Tensor]) -> None:
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].offset):
        if tensor.offset < end:
            raise DataError(f"{path}: damaged GGUF header (tensor {cut(repr(name))} overlaps another)")
        end = tensor.offset + tensor.span

"""The tensors of a GGUF file of a Llama or Mistral model, as numbers in the order of the original.

Quantised tensors are read a few rows at a time, through the `gguf` package. llama.cpp's converter reorders
the rows of q and k, because its rotary positions turn neighbours and transformers' turn halves; they are put
back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np

from clipjax.errors import DataError
from clipjax.storage.gguf import GgufHeader, GgufTensor, read_gguf
from converters.pickle_values import cut
from converters.tensors import Source, Tensor, fill, is_shape

# `gguf` is loaded late: it takes a tenth of a second, and few models are in such a file.
if TYPE_CHECKING:
    from gguf import GGMLQuantizationType

_PLAIN = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}
_QUANTISED = ("Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K")
ARCHITECTURE = "llama"  # Mistral's, too


@dataclass(frozen=True)
class Quantised(Tensor):
    """`shape` and `dtype` are those of the numbers that the blocks of `kind` stand for."""

    kind: GGMLQuantizationType | None = None

    @property
    def span(self) -> int:
        from gguf import GGML_QUANT_SIZES

        assert self.kind is not None
        block, size = GGML_QUANT_SIZES[self.kind]
        return math.prod(self.shape) // block * size

    def rows(self, start: int, stop: int) -> Quantised:
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


@dataclass(frozen=True)
class HeadRows(Tensor):
    """A projection [heads * head_dim, D]; a head's rows are stored as 0, d/2, 1, d/2 + 1, ... (d = head_dim).

    Attributes:
        stored: the tensor as it is in the file.
        first: the row of the whole that is row 0 here.
    """

    stored: Tensor | None = None
    head_dim: int = 2
    first: int = 0

    @property
    def span(self) -> int:
        return 0 if self.stored is None else self.stored.span

    def rows(self, start: int, stop: int) -> HeadRows:
        return replace(self, shape=(stop - start, *self.shape[1:]), first=self.first + start)

    def read(self, out: np.ndarray | None = None) -> np.ndarray:
        assert self.stored is not None
        start = self.first // self.head_dim * self.head_dim
        stop = -(-(self.first + self.shape[0]) // self.head_dim) * self.head_dim
        heads = self.stored.rows(start, stop).read().reshape(-1, self.head_dim // 2, 2, *self.shape[1:])
        rows = heads.swapaxes(1, 2).reshape(stop - start, *self.shape[1:])
        rows = rows[self.first - start :][: self.shape[0]]
        if out is None:
            return rows
        out[...] = rows
        return out


def open_gguf(path: Path) -> Source:
    """Raises DataError: another architecture, a type of tensors that clipjax does not read, or damage."""
    return gguf_source(read_gguf(path))


def gguf_source(header: GgufHeader) -> Source:
    """As `open_gguf`, of a header that is read already."""
    architecture = header.metadata.get("general.architecture")
    if architecture != ARCHITECTURE:
        raise DataError(
            f"{header.path}: general.architecture is {cut(repr(architecture))}; clipjax reads {ARCHITECTURE}"
        )
    tensors = {name: _tensor(header.path, name, tensor) for name, tensor in header.tensors.items()}
    _refuse_overlap(header.path, tensors)
    for name, tensor in tensors.items():
        if name.endswith((".attn_q.weight", ".attn_k.weight")):
            tensors[name] = _head_rows(header, name, tensor)
    return Source(tensors, "gguf", (header.path,))


def _tensor(path: Path, name: str, tensor: GgufTensor) -> Tensor:
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
    return Quantised(path, tensor.offset, tensor.shape, np.dtype(np.float32), kind=kind)


def _refuse_overlap(path: Path, tensors: dict[str, Tensor]) -> None:
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].offset):
        if tensor.offset < end:
            raise DataError(f"{path}: damaged GGUF header (tensor {cut(repr(name))} overlaps another)")
        end = tensor.offset + tensor.span


def _head_rows(header: GgufHeader, name: str, tensor: Tensor) -> Tensor:
    queries = header.metadata.get(f"{ARCHITECTURE}.attention.head_count")
    keys = header.metadata.get(f"{ARCHITECTURE}.attention.head_count_kv", queries)
    heads = queries if name.endswith("attn_q.weight") else keys
    if type(heads) is not int or heads < 1 or len(tensor.shape) != 2 or tensor.shape[0] % (2 * heads):
        raise DataError(
            f"{header.path}: tensor {cut(repr(name))} of shape {tensor.shape} is not that of "
            f"{cut(repr(heads))} heads (see attention.head_count)"
        )
    shape = (tensor.shape, tensor.dtype)
    return HeadRows(tensor.path, tensor.offset, *shape, stored=tensor, head_dim=tensor.shape[0] // heads)

"""The tensors of a GGUF file of a Llama or Mistral model, in the order of the original.

llama.cpp's converter reorders the rows of q and k, because its rotary positions turn neighbours and
transformers' turn halves; they are put back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from clipjax.errors import DataError, cut
from clipjax.storage.formats.gguf import GgufHeader, read_gguf, tensors_of
from clipjax.storage.formats.tensors import Source, Tensor

ARCHITECTURE = "llama"  # Mistral's, too


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
    """The tensors of a file whose header has been read; raises as `open_gguf`."""
    architecture = header.metadata.get("general.architecture")
    if architecture != ARCHITECTURE:
        raise DataError(
            f"{header.path}: general.architecture is {cut(repr(architecture))}; clipjax reads {ARCHITECTURE}"
        )
    tensors = tensors_of(header)
    for name, tensor in tensors.items():
        if name.endswith((".attn_q.weight", ".attn_k.weight")):
            tensors[name] = _head_rows(header, name, tensor)
    return Source(tensors, "gguf", (header.path,))


def _head_rows(header: GgufHeader, name: str, tensor: Tensor) -> Tensor:
    queries = header.metadata.get(f"{ARCHITECTURE}.attention.head_count")
    keys = header.metadata.get(f"{ARCHITECTURE}.attention.head_count_kv", queries)
    heads = queries if name.endswith("attn_q.weight") else keys
    # llama.cpp interleaves the halves of each head's rows, so a head has an even number of them.
    is_matrix = len(tensor.shape) == 2
    if type(heads) is not int or heads < 1 or not is_matrix or tensor.shape[0] % (2 * heads):
        raise DataError(
            f"{header.path}: tensor {cut(repr(name))} of shape {tensor.shape} is not that of "
            f"{cut(repr(heads))} heads (see attention.head_count)"
        )
    shape = (tensor.shape, tensor.dtype)
    return HeadRows(tensor.path, tensor.offset, *shape, stored=tensor, head_dim=tensor.shape[0] // heads)

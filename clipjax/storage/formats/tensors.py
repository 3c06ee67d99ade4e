"""A tensor as a part of a file, and a file of such tensors.

Nothing is memory-mapped: no pages of the file count as ours.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from clipjax.errors import DataError


def is_shape(shape: Iterable[object]) -> bool:
    """Whether a value is a list of at most 32 natural numbers, none larger than any file."""
    sizes = tuple(shape)
    return len(sizes) <= 32 and all(type(n) is int and 0 <= n < 2**62 for n in sizes)


@dataclass(frozen=True)
class Tensor:
    """`offset` in bytes; `strides` in elements, None if C-contiguous."""

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
        """Bytes from the first element to the last."""
        if self.strides is None or 0 in self.shape:
            return self.nbytes
        return (1 + sum((n - 1) * s for n, s in zip(self.shape, self.strides))) * self.dtype.itemsize

    def rows(self, start: int, stop: int) -> Tensor:
        """`self[start:stop]`, as lazy as this one."""
        step = math.prod(self.shape[1:]) if self.strides is None else self.strides[0]
        offset = self.offset + start * step * self.dtype.itemsize
        return replace(self, offset=offset, shape=(stop - start, *self.shape[1:]))

    def read(self, out: np.ndarray | None = None) -> np.ndarray:
        """Read into a fresh array or `out` (C-contiguous, same shape and dtype).

        Raises DataError if the file cannot be read, or is shorter than when opened.
        """
        if out is None:
            out = np.empty(self.shape, self.dtype)
        if self.strides is None:
            fill(self.path, self.offset, out)
        else:
            flat = np.empty(self.span // self.dtype.itemsize, self.dtype)
            fill(self.path, self.offset, flat)
            steps = tuple(s * self.dtype.itemsize for s in self.strides)
            out[...] = np.lib.stride_tricks.as_strided(flat, self.shape, steps, writeable=False)
        return out


def fill(path: Path, offset: int, out: np.ndarray) -> None:
    """Read the bytes at `offset` into a C-contiguous array. Raises as `Tensor.read`."""
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
        format: e.g. "safetensors" or "torch zip".
        metadata: a safetensors file's strings.
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

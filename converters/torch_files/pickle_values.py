"""The values that a torch pickle may build, and the only names that it may call; none is imported.

Limits stop a short pickle from describing a value that takes forever to build, hash or print.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

MOST_ARGUMENTS = 16
_MOST_DIMENSIONS = 32
LONGEST_NAME = 4096  # characters of a key, a global name or a tensor's dotted name
_STORAGES = {
    "Double": np.float64,
    "Float": np.float32,
    "Half": np.float16,
    "BFloat16": ml_dtypes.bfloat16,
    "Long": np.int64,
    "Int": np.int32,
    "Short": np.int16,
    "Char": np.int8,
    "Byte": np.uint8,
    "Bool": np.bool_,
}


@dataclass(frozen=True)
class StorageRef:
    """`count` elements outside the pickle; `start` is the first, for a legacy file's view of a storage."""

    key: str
    dtype: np.dtype
    count: int
    start: int = 0


@dataclass(frozen=True)
class TensorRef:
    """A strided window (in elements) of a storage."""

    storage: StorageRef
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass
class Inert:
    """An object whose class is only a name: a TorchScript module, or a `Namespace` of options."""

    name: str
    state: dict[Any, Any] = field(default_factory=dict)


def is_index(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**62


def copied(argument: Any) -> int:
    """Approximate bytes that a builder copies; a dict's entry takes some hundred."""
    if isinstance(argument, str | bytes):
        return len(argument)
    return 128 * len(argument) if isinstance(argument, list | tuple | dict) else 0


def key_of(value: Any) -> Any:
    """Keys must be short scalars: hashing a tuple of tuples of shared tuples would never end."""
    if not isinstance(value, str | int | float | bytes | None):
        raise TypeError(f"a key that is a {type(value).__name__}")
    if isinstance(value, str | bytes) and len(value) > LONGEST_NAME:
        raise ValueError(f"a key of {len(value)} characters")
    if isinstance(value, int) and value.bit_length() > 64:
        raise ValueError(f"a key that is a number of {value.bit_length()} bits")
    return value


def storage_key(value: Any) -> str:
    if not isinstance(value, str | int):
        raise TypeError(f"a storage key that is a {type(value).__name__}")
    return str(key_of(value))


def pairs(items: list[Any]) -> dict[Any, Any]:
    return dict(zip(map(key_of, items[0::2]), items[1::2], strict=True))


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> TensorRef:
    """`rest` may end in the metadata of negated views."""
    if not isinstance(storage, StorageRef) or not is_index(offset) or len(shape) != len(strides):
        raise ValueError("a tensor without a storage")
    if len(shape) > _MOST_DIMENSIONS or not all(is_index(n) for n in (*shape, *strides)):
        raise ValueError("a tensor whose shape or strides are not natural numbers")
    if len(rest) > 2 and rest[2]:
        raise ValueError("a tensor with a negative or conjugate bit")
    count = math.prod(shape)
    # The largest place that an index reaches: of shape (2, 3), strides (3, 1), offset + 1 * 3 + 2 * 1.
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides)) if count else offset
    if count > storage.count or (count and last >= storage.count):
        raise ValueError(f"shape {shape} does not fit a storage of {storage.count} elements")
    return TensorRef(storage, offset, tuple(shape), tuple(strides))


def _tensor_only(tensor: Any, *_rest: Any) -> TensorRef:
    if not isinstance(tensor, TensorRef):
        raise ValueError("a parameter that is not a tensor")
    return tensor


def _ordered_dict(items: Any = ()) -> dict[Any, Any]:
    return pairs([part for key, value in items for part in (key, value)])


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """`_codecs.encode`, with which protocol 2 writes bytes."""
    if encoding != "latin1":
        raise ValueError("bytes in another encoding than latin1")
    return text.encode(encoding)


def _size(sizes: Any = ()) -> tuple[Any, ...]:
    if len(sizes) > _MOST_DIMENSIONS:
        raise ValueError(f"a torch.Size of {len(sizes)} numbers")
    return tuple(sizes)


def _device(kind: Any = None, index: Any = None) -> str:
    return f"{key_of(kind)}:{key_of(index)}"


BUILDERS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _tensor_only,
    "torch.Size": _size,
    "torch.device": _device,
    "torch.jit._pickle.restore_type_tag": lambda value, _type: value,
    "torch.jit._pickle.build_intlist": lambda values: values,
    "torch.jit._pickle.build_doublelist": lambda values: values,
    "torch.jit._pickle.build_boollist": lambda values: values,
    "torch.jit._pickle.build_tensorlist": lambda values: values,
    "_codecs.encode": _encode,
}
# Options and NumPy scalars beside a training checkpoint's state dict; nothing uses their values.
CLASSES = {
    "argparse.Namespace",
    "numpy.dtype",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
}
DTYPES: dict[str, Any] = {
    f"{module}.{name}Storage": np.dtype(dtype)
    for name, dtype in _STORAGES.items()
    for module in ("torch", "torch.cuda")
} | {f"torch.{np.dtype(dtype)}": np.dtype(dtype).name for dtype in _STORAGES.values()}

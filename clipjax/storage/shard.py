"""A stored shard as bytes: a safetensors file.

Its tensors: `array` (any rank and dtype), `ids` (JSON bytes), `per_device_batch`, which decides rows' last
bits, and `sha256` of these three and of the owner: the entry's key and the shard's number. A shard that was
moved to another entry or number is refused by it. Its header names the versions of JAX that made it.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import re
from collections.abc import Mapping, Sequence

import numpy as np

from clipjax.storage.formats.safetensors import blocks_of, tensors_in

_MADE = re.compile(r"(jax|jaxlib)=([\w.+-]{1,40})")

SCHEMA = 2
"""Version of the files; part of every key, so that an entry of another version is never read as ours."""


def pack(ids: Sequence[str], array: np.ndarray, per_device_batch: int, owner: str) -> bytes:
    names = np.frombuffer(json.dumps(list(ids)).encode(), np.uint8)
    array = np.ascontiguousarray(array)
    tensors = {
        "array": array,
        "ids": names,
        "sha256": _checksum(owner, names, array, per_device_batch),
        "per_device_batch": np.array(per_device_batch, np.int32),
    }
    made = " ".join(f"{name}={version}" for name, version in making().items())
    return b"".join(blocks_of(tensors, {"format": f"clipjax-store-{SCHEMA} {made}"}))


@functools.cache
def making() -> dict[str, str]:
    """The versions that a shard records: the same weights may give other bits with others."""
    return {name: importlib.metadata.version(name) for name in ("jax", "jaxlib")}


def unpack(data: bytes, owner: str) -> tuple[list[str], np.ndarray, int, dict[str, str]]:
    """Ids, rows, per-device batch, and `making` ({}: not recorded).

    Raises ValueError unless whole, unchanged and of this owner.
    """
    try:
        tensors, about = tensors_in(data)
        names, array, checksum = tensors["ids"], tensors["array"], tensors["sha256"]
        batch = int(tensors["per_device_batch"])
        same = np.array_equal(checksum, _checksum(owner, names, array, batch))
        ids = json.loads(names.tobytes()) if same else []
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
        OverflowError,
        RecursionError,
    ) as error:
        raise ValueError(f"truncated or foreign: {error}") from None
    if not same:
        raise ValueError("checksum differs: changed, or another entry's")
    if not isinstance(ids, list) or not all(isinstance(name, str) for name in ids) or array.ndim < 1:
        raise ValueError("foreign: its ids are not a list of texts, or its array has no rows")
    return ids, array, batch, _making(about)


def _making(about: object) -> dict[str, str]:
    words = str(about.get("format", "")).split() if isinstance(about, Mapping) else []
    return {match[1]: match[2] for match in map(_MADE.fullmatch, words) if match}


def _checksum(owner: str, names: np.ndarray, array: np.ndarray, per_device_batch: int) -> np.ndarray:
    said = f"{owner} {per_device_batch} {array.dtype.name} {array.shape} {names.size} "
    digest = hashlib.sha256(said.encode())
    digest.update(names.data)
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return np.frombuffer(digest.digest(), np.uint8)

"""A stored shard as bytes: a safetensors file.

Its tensors are `array` (any rank and dtype), `ids` (JSON, as bytes), `sha256` (of both) and
`per_device_batch`, the images that a device took at once when the rows were made: the last bits depend on it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np
import safetensors
import safetensors.numpy

SCHEMA = 1
"""Version of the files; part of every key, so an entry of another version is never read as ours."""


def pack(ids: Sequence[str], array: np.ndarray, per_device_batch: int) -> bytes:
    """The bytes of a shard."""
    names = np.frombuffer(json.dumps(list(ids)).encode(), np.uint8)
    array = np.ascontiguousarray(array)
    tensors = {
        "array": array,
        "ids": names,
        "sha256": _checksum(names, array),
        "per_device_batch": np.array(per_device_batch, np.int32),
    }
    return safetensors.numpy.save(tensors, metadata={"format": f"clipjax-store-{SCHEMA}"})


def unpack(data: bytes) -> tuple[list[str], np.ndarray, int | None]:
    """Ids, rows, and the batch that they were made in (None in a file of an earlier clipjax).

    Raises ValueError if the bytes are not a whole, unchanged shard.
    """
    try:
        tensors = safetensors.numpy.load(data)
        names, array, checksum = tensors["ids"], tensors["array"], tensors["sha256"]
    except (safetensors.SafetensorError, KeyError) as error:
        raise ValueError(f"truncated or foreign: {error}") from None
    if not np.array_equal(checksum, _checksum(names, array)):
        raise ValueError("checksum differs")
    batch = tensors.get("per_device_batch")
    return json.loads(names.tobytes()), array, None if batch is None else int(batch)


def _checksum(names: np.ndarray, array: np.ndarray) -> np.ndarray:
    digest = hashlib.sha256(f"{array.dtype.name} {array.shape} {names.size} ".encode())
    digest.update(names.data)
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return np.frombuffer(digest.digest(), np.uint8)

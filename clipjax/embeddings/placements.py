"""Placement of a tower's params for embedding: whole on each device, or cut over all (FSDP).

Whole is the rule: no device waits for another. A cut model puts one block at a time together, when the scan
reaches it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec

from clipjax.checkpoints.encoder import Encoder, ModelCard
from clipjax.devices.sharding import DATA, local_mesh
from clipjax.embeddings.compute import REPLICATED, SHARDED, Compute
from clipjax.errors import UsageError
from clipjax.models.cut import STACKS, Cut, whole
from clipjax.models.precision import Dtype
from clipjax.options import AUTO, check_values


def placements(placement: str) -> tuple[str, ...]:
    return (REPLICATED, SHARDED) if placement == AUTO else (placement,)


def seen_whole(parts: Any, specs: Any, devices: int) -> Any:
    """Turn a device's parts of the params into what the network takes, inside `shard_map`.

    Stacked params stay cut until the scan reaches them.
    """

    def see(path: tuple, part: jax.Array, spec: PartitionSpec) -> Any:
        if DATA not in spec:
            return part
        cut = Cut(part, spec.index(DATA) - part.ndim, devices, DATA)
        return cut if any(key.key in STACKS for key in path) else whole(cut)

    return jax.tree_util.tree_map_with_path(see, parts, specs)


def device_memory() -> int | None:
    """Bytes that JAX may use on a device; None if unknown (a CPU)."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


def fits(needed: Callable[[], int | None], params: Any) -> bool:
    """Whether a step with whole params fits a device; True if unknown, or for one device.

    `needed` returns the bytes of a step, or None if memory was refused; it may compile.
    """
    limit = device_memory()
    if limit is None or jax.local_device_count() == 1:
        return True
    if bytes_of(params) > limit:
        return False
    bytes_ = needed()
    return bytes_ is not None and bytes_ <= limit


def mesh_to_load(placement: str) -> Callable[[Any], Mesh | None]:
    """Abstract params -> the mesh to cut them over while reading; None: do not cut.

    "auto" cuts unless two copies fit: these params and those placed for embedding. Raises UsageError for an
    unknown placement.
    """
    check_values(Compute, params=placement)

    def mesh(params: Any) -> Mesh | None:
        if placement == AUTO:
            limit = device_memory()
            cut = limit is not None and 2 * bytes_of(params) > limit
        else:
            cut = placement == SHARDED
        return local_mesh() if cut and jax.local_device_count() > 1 else None

    return mesh


def refuse_own(model: Encoder, placement: str) -> None:
    """Raise UsageError for a user's own model with sharded params."""
    if placement == SHARDED and model.network is None:
        raise UsageError(f"{model.card.id} is not one of clipjax's networks: it places its params itself")


def dtype_to_load(precisions: Collection[str]) -> Callable[[ModelCard], Dtype]:
    """A card -> the dtype of its decoder's params: bfloat16 if it is to answer in "fast" alone."""

    def dtype(card: ModelCard) -> Dtype:
        return "bfloat16" if card.kind == "vision_language" and {*precisions} == {"fast"} else "float32"

    return dtype


def cast_bytes(loaded: Any, placed: Any) -> int:
    """Bytes of the loaded params whose dtype is another than in `placed`: they stay beside their copies."""
    both = zip(jax.tree.leaves(loaded), jax.tree.leaves(placed), strict=True)
    return bytes_of([before for before, after in both if before.dtype != after.dtype])


def bytes_of(params: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))

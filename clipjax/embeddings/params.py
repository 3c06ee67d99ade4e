"""How a tower's params lie on the devices that embed with it: whole on each, or cut over all of them.

Whole is the rule: no device waits for another. A model that does not fit a device so is cut (FSDP, by the
rules of `clipjax.devices.sharding`): a device holds its part of every large param, and puts one block after
the other together as the scan comes to it (`clipjax.models.cut`). What it computes of them is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec

from clipjax.checkpoints.encoder import Encoder
from clipjax.devices.sharding import DATA, DP, FSDP, local_mesh, params_sharding
from clipjax.errors import UsageError, unknown_name
from clipjax.models.cut import Cut, whole
from clipjax.models.network import Network

REPLICATED, SHARDED, AUTO = "replicated", "sharded", "auto"
PARAMS = (AUTO, REPLICATED, SHARDED)

_STACKED = "blocks"  # the stacks that `layers.scan` goes through


def placements(asked: str) -> tuple[str, ...]:
    """How params may come to lie: as asked, and with "auto" whole or cut."""
    return (REPLICATED, SHARDED) if asked == AUTO else (asked,)


def check_params(asked: str) -> None:
    """Raises UsageError for a placement that does not exist."""
    if asked not in PARAMS:
        raise unknown_name("placement of params", asked, list(PARAMS))


def shardings(params: Any, mesh: Mesh, placement: str) -> Any:
    """The tree of NamedShardings of a tree of arrays (or ShapeDtypeStructs)."""
    return params_sharding(params, mesh, FSDP if placement == SHARDED else DP)


def seen_whole(parts: Any, specs: Any, devices: int) -> Any:
    """What a device has of params, inside of `shard_map`, as the network takes them.

    What is stacked stays cut until the scan comes to it; everything else is put together at once.
    """

    def see(path: tuple, part: jax.Array, spec: PartitionSpec) -> Any:
        if DATA not in spec:
            return part
        cut = Cut(part, spec.index(DATA) - part.ndim, devices, DATA)
        return cut if any(key.key == _STACKED for key in path) else whole(cut)

    return jax.tree_util.tree_map_with_path(see, parts, specs)


def device_memory() -> int | None:
    """Bytes that JAX may use on a device of this process; None where the platform does not say (a CPU)."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


def fits(needed: Callable[[], int | None], params: Any) -> bool:
    """Whether a step with whole params fits a device; True where nobody knows, or there is one device only.

    Args:
        needed: bytes of a step, None if it was refused for want of memory; asked where the params alone fit.
        params: the tower's, or their abstract tree.
    """
    limit = device_memory()
    if limit is None or jax.local_device_count() == 1:
        return True
    if _bytes(params) > limit:
        return False
    bytes_ = needed()
    return bytes_ is not None and bytes_ <= limit


def mesh_to_load(asked: str) -> Callable[[Any], Mesh | None]:
    """For `load_model`: a card -> the mesh that its params are cut over as they are read, None for none.

    They are in memory beside those that embedding places, so with "auto" they are cut where two copies would
    not fit.

    Raises UsageError for a placement that does not exist.
    """
    check_params(asked)

    def mesh(card: Any) -> Mesh | None:
        if asked == AUTO:
            limit = device_memory()
            cut = limit is not None and 2 * _bytes(Network(card.arch).abstract_params()) > limit
        else:
            cut = asked == SHARDED
        return local_mesh() if cut and jax.local_device_count() > 1 else None

    return mesh


def refuse_own(model: Encoder, asked: str) -> None:
    """Raises UsageError where a user's own model, whose params are its own, is to be cut."""
    if asked == SHARDED and model.network is None:
        raise UsageError(f"{model.card.id} is not one of clipjax's networks: it places its params itself")


def _bytes(params: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))

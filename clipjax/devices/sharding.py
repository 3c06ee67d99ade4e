"""Meshes, and shardings by path rule, after big_vision's `sharding.py`.

Only this module names the one mesh axis, "data". Axes are Auto: the compiler places intermediate values.
Evaluation replicates the parameters on one process's devices; training replicates (DP) or shards
(`models.cut.FSDP`) them over all.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from clipjax.errors import UsageError

if TYPE_CHECKING:
    import optax

DATA = "data"

# The first pattern found in a leaf's path ("vision/blocks/attn/q/kernel") decides. "largest" shards the
# largest dimension that the axis size divides, "largest but first" the largest one after axis 0.
Rules = Sequence[tuple[str, PartitionSpec | Literal["largest", "largest but first"]]]
DP: Rules = ((r".", PartitionSpec()),)


def make_mesh(devices: Sequence[Any] | None = None, axes: Mapping[str, int] | None = None) -> Mesh:
    """A mesh with Auto axes over the devices, in this order (default: all, of all processes).

    axes: name -> size, one of which may be -1 (the rest); default: only "data".

    Raises:
        UsageError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    axes = {DATA: -1} if axes is None else axes
    known = math.prod(size for size in axes.values() if size != -1)
    sizes = [len(devices) // known if size == -1 else size for size in axes.values()]
    if math.prod(sizes) != len(devices):
        raise UsageError(f"a mesh of {dict(axes)} does not fit {len(devices)} devices")
    kinds = (AxisType.Auto,) * len(sizes)
    return Mesh(np.asarray(devices).reshape(sizes), tuple(axes), axis_types=kinds)


def local_mesh() -> Mesh:
    return make_mesh(jax.local_devices())


def abstract_on(leaf: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    """A leaf's shape and dtype, as placed."""
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Splits axis 0."""
    return NamedSharding(mesh, PartitionSpec(DATA))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def shard_batch(batch: Any, mesh: Mesh) -> Any:
    """Turn a process's rows [b, ...] into arrays [b * processes, ...] over the mesh, split along axis 0.

    b is the same on all processes, a multiple of the number of their devices.
    """
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), batch)


def params_sharding(params: Any, mesh: Mesh, rules: Rules) -> Any:
    """The NamedSharding of each array (or ShapeDtypeStruct) in a tree.

    Raises:
        UsageError: no rule matches a leaf.
    """

    def sharding(path: tuple, leaf: Any) -> NamedSharding:
        # The key of a dict, the name of an attribute or the index in a list; JAX has a class for each.
        name = "/".join(
            str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path
        )
        for pattern, spec in rules:
            if re.search(pattern, name):
                return NamedSharding(mesh, _spec(spec, leaf.shape, mesh))
        raise UsageError(f"no sharding rule matches {name}")

    return jax.tree_util.tree_map_with_path(sharding, params)


def shard_params(params: Any, mesh: Mesh, rules: Rules) -> Any:
    """Every process gives the same values."""
    return jax.tree.map(put, params, params_sharding(params, mesh, rules))


def put(value: Any, sharding: NamedSharding) -> jax.Array:
    """Place an array, equal on all processes, on a mesh of any number of them."""
    if sharding.is_fully_addressable:
        return jax.device_put(value, sharding)
    host = np.asarray(value)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def state_sharding(tx: optax.GradientTransformation, params: Any, shardings: Any) -> Any:
    """Shardings of the optimiser's state: moments follow their parameters, counters are replicated.

    They are the `out_shardings` of `jax.jit(tx.init)`, which otherwise puts the state on one device.
    `params` may be abstract.
    """
    import optax  # loaded late: an evaluation trains nothing

    mesh = jax.tree.leaves(shardings)[0].mesh
    return optax.tree_utils.tree_map_params(
        tx,
        lambda _, sharding: sharding,
        jax.eval_shape(tx.init, params),
        shardings,
        transform_non_params=lambda _: replicated(mesh),
    )


def _spec(rule: PartitionSpec | str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """The rule, or where it asks for the largest dimension: that one; without one, replicate.

    8 devices, "largest", kernel [512, 1000]: PartitionSpec(None, "data")
    """
    if isinstance(rule, PartitionSpec):
        return rule
    first = 1 if rule == "largest but first" else 0
    divisible = [i for i in range(first, len(shape)) if shape[i] % mesh.shape[DATA] == 0]
    if not divisible:
        return PartitionSpec()
    axis = max(divisible, key=lambda i: shape[i])
    return PartitionSpec(*(None,) * axis, DATA)

"""Which params a cut leaves whole along their layers: what the rules name is what the towers stack."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

from clipjax.devices.sharding import make_mesh, params_sharding
from clipjax.embeddings.placements import seen_whole
from clipjax.models import param_tree
from clipjax.models.arch import arch_records, load_arch, narrow_arch
from clipjax.models.cut import FSDP, STACKS
from clipjax.models.modules import maps, sequence
from clipjax.models.modules.initializers import shapes_only
from clipjax.models.network import Network


def one_of_each() -> list[str]:
    """An architecture for each family of towers, and one with a decoder."""
    chosen: dict[str, str] = {}
    for name, record in sorted(arch_records().items()):
        towers = [record[tower]["family"] for tower in ("vision", "text") if tower in record]
        for kind in ["decoder"] if "language" in record else towers:
            chosen.setdefault(kind, name)
    return sorted(set(chosen.values()))


def stacks(params: dict[str, Any]) -> Iterator[Any]:
    for name, part in params.items():
        if name in STACKS:
            yield part
        elif isinstance(part, dict):
            yield from stacks(part)


def shapes(tree: Any) -> tuple[tuple[int, ...], ...]:
    return tuple(sorted(leaf.shape for leaf in jax.tree.leaves(tree)))


@pytest.mark.parametrize("name", one_of_each())
def test_the_stacks_that_the_rules_name_are_those_of_the_towers(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, stack = [], sequence.stack

    def recorded(*arguments: Any) -> Any:
        modules = stack(*arguments)
        made.append(shapes(nnx.state(modules, nnx.Param)))
        return modules

    monkeypatch.setattr(sequence, "stack", recorded)
    arch = narrow_arch(load_arch(name))
    module = param_tree.abstract_module.__wrapped__(arch)
    assert Counter(map(shapes, stacks(param_tree.split(module)[1]))) == Counter(made)


@pytest.mark.parametrize("name", one_of_each())
def test_shapes_are_found_without_tracing_the_params(name: str) -> None:
    """Of an initialiser that is not of `modules.initializers` each param would be traced."""
    with shapes_only():
        module = param_tree.build(narrow_arch(load_arch(name)), param_tree.rngs_of(0))
    leaves = [leaf for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)) if leaf.ndim]
    assert len(leaves) > 10
    assert [leaf.shape for leaf in leaves if not isinstance(leaf, np.ndarray) or any(leaf.strides)] == []


def test_a_stack_is_cut_after_its_layers() -> None:
    kernel = jax.ShapeDtypeStruct((64, 16, 5), "float32")
    params = {"blocks": {"fc": {"kernel": kernel}}, "stage1": {"rest": {"kernel": kernel}}, "kernel": kernel}
    specs = jax.tree.map(lambda sharding: sharding.spec, params_sharding(params, make_mesh(), FSDP))
    assert specs == {
        "blocks": {"fc": {"kernel": PartitionSpec(None, "data")}},
        "stage1": {"rest": {"kernel": PartitionSpec(None, "data")}},
        "kernel": PartitionSpec("data"),
    }


def test_a_cut_param_keeps_the_dtype_that_it_has_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """In "fast" BiT's raw kernels stay float32: those of rounded weights would have other statistics."""
    found, standardize = [], maps.standardize

    def recorded(kernel: Any, eps: float) -> Any:
        found.append(kernel.dtype)
        return standardize(kernel, eps)

    monkeypatch.setattr(maps, "standardize", recorded)
    network, mesh = Network(narrow_arch(load_arch("resnetv2_50x1_bit"))), make_mesh()
    params, size = {"vision": network.abstract_params()["vision"]}, network.arch.vision.image_size
    specs = jax.tree.map(lambda sharding: sharding.spec, params_sharding(params, mesh, FSDP))

    def encode(params: Any, images: jax.Array) -> jax.Array:
        return network.encode_image(seen_whole(params, specs, mesh.size), images, precision="fast")

    split = PartitionSpec("data")
    run = jax.shard_map(encode, mesh=mesh, in_specs=(specs, split), out_specs=split, check_vma=False)
    jax.eval_shape(run, params, jax.ShapeDtypeStruct((mesh.size, size, size, 3), jnp.float32))
    assert len(found) > 10
    assert set(found) == {jnp.dtype("float32")}

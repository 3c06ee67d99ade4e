"""Which params a cut leaves whole along their layers: what the rules name is what the towers stack."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import jax
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

from clipjax.devices.sharding import make_mesh, params_sharding
from clipjax.models import param_tree
from clipjax.models.arch import arch_records, load_arch, narrow_arch
from clipjax.models.cut import FSDP, STACKS
from clipjax.models.modules import sequence


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


def test_a_stack_is_cut_after_its_layers() -> None:
    kernel = jax.ShapeDtypeStruct((64, 16, 5), "float32")
    params = {"blocks": {"fc": {"kernel": kernel}}, "stage1": {"rest": {"kernel": kernel}}, "kernel": kernel}
    specs = jax.tree.map(lambda sharding: sharding.spec, params_sharding(params, make_mesh(), FSDP))
    assert specs == {
        "blocks": {"fc": {"kernel": PartitionSpec(None, "data")}},
        "stage1": {"rest": {"kernel": PartitionSpec(None, "data")}},
        "kernel": PartitionSpec("data"),
    }

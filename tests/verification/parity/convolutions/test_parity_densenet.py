"""DenseNets on conditioned weights: every stage is timm's, and likely mistakes are seen."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from _long import mostly_long
from _mutants import (
    Wrong,
    seen_with,
    timm_case,
    with_options,
)
from _parity import source_of

from clipjax.models.families.convolutions import densenet
from clipjax.models.modules import pools
from clipjax.models.network import Network
from converters.engine import convert, detect_table, flatten


def test_names_of_torchvisions_files() -> None:
    """ "norm.1" and "conv.1" of the files that torchvision distributes give the same params."""
    case = timm_case("densenet121")
    renamed = {
        key.replace(".norm1.", ".norm.1.").replace(".norm2.", ".norm.2.")
        .replace(".conv1.", ".conv.1.").replace(".conv2.", ".conv.2."): tensor
        for key, tensor in source_of(case.theirs).items()
    }  # fmt: skip
    table = detect_table(renamed)
    assert table.name == "torchvision_densenet"
    leaves = convert(renamed, Network(case.arch).abstract_params(), table)
    assert all(np.array_equal(leaf, leaves[path]) for path, leaf in flatten(case.params).items())


# --- mutations ---


@pytest.mark.parametrize("eps", mostly_long([1e-3, 1e-6], keep=[1e-3]))
def test_another_eps_is_seen(eps: float) -> None:
    assert timm_case("densenet121").first_difference(until="stem", bn_eps=eps) == "vision.stem"


def in_front(concatenate: Wrong) -> Wrong:
    return lambda arrays, axis=0: concatenate(arrays[::-1] if axis == -1 else arrays, axis=axis)


def max_transition(_: Wrong) -> Wrong:
    def wrong(x: Any, window: int, **_options: Any) -> Any:
        batch, height, width, channels = x.shape
        return x.reshape(batch, height // window, window, width // window, window, channels).max((2, 4))

    return wrong


def no_relu(call: Wrong) -> Wrong:
    """A transition without its activation."""

    def wrong(self: Any, x: Any) -> Any:
        relu = jax.nn.relu
        jax.nn.relu = lambda y: y
        try:
            return call(self, x)
        finally:
            jax.nn.relu = relu

    return wrong


def unactivated(call: Wrong) -> Wrong:
    """norm5 without the ReLU that has no key in the file."""

    def wrong(self: Any, x: Any, last: int) -> Any:
        norm5, normed = self.norm5, []
        self.norm5 = lambda y: normed.append(norm5(y)) or normed[0]
        outputs, stages = call(self, x, last)
        return [*outputs[:-1], normed[0]], stages | {"norm5": normed[0]}

    return wrong


MISTAKES = [
    (pools, "max_pool", with_options(padding="tf_same"), "stem"),
    (densenet.jnp, "concatenate", in_front, "denseblock1.1"),
    (pools, "average_pool", max_transition, "transition1"),
    (densenet.Transition, "__call__", no_relu, "transition1"),
    (densenet.DenseNet, "blocks", unactivated, "norm5"),
]


@pytest.mark.parametrize(("owner", "attribute", "wrong", "seen"), mostly_long(MISTAKES, keep=[MISTAKES[2]]))
def test_a_mistake_is_seen(
    owner: Any, attribute: str, wrong: Any, seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = timm_case("densenet121")
    assert seen_with(case, monkeypatch, seen, (owner, attribute, wrong)) == f"vision.{seen}"

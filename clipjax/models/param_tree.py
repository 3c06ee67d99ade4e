"""The params of an architecture, and what fits them."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from clipjax.errors import DataError
from clipjax.models.arch import Arch, family_of
from clipjax.models.cut import is_cut
from clipjax.models.language.projector import Projector
from clipjax.models.language.transformer import Transformer
from clipjax.models.modules import layers
from clipjax.models.modules.binding import bind
from clipjax.models.modules.initializers import in_shapes_only, shapes_only
from clipjax.models.outputs import parts_of
from clipjax.models.precision import DTYPE, Precision
from clipjax.models.training import Mode, Precise
from clipjax.models.unstacked import is_unstacked

Params = dict[str, Any]


class DualEncoder(nnx.Module):
    def __init__(self, arch: Arch, rngs: nnx.Rngs):
        self.vision = family_of(arch.vision).build(arch.vision, rngs)
        self.text = family_of(arch.text).build(arch.text, rngs)
        # Initial values from section 3 of the papers: CLIP's temperature; SigLIP's temperature and bias.
        scale = 10 if arch.logit_bias else 1 / 0.07
        self.logit_scale = nnx.Param(jnp.asarray(math.log(scale), jnp.float32))
        if arch.logit_bias:
            self.logit_bias = nnx.Param(jnp.asarray(-10.0, jnp.float32))


class Classifier(nnx.Module):
    """An image tower with a linear head, or without one if `num_classes` is 0."""

    def __init__(self, arch: Arch, rngs: nnx.Rngs):
        assert arch.num_classes is not None
        self.vision = family_of(arch.vision).build(arch.vision, rngs)
        if arch.num_classes == 0:
            return
        # As timm's `_init_weight_goog`: within 1 / sqrt(number of classes), bias zero.
        init = layers.uniform(arch.num_classes**-0.5)
        parts = parts_of(arch)
        width = arch.vision.embed_dim // max(1, len(parts))
        linear = functools.partial(layers.Linear, width, arch.num_classes, kernel_init=init, rngs=rngs)
        self.head = ModuleParts({name: linear() for name in parts}) if parts else linear()


class VisionLanguage(nnx.Module):
    def __init__(self, arch: Arch, rngs: nnx.Rngs):
        language = arch.language
        assert language is not None
        self.vision = family_of(arch.vision).build(arch.vision, rngs)
        self.projector = Projector(language.projector, arch.vision.width, language.decoder.width, rngs)
        self.decoder = Transformer(language.decoder, rngs)


class ModuleParts(nnx.Module):
    def __init__(self, modules: dict[str, nnx.Module]):
        for name, module in modules.items():
            setattr(self, name, module)


class _Stream(nnx.RngStream):
    """Gives the keys that flax's stream gives, without comparing the shardings of traced counts.

    flax's `count[...] += 1` asks a tracer for its sharding. The tracer has none, and its AttributeError
    describes the whole program so far: most of the time of tracing a deep network.
    """

    def __call__(self) -> Array:
        if in_shapes_only():  # no initialiser reads it
            return self.key[...]
        key = jax.random.fold_in(self.key[...], self.count[...])
        self.count.set_value(self.count[...] + 1)
        return key


def rngs_of(key: Array | int) -> nnx.Rngs:
    """`nnx.Rngs(key)`, traced faster."""
    rngs: Any = nnx.Rngs(key)
    rngs.default = _Stream(rngs.default.key[...], tag="default")
    return rngs


def build(arch: Arch, rngs: nnx.Rngs) -> nnx.Module:
    if arch.language is not None:
        return VisionLanguage(arch, rngs)
    return DualEncoder(arch, rngs) if arch.text is not None else Classifier(arch, rngs)


def split(module: nnx.Module) -> tuple[Any, Params]:
    """A module's structure and params; asserts that it holds nothing else."""
    graphdef, state, rest = nnx.split(module, nnx.Param, ...)
    assert not nnx.to_pure_dict(rest), f"{type(module).__name__} holds more than params: {rest}"
    return graphdef, nnx.to_pure_dict(state)


def draw(arch: Arch, key: Array) -> Params:
    return split(build(arch, rngs_of(key)))[1]


# It runs once, and compiles four times faster unoptimised.
draw_now = jax.jit(draw, static_argnums=0, compiler_options={"xla_backend_optimization_level": 0})


@functools.cache
def abstract_tree(arch: Arch, tower: str | None = None) -> tuple[Any, Params]:
    module = abstract_module(arch)
    return split(getattr(module, tower) if tower else module)


@functools.cache
def bound_graph(arch: Arch, tower: str, mode: Mode) -> Any:
    """The structure of `abstract_tree`, its layers bound to a mode."""
    return nnx.graphdef(bind(nnx.clone(getattr(abstract_module(arch), tower)), mode))


@functools.cache
def abstract_module(arch: Arch) -> Any:
    """The module of an architecture with shapes and dtypes in place of params."""
    found: list[Any] = []

    def make() -> None:
        graph, state = nnx.split(build(arch, rngs_of(0)))
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)
        found.append(nnx.merge(graph, shapes))

    # In a trace, since a plug-in's family may take JAX's own initialisers: they then compute nothing either.
    with shapes_only():
        jax.eval_shape(make)
    return found[0]


@functools.cache
def precise_paths(arch: Arch, tower: str) -> frozenset[Any]:
    precise = nnx.to_pure_dict(nnx.state(getattr(abstract_module(arch), tower), Precise))
    return frozenset(path for path, _ in jax.tree.leaves_with_path(precise))


def in_precision(arch: Arch, part: str, leaves: Params, precision: Precision) -> Params:
    """The params of a part ("vision", "text", "decoder", ...) in the dtypes that its layers read.

    They stay on their devices, or on the host; what has its dtype already is not copied.
    """
    precise = precise_paths(arch, part)

    def cast(path: Any, leaf: Any) -> Any:
        dtype = jnp.float32 if path in precise else DTYPE[precision]
        return jax.tree.map(lambda each: each if each.dtype == dtype else each.astype(dtype), leaf)

    return jax.tree.map_with_path(cast, leaves, is_leaf=is_param)


def check_tree(params: Params, abstract: Params, where: str) -> None:
    """Raises DataError on wrong names or shapes: merging alone would accept a wrong shape."""
    actual, wanted = (
        {jax.tree_util.keystr(path, simple=True, separator="/"): _shape(leaf) for path, leaf in leaves}
        for leaves in (jax.tree.leaves_with_path(tree, is_leaf=is_param) for tree in (params, abstract))
    )
    for name in sorted(actual.keys() | wanted.keys()):
        if actual.get(name) != wanted.get(name):
            shapes = [list(side[name]) if name in side else "nothing" for side in (actual, wanted)]
            raise DataError(f"{where}/{name} is {shapes[0]}; the architecture has {shapes[1]}")


def _shape(leaf: Any) -> tuple[int, ...]:
    return leaf.shape if is_param(leaf) else jnp.shape(leaf)


def is_param(leaf: Any) -> bool:
    """Whether a node of a tree is one param in several arrays: cut over devices, or in its blocks."""
    return is_cut(leaf) or is_unstacked(leaf)

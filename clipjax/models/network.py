"""The forward functions of an architecture: pure functions of a params dict.

A `Network` compares by its arch: it can be a static argument of `jax.jit`. Params are nested float32 arrays
under "vision" and "text" or "head" (leaves: each family's docstring). A dual encoder also has `logit_scale`
[] (and `logit_bias` []). A vision-language model has "vision", "projector" and "decoder" instead
(`clipjax.models.language`).
"""

from __future__ import annotations

import functools
import operator
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args, overload

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.core import Tracer
from jaxtyping import Float32

from clipjax.errors import DataError, UsageError
from clipjax.guards import known_name
from clipjax.models.arch import Arch, family_of
from clipjax.models.chunks import LARGEST_BYTES, chunk_bytes, in_chunks
from clipjax.models.cut import any_cut
from clipjax.models.modules.binding import prepare
from clipjax.models.modules.forms import form
from clipjax.models.param_tree import (
    Params,
    abstract_tree,
    bound_graph,
    check_tree,
    draw,
    draw_now,
    in_precision,
)
from clipjax.models.precision import DTYPE, MATMUL, Precision, float32_products
from clipjax.models.resample import GridRule, on_grid, resized_vision
from clipjax.models.text_ids import Memory, Rest
from clipjax.models.training import Attends, Mode, Training, running, statistics

Stages = OrderedDict[str, Array]
Features = Float32[Array, "B E"]

_MANY = 32  # images on a device for which it pays to read and write all weights once more; texts got slower
_SMALLEST = 32  # pixels: the stride of the last stage of most nets


def layer_indices(layers: Any) -> int | tuple[int, ...]:
    """`layers` as integers: static arguments of `jax.jit` must be hashable. Raises UsageError for others."""
    try:
        return tuple(map(operator.index, layers)) if isinstance(layers, Iterable) else operator.index(layers)
    except TypeError:
        raise UsageError(
            f"layers is the number of last layers or a list of indices, integers, not {layers!r}"
        ) from None


class Network:
    def __init__(self, arch: Arch):
        self.arch = arch

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Network) and other.arch == self.arch

    def __hash__(self) -> int:
        return hash(self.arch)

    def __repr__(self) -> str:
        return f"Network({self.arch.name!r})"

    def abstract_params(self, precision: Precision = "parity") -> Params:
        """The params as `jax.ShapeDtypeStruct`, without allocating: float32, in "fast" a decoder bfloat16."""
        _, state = abstract_tree(self.arch)
        params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)
        if "decoder" in params:
            params["decoder"] = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, DTYPE[precision]), params["decoder"]
            )
        return params

    def abstract_tower(self, tower: str, precision: Precision) -> Params:
        """{tower: its params as `jax.ShapeDtypeStruct`}, as passes read them."""
        params = {tower: self.abstract_params()[tower]}
        return jax.eval_shape(functools.partial(self.in_precision, precision=precision), params)

    def in_precision(self, params: Params, precision: Precision) -> Params:
        """The params of towers and other parts in the dtypes that passes read.

        A pass casts params that have others: each time.
        """
        return {part: in_precision(self.arch, part, leaves, precision) for part, leaves in params.items()}

    def compiler_options(
        self, tower: Literal["vision", "text"], precision: Precision
    ) -> dict[str, str] | None:
        """Options for a `jax.jit` around one tower that make it faster; only rounding changes."""
        options = family_of(getattr(self.arch, tower)).cpu_options
        if options is None or jax.default_backend() != "cpu" or float32_products(precision):
            return None
        if not _accepted(tuple(options.items())):
            return None
        return dict(options)

    def init_params(self, key: Array) -> Params:
        """New params, drawn as in open_clip or timm (exceptions: the family's docstring); heads as in timm.

        key: typed, `jax.random.key(seed)`.
        """
        return draw(self.arch, key) if isinstance(key, Tracer) else draw_now(self.arch, key)

    @overload
    def encode_image(
        self,
        params: Params,
        images: Array,
        *,
        precision: Precision,
        capture: Literal[False] = False,
        platform: str | None = None,
        devices: int = 1,
        chip: str | None = None,
    ) -> Features: ...
    @overload
    def encode_image(
        self,
        params: Params,
        images: Array,
        *,
        precision: Precision,
        capture: Literal[True],
        platform: str | None = None,
        devices: int = 1,
        chip: str | None = None,
    ) -> tuple[Features, Stages]: ...
    def encode_image(
        self,
        params: Params,
        images: Array,
        *,
        precision: Precision,
        capture: bool = False,
        platform: str | None = None,
        devices: int = 1,
        chip: str | None = None,
    ) -> Features | tuple[Features, Stages]:
        """images [B, S, S, 3] float32, normalised -> features [B, E] float32, not of unit norm.

        A classifier returns what its head reads.

        Args:
            capture: add the stages in forward order, channels last, float32: patch_embed, embed, blocks.0
                ..., pooled, projected, or those in the family's docstring.
            platform: the mesh's; see `clipjax.devices.platforms.platform_of`. In "fast" towers with a
                grid of patches, and stages of ConvNeXt, run the batch in chunks on a "tpu"
                (`clipjax.models.chunks`).
            devices: over which the compiler splits the batch; 1 in `shard_map`.
            chip: the mesh's, `chip_of` there: decides the size of the chunks.

        Raises:
            DataError: params or images that do not fit.
        """
        self.check_images(images)
        images = images.astype(DTYPE[precision])
        most = chunk_bytes(chip, self.arch.vision)
        mode = _mode(precision, platform=platform, devices=devices, most=most)
        return self._run("vision", params, images, precision, mode, capture)

    def encode_dense(
        self,
        params: Params,
        images: Array,
        *,
        layers: int | Sequence[int],
        precision: Precision,
        attention: Attends = "tokens",
        positions: GridRule = "library",
        platform: str | None = None,
    ) -> tuple[Float32[Array, "B _ _ _"], ...]:
        """images [B, H, W, 3] float32, normalised -> one map [B, h, w, C] float32 per layer.

        As timm's `forward_intermediates` without a norm (but DenseNet's last map is normalised): outputs of
        blocks without the class token, or of a convolutional net's stages. Later layers do not run.
        H and W may differ from the architecture's size. Then the position table is resized.

        Args:
            layers: indices from 0 (negative: from the end) in any order; or n for the last n.
            attention: "reference_batch" makes each token of one of open_clip's vision transformers attend to
                the same token of the batch's other images. probe3d's pinned open_clip 2.23 does so.
            positions: how the position table is resized, see `clipjax.models.resample`.
            platform: as in `encode_image`.

        Raises:
            DataError: params or images that do not fit.
            UsageError: a layer does not exist, `layers` are not integers, or no such attention.
        """
        family = family_of(self.arch.vision)
        assert family.dense is not None
        assert family.depth is not None
        self._check_sides(images)
        self.check_attention(attention)
        wanted = _indices(layer_indices(layers), family.depth(self.arch.vision), self.arch.name)
        ascending = sorted(set(wanted))
        patch = family.patch(self.arch.vision) if family.patch else 1
        height, width = (side // patch for side in images.shape[1:3])
        vision = self._checked("vision", params)
        mode = _mode(precision, attention=attention, platform=platform)
        tower = self._tower("vision", on_grid(self.arch, vision, height, width, positions), precision, mode)
        with jax.default_matmul_precision(MATMUL[precision]):
            maps = family.dense(tower, images.astype(DTYPE[precision]), ascending)
        map_of = dict(zip(ascending, maps, strict=True))
        return tuple(map_of[index].astype(jnp.float32) for index in wanted)

    def check_images(self, images: Array) -> None:
        """Raises DataError unless they have the architecture's own size."""
        size = self.arch.vision.image_size
        if images.ndim != 4 or images.shape[1:] != (size, size, 3):
            raise DataError(f"{self.arch.name} takes images [B, {size}, {size}, 3], not {list(images.shape)}")

    def _check_sides(self, images: Array) -> None:
        """Raises DataError unless dense features can be made of images with these sides."""
        name, config, family = self.arch.name, self.arch.vision, family_of(self.arch.vision)
        if images.ndim != 4 or images.shape[3] != 3:
            raise DataError(f"{name} takes images [B, H, W, 3], not {list(images.shape)}")
        height, width = images.shape[1:3]
        if height == width == config.image_size:
            return
        refusal = f"{name} cannot take images of {height} x {width} pixels"
        if family.one_size is not None:
            raise DataError(f"{refusal}, only of its own {config.image_size}: {family.one_size}")
        if family.patch is None and min(height, width) < _SMALLEST:
            raise DataError(f"{refusal}: dense features need sides of {_SMALLEST} pixels or more")
        if getattr(config, "patch_size", None):  # a net without patches takes any sides
            try:
                for side in (height, width):
                    resized_vision(config, side)
            except ValueError as error:
                raise DataError(f"{refusal}: {error}") from None

    def check_attention(self, attention: Attends) -> None:
        """Raises UsageError if the image tower cannot attend so."""
        known_name("attention", attention, get_args(Attends))
        batch_attention = family_of(self.arch.vision).batch_attention
        if attention != "tokens" and not (batch_attention and batch_attention(self.arch.vision)):
            raise UsageError(
                f"{self.arch.name} is not one of open_clip's own vision transformers: only these attend over "
                f"the batch, so leave out attention={attention!r}"
            )

    @overload
    def encode_text(
        self,
        params: Params,
        ids: Array,
        *,
        precision: Precision,
        capture: Literal[False] = False,
        platform: str | None = None,
        devices: int = 1,
        chip: str | None = None,
    ) -> Features: ...
    @overload
    def encode_text(
        self,
        params: Params,
        ids: Array,
        *,
        precision: Precision,
        capture: Literal[True],
        platform: str | None = None,
        devices: int = 1,
        chip: str | None = None,
    ) -> tuple[Features, Stages]: ...
    def encode_text(
        self,
        params: Params,
        ids: Array,
        *,
        precision: Precision,
        capture: bool = False,
        platform: str | None = None,
        devices: int = 1,
        chip: str | None = None,
    ) -> Features | tuple[Features, Stages]:
        """ids [B, L] int32, L up to the context length -> features [B, E] float32, not of unit norm.

        CLIP's and RoBERTa's ids may be cut anywhere after the text; SigLIP's and CoCa's fill the context.
        `capture` adds the stages: embed, blocks.0 ..., pooled, projected.

        Raises:
            DataError: no text tower, or params or ids that do not fit.
        """
        self._check_ids(ids)
        most = chunk_bytes(chip, self.arch.text)
        mode = _mode(precision, platform=platform, devices=devices, most=most)
        return self._run("text", params, ids, precision, mode, capture)

    def _check_ids(self, ids: Array) -> None:
        if self.arch.text is None:
            kind = "a classifier" if self.arch.language is None else "a vision-language model"
            raise DataError(f"{self.arch.name} is {kind}: it has no text tower")
        shortest, longest = self.arch.text.min_length, self.arch.text.context_length
        if ids.ndim != 2 or not shortest <= ids.shape[1] <= longest:
            lengths = f"{shortest}..{longest}" if shortest < longest else f"{longest}"
            raise DataError(f"{self.arch.name} takes ids [B, {lengths}], not {list(ids.shape)}")

    @property
    def shares_beginnings(self) -> bool:
        """Whether `begin_texts` and `finish_texts` can replace `encode_text`."""
        text = self.arch.text
        return text is not None and text.min_length == 1 and family_of(text).begin is not None

    def begin_texts(
        self, params: Params, ids: Array, *, precision: Precision, platform: str | None = None
    ) -> Memory:
        """ids [F, P] int32, first tokens that many texts share -> their keys and values [layers, F, P, D].

        In the dtype of the tower. `shares_beginnings` is True.
        """
        mode = _mode(precision, platform=platform)
        tower = self._tower("text", self._checked("text", params), precision, mode)
        begin: Any = family_of(self.arch.text).begin
        with jax.default_matmul_precision(MATMUL[precision]):
            return begin(tower, ids)

    def finish_texts(
        self,
        params: Params,
        memory: Memory,
        rest: Rest,
        *,
        precision: Precision,
        platform: str | None = None,
    ) -> Features:
        """`encode_text` of texts whose beginnings are in `memory` -> features [B, E] float32.

        Equal up to rounding: a token of a causal tower does not depend on later ones.
        """
        mode = _mode(precision, platform=platform)
        tower = self._tower("text", self._checked("text", params), precision, mode)
        finish: Any = family_of(self.arch.text).finish
        with jax.default_matmul_precision(MATMUL[precision]):
            return finish(tower, memory, rest).astype(jnp.float32)

    def check_embedded(self) -> None:
        """Raises UsageError if the text tower cannot take vectors."""
        if self.arch.text is None:
            raise UsageError(f"{self.arch.name} is a classifier: it has no text tower for learned prompts")
        family = family_of(self.arch.text)
        if family.embedded is None:
            raise UsageError(
                f"the text tower of {self.arch.name} (family {family.name!r}) takes token ids only: learned "
                "prompts need one of CLIP's or SigLIP's"
            )

    def encode_embedded(
        self,
        params: Params,
        tokens: Array,
        positions: Array,
        *,
        precision: Precision,
        beginning: Array | None = None,
        remat: bool = False,
        platform: str | None = None,
    ) -> Features:
        """`encode_text` for texts given as vectors -> features [B, E] float32, not of unit norm.

        Args:
            tokens: float32 [B, L, D], replacing rows of the token embedding table.
            positions: int32 [B], where each text is read out (CLIP: at its end token).
            beginning: float32 [P, D], the first of P + L tokens of all texts; `positions` count from here. A
                causal tower runs it once.
            remat: recompute activations in the backward pass.

        Raises:
            UsageError: as `check_embedded`.
            DataError: params or tokens that do not fit.
        """
        self.check_embedded()
        text: Any = self.arch.text
        embedded: Any = family_of(text).embedded
        first = jnp.zeros((0, text.width)) if beginning is None else beginning
        shapes = f"a beginning {list(first.shape)} and tokens {list(tokens.shape)}"
        if tokens.ndim != 3 or {tokens.shape[2], *first.shape[1:]} != {text.width}:
            raise DataError(f"{self.arch.name} takes vectors of {text.width} numbers, not {shapes}")
        if not text.min_length <= len(first) + tokens.shape[1] <= text.context_length:
            lengths = f"{text.min_length} to {text.context_length}"
            raise DataError(f"{self.arch.name} takes {lengths} tokens, not {shapes}")
        if len(first) and not text.causal:
            raise DataError(f"the beginning of a text of {self.arch.name} sees the rest: it cannot be shared")
        mode = _mode(precision, training=Training(remat=True) if remat else None, platform=platform)
        tower, dtype = self._tower("text", self._checked("text", params), precision, mode), DTYPE[precision]
        with jax.default_matmul_precision(MATMUL[precision]):
            features = embedded(tower, first.astype(dtype), tokens.astype(dtype), positions)
        return features.astype(jnp.float32)

    def train_image(
        self,
        params: Params,
        images: Array,
        *,
        precision: Precision,
        training: Training,
        platform: str | None = None,
    ) -> tuple[Features, Params]:
        """`encode_image` under `jax.value_and_grad`, on the global batch.

        Returns: features [B, E] float32, not of unit norm; BatchNorm's changed running statistics,
            {"vision": {...}} or {}.
        """
        self.check_images(images)
        leaves = self._checked("vision", params)
        mode = _mode(precision, training=training, platform=platform)
        tower = self._tower("vision", leaves, precision, mode)
        with jax.default_matmul_precision(MATMUL[precision]):
            features, _ = tower(images.astype(DTYPE[precision]), capture=False)
        of_batch = {} if training.batch_norm == "frozen" else statistics(tower)
        # Start from the params, which are float32: the tower's own copy may be bfloat16.
        moved = _moved(params["vision"], of_batch)
        return features.astype(jnp.float32), {"vision": moved} if moved else {}

    def train_text(
        self,
        params: Params,
        ids: Array,
        *,
        precision: Precision,
        training: Training,
        platform: str | None = None,
    ) -> Features:
        self._check_ids(ids)
        mode = _mode(precision, training=training, platform=platform)
        features = self._run("text", params, ids, precision, mode, capture=False)
        assert isinstance(features, jax.Array)
        return features

    def _run(
        self, tower: str, params: Params, inputs: Array, precision: Precision, mode: Mode, capture: bool
    ) -> Features | tuple[Features, Stages]:
        module = self._tower(tower, self._checked(tower, params), precision, mode)
        with jax.default_matmul_precision(MATMUL[precision]):
            if tower == "vision" and len(inputs) >= _MANY * mode.devices:
                prepare(module)
            if not capture and self._in_chunks(tower, params[tower], precision, mode):
                stages = {}
                features = in_chunks(lambda some: module(some, False)[0], inputs, mode)
            else:
                features, stages = module(inputs, capture)
        features = features.astype(jnp.float32)
        if not capture:
            return features
        # Ordered, because jax.jit returns a plain dict sorted by its keys.
        return features, OrderedDict((name, stage.astype(jnp.float32)) for name, stage in stages.items())

    def _in_chunks(self, tower: str, leaves: Params, precision: Precision, mode: Mode) -> bool:
        """Whether to run in chunks: with texts and patches, unless each chunk would gather cut params."""
        tokens = tower == "text" or family_of(self.arch.vision).patch is not None
        if not tokens or any_cut(leaves):
            return False
        return form("batch", mode, DTYPE[precision]) == "chunks"

    def _checked(self, name: str, params: Params) -> Params:
        _, abstract = abstract_tree(self.arch, name)
        check_tree(params.get(name, {}), abstract, f"{self.arch.name}: params/{name}")
        return params[name]

    def _tower(self, name: str, leaves: Params, precision: Precision, mode: Mode) -> Any:
        read = in_precision(self.arch, name, leaves, precision)
        return nnx.merge(bound_graph(self.arch, name, mode), jax.tree.map(jnp.asarray, read))


def _mode(
    precision: Precision,
    *,
    training: Training | None = None,
    platform: str | None = None,
    attention: Attends = "tokens",
    devices: int = 1,
    most: float = LARGEST_BYTES,
) -> Mode:
    return Mode(
        training=training,
        platform=platform,
        attention=attention,
        devices=devices,
        chunk_bytes=most,
        float32_products=float32_products(precision),
    )


def _moved(before: Params, of_batch: Params) -> Params:
    return {
        name: _moved(before[name], value) if isinstance(value, dict) else running(before[name], value)
        for name, value in of_batch.items()
    }


@functools.cache
def _accepted(options: tuple[tuple[str, str], ...]) -> bool:
    try:
        jax.jit(lambda x: x, compiler_options=dict(options)).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def _indices(layers: int | tuple[int, ...], depth: int, name: str) -> list[int]:
    if isinstance(layers, int):
        if not 1 <= layers <= depth:
            raise UsageError(
                f"layers={layers} asks for the last {layers} layers, of which {name} has {depth}: "
                f"give 1 to {depth}, or a list of indices"
            )
        return list(range(depth - layers, depth))
    wanted = [index + depth if index < 0 else index for index in layers]
    if not wanted or not set(wanted) <= set(range(depth)):
        raise UsageError(f"{name} has the layers 0 to {depth - 1} for dense features, not {list(layers)}")
    return wanted

"""The forward functions of an architecture: pure functions of a params dict.

A `Network` compares by its arch: it can be a static argument of `jax.jit`. Params are nested float32 arrays
under "vision" and "text" or "head" (leaves: each family's docstring). A dual encoder also has `logit_scale`
[] (and `logit_bias` []). A vision-language model has "vision", "projector" and "decoder" instead
(`clipjax.models.language`).
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.core import Tracer
from jaxtyping import Float32

from clipjax.models.arch import Arch, family_of
from clipjax.models.chunks import LARGEST_BYTES, chunk_bytes, in_chunks
from clipjax.models.cut import any_cut
from clipjax.models.input_checks import (
    check_attention,
    check_ids,
    check_images,
    check_sides,
    check_takes_vectors,
    check_vectors,
    known_layers,
)
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
from clipjax.models.resample import GridRule, on_grid
from clipjax.models.text_ids import Memory, Rest
from clipjax.models.training import Attends, Mode, Training, running, statistics

Stages = OrderedDict[str, Array]
Features = Float32[Array, "B E"]

_MANY = 32  # images on a device for which it pays to read and write all weights once more; texts got slower


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
        check_images(self.arch, images)
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
        check_sides(self.arch, images)
        check_attention(self.arch, attention)
        wanted = known_layers(self.arch, layers)
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
        check_ids(self.arch, ids)
        most = chunk_bytes(chip, self.arch.text)
        mode = _mode(precision, platform=platform, devices=devices, most=most)
        return self._run("text", params, ids, precision, mode, capture)

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
            UsageError: as `check_takes_vectors`.
            DataError: params or tokens that do not fit.
        """
        check_takes_vectors(self.arch)
        text: Any = self.arch.text
        first = jnp.zeros((0, text.width)) if beginning is None else beginning
        check_vectors(self.arch, first, tokens)
        embedded: Any = family_of(text).embedded
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
        check_images(self.arch, images)
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
        check_ids(self.arch, ids)
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

"""The forward functions of a decoder: pure functions of its params.

A `Decoder` compares by its record: it can be a static argument of `jax.jit`. Params: see `transformer`.
Rows of a batch are padded on the left; `valid` is False at padding.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Float32, Int32

from clipjax.devices.platforms import platform_of
from clipjax.errors import DataError
from clipjax.models.language import transformer
from clipjax.models.language.config import DecoderConfig
from clipjax.models.language.sharding import MODEL
from clipjax.models.language.transformer import Transformer
from clipjax.models.modules.binding import bind, inference_mode
from clipjax.models.modules.forms import form
from clipjax.models.param_tree import Params, check_tree, split
from clipjax.models.precision import DTYPE, MATMUL, Precision
from clipjax.models.training import Mode

Stages = OrderedDict[str, Array]


class Decoder:
    """The forward passes of a language model.

    Attributes:
        platform: whose forms its layers take in "fast"; only rounding differs.
        parts: devices that share the heads, as far as these divide.
    """

    def __init__(self, config: DecoderConfig, platform: str | None = None, parts: int = 1):
        self.config, self.platform, self.parts = config, platform, parts

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Decoder) and other._key() == self._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[Any, ...]:
        return self.config, self.platform, self.parts

    def on(self, mesh: Mesh) -> Decoder:
        """The decoder in the form for the devices of a mesh."""
        return Decoder(self.config, platform_of(mesh), mesh.shape.get(MODEL, 1))

    def joined(self, dtype: Any) -> int:
        """The number of key heads to join in a cache: on a TPU as many as fill a tile of queries."""
        if form("cache", inference_mode(self.platform), dtype) == "heads":
            return 1
        heads, group = self.config.kv_heads, self.config.heads // self.config.kv_heads
        own = heads if heads % self.parts else heads // self.parts  # a device's
        most = max(1, transformer.TILE // group)
        return max(n for n in range(1, min(own, most) + 1) if own % n == 0)

    def abstract_params(self) -> Params:
        """The params as float32 `jax.ShapeDtypeStruct`, without allocating."""
        _, state = _abstract(self.config)
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state)

    def init_params(self, key: Array) -> Params:
        """New params, drawn as transformers draws them. key: `jax.random.key(seed)`."""
        return _draw(self.config, key)

    def embed(self, params: Params, ids: Int32[Array, "*rows"]) -> Float[Array, "*rows D"]:
        """Rows of the embedding table, in its dtype."""
        return jnp.take(jnp.asarray(params["embedding"]), ids, axis=0, mode="clip")

    @overload
    def forward(
        self,
        params: Params,
        embedded: Array,
        valid: Array,
        *,
        precision: Precision,
        capture: Literal[False] = False,
    ) -> Array: ...
    @overload
    def forward(
        self, params: Params, embedded: Array, valid: Array, *, precision: Precision, capture: Literal[True]
    ) -> tuple[Array, Stages]: ...
    def forward(
        self,
        params: Params,
        embedded: Float[Array, "B L D"],
        valid: Bool[Array, "B L"],
        *,
        precision: Precision,
        capture: bool = False,
    ) -> Float32[Array, "B L V"] | tuple[Float32[Array, "B L V"], Stages]:
        """The logits at every position, each of the ids up to it. Those at padding mean nothing.

        Args:
            capture: add the stages in forward order, float32: embed, blocks.0 ..., norm.

        Raises:
            DataError: params that do not fit, or more positions than the context has.
        """
        self.check_length(embedded.shape[1])
        module = self.module(params, precision)
        positions = transformer.positions_of(valid)
        visible = transformer.sees(positions, positions, valid, self.config.sliding_window)
        with jax.default_matmul_precision(MATMUL[precision]):
            x, _, outputs = module(embedded.astype(DTYPE[precision]), positions, visible, capture=capture)
            logits = module.logits(x)
        if outputs is None:
            return logits
        blocks = {f"blocks.{i}": output for i, output in enumerate(outputs)}
        stages = {"embed": embedded, **blocks, "norm": module.norm(x)}
        return logits, OrderedDict((name, stage.astype(jnp.float32)) for name, stage in stages.items())

    def check_length(self, positions: int) -> None:
        """Raises DataError if the context has fewer positions."""
        if positions > self.config.context_length:
            raise DataError(
                f"a prompt and its answer take {positions} positions, and the decoder's context has "
                f"{self.config.context_length}: shorten the prompt or ask for fewer steps"
            )

    def module(self, params: Params, precision: Precision) -> Transformer:
        """The layers with these params, cast. Raises DataError for params that do not fit."""
        _, abstract = _abstract(self.config)
        check_tree(params, abstract, "params/decoder")
        graphdef = _bound(self.config, inference_mode(self.platform))
        cast = functools.partial(jnp.asarray, dtype=DTYPE[precision])
        return nnx.merge(graphdef, jax.tree.map(cast, params))


@functools.cache
def _bound(config: DecoderConfig, mode: Mode) -> Any:
    graphdef, abstract = _abstract(config)
    return nnx.graphdef(bind(nnx.merge(graphdef, abstract), mode))


@functools.cache
def _abstract(config: DecoderConfig) -> tuple[Any, Params]:
    return split(nnx.eval_shape(lambda: Transformer(config, nnx.Rngs(0))))


@functools.partial(jax.jit, static_argnums=0, compiler_options={"xla_backend_optimization_level": 0})
def _draw(config: DecoderConfig, key: Array) -> Params:
    return split(Transformer(config, nnx.Rngs(key)))[1]

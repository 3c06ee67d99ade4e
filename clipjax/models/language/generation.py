"""Answers of a decoder: a pass over the prompt, then one position a step.

Every function is pure and compiled once per shape. Rows are padded on the left, and a row's answer does not
depend on its padding or on the other rows.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Float32, Int32

from clipjax.models.language import transformer
from clipjax.models.language.cache import Cache, append, begin, beside, empty_cache
from clipjax.models.language.decoder import Decoder
from clipjax.models.param_tree import Params
from clipjax.models.precision import DTYPE, MATMUL, Precision


class Generation(NamedTuple):
    """Answers.

    ids: int32 [B, steps]; the last of a row may be a stop id, and -1 follows it.
    first: float32 [B, V], the logits of the first id.
    """

    ids: Array
    first: Array


@functools.partial(jax.jit, static_argnames=("decoder", "room", "precision"))
def prefill(
    decoder: Decoder,
    params: Params,
    embedded: Float[Array, "B S D"],
    valid: Bool[Array, "B S"],
    room: int,
    *,
    precision: Precision,
) -> tuple[Float32[Array, "B V"], Cache]:
    """Reads prompts.

    Args:
        valid: False at the padding on the left.
        room: slots for what follows.

    Returns: the logits after each prompt, and a cache of S + room slots.

    Raises:
        DataError: params that do not fit, or a prompt and room longer than the context.
    """
    batch, length = valid.shape
    decoder.check_length(length + room)
    module, dtype = decoder.module(params, precision), DTYPE[precision]
    cache = empty_cache(decoder.config, batch, length + room, dtype, decoder.joined(dtype))
    positions = transformer.positions_of(valid)
    visible = transformer.sees(positions, positions, valid, decoder.config.sliding_window)
    with jax.default_matmul_precision(MATMUL[precision]):
        x, (keys, values), _ = module(
            embedded.astype(dtype), positions, visible, kept=(cache.keys, cache.values), remember=begin
        )
        logits = module.logits(x[:, -1])
    filled = jnp.pad(valid, ((0, 0), (0, room)))
    return logits, Cache(keys, values, filled, jnp.asarray(length, jnp.int32))


@functools.partial(jax.jit, static_argnames=("decoder", "precision"))
def decode_step(
    decoder: Decoder, params: Params, ids: Int32[Array, " B"], cache: Cache, *, precision: Precision
) -> tuple[Float32[Array, "B V"], Cache]:
    """Reads one more id of each row into the next slot -> the logits after it, and the cache."""
    module = decoder.module(params, precision)
    embedded = decoder.embed(params, ids).astype(DTYPE[precision])[:, None]
    valid = jax.lax.dynamic_update_slice(
        cache.valid, jnp.ones((len(ids), 1), bool), (jnp.zeros((), jnp.int32), cache.length)
    )
    positions = cache.positions[:, None]
    slots = transformer.positions_of(valid)
    visible = transformer.sees(positions, slots, valid, decoder.config.sliding_window)
    with jax.default_matmul_precision(MATMUL[precision]):
        x, (keys, values), _ = module(
            embedded,
            positions,
            visible,
            kept=(cache.keys, cache.values),
            remember=append(cache.length),
        )
        logits = module.logits(x[:, 0])
    return logits, Cache(keys, values, valid, cache.length + 1)


_GENERATE = ("decoder", "steps", "stop", "precision", "temperature")


@functools.partial(jax.jit, static_argnames=_GENERATE)
def generate(
    decoder: Decoder,
    params: Params,
    embedded: Float[Array, "B S D"],
    valid: Bool[Array, "B S"],
    *,
    steps: int,
    stop: tuple[int, ...],
    precision: Precision,
    temperature: float = 0.0,
    keys: Array | None = None,
) -> Generation:
    """Continues prompts; arguments as `prefill` and `continued`."""
    first, cache = prefill(decoder, params, embedded, valid, steps, precision=precision)
    options = {"steps": steps, "stop": stop, "precision": precision, "temperature": temperature}
    return Generation(continued(decoder, params, first, cache, **options, keys=keys), first)


@functools.partial(jax.jit, static_argnames=_GENERATE)
def continued(
    decoder: Decoder,
    params: Params,
    first: Float32[Array, "B V"],
    cache: Cache,
    *,
    steps: int,
    stop: tuple[int, ...],
    precision: Precision,
    temperature: float = 0.0,
    keys: Array | None = None,
) -> Int32[Array, "B steps"]:
    """The ids after a cache, see `Generation`. Ends when all rows have.

    Args:
        first: the logits after the cache.
        cache: with room for `steps - 1` or more.
        stop: ids that end a row.
        temperature: 0 takes the likeliest id (the lowest of equals); above, ids are drawn from
            softmax(logits / temperature).
        keys: typed, [B]: a row's key alone decides its draws.
    """

    def end(ids: Array, ended: Array) -> Array:
        return functools.reduce(jnp.logical_or, (ids == each for each in stop), ended)

    def read(state: tuple[Any, ...]) -> tuple[Any, ...]:
        step, last, cache, ids, ended = state
        logits, cache = decode_step(decoder, params, last, cache, precision=precision)
        last = _picked(logits, step, temperature, keys)
        ids = jax.lax.dynamic_update_slice(ids, jnp.where(ended, -1, last)[:, None], (0, step))
        return step + 1, last, cache, ids, end(last, ended)

    def unfinished(state: tuple[Any, ...]) -> Array:
        return (state[0] < steps) & ~state[4].all()

    start = jnp.zeros((), jnp.int32)
    last = _picked(first, start, temperature, keys)
    ids = jnp.full((len(first), steps), -1, jnp.int32).at[:, 0].set(last)
    state: tuple[Any, ...] = (start + 1, last, cache, ids, end(last, jnp.zeros(len(first), bool)))
    return jax.lax.while_loop(unfinished, read, state)[3]


def _picked(logits: Array, step: Array, temperature: float, keys: Array | None) -> Array:
    if temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    assert keys is not None, "draws need keys"

    def draw(key: Array, row: Array) -> Array:
        return jax.random.categorical(jax.random.fold_in(key, step), row / temperature)

    return jax.vmap(draw)(keys, logits).astype(jnp.int32)


@functools.partial(jax.jit, static_argnames=("decoder", "precision"))
def continuation_scores(
    decoder: Decoder,
    params: Params,
    cache: Cache,
    ids: Int32[Array, "B K T"],
    lengths: Int32[Array, "B K"],
    first: Float32[Array, "B V"],
    *,
    precision: Precision,
) -> Float32[Array, "B K"]:
    """The logarithm of the probability that each of K texts follows the prompt.

    All texts of a row run at once, each reading the prompt and itself.

    Args:
        ids: the texts, padded on the right by anything.
        lengths: ids of each, 1 or more.
        first: the logits after the prompt.
    """
    batch, options, length = ids.shape
    module = decoder.module(params, precision)
    embedded = decoder.embed(params, ids.reshape(batch, -1)).astype(DTYPE[precision])
    offsets = jnp.tile(jnp.arange(length, dtype=jnp.int32), options)
    positions = cache.positions[:, None] + offsets
    window = decoder.config.sliding_window
    earlier = transformer.sees(positions, transformer.positions_of(cache.valid), cache.valid, window)
    text = jnp.repeat(jnp.arange(options), length)
    own = transformer.sees(positions, positions, jnp.ones(positions.shape, bool), window)
    visible = jnp.concatenate([earlier, own & (text[:, None] == text)], axis=2)
    with jax.default_matmul_precision(MATMUL[precision]):
        x, _, _ = module(embedded, positions, visible, kept=(cache.keys, cache.values), remember=beside)
        logits = module.logits(x).reshape(batch, options, length, -1)
    before = jnp.concatenate(
        [jnp.broadcast_to(first[:, None, None], logits[:, :, :1].shape), logits[:, :, :-1]], axis=2
    )
    scores = jnp.take_along_axis(jax.nn.log_softmax(before), ids[..., None], axis=3)[..., 0]
    return jnp.where(jnp.arange(length) < lengths[..., None], scores, 0).sum(axis=2)

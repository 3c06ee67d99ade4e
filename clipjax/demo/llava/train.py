"""Train a projector and a decoder on features of a frozen image tower."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from clipjax.demo.llava.texts import Examples
from clipjax.models.arch import Arch
from clipjax.models.language.decoder import Decoder
from clipjax.models.language.vision_language import assemble, language_of, projector_of
from clipjax.models.network import Network
from clipjax.models.param_tree import Params


@dataclass(frozen=True)
class LlavaRecipe:
    steps: int
    warmup: int
    batch_size: int
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    clip_norm: float = 1.0

    def schedule(self) -> optax.Schedule:
        """Level until it falls to 0 in the last third: an early fall ends the learning of letters."""
        rate, fall = self.learning_rate, self.steps // 3
        parts = [
            optax.linear_schedule(0.0, rate, self.warmup),
            optax.constant_schedule(rate),
            optax.linear_schedule(rate, 0.0, fall),
        ]
        return optax.join_schedules(parts, [self.warmup, self.steps - fall])


def train(arch: Arch, patches: np.ndarray, examples: Examples, recipe: LlavaRecipe, seed: int) -> Params:
    """The params of projector and decoder, from scratch.

    Args:
        patches: float32 [M, P, T], features of the images that `examples` names.
        examples: `steps * batch_size` of them.
    """
    start = initial(arch, seed)
    batches = [part.reshape(recipe.steps, recipe.batch_size, *part.shape[1:]) for part in examples]
    return jax.device_get(_run(arch, recipe, start, jnp.asarray(patches), Examples(*batches)))


def initial(arch: Arch, seed: int) -> Params:
    """Matrices that keep the size of their input; smaller where a block adds to the stream."""
    rng = np.random.default_rng(seed)  # JAX would compile a program for each shape

    def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        names = [str(each.key) for each in path]
        if names[-1] in ("scale", "bias"):
            return np.full(leaf.shape, names[-1] == "scale", np.float32)
        inputs = leaf.shape[-1] if names[-1] == "embedding" else leaf.shape[-2]
        share = 0.5 if names[-2] in ("out", "down") else 1.0
        return share / math.sqrt(inputs) * rng.standard_normal(leaf.shape, np.float32)

    parts = {name: Network(arch).abstract_params()[name] for name in ("projector", "decoder")}
    params = jax.tree_util.tree_map_with_path(draw, parts)
    last = params["projector"]["linear_1"]
    last["kernel"] = 0.2 * last["kernel"]  # as large as embedded words
    return params


@functools.partial(jax.jit, static_argnums=(0, 1))
def _run(arch: Arch, recipe: LlavaRecipe, params: Params, patches: jax.Array, batches: Examples) -> Params:
    rule = optax.adamw(recipe.schedule(), b2=0.98, weight_decay=recipe.weight_decay)
    optimizer = optax.chain(optax.clip_by_global_norm(recipe.clip_norm), rule)

    def step(state: Any, batch: Examples) -> tuple[Any, None]:
        params, kept = state
        slopes = jax.grad(_loss)(params, arch, patches[batch.image], batch)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes float32 and int32
            changes, kept = optimizer.update(slopes, kept, params)
        return (optax.apply_updates(params, changes), kept), None

    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), batches)
    return params


def _loss(params: Params, arch: Arch, patches: jax.Array, batch: Examples) -> jax.Array:
    """Cross-entropy of the next id, weighted; an image comes after the first id."""
    decoder, count = Decoder(language_of(arch).decoder), patches.shape[1]
    projector = projector_of(arch, params["projector"])
    ids = jnp.asarray(batch.ids[:, :-1])
    embedded = assemble(decoder, params["decoder"], ids, jnp.ones(len(ids), jnp.int32), projector(patches))
    valid = jnp.ones(embedded.shape[:2], bool)
    logits = decoder.forward(params["decoder"], embedded, valid, precision="parity")[:, count:]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch.ids[:, 1:])
    weights = batch.weights[:, 1:]
    return (losses * weights).sum() / weights.sum()

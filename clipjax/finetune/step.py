"""The one training step: jitted, sharded, donated; a method is a loss function.

The state is a pytree on a mesh: parameters by the rules of `clipjax.sharding` (replicated for data parallel,
split for FSDP), the optimiser's moments where their parameters lie. The loss sees the global batch, so a
contrastive loss has all negatives on any number of devices; the compiler adds the collectives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh

from clipjax.sharding import Rules, batch_sharding, params_sharding, put, replicated, state_sharding

Params = dict[str, Any]
Metrics = dict[str, Array]

# (params, global batch, PRNG key of this step) -> scalar loss and scalars to show beside it.
Loss = Callable[[Params, dict[str, Array], Array], tuple[Array, Metrics]]


class TrainState(NamedTuple):
    """Everything that a step changes (also used for a state of shardings, or of abstract arrays).

    Attributes:
        step: int32 [], steps done.
        params: nested dict of float32 arrays.
        opt_state: of the optimiser.
        key: uint32 key data; the key of step i is this one folded with i.
    """

    step: Any
    params: Params
    opt_state: Any
    key: Any


def decays(path: str) -> bool:
    """Whether weight decay pulls at a leaf: not at norms, biases, the class token or the logit scale.

    As open_clip (`open_clip_train/main.py`), which exempts what has fewer than two dimensions or is named a
    norm or a bias. Dimensions do not tell here, because the blocks are stacked: so it goes by name.
    """
    return path.rsplit("/", 1)[-1] not in ("scale", "bias", "class_embedding", "logit_scale", "logit_bias")


def decay_mask(params: Params) -> Any:
    """The tree of `decays` over the leaves' paths."""
    return jax.tree.map_with_path(
        lambda path, _: decays(jax.tree_util.keystr(path, simple=True, separator="/")), params
    )


def make_optimizer(
    schedule: optax.Schedule,
    *,
    weight_decay: float,
    clip_norm: float | None,
    b1: float = 0.9,
    b2: float = 0.98,
    eps: float = 1e-6,
) -> optax.GradientTransformation:
    """AdamW with decoupled decay on `decays` leaves, after clipping the global gradient norm.

    The defaults are CLIP's for vision transformers (Radford et al. 2021, arXiv 2103.00020, table 19).
    """
    adamw = optax.adamw(schedule, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay, mask=decay_mask)
    return adamw if clip_norm is None else optax.chain(optax.clip_by_global_norm(clip_norm), adamw)


def state_shardings(params: Params, tx: optax.GradientTransformation, mesh: Mesh, rules: Rules) -> TrainState:
    """Where each leaf of the state lies, as a state of NamedShardings.

    Args:
        params: arrays or `jax.ShapeDtypeStruct`.
        rules: path rules, `clipjax.sharding.DP` or `FSDP`.
    """
    shardings = params_sharding(params, mesh, rules)
    everywhere = replicated(mesh)
    return TrainState(everywhere, shardings, state_sharding(tx, params, shardings), everywhere)


def init_state(
    params: Params, tx: optax.GradientTransformation, shardings: TrainState, seed: int
) -> TrainState:
    """The state before the first step, on the mesh; a copy, so that donating it leaves `params` alone."""
    placed = jax.tree.map(lambda x, sharding: put(jnp.array(x), sharding), params, shardings.params)
    opt_state = jax.jit(tx.init, out_shardings=shardings.opt_state)(placed)
    key = put(jax.random.key_data(jax.random.key(seed)), shardings.key)
    return TrainState(put(jnp.int32(0), shardings.step), placed, opt_state, key)


def make_step(
    loss: Loss,
    tx: optax.GradientTransformation,
    mesh: Mesh,
    shardings: TrainState,
    constrain: Callable[[Params], Params] | None = None,
) -> Callable[[TrainState, dict[str, Array]], tuple[TrainState, Metrics]]:
    """Compile-once `step(state, batch) -> (state, metrics)`.

    Args:
        loss: the method.
        tx: the optimiser.
        shardings: from `state_shardings`.
        constrain: brings the parameters back into their bounds after each update.

    Returns: a function that donates its state (the old one is gone afterwards). The batch is a dict of arrays
        split over axis 0, as from `clipjax.sharding.shard_batch`. Metrics are the loss function's, with
        `loss` and `grad_norm` (before clipping).
    """

    def step(state: TrainState, batch: dict[str, Array]) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        (value, metrics), gradients = jax.value_and_grad(loss, has_aux=True)(state.params, batch, key)
        # optax mixes Python floats with its int32 counters, which strict promotion would refuse.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = tx.update(gradients, state.opt_state, state.params)
        params: Params = optax.apply_updates(state.params, updates)  # type: ignore[assignment]
        params = params if constrain is None else constrain(params)
        metrics = {"loss": value, "grad_norm": optax.tree.norm(gradients), **metrics}
        return TrainState(state.step + 1, params, opt_state, state.key), metrics

    return jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(shardings, batch_sharding(mesh)),
        out_shardings=(shardings, replicated(mesh)),
    )

"""The one training step, jitted, sharded, donated.

The loss sees the global batch: a contrastive loss has all negatives on any number of devices.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from clipjax.devices.sharding import (
    DP,
    Rules,
    abstract_on,
    batch_sharding,
    params_sharding,
    put,
    replicated,
    shard_params,
    state_sharding,
)
from clipjax.errors import UsageError
from clipjax.finetune.training.trees import ParamGroups, Params, merge

PROGRAMS = 8  # the latest that are kept: the two phases of LP-FT at some learning rates

Metrics = dict[str, Array]
Batch = dict[str, Array]


class Aux(NamedTuple):
    """Scalars to show, and BatchNorm's new statistics (a tree like the state's, or {})."""

    metrics: Metrics
    statistics: Params


# (all params, global batch, PRNG key of this step) -> scalar loss and its `Aux`. Losses that compare by
# value, as frozen dataclasses do, share their compiled step (`jit_step`).
Loss = Callable[[Params, Batch, Array], tuple[Array, Aux]]
Step = Callable[["TrainState", Batch], tuple["TrainState", Metrics]]


class TrainState(NamedTuple):
    """Everything that a step changes; also used for shardings and abstract arrays.

    Attributes:
        step: int32 [], steps done.
        params: the trained leaves, float32.
        statistics: BatchNorm's running ones, if updated; else {}.
        key: uint32 key data; step i folds i into it.
    """

    step: Any
    params: Params
    statistics: Params
    opt_state: Any
    key: Any


def check_batch(size: int, mesh: Mesh, images: int, accumulate: int = 1) -> None:
    """Raise UsageError for a global batch larger than the data or indivisible by devices times parts."""
    if size % (mesh.size * accumulate):
        parts = "" if accumulate == 1 else f" in {accumulate} parts"
        raise UsageError(
            f"a batch of {size}{parts} does not divide over {mesh.size} devices: "
            f"give a multiple of {mesh.size * accumulate}"
        )
    if size > images:
        raise UsageError(
            f"a batch of {size} is larger than the data set of {images}: give {images} or less "
            f"(--set batch_size={images})"
        )


def state_shardings(
    parts: ParamGroups, tx: optax.GradientTransformation, mesh: Mesh, rules: Rules
) -> TrainState:
    """A NamedSharding for each leaf; `parts` may be abstract."""
    shardings = params_sharding(parts.trained, mesh, rules)
    everywhere = replicated(mesh)
    statistics = jax.tree.map(lambda _: everywhere, parts.statistics)
    opt_state = state_sharding(tx, parts.trained, shardings)
    return TrainState(everywhere, shardings, statistics, opt_state, everywhere)


def init_state(
    parts: ParamGroups, tx: optax.GradientTransformation, shardings: TrainState, seed: int
) -> TrainState:
    """The initial state, on the mesh; a copy, so donating it leaves `parts` alone."""
    placed, statistics = (
        # Through the host: there, splitting an array needs no compiled program per shape.
        jax.tree.map(lambda x, sharding: put(np.array(x), sharding), part, where)
        for part, where in (
            (parts.trained, shardings.params),
            (parts.statistics, shardings.statistics),
        )
    )
    opt_state = jax.jit(tx.init, out_shardings=shardings.opt_state)(placed)
    key = put(jax.random.key_data(jax.random.key(seed)), shardings.key)
    return TrainState(put(jnp.int32(0), shardings.step), placed, statistics, opt_state, key)


def abstract_state(parts: ParamGroups, tx: optax.GradientTransformation, shardings: TrainState) -> TrainState:
    """`init_state`'s shapes as `jax.ShapeDtypeStruct`; `parts` may be abstract."""
    key = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
    step, moments = jax.ShapeDtypeStruct((), jnp.int32), jax.eval_shape(tx.init, parts.trained)
    state = TrainState(step, parts.trained, parts.statistics, moments, key)
    return jax.tree.map(abstract_on, state, shardings)


def make_step(
    loss: Loss,
    tx: optax.GradientTransformation,
    mesh: Mesh,
    shardings: TrainState,
    constrain: Callable[[Params], Params] | None = None,
    *,
    frozen: Params | None = None,
    rules: Rules = DP,
    **options: Any,
) -> Step:
    """`step(state, batch) -> (state, metrics)`, which donates its state.

    Args:
        frozen: other leaves that the loss reads, placed by `rules` (not copied if in place).
        options: the other arguments of `jit_step`.
    """
    placed = shard_params(frozen or {}, mesh, rules)
    where = jax.tree.map(lambda leaf: leaf.sharding, placed)
    jitted = jit_step(loss, tx, mesh, shardings, constrain, frozen=where, **options)
    return lambda state, batch: jitted(state, placed, batch)


def jit_step(
    loss: Loss,
    tx: optax.GradientTransformation,
    mesh: Mesh,
    shardings: TrainState,
    constrain: Callable[[Params], Params] | None = None,
    *,
    frozen: Params,
    accumulate: int = 1,
    rate: optax.Schedule | None = None,
    compiler_options: Mapping[str, str] | None = None,
) -> jax.stages.Wrapped:
    """The program of `make_step`, jitted: (state, frozen leaves, batch) -> (state, metrics).

    Args:
        constrain: brings trained params back into bounds after each update.
        frozen: the sharding of each leaf that the loss reads beside the trained ones.
        accumulate: average the gradients of this many parts: the memory of a part, the step of the whole.
            Wrong for a loss that compares examples.
        rate: the schedule that `tx` follows, only for the metrics.

    The batch's arrays are split over axis 0. Metrics are the loss's, `loss`, `grad_norm` (before clipping)
    and, given `rate`, `learning_rate`.

    Equal arguments get one jitted program, as for the seeds of a recipe, if the loss compares by value. A
    function may hold a model's weights, which must not outlive the run, so its program is made anew.
    """
    leaves, structure = jax.tree.flatten((shardings, frozen))
    options = None if compiler_options is None else tuple(sorted(compiler_options.items()))
    make = _jitted if _is_value(loss) else _jitted.__wrapped__
    return make(loss, tx, mesh, structure, tuple(leaves), constrain, accumulate, rate, options)


def _is_value(loss: Loss) -> bool:
    try:
        hash(loss)
    except TypeError:  # it has arrays
        return False
    return dataclasses.is_dataclass(loss)


@functools.lru_cache(maxsize=PROGRAMS)
def _jitted(
    loss: Loss,
    tx: optax.GradientTransformation,
    mesh: Mesh,
    structure: Any,
    leaves: tuple[Any, ...],
    constrain: Callable[[Params], Params] | None,
    accumulate: int,
    rate: optax.Schedule | None,
    options: tuple[tuple[str, str], ...] | None,
) -> jax.stages.Wrapped:
    shardings, frozen = jax.tree.unflatten(structure, leaves)

    def step(state: TrainState, fixed: Params, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        value, gradients, aux = _gradients(loss, state, fixed, batch, key, accumulate, shardings.params)
        metrics = {"loss": value, "grad_norm": optax.tree.norm(gradients), **aux.metrics}
        # optax mixes Python floats with int32 counters, which strict promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = tx.update(gradients, state.opt_state, state.params)
            if rate is not None:
                metrics["learning_rate"] = jnp.asarray(rate(state.step), jnp.float32)
        params: Params = optax.apply_updates(state.params, updates)  # type: ignore[assignment]
        params = params if constrain is None else constrain(params)
        return TrainState(state.step + 1, params, aux.statistics, opt_state, state.key), metrics

    return jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(shardings, frozen, batch_sharding(mesh)),
        out_shardings=(shardings, replicated(mesh)),
        compiler_options=None if options is None else dict(options),
    )


def _gradients(
    loss: Loss, state: TrainState, fixed: Params, batch: Batch, key: Array, accumulate: int, where: Params
) -> tuple[Array, Params, Aux]:
    """Loss and gradients, in parts of strided rows: each device keeps its own.

        8 rows, accumulate 2: parts [0, 2, 4, 6] and [1, 3, 5, 7]

    Only the gradients' sum is kept, split by `where`. Each part is a small batch to BatchNorm.
    """

    def one(statistics: Params, rows: Batch, key: Array) -> tuple[Array, Params, Aux]:
        def of(trained: Params) -> tuple[Array, Aux]:
            return loss(merge(fixed, statistics, trained), rows, key)

        (value, aux), gradients = jax.value_and_grad(of, has_aux=True)(state.params)
        return value, gradients, Aux(aux.metrics, aux.statistics or statistics)

    if accumulate == 1:
        return one(state.statistics, batch, key)

    def body(carry: tuple[Params, Params], part: tuple[Batch, Array]) -> tuple[tuple[Params, Params], Any]:
        statistics, total = carry
        value, gradients, aux = one(statistics, *part)
        total = jax.lax.with_sharding_constraint(jax.tree.map(jnp.add, total, gradients), where)
        return (aux.statistics, total), (value, aux.metrics)

    parts = jax.tree.map(
        lambda x: x.reshape(x.shape[0] // accumulate, accumulate, *x.shape[1:]).swapaxes(0, 1), batch
    )
    zeros = jax.lax.with_sharding_constraint(jax.tree.map(jnp.zeros_like, state.params), where)
    start = (state.statistics, zeros)
    (statistics, total), outputs = jax.lax.scan(body, start, (parts, jax.random.split(key, accumulate)))
    value, metrics = jax.tree.map(lambda x: x.mean(axis=0), outputs)
    return value, jax.tree.map(lambda x: x / accumulate, total), Aux(metrics, statistics)


def fetch(tree: Params) -> Params:
    """Arrays on any mesh -> whole NumPy copies; every process must call it."""

    def whole(leaf: Array) -> np.ndarray:
        if leaf.is_fully_addressable or leaf.is_fully_replicated:
            return np.array(leaf)
        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))

    return jax.tree.map(whole, tree)

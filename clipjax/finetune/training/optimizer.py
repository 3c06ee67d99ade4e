"""Optimisers and schedules of the references, through optax.

Sources: torch.optim's AdamW and SGD; open_clip 3.3 (`open_clip_train/main.py`) for leaves exempt from decay;
wise-ft (`src/models/utils.py`, cosine_lr) for warm-up and cosine; Dassl's ConstantWarmupScheduler and
CosineAnnealingLR, stepped per epoch, for CoOp.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from clipjax.errors import UsageError
from clipjax.storage.records import AtLeast

Params = dict[str, Any]
_NotNegative = Annotated[float, AtLeast(0)]
_Share = Annotated[float, AtLeast(0, below=1)]
KEPT = 32  # rules and schedules: a search tries some learning rates


@dataclass(frozen=True)
class Optimizer:
    """The update rule of the trained leaves.

    Attributes:
        name: "adamw" (decoupled decay) or "sgd" (decay added to the gradient), as in torch.optim.
        learning_rate: the peak.
        decay: "all" trained leaves (wise-ft, FLYP), or "matrices": no norms, biases, class token or logit
            scale (open_clip).
        clip_norm: the largest global norm of the gradients; None: no clipping.
    """

    name: Literal["adamw", "sgd"] = "adamw"
    learning_rate: _NotNegative = 1e-5
    weight_decay: _NotNegative = 0.1
    decay: Literal["all", "matrices"] = "all"
    b1: _Share = 0.9
    b2: _Share = 0.999
    eps: _NotNegative = 1e-8
    momentum: _Share = 0.9
    clip_norm: _NotNegative | None = None

    @functools.lru_cache(maxsize=KEPT)  # noqa: B019 (records of some numbers)
    def transformation(self, schedule: optax.Schedule) -> optax.GradientTransformation:
        """The same object for an equal rule: programs are shared by it."""
        mask = decay_mask if self.decay == "matrices" else None
        if self.name == "adamw":
            rule = optax.adamw(
                schedule, b1=self.b1, b2=self.b2, eps=self.eps, weight_decay=self.weight_decay, mask=mask
            )
        else:
            decay = optax.add_decayed_weights(self.weight_decay, mask)
            rule = optax.chain(decay, optax.sgd(schedule, momentum=self.momentum or None))
        clip = [] if self.clip_norm is None else [optax.clip_by_global_norm(self.clip_norm)]
        return optax.chain(*clip, rule)


@dataclass(frozen=True)
class Schedule:
    """The learning rate as a function of the step.

    Attributes:
        name: "constant"; "cosine", per step: base * (step + 1) / warmup_steps, then a half cosine to 0; or
            "epoch_cosine", per epoch (CoOp): `warmup_rate` for `warmup_epochs`, then base * (1 + cos(pi *
            (epoch - warmup_epochs) / epochs)) / 2.
    """

    name: Literal["cosine", "epoch_cosine", "constant"] = "cosine"
    warmup_steps: Annotated[int, AtLeast(0)] = 0
    warmup_epochs: Annotated[int, AtLeast(0)] = 0
    warmup_rate: _NotNegative = 0.0

    @functools.lru_cache(maxsize=KEPT)  # noqa: B019 (records of some numbers)
    def of(self, learning_rate: float, steps: int, epochs: int | None) -> optax.Schedule:
        """step (from 0) -> learning rate; only "epoch_cosine" needs epochs. The same object for equal ones.

        Raises:
            UsageError: a warm-up as long as the run, or "epoch_cosine" without epochs.
        """
        if self.name == "constant":
            return optax.constant_schedule(learning_rate)
        if self.name == "cosine":
            if self.warmup_steps >= max(steps, 1):
                raise UsageError(
                    f"schedule.warmup_steps = {self.warmup_steps} does not fit into {steps} steps: train "
                    "longer, warm up for less (--set schedule.warmup_steps=0), or take a recipe for few "
                    "images"
                )
            return lambda step: _cosine(jnp.asarray(step), learning_rate, self.warmup_steps, steps)
        if epochs is None:
            raise UsageError("the schedule epoch_cosine needs `epochs`, not `steps`")
        return lambda step: _epoch_cosine(jnp.asarray(step), learning_rate, self, steps, epochs)


def _cosine(step: jax.Array, base: float, warmup: int, steps: int) -> jax.Array:
    step = step.astype(jnp.float32)
    rising = base * (step + 1.0) / max(warmup, 1)
    falling = 0.5 * (1.0 + jnp.cos(math.pi * (step - warmup) / (steps - warmup))) * base
    return jnp.where(step < warmup, rising, falling)


def _epoch_cosine(step: jax.Array, base: float, schedule: Schedule, steps: int, epochs: int) -> jax.Array:
    # Integers, because jit turns a float division into a product, and an epoch would begin a step late.
    # The first step of epoch e is ceil(e * steps / epochs).
    starts = jnp.asarray([-(-e * steps // epochs) for e in range(1, epochs)], jnp.int32)
    epoch = jnp.sum(step >= starts).astype(jnp.float32)
    # Dassl starts the cosine after the warm-up (its WARMUP_RECOUNT), but its period is all epochs.
    falling = 0.5 * (1.0 + jnp.cos(math.pi * (epoch - schedule.warmup_epochs) / epochs)) * base
    return jnp.where(epoch < schedule.warmup_epochs, schedule.warmup_rate, falling)


class RateState(NamedTuple):
    """int32 [] each: steps done, of the warm-up, and of the run."""

    done: jax.Array
    warmup: jax.Array
    steps: jax.Array


def scale_by_warmup_cosine(peak: float, warmup: int, steps: int) -> optax.GradientTransformation:
    """Multiply updates by the rate of `optax.warmup_cosine_decay_schedule(0, peak, warmup, steps)`.

    The numbers of steps are in the state, so that a compiled step serves runs of every length.

    Raises UsageError, as that schedule does ValueError: no step is left after the warm-up.
    """
    if not 0 <= warmup < steps:
        raise UsageError(
            f"a warm-up of {warmup} steps leaves none of {steps} for the cosine: train longer, or warm up "
            "for less"
        )

    def init(_: Params) -> RateState:
        return RateState(*(jnp.asarray(number, jnp.int32) for number in (0, warmup, steps)))

    def update(updates: Params, state: RateState, params: Params | None = None) -> tuple[Params, RateState]:
        del params
        rate = _warmup_cosine(state, peak)
        updates = jax.tree.map(lambda leaf: rate.astype(leaf.dtype) * leaf, updates)
        return updates, state._replace(done=optax.safe_increment(state.done))

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]


def _warmup_cosine(state: RateState, peak: float) -> jax.Array:
    done, warmup, steps = (number.astype(jnp.float32) for number in state)
    fall = jnp.clip((done - warmup) / (steps - warmup), 0.0, 1.0)
    falling = 0.5 * (1.0 + jnp.cos(math.pi * fall))
    return peak * jnp.where(done < warmup, done / jnp.maximum(warmup, 1.0), falling)


def decays(path: str) -> bool:
    """Whether a leaf decays, by name: not norms, biases, class token or logit scale.

    open_clip (`open_clip_train/main.py`) also exempts leaves of fewer than two dimensions, but stacked blocks
    here add one.
    """
    return path.rsplit("/", 1)[-1] not in ("scale", "bias", "class_embedding", "logit_scale", "logit_bias")


def decay_mask(params: Params) -> Any:
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
    """AdamW for training from scratch; only matrices decay.

    The defaults are CLIP's for vision transformers (Radford et al. 2021, arXiv 2103.00020, table 19).
    """
    rule = Optimizer(weight_decay=weight_decay, decay="matrices", b1=b1, b2=b2, eps=eps, clip_norm=clip_norm)
    return rule.transformation(schedule)

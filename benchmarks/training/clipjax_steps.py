"""clipjax's training steps, as `clipjax finetune` runs them: the other side of `torch_steps`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.training.training_data import CLASSES, DECAY, RATE
from clipjax.devices.sharding import DP, make_mesh, shard_batch
from clipjax.estimates.flops import product_flops
from clipjax.finetune.training.optimizer import Optimizer
from clipjax.finetune.training.step import Aux, Loss, init_state, make_step, state_shardings
from clipjax.finetune.training.trees import split
from clipjax.models.network import Network
from clipjax.models.precision import Precision
from clipjax.models.training import Training

Step = Callable[[], jax.Array]


def jax_steps(
    network: Network,
    params: Any,
    method: str,
    arrays: dict[str, np.ndarray],
    precision: Precision = "parity",
) -> Step:
    """A step of "CE" or "FLYP" on one device, which returns its loss."""
    mesh = make_mesh(jax.devices()[:1])
    parts = split(trained(params, method, arrays), lambda _: True, update_statistics=True)
    tx = Optimizer(learning_rate=RATE, weight_decay=DECAY).transformation(optax.constant_schedule(RATE))
    shardings = state_shardings(parts, tx, mesh, DP)
    options = network.compiler_options("vision", precision)
    loss = loss_of(method, network, precision)
    step = make_step(loss, tx, mesh, shardings, frozen=parts.frozen, compiler_options=options)
    batch = shard_batch(read(arrays), mesh)
    states = [init_state(parts, tx, shardings, 0)]

    def run() -> jax.Array:
        states[0], metrics = step(states[0], batch)
        return metrics["loss"]

    return run


def step_flops(network: Network, params: Any, method: str, arrays: dict[str, np.ndarray]) -> int:
    """Operations of a step's products: those of the loss, and twice as many for its gradients."""
    loss = loss_of(method, network, "parity")
    key = jax.ShapeDtypeStruct((), jax.random.key(0).dtype)
    traced = jax.make_jaxpr(loss)(trained(params, method, arrays), read(arrays), key)
    return 3 * product_flops(traced.jaxpr)


def trained(params: Any, method: str, arrays: dict[str, np.ndarray]) -> Any:
    """The params of a step: for cross-entropy a dual encoder's image tower and a head."""
    params = jax.tree.map(jnp.asarray, params)
    if method == "CE" and "head" not in params:
        head = {"kernel": jnp.asarray(arrays["head"]), "bias": jnp.zeros(CLASSES)}
        params = {"vision": params["vision"], "head": head}
    return params


def read(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tower reads nothing after the end tokens, the largest ids."""
    longest = arrays["tokens"].argmax(axis=1).max() + 1
    return {
        "images": arrays["images"],
        "label": arrays["label"],
        "tokens": arrays["tokens"][:, :longest],
    }


def loss_of(method: str, network: Network, precision: Precision) -> Loss:
    return {"CE": cross_entropy, "FLYP": contrastive}[method](network, precision)


def cross_entropy(network: Network, precision: Precision) -> Loss:
    platform = jax.default_backend()  # training steps state where they run

    def loss(params: Any, batch: dict[str, jax.Array], key: jax.Array) -> tuple[jax.Array, Aux]:
        features, statistics = network.train_image(
            params, batch["images"], precision=precision, training=Training("batch"), platform=platform
        )
        if network.arch.text is not None:
            features = features / jnp.linalg.norm(features, axis=-1, keepdims=True)
        logits = jnp.matmul(features, params["head"]["kernel"], precision="highest") + params["head"]["bias"]
        value = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean()
        return value, Aux({}, statistics)

    return loss


def contrastive(network: Network, precision: Precision) -> Loss:
    from clipjax.finetune.contrastive import contrastive_loss  # needs grain

    options: Any = {
        "precision": precision,
        "training": Training("batch"),
        "platform": jax.default_backend(),
    }

    def loss(params: Any, batch: dict[str, jax.Array], key: jax.Array) -> tuple[jax.Array, Aux]:
        images, statistics = network.train_image(params, batch["images"], **options)
        texts = network.train_text(params, batch["tokens"], **options)
        value, metrics = contrastive_loss(images, texts, params["logit_scale"])
        return value, Aux(metrics, statistics)

    return loss

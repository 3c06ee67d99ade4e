"""The shared step: the same on any mesh, and the optimiser equal to PyTorch's."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clipjax.finetune.contrastive import bound_logit_scale, clip_loss
from clipjax.finetune.optimizer import decay_mask, make_optimizer
from clipjax.finetune.step import init_state, make_step, state_shardings
from clipjax.finetune.trees import Parts
from clipjax.models.network import Network
from clipjax.sharding import DP, FSDP, Rules, make_mesh, shard_batch
from tests.finetune.conftest import batch

STATISTICS = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def prepare(network: Network, devices: int, rules: Rules) -> tuple[Any, Any, Any]:
    """The mesh, the first state and the step."""
    mesh = make_mesh(jax.devices()[:devices])
    tx = make_optimizer(optax.constant_schedule(1e-2), weight_decay=0.1, clip_norm=0.5)
    parts = Parts(network.init_params(jax.random.key(0)), {}, {})
    shardings = state_shardings(parts, tx, mesh, rules)
    state = init_state(parts, tx, shardings, seed=0)
    loss = clip_loss(network, *STATISTICS, "parity")
    return mesh, state, make_step(loss, tx, mesh, shardings, bound_logit_scale)


def run(network: Network, devices: int, rules: Rules, steps: int) -> tuple[list[dict[str, float]], Any]:
    """Metrics of each step, and the last state, from the same weights and batches."""
    mesh, state, step = prepare(network, devices, rules)
    metrics = []
    for i in range(steps):
        state, values = step(state, shard_batch(batch(16, seed=i), mesh))
        metrics.append({name: float(value) for name, value in values.items()})
    return metrics, state


@pytest.fixture(scope="module")
def alone(network: Network) -> tuple[list[dict[str, float]], Any]:
    return run(network, 1, DP, 3)


@pytest.mark.parametrize("rules", [DP, FSDP], ids=["data parallel", "fsdp"])
def test_eight_devices_equal_one(network: Network, alone: tuple, rules: Rules) -> None:
    metrics, state = run(network, 8, rules, 3)
    assert metrics[0]["loss"] == pytest.approx(alone[0][0]["loss"], rel=0, abs=1e-5)
    assert metrics[0]["grad_norm"] == pytest.approx(alone[0][0]["grad_norm"], rel=1e-4)
    assert metrics[2]["loss"] == pytest.approx(alone[0][2]["loss"], rel=1e-3)
    assert metrics[2]["loss"] != metrics[0]["loss"]
    assert int(state.step) == 3


def test_negatives_come_from_the_global_batch(network: Network, alone: tuple) -> None:
    """A loss averaged over the eight parts of the batch is another number: the test above can tell."""
    params = network.init_params(jax.random.key(0))
    loss = jax.jit(clip_loss(network, *STATISTICS, "parity"))
    whole = batch(16)
    parts = [{name: value[i : i + 2] for name, value in whole.items()} for i in range(0, 16, 2)]
    local = np.mean([float(loss(params, part, jax.random.key(0))[0]) for part in parts])  # type: ignore[arg-type]
    assert abs(local - alone[0][0]["loss"]) > 0.1


def test_fsdp_splits_parameters_and_moments(network: Network) -> None:
    _, state = run(network, 8, FSDP, 1)
    kernel = state.params["vision"]["blocks"]["mlp"]["c_fc"]["kernel"]
    moments = [
        leaf
        for path, leaf in jax.tree.leaves_with_path(state.opt_state)
        if "c_fc" in jax.tree_util.keystr(path) and "kernel" in jax.tree_util.keystr(path)
    ]
    assert len(moments) == 4  # two moments of two towers
    for array in (kernel, *moments):
        assert array.addressable_shards[0].data.size == array.size // 8
    everywhere = state.params["vision"]["ln_post"]["scale"]
    assert everywhere.addressable_shards[0].data.size == everywhere.size


def test_the_state_is_donated(network: Network) -> None:
    mesh, state, step = prepare(network, 1, DP)
    step(state, shard_batch(batch(16), mesh))
    assert state.params["vision"]["proj"].is_deleted()


def test_the_first_state_is_a_copy(network: Network) -> None:
    params = network.init_params(jax.random.key(0))
    tx = make_optimizer(optax.constant_schedule(1e-2), weight_decay=0.1, clip_norm=None)
    parts = Parts(params, {}, {})
    shardings = state_shardings(parts, tx, make_mesh(jax.devices()[:1]), DP)
    jax.tree.map(lambda leaf: leaf.delete(), init_state(parts, tx, shardings, seed=0).params)
    assert np.isfinite(np.asarray(params["vision"]["proj"])).all()


def test_weight_decay_goes_by_name(network: Network) -> None:
    """Stacked norms and biases have two dimensions: counting them would decay what CLIP does not."""
    mask = decay_mask(network.abstract_params())
    flat = {
        jax.tree_util.keystr(path, simple=True, separator="/"): value
        for path, value in jax.tree.leaves_with_path(mask)
    }
    assert flat["vision/blocks/ln_1/scale"] is False
    assert flat["text/blocks/attn/q/bias"] is False
    assert flat["vision/class_embedding"] is False
    assert flat["logit_scale"] is False
    assert flat["vision/blocks/attn/q/kernel"] is True
    assert flat["vision/positional_embedding"] is True
    assert flat["text/token_embedding"] is True


@pytest.mark.parametrize("mistake", [None, "decay", "b2", "clip"])
def test_optimizer_equals_torch(mistake: str | None) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    start = {"kernel": rng.normal(size=(6, 4)), "bias": rng.normal(size=4)}
    start = {name: value.astype(np.float32) for name, value in start.items()}
    gradients = [
        {n: (3 * rng.normal(size=v.shape)).astype(np.float32) for n, v in start.items()} for _ in range(8)
    ]

    theirs = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in start.items()}
    groups = [
        {"params": [theirs["kernel"]], "weight_decay": 0.2},
        {"params": [theirs["bias"]], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=0.05, betas=(0.9, 0.98), eps=1e-6)
    for gradient in gradients:
        for name, parameter in theirs.items():
            parameter.grad = torch.tensor(gradient[name])
        torch.nn.utils.clip_grad_norm_(list(theirs.values()), 1.0)
        adamw.step()

    tx = make_optimizer(
        optax.constant_schedule(0.05),
        weight_decay=0.1 if mistake == "decay" else 0.2,
        clip_norm=None if mistake == "clip" else 1.0,
        b2=0.999 if mistake == "b2" else 0.98,
    )
    ours: Any = {name: jnp.asarray(value) for name, value in start.items()}
    state = tx.init(ours)
    with jax.numpy_dtype_promotion("standard"):
        for gradient in gradients:
            updates, state = tx.update(jax.tree.map(jnp.asarray, gradient), state, ours)
            ours = optax.apply_updates(ours, updates)
    error = max(np.abs(np.asarray(ours[n]) - theirs[n].detach().numpy()).max() for n in start)
    assert error < 2e-6 if mistake is None else error > 2e-5

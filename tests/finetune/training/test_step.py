"""The shared step: its parts, where its state lies, and the optimiser equal to PyTorch's."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import optax
import pytest
from _drawn import drawn

from clipjax.devices.sharding import DP, Rules, make_mesh, shard_batch, shard_params
from clipjax.finetune.contrastive import ClipLoss, bound_logit_scale
from clipjax.finetune.training.losses import cross_entropy, head_logits
from clipjax.finetune.training.optimizer import Optimizer, decay_mask, make_optimizer
from clipjax.finetune.training.step import Aux, Loss, fetch, init_state, make_step, state_shardings
from clipjax.finetune.training.trees import ParamGroups, Params, split
from clipjax.models.cut import FSDP
from clipjax.models.network import Network
from clipjax.models.training import Training
from tests.finetune._tiny import TinyLoss, features, tiny_params
from tests.finetune.conftest import batch

STATISTICS = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def prepare(network: Network, devices: int, rules: Rules) -> tuple[Any, Any, Any]:
    """The mesh, the first state and the step."""
    mesh = make_mesh(jax.devices()[:devices])
    tx = make_optimizer(optax.constant_schedule(1e-2), weight_decay=0.1, clip_norm=0.5)
    parts = ParamGroups(drawn(network.abstract_params()), {}, {})
    shardings = state_shardings(parts, tx, mesh, rules)
    state = init_state(parts, tx, shardings, seed=0)
    loss = ClipLoss(network, *STATISTICS, "parity", "cpu", Training("batch"))
    return mesh, state, make_step(loss, tx, mesh, shardings, bound_logit_scale)


def test_negatives_come_from_the_global_batch(network: Network) -> None:
    """A loss averaged over parts of the batch is another number: test_devices.py can tell."""
    whole = batch(16)
    params = drawn(network.abstract_params())
    loss = jax.jit(ClipLoss(network, *STATISTICS, "parity", "cpu", Training("batch")))
    parts = [{name: value[i : i + 2] for name, value in whole.items()} for i in range(0, 16, 2)]
    local = np.mean([float(loss(params, part, jax.random.key(0))[0]) for part in parts])  # type: ignore[arg-type]
    assert abs(local - float(loss(params, whole, jax.random.key(0))[0])) > 0.1  # type: ignore[arg-type]


def test_fsdp_splits_parameters_and_moments(network: Network) -> None:
    _, state, _ = prepare(network, 8, FSDP)
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


def test_the_first_state_is_a_copy(network: Network) -> None:
    params = drawn(network.abstract_params())
    tx = make_optimizer(optax.constant_schedule(1e-2), weight_decay=0.1, clip_norm=None)
    parts = ParamGroups(params, {}, {})
    shardings = state_shardings(parts, tx, make_mesh(jax.devices()[:1]), DP)
    jax.tree.map(lambda leaf: leaf.delete(), init_state(parts, tx, shardings, seed=0).params)
    assert np.isfinite(np.asarray(params["vision"]["proj"])).all()


def tiny_step(loss: Loss, devices: int = 2, rules: Rules = DP, accumulate: int = 1) -> tuple[Any, Any, Any]:
    """The mesh, the first state and the step of the tiny problem, by SGD with momentum."""
    mesh = make_mesh(jax.devices()[:devices])
    tx = optax.sgd(0.1, momentum=0.9)
    parts = split(tiny_params(), lambda path: not path.startswith("frozen"), update_statistics=True)
    shardings = state_shardings(parts, tx, mesh, rules)
    step = make_step(loss, tx, mesh, shardings, frozen=parts.frozen, rules=rules, accumulate=accumulate)
    return mesh, init_state(parts, tx, shardings, seed=0), step


def tiny_batch() -> dict[str, np.ndarray]:
    return {"features": features()[:32], "label": np.arange(32, dtype=np.int32) % 4}


def mean_loss(params: Params, rows: dict[str, Any], key: Any) -> tuple[Any, Aux]:
    """Without a BatchNorm, whose examples see each other."""
    x = jax.nn.gelu(rows["features"] @ params["layer"]["kernel"])
    logits = head_logits(params["head"], x, normalize=False)
    return cross_entropy(logits, rows["label"]), Aux({}, {})


@pytest.mark.parametrize(("devices", "rules"), [(1, DP), (8, FSDP)])
def test_a_batch_in_parts_is_the_step_of_the_whole(devices: int, rules: Rules) -> None:
    results = []
    for accumulate in (1, 4):
        mesh, state, step = tiny_step(mean_loss, devices, rules, accumulate)
        state, metrics = step(state, shard_batch(tiny_batch(), mesh))
        results.append((fetch(state.params), {name: float(value) for name, value in metrics.items()}))
    (whole, of_whole), (parts, of_parts) = results
    assert of_parts == pytest.approx(of_whole, rel=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), parts, whole)


def test_the_state_is_donated() -> None:
    mesh, state, step = tiny_step(mean_loss, 1)
    step(state, shard_batch(tiny_batch(), mesh))
    assert state.params["layer"]["kernel"].is_deleted()


def test_parts_hold_one_copy_of_the_gradients() -> None:
    mesh, state, step = tiny_step(mean_loss, accumulate=4)
    program = str(jax.make_jaxpr(step)(state, shard_batch(tiny_batch(), mesh)))
    assert "f32[8,16]" in program  # a kernel's gradient
    assert "f32[4,8,16]" not in program
    assert "f32[4,8,8]" in program  # features in four parts: the shapes are found in this text


def test_statistics_go_through_the_parts_one_after_the_other() -> None:
    def loss(params: Params, rows: dict[str, Any], key: Any) -> tuple[Any, Aux]:
        return TinyLoss(keep=1.0)(params, rows, key)

    mesh, state, step = tiny_step(loss, accumulate=2)
    state, _ = step(state, shard_batch(tiny_batch(), mesh))
    hidden = tiny_batch()["features"] @ tiny_params()["layer"]["kernel"]
    mean, var = np.zeros(16), np.ones(16)
    for rows in (hidden[0::2], hidden[1::2]):
        mean, var = 0.9 * mean + 0.1 * rows.mean(axis=0), 0.9 * var + 0.1 * rows.var(axis=0)
    np.testing.assert_allclose(state.statistics["norm"]["mean"], mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(state.statistics["norm"]["var"], var, rtol=1e-4)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_the_optimizer_lies_where_its_parameters_do(name: Any) -> None:
    mesh = make_mesh()
    tx = Optimizer(name, clip_norm=1.0, decay="matrices").transformation(optax.constant_schedule(0.1))
    parts = split(tiny_params(), lambda _: True, update_statistics=True)
    shardings = state_shardings(parts, tx, mesh, FSDP)
    state = init_state(parts, tx, shardings, seed=0)
    assert state.params["layer"]["kernel"].addressable_shards[0].data.size == 8 * 16 // 8
    same = []
    for moment in ("mu", "nu") if name == "adamw" else ("trace",):
        moments = optax.tree.get(state.opt_state, moment)
        same.append(jax.tree.map(lambda a, b: a.sharding == b.sharding, moments, state.params))
    assert jax.tree.all(same)
    assert len(same) > 0


def test_a_frozen_tower_is_placed_once() -> None:
    mesh = make_mesh()
    placed = shard_params(tiny_params()["frozen"], mesh, FSDP)
    again = shard_params(placed, make_mesh(), FSDP)
    for before, after in zip(placed["kernel"].addressable_shards, again["kernel"].addressable_shards):
        assert before.data.unsafe_buffer_pointer() == after.data.unsafe_buffer_pointer()


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

    @jax.jit
    def step(ours: Any, state: Any, gradient: Any) -> tuple[Any, Any]:
        with jax.numpy_dtype_promotion("standard"):
            updates, state = tx.update(gradient, state, ours)
        return optax.apply_updates(ours, updates), state

    ours, state = start, jax.jit(tx.init)(start)
    for gradient in gradients:
        ours, state = step(ours, state, gradient)
    error = max(np.abs(np.asarray(ours[n]) - theirs[n].detach().numpy()).max() for n in start)
    assert error < 2e-6 if mistake is None else error > 2e-5

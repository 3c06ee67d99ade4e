"""Eight devices equal one: losses, gradients, running statistics, data parallel and FSDP."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from unittest import mock

import jax
import numpy as np
import optax
import pytest
from _drawn import drawn, initialised
from jax import Array

from clipjax.data.pixels.normalize import normalize
from clipjax.devices.sharding import DP, Rules, make_mesh, put, shard_batch
from clipjax.finetune.contrastive import ClipLoss, bound_logit_scale
from clipjax.finetune.training.losses import accuracy, cross_entropy, head_logits
from clipjax.finetune.training.optimizer import make_optimizer
from clipjax.finetune.training.step import (
    Aux,
    Loss,
    TrainState,
    fetch,
    init_state,
    make_step,
    state_shardings,
)
from clipjax.finetune.training.trees import Params, flatten, split
from clipjax.models.arch import load_arch, narrow_arch
from clipjax.models.cut import FSDP
from clipjax.models.network import Network
from clipjax.models.training import Training
from tests.finetune.conftest import batch

B1 = 0.9
SHARDED = "finetune/training/test_devices.py::test_eight_devices_equal_one"
BATCH_NORM = "models/test_training.py::test_eight_devices_are_one"
STATISTICS = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


class Case(NamedTuple):
    """What is trained on pixels of `side`, how fast; the loss of a number of devices."""

    params: Params
    loss: Callable[[int], Loss]
    side: int
    rate: float
    constrain: Callable[[Params], Params] | None = None


def contrastive(network: Network) -> Case:
    loss = ClipLoss(network, *STATISTICS, "parity", "cpu", Training("batch"))
    return Case(initialised(network.arch), lambda _: loss, 16, 2e-3, bound_logit_scale)


def resnet(seed: int = 0) -> Case:
    """A narrow ResNet on small images. The second block of the first stage is a loop's."""
    arch = narrow_arch(load_arch("RN50"))
    config: Any = dataclasses.replace(arch.vision, image_size=32, layers=(2, 1, 1, 1))  # type: ignore[call-arg]
    network = Network(dataclasses.replace(arch, vision=config))
    head = np.random.default_rng(seed).normal(size=(config.embed_dim, 5)).astype(np.float32)
    params = {"vision": drawn(network.abstract_params()["vision"], seed), "head": {"kernel": head}}
    return Case(params, functools.partial(classify, network), config.image_size, 3e-4)


def classify(network: Network, devices: int) -> Loss:
    """Cross-entropy of a ResNet whose BatchNorms see the global batch."""

    def loss(params: Params, rows: dict[str, Array], key: Array) -> tuple[Array, Aux]:
        images = normalize(rows["pixels"], *STATISTICS, "cpu")
        training = Training("batch", devices=devices)
        # A ReLU's gradient jumps where its input is zero but for rounding, and rounding differs between
        # numbers of devices: whether an input lies there is luck. A smooth function has no such place.
        with mock.patch.object(jax.nn, "relu", jax.nn.silu):
            features, statistics = network.train_image(
                params, images, precision="parity", training=training, platform="cpu"
            )
        logits, labels = head_logits(params["head"], features, normalize=True), rows["tokens"][:, 0] % 5
        return cross_entropy(logits, labels), Aux({"accuracy": accuracy(logits, labels)}, statistics)

    return loss


class Step(NamedTuple):
    """One step: the state that it began from, on the host, and what came of it."""

    before: TrainState
    loss: float
    gradients: dict[str, np.ndarray]
    statistics: dict[str, np.ndarray]


def trained(case: Case, devices: int, rules: Rules, alone: Sequence[Step] = ()) -> list[Step]:
    """Twelve steps over two batches.

    Args:
        alone: begin each step from the state that this one began from. AdamW makes whole steps of gradients
            that are rounding alone: twelve of them in a row would measure how rounding grows.
    """
    mesh = make_mesh(jax.devices()[:devices])
    tx = make_optimizer(optax.constant_schedule(case.rate), weight_decay=0.1, clip_norm=None, b1=B1)
    parts = split(case.params, lambda _: True, update_statistics=True)
    shardings = state_shardings(parts, tx, mesh, rules)
    state = init_state(parts, tx, shardings, seed=0)
    step = make_step(case.loss(devices), tx, mesh, shardings, case.constrain)
    steps = []
    for number in range(12):
        if alone:
            state = jax.tree.map(put, alone[number].before, shardings)
        before = on_host(state)
        rows = batch(16, seed=number % 2, side=case.side)
        state, metrics = step(state, shard_batch(rows, mesh))
        gradients = gradients_between(before, on_host(state))
        steps.append(Step(before, float(metrics["loss"]), gradients, flatten(fetch(state.statistics))))
    assert_no_branches()
    return steps


def on_host(state: TrainState) -> TrainState:
    return jax.tree.map(np.array, state)


def gradients_between(before: TrainState, after: TrainState) -> dict[str, np.ndarray]:
    """A step's gradients, from Adam's first moments around it: m' = b1 m + (1 - b1) g."""
    old, new = (flatten(optax.tree.get(state.opt_state, "mu")) for state in (before, after))
    return {path: (new[path] - B1 * old[path]) / (1 - B1) for path in new}


def assert_no_branches() -> None:
    """Of every compiled step: collectives inside of a branch could lock up the threads of a CPU."""
    executables = jax.devices()[0].client.live_executables()
    modules = [module for each in executables for module in each.hlo_modules()]
    texts = [module.to_string() for module in modules if module.name == "jit_step"]
    assert texts
    assert not any(" conditional(" in text for text in texts)


@pytest.fixture(scope="module")
def alone(network: Network) -> Callable[[str], tuple[Case, list[Step]]]:
    """What one device makes of a case."""

    @functools.cache
    def of(name: str) -> tuple[Case, list[Step]]:
        case = contrastive(network) if name == "contrastive" else resnet()
        return case, trained(case, 1, DP)

    return of


@pytest.mark.parametrize(
    ("name", "rules"),
    [
        pytest.param("contrastive", DP, marks=pytest.mark.long(SHARDED), id="contrastive, data parallel"),
        pytest.param("contrastive", FSDP, id="contrastive, fsdp"),
        pytest.param("resnet", FSDP, marks=pytest.mark.long(BATCH_NORM), id="resnet, fsdp"),
    ],
)
def test_eight_devices_equal_one(
    alone: Callable[[str], tuple[Case, list[Step]]], name: str, rules: Rules
) -> None:
    case, one = alone(name)
    assert one[-1].loss < 0.8 * one[0].loss
    for number, (wanted, actual) in enumerate(zip(one, trained(case, 8, rules, one), strict=True)):
        assert actual.loss == pytest.approx(wanted.loss, rel=1e-5), f"step {number}"
        largest = max(np.abs(gradient).max() for gradient in wanted.gradients.values())
        for path, gradient in wanted.gradients.items():
            assert_close(actual.gradients[path], gradient, 1e-5 * largest, f"step {number}: {path}")
        for path, value in wanted.statistics.items():
            np.testing.assert_allclose(actual.statistics[path], value, rtol=1e-5, atol=1e-5, err_msg=path)


def assert_close(actual: np.ndarray, wanted: np.ndarray, atol: float, what: str) -> None:
    np.testing.assert_allclose(actual, wanted, rtol=0, atol=atol, err_msg=what)

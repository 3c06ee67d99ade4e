"""The training forward pass against open_clip in `model.train()`: features, gradients, running statistics."""

from __future__ import annotations

import copy
import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from _drawn import drawn
from _parity import Case, Tensor, case_of, source_of

from clipjax.devices.sharding import batch_sharding, make_mesh, replicated
from clipjax.finetune.training.trees import flatten, is_statistic, merge
from clipjax.models.arch import arch_to_dict, load_arch, narrow_arch
from clipjax.models.network import Network
from clipjax.models.training import Training
from converters.engine import convert, detect_table
from converters.golden import build_model
from converters.golden.weights import images

RATE = 1e-5  # of plain gradient descent; gradients are some hundreds
SIZE, BATCH = 64, 8
TOLERANCE = 1e-4


@functools.cache
def reference() -> Case:
    """open_clip's RN50 with small sizes, and conditioned weights.

    Few pixels: among a million activations one is so near to zero that a ReLU's gradient depends on rounding.
    """
    arch = narrow_arch(load_arch("RN50"))
    arch = dataclasses.replace(arch, vision=dataclasses.replace(arch.vision, image_size=SIZE))
    return case_of(arch, build_model("RN50", "open_clip", arch_to_dict(arch)))


class Step(NamedTuple):
    """Of a step of gradient descent on sum(features * weights): leaves of the image tower by path."""

    features: Any
    gradients: dict[str, Any]
    statistics: dict[str, Any]


def weights(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(5).standard_normal(shape).astype(np.float32)


def batch(seed: int) -> np.ndarray:
    """Images whose two halves have other statistics."""
    pixels = images(SIZE, BATCH, seed)
    pixels[BATCH // 2 :] = 0.5 * pixels[BATCH // 2 :] + 0.4
    return pixels


# ------------------------------------------------------------------------------------- both sides


def vision(source: dict[str, Tensor], network: Network) -> dict[str, Any]:
    found = convert(source, network.abstract_params(), detect_table(source))
    return {path: leaf for path, leaf in found.items() if path.startswith("vision/")}


def their_step(model: Any, tower: Any, network: Network, pixels: np.ndarray) -> Step:
    """Of the reference, in train mode; its weights and statistics move."""
    model.zero_grad()
    features = tower.train()(torch.from_numpy(pixels.transpose(0, 3, 1, 2)).contiguous())
    (features * torch.from_numpy(weights(features.shape))).sum().backward()
    after = vision(source_of(model), network)
    named = dict(model.named_parameters())
    grads = {
        name: Tensor(tensor if name not in named or named[name].grad is None else named[name].grad)
        for name, tensor in model.state_dict().items()
    }
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter -= RATE * parameter.grad
    gradients = gradients_of(vision(grads, network))
    return Step(features.detach().numpy(), gradients, {p: x for p, x in after.items() if is_statistic(p)})


def step_function(network: Network, training: Training, precision: Any = "parity") -> Any:
    def step(params: Any, pixels: jax.Array) -> tuple[jax.Array, Any, Any]:
        def loss(params: Any) -> Any:
            features, found = network.train_image(params, pixels, precision=precision, training=training)
            return jnp.sum(features * weights(features.shape)), (features, found)

        (_, (features, found)), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        return features, gradients, found

    return step


def program(network: Network, params: Any, training: Training) -> Any:
    """Our step, compiled for one device."""
    return jax.jit(step_function(network, training)).lower(params, batch(1)).compile()


def errors(found: dict[str, Any], wanted: dict[str, Any]) -> dict[str, float]:
    """Largest difference of each leaf, relative to its own largest value."""
    assert found.keys() == wanted.keys()
    return {
        path: float(np.abs(np.asarray(found[path]) - leaf).max() / np.abs(leaf).max())
        for path, leaf in wanted.items()
    }


def worst(found: dict[str, Any], wanted: dict[str, Any]) -> float:
    return max(errors(found, wanted).values())


def gradients_of(tree: Any) -> dict[str, Any]:
    """By path; without those of the key biases, which are rounding: a softmax does not see a key bias."""
    leaves = {path: np.asarray(leaf) for path, leaf in flatten(tree).items() if not is_statistic(path)}
    largest = max(np.abs(leaf).max() for leaf in leaves.values())
    zero = [path for path in leaves if path.endswith("/k/bias")]
    assert max(np.abs(leaves.pop(path)).max() for path in zero) < 1e-6 * largest
    return leaves


class Rn50(NamedTuple):
    """A narrow RN50 and two steps of the reference."""

    network: Network
    params: dict[str, Any]
    steps: list[Step]


@pytest.fixture(scope="module")
def rn50() -> Rn50:
    case = reference()
    model, network = copy.deepcopy(case.theirs), Network(case.arch)
    steps = [their_step(model, model.visual, network, batch(seed)) for seed in (1, 2)]
    return Rn50(network, {"vision": case.params["vision"]}, steps)


@pytest.fixture(scope="module")
def step(rn50: Rn50) -> Any:
    """Ours by the statistics of the batch, compiled for one device."""
    return program(rn50.network, rn50.params, Training("batch"))


# ------------------------------------------------------------------------------------------- RN50


def test_two_steps_as_open_clip(rn50: Rn50, step: Any) -> None:
    params = jax.device_get(rn50.params)  # JAX compiles a program for each shape of a sum
    for number, theirs in enumerate(rn50.steps):
        features, gradients, statistics = jax.device_get(step(params, batch(number + 1)))
        assert worst({"": features}, {"": theirs.features}) <= TOLERANCE
        if number == 0:  # afterwards a ReLU somewhere is cut differently
            assert worst(gradients_of(gradients), theirs.gradients) <= TOLERANCE
        found, before = flatten(statistics), flatten(params)
        assert worst(found, theirs.statistics) <= TOLERANCE
        for wrong in mistaken(before, found):
            assert worst(wrong, theirs.statistics) > 10 * TOLERANCE
        moved = jax.tree.map(lambda leaf, gradient: leaf - RATE * gradient, params, gradients)
        params = merge(moved, statistics)


def mistaken(before: dict[str, Any], after: dict[str, Any]) -> list[dict[str, Any]]:
    """Running statistics of a momentum of 0.09, of the variance over all pixels, and frozen ones."""
    slower = {path: 0.1 * before[path] + 0.9 * leaf for path, leaf in after.items()}
    last = "vision/layer4/first/bn3/var"
    count = BATCH * (SIZE // 32) ** 2
    biased = 0.9 * before[last] + (after[last] - 0.9 * before[last]) * (count - 1) / count
    return [slower, {**after, last: biased}, {path: before[path] for path in after}]


def test_the_two_steps_differ(rn50: Rn50) -> None:
    first, second = rn50.steps
    assert worst(first.gradients, second.gradients) > 0.1
    assert worst(first.statistics, second.statistics) > 0.01


def test_by_the_statistics_of_each_device(rn50: Rn50) -> None:
    """torch.nn.DataParallel: a replica an half of the batch, and the first one's statistics are kept."""
    case = reference()
    halves = [
        their_step(model, model.visual, rn50.network, half)
        for model, half in zip((copy.deepcopy(case.theirs) for _ in "ab"), np.split(batch(1), 2))
    ]
    training = Training("per_device", devices=2)
    encode = jax.jit(
        lambda params, pixels: rn50.network.train_image(params, pixels, precision="parity", training=training)
    )
    features, statistics = encode(rn50.params, batch(1))
    wanted = np.concatenate([half.features for half in halves])
    assert worst({"": features}, {"": wanted}) <= TOLERANCE
    assert worst(flatten(statistics), halves[0].statistics) <= 1e-5
    assert worst({"": features}, {"": rn50.steps[0].features}) > 1e-2
    assert worst(flatten(statistics), halves[1].statistics) > 1e-3


def test_eight_devices_are_one(rn50: Rn50, step: Any) -> None:
    mesh = make_mesh()
    assert mesh.size == 8
    everywhere = replicated(mesh)
    sharded = jax.jit(
        step_function(rn50.network, Training("batch")),
        in_shardings=(everywhere, batch_sharding(mesh)),
        out_shardings=(batch_sharding(mesh), everywhere, everywhere),
    )
    one, eight = step(rn50.params, batch(1)), sharded(rn50.params, batch(1))
    assert worst({"": eight[0]}, {"": np.asarray(one[0])}) <= 1e-5
    assert worst(gradients_of(eight[1]), gradients_of(one[1])) <= 1e-4
    assert worst(flatten(eight[2]), jax.device_get(flatten(one[2]))) <= 1e-5


def test_frozen_is_inference(rn50: Rn50) -> None:
    """One program."""

    def train(params: Any, pixels: jax.Array) -> Any:
        return rn50.network.train_image(params, pixels, precision="parity", training=Training("frozen"))

    def encode(params: Any, pixels: jax.Array) -> Any:
        return rn50.network.encode_image(params, pixels, precision="parity"), {}

    trained, encoded = (str(jax.make_jaxpr(function)(rn50.params, batch(1))) for function in (train, encode))
    assert trained == encoded


def test_statistics_are_float32_in_fast(rn50: Rn50) -> None:
    train = functools.partial(rn50.network.train_image, precision="fast", training=Training("batch"))
    _, abstract = jax.eval_shape(train, rn50.params, batch(1))
    assert {leaf.dtype for leaf in jax.tree.leaves(abstract)} == {jnp.dtype("float32")}


# ------------------------------------------------------------------------------------------- remat


def assert_same_step(kept: Any, remat: Any, params: Any) -> None:
    """Two compiled steps give the same gradients and statistics."""
    (_, wanted, statistics), (_, found, same) = (program(params, batch(1)) for program in (kept, remat))
    assert worst(gradients_of(found), gradients_of(wanted)) <= 1e-5
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-8), same, statistics)


@pytest.mark.long("models/test_training.py::test_remat_is_of_both_towers")
def test_remat_of_a_resnet(rn50: Rn50, step: Any) -> None:
    remat = program(rn50.network, rn50.params, Training("batch", remat=True))
    assert_same_step(step, remat, rn50.params)


@pytest.mark.long("models/test_training.py::test_remat_is_of_both_towers")
def test_remat_of_a_transformer() -> None:
    arch = narrow_arch(load_arch("ViT-B-32"))
    vision = dataclasses.replace(arch.vision, layers=6, image_size=SIZE)
    network = Network(dataclasses.replace(arch, vision=vision, text=None, num_classes=0))
    params = drawn(network.abstract_params())
    kept, remat = (program(network, params, Training(remat=remat)) for remat in (False, True))
    assert_same_step(kept, remat, params)
    sizes = [step.memory_analysis().temp_size_in_bytes for step in (remat, kept)]
    assert sizes[0] < 0.7 * sizes[1]


@pytest.mark.parametrize("remat", [False, True])
def test_remat_is_of_both_towers(remat: bool) -> None:
    """Of blocks in a loop and of single ones, by tracing."""
    for name in ("ViT-B-32", "RN50"):
        network = Network(narrow_arch(load_arch(name)))
        side = network.arch.vision.image_size
        images, ids = jnp.zeros((2, side, side, 3)), jnp.zeros((2, 8), jnp.int32)
        for train, inputs in ((network.train_image, images), (network.train_text, ids)):
            run = functools.partial(train, precision="parity", training=Training(remat=remat))
            assert ("policy=None" in str(jax.make_jaxpr(run)(network.abstract_params(), inputs))) == remat


# ------------------------------------------------------------------------------------------- lite0


@pytest.mark.long("models/test_training.py::test_two_steps_as_open_clip")
def test_efficientnet_lite0_as_timm() -> None:
    arch = narrow_arch(load_arch("tf_efficientnet_lite0"))
    case = case_of(arch, build_model(arch.name, "timm", arch_to_dict(arch)))
    network, model = Network(arch), copy.deepcopy(case.theirs).train()
    pixels = images(arch.vision.image_size, 3, 1)
    with torch.no_grad():
        wanted = model.forward_head(
            model.forward_features(torch.from_numpy(pixels.transpose(0, 3, 1, 2))), pre_logits=True
        )
    train = functools.partial(network.train_image, precision="parity", training=Training("batch"))
    features, statistics = jax.jit(train)(case.params, pixels)
    assert worst({"": features}, {"": wanted.numpy()}) <= TOLERANCE
    after = {path: x for path, x in vision(source_of(model), network).items() if is_statistic(path)}
    assert worst(flatten(statistics), after) <= TOLERANCE

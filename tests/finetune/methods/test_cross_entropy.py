"""Cross-entropy end to end, step by step beside PyTorch: losses, gradients, weights, schedule; and mistakes.

Tolerances: losses of 20 steps 1e-3 relative, each leaf's gradient of step 1 and final value 1e-4 of its
norm. The bias of the keys is left out: its gradient is zero but for rounding (the softmax does not see what
all scores share), and AdamW makes steps of full size of that. RN50 sees images of 32 pixels, so that among
its few activations none changes its side of a ReLU by rounding; at 96 pixels one does, and the reference's
own float32 gradients are 7e-4 away from its float64 ones.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import pytest
import reference
from _long import mostly_long
from _narrow import narrow_pair

import clipjax
from clipjax.checkpoints.model import Model
from clipjax.data.labels import LabelSpace, load_labels, load_prompts
from clipjax.data.manifest import Manifest
from clipjax.data.pixels.augment import Augmentation
from clipjax.data.pixels.normalize import normalize_host
from clipjax.devices.sharding import DP, make_mesh, shard_batch
from clipjax.finetune.data import batches as data
from clipjax.finetune.data.splits import TrainSplit, ValidationSplit
from clipjax.finetune.method import Problem, Settings, Setup
from clipjax.finetune.methods import cross_entropy
from clipjax.finetune.outcome import classifier_card
from clipjax.finetune.recipe import Recipe
from clipjax.finetune.training.losses import cross_entropy as cross_entropy_of
from clipjax.finetune.training.optimizer import Optimizer, Schedule
from clipjax.finetune.training.solve import train
from clipjax.finetune.training.step import init_state, make_step, state_shardings
from clipjax.finetune.training.trees import Params, flatten, is_statistic, merge, split
from clipjax.finetune.wise_ft import interpolate, zero_shot_classifier
from clipjax.heads import head as heads
from clipjax.heads.build import classifier_head
from tests.finetune.methods import _torch_ce

pytestmark = pytest.mark.usefixtures("one_device")

STEPS, WARMUP, BATCH, IMAGES, CLASSES = 20, 3, 16, 48, 8
# As strong as the small weights of narrow models need it for a loss that falls by more than half.
OPTIMIZERS = {
    "ViT-B-32": Optimizer(learning_rate=3e-5, weight_decay=30.0, clip_norm=1.0),
    "RN50": Optimizer(learning_rate=1e-5, weight_decay=30.0, clip_norm=1.0),
}
TOLERANCES = {"losses": 1e-3, "gradients": 1e-4, "weights": 1e-4}
SPACE = LabelSpace("eight", tuple("abcdefgh"), tuple("abcdefgh"))


class Found(NamedTuple):
    """The course of a run: losses, leaves of the first gradient and of the last weights."""

    losses: list[float]
    gradients: dict[str, np.ndarray]
    weights: dict[str, np.ndarray]


class Case(NamedTuple):
    """A model, its problem and batches, and PyTorch's run from the same weights."""

    setup: Setup
    problem: Problem
    batches: list[dict[str, np.ndarray]]
    torch: Callable[..., Found]


def batches_of(size: int) -> list[dict[str, np.ndarray]]:
    """The pictures in a new order each epoch."""
    rng = np.random.default_rng(0)
    pixels, labels = pictures(size, rng)
    order = np.concatenate([rng.permutation(IMAGES) for _ in range(7)])
    rows = [order[i * BATCH : (i + 1) * BATCH] for i in range(STEPS)]
    return [{"pixels": pixels[i], "label": labels[i]} for i in rows]


def pictures(size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Coarse random pictures of random classes."""
    cells = np.arange(size) * 6 // size
    pictures = rng.integers(0, 256, (IMAGES, 6, 6, 3))[:, cells][:, :, cells]
    pixels = np.clip(pictures + rng.integers(-30, 30, (IMAGES, size, size, 3)), 0, 255).astype(np.uint8)
    return pixels, rng.integers(0, CLASSES, IMAGES).astype(np.int32)


def make_case(name: str, folder: Path) -> Case:
    config = reference.narrow(name, **({"image_size": 32, "layers": [1, 1, 1, 1]} if name == "RN50" else {}))
    theirs = reference.conditioned(config)
    model = clipjax.load_model(reference.save_folder(theirs, config, folder / "start"))
    kernel = np.float32(50) * np.asarray(model.encode_text(reference.inputs(config, CLASSES)["ids"])).T
    head = {"kernel": kernel, "bias": np.linspace(-0.2, 0.2, CLASSES, dtype=np.float32)}
    recipe = Recipe(
        "test",
        "Test",
        "cross_entropy",
        batch_size=BATCH,
        steps=STEPS,
        optimizer=OPTIMIZERS[name],
        schedule=Schedule(warmup_steps=WARMUP),
        batch_norm="batch",
    )
    batches = batches_of(config["vision_cfg"]["image_size"])
    nowhere: Any = None
    images = TrainSplit("test", nowhere, np.zeros(IMAGES, np.int32), SPACE)
    mesh = make_mesh(jax.devices()[:1])
    options = cross_entropy.METHOD.options_of(recipe)
    setup = Setup(model, images, None, recipe, 0, options, Settings(mesh, progress=False))

    def run(optimizer: Optimizer = OPTIMIZERS[name], **changes: Any) -> Found:
        network = _torch_ce.ImageClassifier(theirs.visual, **head)
        pixels = model.card.preprocess.mean, model.card.preprocess.std
        trace = _torch_ce.train(network, batches, optimizer, WARMUP, *pixels, **changes)
        first, last = (
            leaves(each, folder / key) for each, key in ((trace.first, "first"), (trace.last, "last"))
        )
        return Found(trace.losses, first, last)

    def leaves(classifier: Any, where: Path) -> dict[str, np.ndarray]:
        """By our paths: through a file, as any weights."""
        whole = copy.deepcopy(theirs)
        whole.visual = classifier.visual
        vision = clipjax.load_model(reference.save_folder(whole, config, where)).params["vision"]
        linear = {
            "kernel": classifier.head.weight.detach().numpy().T,
            "bias": classifier.head.bias.detach().numpy(),
        }
        return arrays({"vision": vision, "head": linear})

    return Case(setup, cross_entropy.end_to_end(setup, head), batches, run)


def arrays(tree: Params) -> dict[str, np.ndarray]:
    return {path: np.asarray(leaf) for path, leaf in flatten(tree).items()}


def ours(case: Case) -> Found:
    """With the step that `training.train` makes; the first gradient as AdamW's first moment has it."""
    setup, problem = case.setup, case.problem
    optimizer, mesh = setup.recipe.optimizer, setup.settings.mesh
    parts = split(problem.params, problem.trained, update_statistics=True)
    tx = optimizer.transformation(setup.recipe.rate(len(setup.train)))
    shardings = state_shardings(parts, tx, mesh, DP)
    step = make_step(problem.loss, tx, mesh, shardings)
    state, losses, gradients = init_state(parts, tx, shardings, 0), [], {}
    for batch in case.batches:
        state, metrics = step(state, shard_batch(batch, mesh))
        losses.append(float(metrics["loss"]))
        if not gradients:
            unclipped = max(1.0, float(metrics["grad_norm"]) / (optimizer.clip_norm or np.inf))
            moment = arrays(optax.tree.get(state.opt_state, "mu"))
            gradients = {path: leaf * (unclipped / (1 - optimizer.b1)) for path, leaf in moment.items()}
    return Found(losses, gradients, arrays(merge(state.params, state.statistics)))


def errors(actual: Found, wanted: Found) -> dict[str, float]:
    """In units of the tolerances."""

    def furthest(one: dict[str, np.ndarray], other: dict[str, np.ndarray], paths: set[str]) -> float:
        return max(
            float(np.linalg.norm(one[path] - other[path]) / np.linalg.norm(other[path]))
            for path in paths
            if not path.endswith("/k/bias")
        )

    trained = {path for path in wanted.gradients if not is_statistic(path)}
    assert actual.gradients.keys() == trained
    assert actual.weights.keys() == wanted.weights.keys()
    distances = {
        "losses": max(abs(one / other - 1) for one, other in zip(actual.losses, wanted.losses, strict=True)),
        "gradients": furthest(actual.gradients, wanted.gradients, trained),
        "weights": furthest(actual.weights, wanted.weights, set(wanted.weights)),
    }
    return {name: distance / TOLERANCES[name] for name, distance in distances.items()}


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case("ViT-B-32", tmp_path_factory.mktemp("vit"))


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case("RN50", tmp_path_factory.mktemp("resnet"))


@pytest.fixture(scope="module")
def vit_ours(vit: Case) -> Found:
    return ours(vit)


@pytest.mark.long("finetune/methods/test_flyp.py::test_batch_norm_is_the_recipes")
def test_a_resnet_follows_torch(resnet: Case) -> None:
    """Its running statistics, too; with frozen ones, or another momentum, it is another run."""
    wanted, actual = resnet.torch(), ours(resnet)
    assert wanted.losses[-1] < 0.5 * wanted.losses[0]
    assert any(is_statistic(path) for path in actual.weights)
    distance = errors(actual, wanted)
    assert max(distance.values()) <= 1, distance
    assert errors(actual, resnet.torch(train_mode=False))["losses"] > 10
    other = errors(actual, resnet.torch(momentum=0.05))
    assert other["losses"] <= 1
    assert other["weights"] > 10


MISTAKES = {
    "no decay": {"weight_decay": 0.0},
    "decay of matrices": {"decay": "matrices"},
    "b2": {"b2": 0.98},
    "eps": {"eps": 1e-6},
    "no clip": {"clip_norm": None},
}


def test_a_vision_transformer_follows_torch(vit: Case, vit_ours: Found) -> None:
    wanted = vit.torch()
    assert wanted.losses[-1] < 0.5 * wanted.losses[0]
    distances = errors(vit_ours, wanted)
    assert max(distances.values()) <= 1, distances


@pytest.mark.parametrize("mistake", mostly_long(MISTAKES, keep=["no decay"]))
def test_a_wrong_optimizer_is_seen(mistake: str, vit: Case, vit_ours: Found) -> None:
    """PyTorch's, by ten times the tolerance."""
    optimizer = dataclasses.replace(vit.setup.recipe.optimizer, **MISTAKES[mistake])
    distances = errors(vit_ours, vit.torch(optimizer))
    assert max(distances.values()) > 10, distances


@pytest.mark.parametrize(("warmup", "steps"), [(3, 20), (0, 7), (500, 2000)])
def test_the_schedule_is_wise_fts(warmup: int, steps: int) -> None:
    rate = Schedule(warmup_steps=warmup).of(3e-5, steps, None)
    wanted = [_torch_ce.cosine_lr(step, 3e-5, warmup, steps) for step in range(steps)]
    rates = jax.vmap(rate)(np.arange(steps))
    # Float32 angles: at the end, where 1 + cos is small, 1e-7 of the peak.
    np.testing.assert_allclose(rates, wanted, rtol=1e-6, atol=3e-5 * 2e-7)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return narrow_pair(tmp_path_factory.mktemp("narrow"))[1]


def demo_setup(model: Model, manifest: Manifest) -> Setup:
    recipe = Recipe(
        "test",
        "Test",
        "cross_entropy",
        batch_size=8,
        steps=4,
        prompts="single",
        augmentation=Augmentation(scale=(0.9, 1.0)),
        optimizer=Optimizer(learning_rate=1e-4),
    )
    labels = (np.arange(len(manifest)) % 4).astype(np.int32)
    images = TrainSplit("demo", manifest, labels, load_labels("demo_shapes"))
    settings = Settings(make_mesh(jax.devices()[:1]), progress=False)
    return Setup(model, images, None, recipe, 1, cross_entropy.METHOD.options_of(recipe), settings)


def test_a_run_comes_out_as_a_classifier(base: Model, manifest: Manifest) -> None:
    """From images to a model, which WiSE-FT then takes together with its base."""
    setup = demo_setup(base, manifest)
    problem = cross_entropy.prepare(setup)
    start = zero_shot_classifier(base, setup.train.label_space, load_prompts("single"))
    assert problem.params["vision"] is start.params["vision"]
    np.testing.assert_array_equal(problem.params["head"]["kernel"], start.params["head"]["kernel"])

    params = train(problem, setup).params
    assert set(params) == {"vision", "head"}
    for path, leaf in flatten(params).items():
        assert not np.array_equal(leaf, flatten(problem.params)[path]), f"{path} was not trained"
    tuned = problem.finish(params).model
    assert (tuned.card.kind, tuned.card.normalize_features) == ("classifier", True)

    split = ValidationSplit("same", manifest, setup.train.labels, setup.train.label_space)
    assert problem.accuracy is not None
    features = data.split_features(dataclasses.replace(setup, model=tuned), split)
    predicted = np.argmax(heads.logits(classifier_head(tuned), features), axis=1)
    assert problem.accuracy(params, split) == np.mean(predicted == split.labels)

    half = flatten(interpolate(start, tuned, 0.5).params)["head/bias"]
    np.testing.assert_array_equal(half, np.float32(0.5) * params["head"]["bias"])


def test_a_classifiers_head_reads_features_as_they_are(base: Model, manifest: Manifest) -> None:
    """Full fine-tuning of a classifier starts with its own head: the first loss is that of its own logits."""
    setup = demo_setup(base, manifest)
    rng = np.random.default_rng(0)
    space = setup.train.label_space
    head = {
        "kernel": rng.normal(size=(base.card.arch.vision.embed_dim, len(space))).astype(np.float32),
        "bias": rng.normal(size=len(space)).astype(np.float32),
    }
    card = dataclasses.replace(classifier_card(base.card, space), normalize_features=False)
    model = Model(card, {"vision": base.params["vision"], "head": head})
    problem = cross_entropy.prepare(demo_setup(model, manifest))

    size = card.preprocess.image_size
    pixels = rng.integers(0, 256, (8, size, size, 3)).astype(np.uint8)
    batch: Any = {"pixels": pixels, "label": setup.train.labels[:8]}
    value, _ = jax.jit(problem.loss)(problem.params, batch, jax.random.key(0))
    images = normalize_host(pixels, card.preprocess.mean, card.preprocess.std)
    logits = np.asarray(model.encode_image(images)) @ head["kernel"] + head["bias"]
    wanted = cross_entropy_of(jax.numpy.asarray(logits), jax.numpy.asarray(batch["label"]))
    assert float(value) == pytest.approx(float(wanted), rel=1e-5)

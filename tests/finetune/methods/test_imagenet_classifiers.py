"""ImageNet classifiers fine-tuned end to end, step by step beside timm and torch.optim.

Tolerances as in test_cross_entropy.py: losses of 20 steps (8 of LP-FT's second part) 1e-3 relative, each
leaf's gradient of step 1 and final value 1e-4 of its norm.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import numpy as np
import pytest
import torch
from _embed_tools import manifest_of
from _long import mostly_long
from _parity import Case, shallow_case, source_of
from PIL import Image
from timm.layers.drop import DropPath
from timm.models.resnet import ResNet
from torch import nn

from clipjax.checkpoints.identity.registry import model_card
from clipjax.checkpoints.model import Model
from clipjax.devices.sharding import make_mesh
from clipjax.finetune.data.batches import view_batches
from clipjax.finetune.data.splits import TrainSplit
from clipjax.finetune.method import Problem, Settings, Setup, find_method
from clipjax.finetune.methods import cross_entropy, linear_probe, lp_ft
from clipjax.finetune.recipe import Recipe
from clipjax.finetune.training.optimizer import Optimizer, Schedule
from clipjax.finetune.training.trees import is_statistic
from clipjax.models.network import Network
from converters.engine import convert, detect_table, nest
from tests.finetune.methods import _torch_ce
from tests.finetune.methods.test_cross_entropy import (
    BATCH,
    CLASSES,
    IMAGES,
    SPACE,
    STEPS,
    WARMUP,
    Found,
    arrays,
    batches_of,
    errors,
    ours,
    pictures,
)
from tests.finetune.methods.test_cross_entropy import Case as Run

# The registered model, timm's name, learning rate, that of a probe, pixels: few for a ReLU net, where an
# activation that changes its side by rounding sends two runs apart (see `timm_model`).
MODELS = {
    "resnet50.tv_in1k": ("resnet50", 1e-5, 5e-4, 32),
    "swin_tiny_patch4_window7_224.ms_in1k": ("swin_tiny_patch4_window7_224", 1e-5, 0.03, None),
    "tf_efficientnet_b0.aa_in1k": ("tf_efficientnet_b0", 1.6e-4, 0.03, None),
}
# LP-FT's second part is such a fine-tuning, beside timm, of a few steps.
PROBE_FOLLOWS = "finetune/methods/test_linear_probe.py::test_lp_ft_goes_on_from_the_probe"
TUNING_FOLLOWS = "finetune/methods/test_cross_entropy.py::test_a_vision_transformer_follows_torch"


TUNED = 8  # steps of LP-FT after its probe

pytestmark = pytest.mark.usefixtures("one_device")


class Start(NamedTuple):
    """timm's model and ours of the same weights."""

    theirs: nn.Module
    model: Model
    optimizer: Optimizer

    def setup(self, method: str, images: TrainSplit, steps: int = STEPS, **options: Any) -> Setup:
        recipe = Recipe(
            "test",
            "Test",
            method,
            batch_size=BATCH,
            steps=steps,
            optimizer=self.optimizer,
            schedule=Schedule(warmup_steps=WARMUP),
            batch_norm="batch",
            options=options,
        )
        settings = Settings(make_mesh(jax.devices()[:1]), progress=False)
        options = find_method(method).options_of(recipe)
        return Setup(self.model, images, None, recipe, 0, options, settings)

    def in_torch(self, batches: list[dict[str, np.ndarray]], **changes: Any) -> Found:
        card, model = self.model.card, cast("Any", self.theirs)
        pixels = card.preprocess.mean, card.preprocess.std
        trace: Any = _torch_ce.train(model, batches, self.optimizer, WARMUP, *pixels, **changes)
        first, last = (arrays(params_of(each, card.arch)) for each in (trace.first, trace.last))
        return Found(trace.losses, first, last)


def start_of(model_id: str) -> Start:
    name, rate, _, size = MODELS[model_id]
    case = shallow_case(name, "timm")
    size = size or case.arch.vision.image_size
    theirs = timm_model(case)
    arch = dataclasses.replace(
        case.arch, vision=dataclasses.replace(case.arch.vision, image_size=size), num_classes=CLASSES
    )
    card = model_card(model_id)
    preprocess = dataclasses.replace(card.preprocess, image_size=size, resize_size=size)
    card = dataclasses.replace(card, arch=arch, classes=None, preprocess=preprocess)
    optimizer = Optimizer(learning_rate=rate, weight_decay=30.0, clip_norm=1.0)
    return Start(theirs, Model(card, params_of(theirs, arch)), optimizer)


@functools.cache
def run_of(model_id: str) -> Run:
    start = start_of(model_id)
    nowhere: Any = None
    images = TrainSplit("test", nowhere, np.zeros(IMAGES, np.int32), SPACE)
    setup = start.setup("cross_entropy", images)
    batches = batches_of(start.model.card.preprocess.image_size)
    problem = cross_entropy.end_to_end(setup, start.model.params["head"])
    return Run(setup, problem, batches, functools.partial(start.in_torch, batches))


def timm_model(case: Case) -> nn.Module:
    """timm's, with eight classes and without stochastic depth.

    A ResNet's BatchNorms add 1.5, so that few activations are near ReLU's corner.
    """
    model = copy.deepcopy(case.theirs)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model.reset_classifier(CLASSES)
    for module in model.modules():
        if isinstance(module, DropPath):
            module.drop_prob = 0.0
        if isinstance(module, nn.BatchNorm2d) and isinstance(model, ResNet):
            nn.init.constant_(module.bias, 1.5)
    return model


def params_of(model: nn.Module, arch: Any) -> Any:
    """Weights, or gradients in their place, as our params."""
    source = source_of(model)
    leaves = convert(source, Network(arch).abstract_params(), detect_table(source))
    return jax.tree.map(np.asarray, nest(leaves))


def decided(result: Found) -> Found:
    """Without biases that the next BatchNorm takes away again, and the running means that follow them.

    They are those of an EfficientNet's projections and of a ResNet's later blocks: such a gradient is zero
    but for rounding, and AdamW makes steps of full size of that.
    """
    kept = {path: leaf for path, leaf in result.weights.items() if not path.endswith(_UNDECIDED)}
    gradients = {path: leaf for path, leaf in result.gradients.items() if path in kept or is_statistic(path)}
    return Found(result.losses, gradients, kept)


_UNDECIDED = ("rest/bn3/bias", "project/bn/bias", "expand/bn/mean", "project/bn/mean", "final/bn/mean")


@functools.cache
def ours_of(model_id: str) -> Found:
    return ours(run_of(model_id))


@pytest.mark.parametrize("model_id", mostly_long(MODELS, [], TUNING_FOLLOWS))
def test_a_classifier_follows_timm(model_id: str) -> None:
    wanted, actual = decided(run_of(model_id).torch()), decided(ours_of(model_id))
    distance = errors(actual, wanted)
    assert max(distance.values()) <= 1, distance
    assert wanted.losses[-1] < 0.8 * wanted.losses[0]


@pytest.mark.parametrize("model_id", mostly_long(MODELS, [], PROBE_FOLLOWS))
def test_a_linear_probe_and_lp_ft_follow_timm(model_id: str, tmp_path: Path) -> None:
    """The probe on timm's own features; LP-FT from the head of the probe, which is torch's, too."""
    start = start_of(model_id)
    rate = start.optimizer.learning_rate / 5  # from a head that fits, losses fall to where rounding counts
    start = start._replace(
        optimizer=dataclasses.replace(start.optimizer, learning_rate=rate, weight_decay=0.1)
    )
    size = start.model.card.preprocess.image_size
    pixels, labels = pictures(size, np.random.default_rng(0))
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{i:04d}.png")
    manifest = manifest_of(tmp_path, IMAGES)
    options = {"probe_epochs": 7, "probe_learning_rate": MODELS[model_id][2], "probe_warmup_steps": WARMUP}
    setup = start.setup("lp_ft", TrainSplit("demo", manifest, labels, SPACE), TUNED, **options)
    first = lp_ft.probe_setup(setup)
    probe = linear_probe.probe(first)
    steps = taken(probe)
    probing = ours(Run(first, probe, steps, start.in_torch))
    head = nn.Linear(*probe.params["head"]["kernel"].shape)
    wanted = probed(start, setup, head, [batch["row"] for batch in steps])
    np.testing.assert_allclose(probing.losses, wanted, rtol=1e-3)
    assert wanted[-1] < 0.98 * wanted[0]

    problem = lp_ft.prepare(setup)
    probed_head = problem.params["head"]
    for ours_, torchs in zip((probed_head["kernel"].T, probed_head["bias"]), head.parameters()):
        assert np.linalg.norm(ours_ - torchs.detach().numpy()) <= 1e-4 * torchs.norm()
    theirs: Any = copy.deepcopy(start.theirs)
    with torch.no_grad():
        theirs.get_classifier().weight.copy_(torch.tensor(np.asarray(probed_head["kernel"]).T))
        theirs.get_classifier().bias.copy_(torch.tensor(np.asarray(probed_head["bias"])))
    batches = batches_of(size)[:TUNED]
    wanted = decided(start._replace(theirs=theirs).in_torch(batches))
    actual = decided(ours(Run(setup, problem, batches, start.in_torch)))
    distance = errors(actual, wanted)  # its last weights: see test_a_classifier_follows_timm
    assert max(distance["losses"], distance["gradients"]) <= 1, distance


def taken(problem: Problem) -> list[dict[str, np.ndarray]]:
    batches = problem.batches()
    try:
        return list(itertools.islice(batches, problem.steps))
    finally:
        batches.close()


def probed(start: Start, setup: Setup, head: nn.Linear, rows: list[np.ndarray]) -> list[float]:
    """Trains the head, from zeros, on timm's features with torch's AdamW. Returns the losses."""
    card, theirs = start.model.card, cast("Any", copy.deepcopy(start.theirs).eval())
    whole = [batch["pixels"][batch["row"] >= 0] for batch in view_batches(setup, 0)]
    pixels = {"pixels": np.concatenate(whole)}
    with torch.inference_mode():
        maps = theirs.forward_features(_torch_ce.images_of(pixels, card.preprocess.mean, card.preprocess.std))
        features = theirs.forward_head(maps, pre_logits=True).clone()
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = lp_ft.probe_setup(setup).recipe.optimizer
    adamw = torch.optim.AdamW(head.parameters(), eps=optimizer.eps, weight_decay=optimizer.weight_decay)
    losses = []
    for step, row in enumerate(rows):
        adamw.param_groups[0]["lr"] = _torch_ce.cosine_lr(step, optimizer.learning_rate, WARMUP, len(rows))
        adamw.zero_grad()
        labels = torch.from_numpy(setup.train.labels[row]).long()
        loss = nn.functional.cross_entropy(head(features[row]), labels)
        loss.backward()
        nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        adamw.step()
        losses.append(loss.item())
    return losses


@pytest.mark.long("finetune/methods/test_flyp.py::test_batch_norm_is_the_recipes")
def test_frozen_statistics_are_another_run() -> None:
    """A ResNet's BatchNorm mode counts: "batch" is torch's train mode, and its eval mode is seen."""
    name = "resnet50.tv_in1k"
    assert errors(ours_of(name), run_of(name).torch(train_mode=False))["losses"] > 10

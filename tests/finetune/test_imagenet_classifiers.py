"""ImageNet classifiers fine-tuned end to end, step by step beside timm and torch.optim.

Tolerances as in test_cross_entropy.py: losses of 20 steps 1e-3 relative, each leaf's gradient of step 1 and
final value 1e-4 of its norm.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import jax
import numpy as np
import pytest
import torch
from _parity import Case, narrow_case, source_of
from timm.layers.drop import DropPath
from torch import nn

from clipjax.checkpoints.identity.registry import model_card
from clipjax.checkpoints.model import Model
from clipjax.devices.sharding import make_mesh
from clipjax.finetune.data.splits import TrainSplit
from clipjax.finetune.method import Settings, Setup
from clipjax.finetune.methods import cross_entropy
from clipjax.finetune.recipe import Recipe
from clipjax.finetune.training.optimizer import Optimizer, Schedule
from clipjax.finetune.training.trees import is_statistic
from clipjax.models.network import Network
from converters.engine import convert, detect_table, nest
from tests.finetune import _torch_ce
from tests.finetune.test_cross_entropy import (
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
)
from tests.finetune.test_cross_entropy import Case as Run

# The registered model, timm's name, learning rate, pixels: few for a ReLU net, so that no activation changes
# its side by rounding.
MODELS = {
    "resnet50.tv_in1k": ("resnet50", 1e-5, 32),
    "swin_tiny_patch4_window7_224.ms_in1k": ("swin_tiny_patch4_window7_224", 1e-5, None),
    "tf_efficientnet_b0.aa_in1k": ("tf_efficientnet_b0", 2e-4, None),
}


def run_of(model_id: str) -> Run:
    name, rate, size = MODELS[model_id]
    optimizer = Optimizer(learning_rate=rate, weight_decay=30.0, clip_norm=1.0)
    case = narrow_case(name, "timm")
    size = size or case.arch.vision.image_size
    theirs = timm_model(case)
    arch = dataclasses.replace(
        case.arch, vision=dataclasses.replace(case.arch.vision, image_size=size), num_classes=CLASSES
    )
    card = model_card(model_id)
    preprocess = dataclasses.replace(card.preprocess, image_size=size, resize_size=size)
    card = dataclasses.replace(card, arch=arch, classes=None, preprocess=preprocess)
    params = params_of(theirs, arch)
    recipe = Recipe(
        "test",
        "Test",
        "cross_entropy",
        batch_size=BATCH,
        steps=STEPS,
        optimizer=optimizer,
        schedule=Schedule(warmup_steps=WARMUP),
        batch_norm="batch",
    )
    nowhere: Any = None
    images = TrainSplit("test", nowhere, np.zeros(IMAGES, np.int32), SPACE)
    settings = Settings(make_mesh(jax.devices()[:1]), progress=False)
    options = cross_entropy.METHOD.options_of(recipe)
    setup = Setup(Model(card, params), images, None, recipe, 0, options, settings)

    def in_torch(**changes: Any) -> Found:
        pixels = card.preprocess.mean, card.preprocess.std
        model: Any = theirs
        trace: Any = _torch_ce.train(model, run.batches, optimizer, WARMUP, *pixels, **changes)
        first, last = (arrays(params_of(each, arch)) for each in (trace.first, trace.last))
        return Found(trace.losses, first, last)

    run = Run(setup, cross_entropy.end_to_end(setup, params["head"]), batches_of(size), in_torch)
    return run


def timm_model(case: Case) -> nn.Module:
    """timm's, with eight classes and without stochastic depth."""
    model = copy.deepcopy(case.theirs)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model.reset_classifier(CLASSES)
    for module in model.modules():
        if isinstance(module, DropPath):
            module.drop_prob = 0.0
    return model


def params_of(model: nn.Module, arch: Any) -> Any:
    """Weights, or gradients in their place, as our params."""
    source = source_of(model)
    leaves = convert(source, Network(arch).abstract_params(), detect_table(source))
    return jax.tree.map(np.asarray, nest(leaves))


def decided(result: Found) -> Found:
    """Without the bias of an EfficientNet's projections, and the running means that follow it.

    The next BatchNorm takes it away again: its gradient is zero but for rounding, and AdamW makes steps of
    full size of that.
    """
    kept = {path: leaf for path, leaf in result.weights.items() if not path.endswith(_UNDECIDED)}
    gradients = {path: leaf for path, leaf in result.gradients.items() if path in kept or is_statistic(path)}
    return Found(result.losses, gradients, kept)


_UNDECIDED = ("project/bn/bias", "expand/bn/mean", "project/bn/mean", "final/bn/mean")


@pytest.mark.parametrize("model_id", MODELS)
def test_a_classifier_follows_timm(model_id: str) -> None:
    run = run_of(model_id)
    wanted, actual = (decided(one) for one in (run.torch(), ours(run)))
    distance = errors(actual, wanted)
    assert max(distance.values()) <= 1, distance
    assert wanted.losses[-1] < 0.8 * wanted.losses[0]


def test_frozen_statistics_are_another_run() -> None:
    """A ResNet's BatchNorm mode counts: "batch" is torch's train mode, and its eval mode is seen."""
    run = run_of("resnet50.tv_in1k")
    assert errors(ours(run), run.torch(train_mode=False))["losses"] > 10

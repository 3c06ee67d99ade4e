"""Train the demo's models from scratch."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import jax
import numpy as np

from clipjax.checkpoints.card import Card, Preprocess, WeightsSource
from clipjax.checkpoints.identity.registry import channel_statistics
from clipjax.checkpoints.model import Model
from clipjax.data.cards import load_dataset
from clipjax.data.text.tokenizers import tokenizer_spec
from clipjax.demo.plan import DemoModel, Plan
from clipjax.finetune.contrastive import ContrastiveRecipe, train
from clipjax.models.arch import load_arch


def make(model: DemoModel, plan: Plan, out: Path, progress: bool) -> None:
    """Train and save it."""
    points = out / "training" / model.id
    _trained(model, plan, out / "world", points, progress).save(out / "models" / model.id)
    shutil.rmtree(points)


def _trained(model: DemoModel, plan: Plan, world: Path, points: Path, progress: bool) -> Model:
    manifest = load_dataset("demo_train", world / f"{model.data}.jsonl").manifest
    recipe = _recipe(model, plan)
    card = _card(model, recipe, len(manifest))
    untrained = Model(card, {})
    params = train(
        untrained.network,
        manifest,
        recipe,
        pixels=card.preprocess.recipe(),
        mean=card.preprocess.mean,
        std=card.preprocess.std,
        tokenizer=untrained.tokenizer,
        checkpoints=points,
        every=100,
        description=f"train {model.id}",
        progress=progress,
    )
    params = jax.device_get(params)
    facts = {**card.facts, "params_m": sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6}
    scale = float(np.exp(params["logit_scale"]))
    return Model(dataclasses.replace(card, logit_scale=scale, facts=facts), params)


def _recipe(model: DemoModel, plan: Plan) -> ContrastiveRecipe:
    return ContrastiveRecipe(
        steps=model.steps,
        warmup=max(1, model.steps // 10),
        batch_size=plan.batch_size,
        learning_rate=2e-3,
        weight_decay=0.05,
        clip_norm=1.0,
        seed=plan.seed,
    )


def _card(model: DemoModel, recipe: ContrastiveRecipe, images: int) -> Card:
    arch = load_arch(model.arch)
    side = arch.vision.image_size
    mean, std = channel_statistics("openai")
    assert arch.text is not None
    return Card(
        id=model.id,
        arch=arch,
        source=WeightsSource(library="clipjax", arch=arch.name, tag=model.data),
        preprocess=Preprocess(side, side, "shortest", "bicubic", mean, std),
        tokenizer=tokenizer_spec("openai_bpe", arch.text.context_length),
        logit_scale=None,
        logit_bias=None,
        facts={
            "group": "demo",
            "objective": "softmax",
            "train_source": f"demo world, {model.data}",
            "train_size_m": images / 1e6,
            "samples_seen_m": recipe.steps * recipe.batch_size / 1e6,
            "fine_tune": "none",
            "licence": "Apache-2.0",
        },
    )

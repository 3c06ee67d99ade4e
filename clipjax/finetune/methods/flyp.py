"""FLYP, fine-tune like you pretrain: CLIP's loss on images and captions made from their classes.

Source: Goyal et al. 2023 (arXiv 2212.00638); locuslab/FLYP 215d5bb, `src/models/flyp_loss.py`. A caption is
one of the recipe's prompts with the class name, redrawn for each use. Images of one class are each other's
negatives (unless `mask_collisions`).

Differences: the reference shuffles a file with a row per image and template; epochs have equally many steps.
SigLIP's logit_bias is not trained: it shifts all logits alike, so it has no gradient.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import jax.numpy as jnp
import numpy as np

from clipjax.checkpoints.model import Model
from clipjax.data.labels import LabelSpace, PromptSet, load_prompts
from clipjax.devices.platforms import platform_of
from clipjax.embeddings.texts import TOKENIZED
from clipjax.errors import DataError, UsageError
from clipjax.finetune import outcome
from clipjax.finetune.contrastive import ClipLoss, bound_logit_scale
from clipjax.finetune.data.batches import image_batches, split_features
from clipjax.finetune.data.splits import Split
from clipjax.finetune.linear_head import accuracy_on
from clipjax.finetune.method import Method, Outline, Problem, Setup, abstract, image_batch
from clipjax.finetune.training.step import Loss
from clipjax.heads.build import classifier_head, zeroshot_head
from clipjax.models.training import Training

# freeze_logit_scale: keep the checkpoint's temperature.
# mask_collisions: see `contrastive.collisions`.
# clamp_logit_scale: keep exp(logit_scale) within [1, 100] after each step, as CLIP's pretraining does and
#     FLYP's recipe does not.
OPTIONS = {"freeze_logit_scale": False, "mask_collisions": False, "clamp_logit_scale": False}


def prepare(setup: Setup) -> Problem:
    """Raises UsageError for a model without a text tower, DataError for unusable prompts."""
    if setup.model.network.arch.text is None:
        raise UsageError(
            f"flyp compares images with texts, and {setup.model.card.id} has no text tower: fine-tune it "
            "with cross_entropy"
        )
    options = setup.options
    fixed = {"logit_bias", *(["logit_scale"] if options["freeze_logit_scale"] else [])}
    clamp = options["clamp_logit_scale"] and not options["freeze_logit_scale"]
    return Problem(
        params=setup.model.params,
        trained=lambda path: path not in fixed,
        loss=flyp_loss(setup),
        batches=partial(image_batches, setup, captions=class_captions(setup)),
        steps=setup.steps,
        finish=partial(outcome.tuned, setup),
        accuracy=lambda params, split: accuracy(setup, outcome.tuned(setup, params).model, split),
        constrain=bound_logit_scale if clamp else None,
        contrastive=True,
        compiler_options=setup.model.network.compiler_options("vision", setup.recipe.precision),
    )


def outline(setup: Setup) -> Outline:
    fixed = {"logit_bias", *(["logit_scale"] if setup.options["freeze_logit_scale"] else [])}
    length = class_captions(setup).shape[-1]
    batch = {**image_batch(setup), "tokens": abstract(length, dtype=jnp.int32)}
    return Outline(setup.model.params, lambda path: path not in fixed, flyp_loss(setup), batch)


def flyp_loss(setup: Setup) -> Loss:
    """The loss on {"pixels" uint8 [B,S,S,3], "tokens" int32 [B,L], "label" int32 [B]}."""
    recipe, preprocess, mesh = setup.recipe, setup.model.card.preprocess, setup.settings.mesh
    return ClipLoss(
        setup.model.network,
        preprocess.mean,
        preprocess.std,
        recipe.precision,
        platform_of(mesh),
        Training(recipe.batch_norm, mesh.size, recipe.remat),
        mask_collisions=setup.options["mask_collisions"],
    )


def class_captions(setup: Setup) -> np.ndarray:
    """int32 [K, T, L]; see `caption_ids`."""
    return caption_ids(setup.model, setup.train.label_space, load_prompts(setup.recipe.prompts))


def caption_ids(model: Model, labels: LabelSpace, prompts: PromptSet) -> np.ndarray:
    """Token ids of each class's prompts, int32 [K, T, L].

    L ends after the last id of any prompt that the tower reads, which changes no feature.

    Raises:
        DataError: classes with different numbers of prompts.
    """
    texts = [prompts.of_class(name) for name in labels.classes]
    counts = [len(each) for each in texts]
    if min(counts) != max(counts):
        few, many = counts.index(min(counts)), counts.index(max(counts))
        raise DataError(
            f"prompt set {prompts.name} has {counts[few]} prompts for {labels.classes[few]!r} and "
            f"{counts[many]} for {labels.classes[many]!r}: captions need as many for each class; name a "
            "set of templates (.txt)"
        )
    flat = [text for each in texts for text in each]
    parts = [model.tokenizer(flat[start : start + TOKENIZED]) for start in range(0, len(flat), TOKENIZED)]
    ids = np.concatenate(parts).astype(np.int32)
    tower = model.network.arch.text
    assert tower is not None
    return ids[:, : int(tower.reach(ids).max())].reshape(len(texts), counts[0], -1)


def accuracy(setup: Setup, model: Model, split: Split) -> float:
    """A zero-shot model uses the recipe's prompts, a classifier its own head."""
    precision = setup.recipe.precision
    if model.card.kind == "zero_shot":
        prompts = load_prompts(setup.recipe.prompts)
        head = zeroshot_head(model, split.label_space, prompts, precision=precision)
    else:
        head = classifier_head(model)
    return accuracy_on(head, split_features(dataclasses.replace(setup, model=model), split), split)


METHOD = Method(
    name="flyp",
    title="FLYP",
    paper="Goyal et al. 2023 (arXiv 2212.00638)",
    options=OPTIONS,
    prepare=prepare,
    outline=outline,
)

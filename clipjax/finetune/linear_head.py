"""The linear head over the training classes.

A CLIP's head reads unit-norm features and starts as the zero-shot classifier, the scale in the kernel and a
bias of zeros, or SigLIP's own (wise-ft, `src/models/zeroshot.py`). A classifier's head reads features as they
are.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from clipjax.checkpoints.model import Model
from clipjax.data.labels import LabelSpace, load_prompts
from clipjax.finetune.data.splits import Split
from clipjax.finetune.method import Setup
from clipjax.finetune.training.trees import Params
from clipjax.guards import known_name
from clipjax.heads.build import classifier_head, zeroshot_head
from clipjax.heads.head import Head, logits
from clipjax.models.outputs import one_layer

# The option "init".
INITS = ("auto", "zeroshot", "zeros")


def initial_head(setup: Setup) -> Params:
    """{"kernel" [D,K], "bias" [K]}, float32, by the option "init".

    "auto": a CLIP's zero-shot classifier, or a classifier's own head if it has the training classes; else
    zeros.

    Raises:
        UsageError: an unknown init, or "zeroshot" without a text tower.
        DataError: a class without prompts.
    """
    init, model, labels = setup.options["init"], setup.model, setup.train.label_space
    known_name("init", init, INITS)
    if init == "zeroshot" or (init == "auto" and model.card.kind == "zero_shot"):
        prompts = load_prompts(setup.recipe.prompts)
        settings = setup.settings
        return zeroshot_params(
            zeroshot_head(
                model,
                labels,
                prompts,
                precision=setup.recipe.precision,
                store=settings.store,
                progress=settings.progress,
            )
        )
    if init == "auto" and has_classes(model, labels):
        return {name: np.asarray(leaf, np.float32) for name, leaf in one_layer(model.params["head"]).items()}
    width = model.card.arch.vision.embed_dim
    return {"kernel": np.zeros((width, len(labels)), np.float32), "bias": np.zeros(len(labels), np.float32)}


def zeroshot_params(head: Head) -> Params:
    """A head as float32 params, a kernel [D, K] that includes the scale, and a bias [K]."""
    kernel = np.float32(head.scale) * np.asarray(head.kernel)
    bias = np.zeros(kernel.shape[1], np.float32) if head.bias is None else np.asarray(head.bias)
    return {"kernel": kernel, "bias": bias}


def has_classes(model: Model, labels: LabelSpace) -> bool:
    """Whether a model is a classifier over exactly these classes."""
    card = model.card
    if card.kind != "classifier" or card.classes is None or "head" not in model.params:
        return False
    return classifier_head(model).label_space.ids == labels.ids


def head_accuracy(head: Params, features: np.ndarray, split: Split, *, normalize: bool) -> float:
    """Accuracy of a head {"kernel", "bias"} on features float32 [N,D], in the split's order."""
    kernel, bias = (jnp.asarray(head[name], jnp.float32) for name in ("kernel", "bias"))
    return accuracy_on(Head(kernel, bias, 1.0, normalize, split.label_space), features, split)


def accuracy_on(head: Head, features: Any, split: Split) -> float:
    predicted = np.argmax(np.asarray(logits(head, features)), axis=1)
    return float(np.mean(predicted == split.labels))

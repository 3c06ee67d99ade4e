"""LoRA: low-rank updates of the towers' attention and MLP matrices; nothing else is trained.

Source: Hu et al. 2022 (arXiv 2106.09685). The result is a merged model, with the factors beside it.

Towers run on merged matrices: this saves the moments' memory, but no time. BatchNorm statistics are frozen
whatever the recipe says.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from clipjax.data.labels import load_prompts
from clipjax.errors import UsageError
from clipjax.finetune import low_rank, outcome
from clipjax.finetune.data.batches import image_batches
from clipjax.finetune.linear_head import has_classes, zeroshot_params
from clipjax.finetune.method import (
    Method,
    Outcome,
    Outline,
    Problem,
    Setup,
    abstract,
    abstract_head,
    image_batch,
)
from clipjax.finetune.methods.cross_entropy import image_loss
from clipjax.finetune.methods.flyp import accuracy, class_captions, flyp_loss
from clipjax.finetune.training.step import Aux, Loss
from clipjax.finetune.training.trees import Params
from clipjax.heads.build import zeroshot_head
from clipjax.models.outputs import one_layer

# objective: "contrastive" (FLYP's loss); "cross_entropy" (against a zero-shot model's initial zero-shot head,
#     or a classifier's own head); or "auto": contrastive for a zero-shot model, else cross_entropy.
# towers: "image", "text", "both", or "auto": those that the objective reads.
# targets: "attention" (q, k, v, out), "mlp" (c_fc, c_proj, and gate if there is one), or "both".
# rank, alpha: alpha / rank scales the update.
# mask_collisions: for "contrastive", as in FLYP. label_smoothing: for "cross_entropy".
OPTIONS = {
    "objective": "auto",
    "towers": "auto",
    "targets": "both",
    "rank": 8,
    "alpha": 16.0,
    "mask_collisions": False,
    "label_smoothing": 0.0,
}
_TOWERS = {"image": ("vision",), "text": ("text",), "both": ("vision", "text")}
FILE = "lora.safetensors"


def prepare(setup: Setup) -> Problem:
    """LoRA's problem.

    Raises:
        UsageError: an unknown option, a rank out of range, a tower without transformer blocks, a classifier
            of other classes, or an objective unfit for model or towers.
        DataError: unusable prompts.
    """
    model, options = setup.model, setup.options
    objective = _objective(setup)
    paths = _paths(setup, objective)
    factors = low_rank.init(model.params, paths, options["rank"], setup.seed)
    scaling = options["alpha"] / options["rank"]
    frozen = dataclasses.replace(setup, recipe=dataclasses.replace(setup.recipe, batch_norm="frozen"))
    if objective == "contrastive":
        base, params, captions = flyp_loss(frozen), model.params, class_captions(setup)
    else:
        params = {"vision": model.params["vision"], "head": _head(setup)}
        base, captions = image_loss(frozen), None
    return Problem(
        params={**params, "lora": factors},
        trained=lambda path: path.startswith("lora/"),
        loss=MergedLoss(base, scaling),
        batches=partial(image_batches, setup, captions=captions),
        steps=setup.steps,
        finish=partial(_finish, setup, scaling),
        accuracy=lambda params, split: accuracy(setup, _tuned(setup, scaling, params).model, split),
        contrastive=objective == "contrastive",
        compiler_options=model.network.compiler_options("vision", setup.recipe.precision),
    )


def outline(setup: Setup) -> Outline:
    model, options, objective = setup.model, setup.options, _objective(setup)
    paths = _paths(setup, objective)
    factors = jax.eval_shape(partial(low_rank.init, model.params, paths, options["rank"], setup.seed))
    scaling, batch = options["alpha"] / options["rank"], image_batch(setup)
    if objective == "contrastive":
        base, params = flyp_loss(setup), model.params
        batch["tokens"] = abstract(class_captions(setup).shape[-1], dtype=jnp.int32)
    else:
        base, params = image_loss(setup), {"vision": model.params["vision"], "head": abstract_head(setup)}
    whole = {**params, "lora": factors}
    return Outline(whole, lambda path: path.startswith("lora/"), MergedLoss(base, scaling), batch)


def _objective(setup: Setup) -> str:
    kind, objective = setup.model.card.kind, setup.options["objective"]
    _one_of("objective", objective, ("auto", "contrastive", "cross_entropy"))
    if objective == "contrastive" and kind == "classifier":
        raise UsageError(
            f"lora: {setup.model.card.id} has no text tower for the contrastive objective: use cross_entropy"
        )
    return objective if objective != "auto" else "contrastive" if kind == "zero_shot" else "cross_entropy"


def _paths(setup: Setup, objective: str) -> list[str]:
    targets, model = setup.options["targets"], setup.model
    _one_of("targets", targets, ("attention", "mlp", "both"))
    return low_rank.target_paths(model.params, _towers(setup, objective), targets, model.card.id)


def _towers(setup: Setup, objective: str) -> tuple[str, ...]:
    towers = setup.options["towers"]
    _one_of("towers", towers, ("auto", *_TOWERS))
    if towers == "auto":
        towers = "both" if objective == "contrastive" else "image"
    if objective == "cross_entropy" and towers != "image":
        raise UsageError(
            "lora: the objective cross_entropy reads the image tower alone, not options.towers = "
            f"{towers!r}: use 'image', or the objective contrastive"
        )
    return _TOWERS[towers]


def _one_of(option: str, value: Any, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"lora: options.{option} = {value!r} is not one of {', '.join(map(repr, known))}")


@dataclass(frozen=True)
class MergedLoss:
    """A loss of the merged params."""

    base: Loss
    scaling: float

    def __call__(self, params: Params, batch: dict[str, Array], key: Array) -> tuple[Array, Aux]:
        return self.base(_merged(params, self.scaling), batch, key)


def _merged(params: Params, scaling: float) -> Params:
    rest = {name: branch for name, branch in params.items() if name != "lora"}
    return low_rank.merged(rest, params["lora"], scaling)


def _head(setup: Setup) -> Params:
    """The fixed head: {"kernel" [D, K], "bias" [K]}, the scale in the kernel."""
    model, labels = setup.model, setup.train.label_space
    if model.card.kind == "zero_shot":
        prompts, precision = load_prompts(setup.recipe.prompts), setup.recipe.precision
        store, progress = setup.settings.store, setup.settings.progress
        head = zeroshot_head(model, labels, prompts, precision=precision, store=store, progress=progress)
        return zeroshot_params(head)
    if not has_classes(model, labels):
        raise UsageError(
            f"lora keeps the head of {model.card.id}, which has other classes than {setup.train.name}; "
            "cross_entropy gives it a new one"
        )
    return one_layer(model.params["head"])


def _tuned(setup: Setup, scaling: float, params: Params) -> Outcome:
    # Without the head, which only served training.
    branches = {name: branch for name, branch in params.items() if name != "head"}
    base = {name: branches.get(name, branch) for name, branch in setup.model.params.items()}
    return outcome.tuned(setup, jax.device_get(low_rank.merged(base, params["lora"], scaling)))


def _finish(setup: Setup, scaling: float, params: Params) -> Outcome:
    factors = partial(low_rank.save, factors=params["lora"], scaling=scaling)
    return dataclasses.replace(_tuned(setup, scaling, params), beside={FILE: factors})


METHOD = Method(
    name="lora",
    title="LoRA",
    paper="Hu et al. 2022 (arXiv 2106.09685)",
    options=OPTIONS,
    prepare=prepare,
    outline=outline,
)

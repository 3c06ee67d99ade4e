"""The demo: render a world, train CLIPs on it, evaluate them, draw the result.

Only the world is special: training, embedding, evaluation and the figure are the ordinary components, reading
the world's files with the ordinary readers. Everything lies below one folder, and what is there already is
not made again:

    world/      the images and captions       models/    one checkpoint a model
    training/   resume points                 store/     embeddings
    results/    result rows                   accuracy.png, accuracy.pdf
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from clipjax.analysis.figures import accuracy_figure
from clipjax.card import Card, Preprocess, Source
from clipjax.data.cards import load_dataset
from clipjax.data.tokenizers import tokenizer_spec
from clipjax.demo.files import Split, write_split
from clipjax.demo.world import SHAPES
from clipjax.evaluation import Result, evaluate
from clipjax.finetune.contrastive import Recipe, train
from clipjax.load import load_model
from clipjax.model import Model
from clipjax.models.arch import load_arch
from clipjax.registry import channel_statistics
from clipjax.results import Row

_RECIPE = Recipe(steps=600, warmup=60, batch_size=96, learning_rate=2e-3, weight_decay=0.05, clip_norm=1.0)


@dataclass(frozen=True)
class DemoModel:
    """One model of the demo: its architecture, the training split, and how it is trained."""

    id: str
    arch: str
    data: str
    recipe: Recipe


@dataclass(frozen=True)
class Plan:
    """What the demo makes: `images` a training split, `per_class` held-out images, and the models."""

    images: int
    per_class: int
    models: tuple[DemoModel, ...]

    def splits(self) -> list[Split]:
        """The training splits that the models need, and the held-out one."""
        kinds = sorted({model.data for model in self.models})
        train = [Split(kind, kind, self.images, class_folders=False) for kind in kinds]
        return [*train, Split("val", "diverse", len(SHAPES) * self.per_class, class_folders=True)]


FULL = Plan(
    images=8000,
    per_class=100,
    models=(
        DemoModel("demo-small-diverse", "demo_small", "diverse", _RECIPE),
        DemoModel("demo-base-narrow", "demo_base", "narrow", _RECIPE),
        DemoModel("demo-base-diverse", "demo_base", "diverse", _RECIPE),
    ),
)
# Shows that everything runs; the models learn next to nothing.
QUICK = Plan(
    images=240,
    per_class=5,
    models=tuple(
        dataclasses.replace(
            model, recipe=dataclasses.replace(model.recipe, steps=10, warmup=2, batch_size=24)
        )
        for model in FULL.models
    ),
)


@dataclass(frozen=True)
class Demo:
    """What the demo made: the rows of all evaluations, and the files of the figure."""

    out: Path
    results: list[Result]
    figure: list[Path]

    @property
    def rows(self) -> list[Row]:
        return [row for result in self.results for row in result.rows]


def run(out: Path, plan: Plan = FULL, *, progress: bool = True) -> Demo:
    """Make everything that is not there yet, evaluate all models, and draw the figure.

    Args:
        out: the folder for everything.
        plan: `FULL` or `QUICK`.
        progress: bars on stderr.

    Raises:
        DataError: `out` holds the world of another plan, or cannot be written.
    """
    out = Path(out)
    world = out / "world"
    for split in plan.splits():
        write_split(world, split, progress=progress)
    results = []
    for demo_model in plan.models:
        folder = out / "models" / demo_model.id
        if not (folder / "card.json").is_file():
            _train(demo_model, world, out / "training" / demo_model.id, progress).save(folder)
            shutil.rmtree(out / "training" / demo_model.id)
        results.append(
            evaluate(
                load_model(folder),
                dataset="demo_val",
                root=world / "val",
                store=out / "store",
                results=out / "results",
                progress=progress,
            )
        )
    rows = [row for result in results for row in result.rows]
    return Demo(out, results, accuracy_figure(rows, out / "accuracy"))


def _train(model: DemoModel, world: Path, checkpoints: Path, progress: bool) -> Model:
    """Train from scratch, or go on from the resume points in `checkpoints`."""
    manifest = load_dataset("demo_train", world / f"{model.data}.jsonl").manifest
    card = _card(model, len(manifest))
    untrained = Model(card, {})
    params = train(
        untrained.network,
        manifest,
        model.recipe,
        pixels=card.preprocess.recipe(),
        mean=card.preprocess.mean,
        std=card.preprocess.std,
        tokenizer=untrained.tokenizer,
        checkpoints=checkpoints,
        every=100,
        description=f"train {model.id}",
        progress=progress,
    )
    params = jax.device_get(params)
    facts = {**card.facts, "params_m": sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6}
    scale = float(np.exp(params["logit_scale"]))
    return Model(dataclasses.replace(card, logit_scale=scale, facts=facts), params)


def _card(model: DemoModel, images: int) -> Card:
    arch = load_arch(model.arch)
    side = arch.vision.image_size
    mean, std = channel_statistics("openai")
    assert arch.text is not None
    return Card(
        id=model.id,
        arch=arch,
        source=Source(library="clipjax", arch=arch.name, tag=model.data),
        preprocess=Preprocess(side, side, "shortest", "bicubic", mean, std),
        tokenizer=tokenizer_spec("openai_bpe", arch.text.context_length),
        logit_scale=None,
        logit_bias=None,
        facts={
            "group": "demo",
            "objective": "softmax",
            "train_source": f"demo world, {model.data}",
            "train_size_m": images / 1e6,
            "samples_seen_m": model.recipe.steps * model.recipe.batch_size / 1e6,
            "fine_tune": "none",
            "licence": "Apache-2.0",
        },
    )


def table(results: Sequence[Result]) -> tuple[list[str], list[list[str]]]:
    """Titles and cells of the table that the demo prints: one line a model, worst first."""
    titles = ["model", "params", "training data", "n", "top-1", "95 % interval", "top-5"]
    cells = []
    for result in sorted(results, key=lambda result: result.value("top1") or 0.0):
        row = result.rows[0]
        facts: dict[str, Any] = row["model_facts"]
        low, high = result.interval("top1") or (float("nan"), float("nan"))
        cells.append(
            [
                row["model"],
                f"{facts['params_m']:.2f}M",
                facts["train_source"],
                str(row["n"]),
                f"{result.value('top1'):.1%}",
                f"[{low:.1%}, {high:.1%}]",
                f"{result.value('top5'):.1%}",
            ]
        )
    return titles, cells

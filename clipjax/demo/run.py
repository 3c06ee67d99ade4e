"""The demo: render a world, train CLIPs on it, run all tasks on them, draw the results.

Only the world is special; all else is the ordinary components, with the ordinary readers and cards
(configs/datasets/demo_*.toml). Two parts of the work run at a time (`beside`). All is below one folder,
and existing parts are not made again:

    world/      the data sets                 models/    one checkpoint per model
    training/   resume points                 store/     embeddings
    results/    result rows                   pixels/    decoded images
    *.png, *.pdf   figures                    report.html
"""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from clipjax.checkpoints.card import Card, Preprocess, Source
from clipjax.checkpoints.identity.registry import channel_statistics
from clipjax.checkpoints.model import Model
from clipjax.config import config_dir
from clipjax.data.cards import cards_in, load_dataset
from clipjax.data.pixels.pixel_store import BUDGET, PixelStore
from clipjax.data.text.tokenizers import tokenizer_spec
from clipjax.demo.beside import beside
from clipjax.demo.factors import annotated
from clipjax.demo.files import ImageSet, Split, write_set, write_split
from clipjax.demo.finetuned import BASE, fine_tune
from clipjax.demo.probes import probes
from clipjax.demo.shifts import shifted
from clipjax.demo.world import SHAPES
from clipjax.embeddings.batch_size import IMAGE_BATCH
from clipjax.embeddings.compute import Compute
from clipjax.evaluation.rows import Result
from clipjax.finetune.contrastive import Recipe, train
from clipjax.models.arch import load_arch
from clipjax.progress import progress_bar
from clipjax.results.rows import Row
from clipjax.storage.reading import read_text
from clipjax.storage.store import Store
from clipjax.sweep.plan import make_plan
from clipjax.sweep.run import complete, run_sweep
from clipjax.sweep.state import results_of
from clipjax.sweep.suite import Run, Suite

_RECIPE = Recipe(steps=600, warmup=60, batch_size=96, learning_rate=2e-3, weight_decay=0.05, clip_norm=1.0)
SEED = 0
# Prompt sets beside the cards' own, and the runs repeated with each.
PROMPTS = ("single", "openai_7", "openai_80")
PROMPTED = {("zeroshot", "demo_val"), ("ood", "demo_unknown"), ("calibration", "demo_val")}


@dataclass(frozen=True)
class DemoModel:
    """A model of the demo; `data` is its training split."""

    id: str
    arch: str
    data: str
    recipe: Recipe


@dataclass(frozen=True)
class Plan:
    """What the demo makes.

    Attributes:
        images: per training split.
        per_class: held-out images of each class.
        each: approximate images per class of the other test sets (`shifts`, `probes`).
    """

    images: int
    per_class: int
    each: int
    models: tuple[DemoModel, ...]

    def training_sets(self) -> list[Split]:
        """What the models learn from."""
        kinds = sorted({model.data for model in self.models})
        return [Split(kind, kind, self.images, class_folders=False) for kind in kinds]

    def test_sets(self) -> Iterator[ImageSet]:
        """The held-out set, and the other test sets."""
        val = Split("demo-val", "varied", len(SHAPES) * self.per_class, class_folders=True).image_set(SEED)
        yield annotated(val)
        yield from shifted(self.each, SEED, val)
        yield from probes(self.each, SEED)


FULL = Plan(
    images=8000,
    per_class=100,
    each=20,
    models=(
        DemoModel("demo-base-narrow", "demo_base", "narrow", _RECIPE),
        DemoModel("demo-small-diverse", "demo_small", "diverse", _RECIPE),
        DemoModel("demo-base-diverse", "demo_base", "diverse", _RECIPE),
    ),
)
# Shows that everything runs; the models learn almost nothing.
QUICK = Plan(
    images=240,
    per_class=5,
    each=2,
    models=tuple(
        dataclasses.replace(model, recipe=dataclasses.replace(model.recipe, steps=4, warmup=1, batch_size=24))
        for model in FULL.models[:2]
    ),
)


@dataclass(frozen=True)
class Demo:
    """The results of all runs, in the order of the models."""

    out: Path
    results: list[Result]

    @property
    def rows(self) -> list[Row]:
        return [row for result in self.results for row in result.rows]

    def last(self, task: str, dataset: str) -> Result:
        """The last model's result with the card's own prompts."""
        found = [
            result
            for result in self.results
            if (result.rows[0]["task"], result.rows[0]["dataset"]) == (task, dataset)
            and result.rows[0]["convention"].get("prompts") not in PROMPTS
        ]
        return found[-1]


def run(out: Path, plan: Plan = FULL, *, progress: bool = True) -> Demo:
    """Make everything that is missing, run all tasks on all models, and fine-tune one by every method.

    Args:
        out: the folder for everything.
        progress: bars on stderr.

    Raises:
        DataError: `out` holds the world of another plan, or cannot be written.
    """
    out = Path(out)
    world = out / "world"
    first, *others = plan.training_sets()
    missing = plan == FULL and not (world / f"{first.name}.jsonl").is_file()
    with beside(_render, world, [first], progress, apart=missing):
        _render(world, others, progress)
        for images in plan.test_sets():
            write_set(world, images, seed=SEED, progress=progress)
    if plan != FULL:
        _write_cards(world)
    # A TPU belongs to one process, and the first takes most of a GPU's memory.
    apart = plan == FULL and jax.default_backend() == "cpu"
    with beside(_made_and_tuned, out, plan, progress, apart=apart):
        for model in plan.models:
            if model.id != BASE:
                _make(model, out, progress)
    return Demo(out, _swept(out, plan, world, progress))


def _render(world: Path, splits: Sequence[Split], progress: bool) -> None:
    for split in splits:
        write_split(world, split, seed=SEED, progress=progress)


def _made_and_tuned(out: Path, plan: Plan, progress: bool) -> None:
    """Make the model that is fine-tuned, and fine-tune it."""
    [base] = [model for model in plan.models if model.id == BASE]
    _make(base, out, progress)
    fine_tune(out, quick=plan != FULL, progress=progress)


def _make(model: DemoModel, out: Path, progress: bool) -> None:
    """Train and save a model unless it is there."""
    folder, checkpoints = out / "models" / model.id, out / "training" / model.id
    if not (folder / "card.json").is_file():
        _train(model, out / "world", checkpoints, progress).save(folder)
        shutil.rmtree(checkpoints)


def _write_cards(world: Path) -> None:
    """Cards for `--data-root world`, without the shipped ones' counts, which are the full world's."""
    shown = {card.path for card in cards_in(config_dir() / "datasets") if card.demo and card.path}
    for path in sorted(shown):
        (world / path.name).write_text(re.sub(r"(?m)^(images|per_class) = .*\n", "", read_text(path)))


def _swept(out: Path, plan: Plan, world: Path, progress: bool) -> list[Result]:
    """Every task on every set of the world by all models, some with further prompt sets.

    Existing results are not run again.
    """
    names = {model.id: str(out / "models" / model.id) for model in plan.models}
    models = tuple(names.values())
    prompted = [Run(task, models, (dataset,), PROMPTS) for task, dataset in sorted(PROMPTED)]
    results = _sweep(out, [Run("all", models), *prompted], world, progress)
    # ImageNet-D's choice among four, with the three wrong classes that the last model finds likeliest.
    *others, selection = names
    four_way = [
        Run("imagenet_d", tuple(names[name] for name in others), (row["dataset"],), (), {"annotations": path})
        for row, path in ((result.rows[0], result.path) for result in results)
        if (row["task"], row["model"]) == ("imagenet_d", selection)
    ]
    results += _sweep(out, four_way, world, progress)
    order = list(names)
    return sorted(results, key=lambda result: order.index(result.rows[0]["model"]))


def _sweep(out: Path, runs: Sequence[Run], world: Path, progress: bool) -> list[Result]:
    """The results of runs, in the sweep's order; the first failure ends the demo."""
    sweep = make_plan(Suite("demo", "The demo world", tuple(runs), data_root=world), BUDGET)
    compute = Compute(
        store=Store(out / "store"),
        pixel_store=PixelStore(out / "pixels"),
        per_device_batch=IMAGE_BATCH,
        progress=False,
    )
    results = out / "results"
    with progress_bar(len(sweep.items), "evaluate", "run", shown=progress) as bar:
        report = run_sweep(sweep, sweep.items, compute, results, advance=bar.update)
    complete(report, sweep)
    return results_of(sweep, results)


def _train(model: DemoModel, world: Path, checkpoints: Path, progress: bool) -> Model:
    """Train from scratch, or continue from the resume points in `checkpoints`."""
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

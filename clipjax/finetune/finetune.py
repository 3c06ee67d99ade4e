"""Fine-tune a model, one run per seed.

    OUT/seed1/shots.json       the training images of a few-shot run
    OUT/seed1/train/...        resume points and logs (metrics.csv, TensorBoard)
    OUT/seed1/model/           the fine-tuned model, for `clipjax.load_model`
    OUT/seed1/...              other files of the method (lora.safetensors)
    OUT/seed1/run.json         what decided the model; written last

The same call skips a finished seed and resumes an interrupted one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from clipjax.checkpoints.identity.naming import taken_names
from clipjax.checkpoints.load import load_model
from clipjax.checkpoints.model import Model
from clipjax.data.cards import Dataset
from clipjax.devices.agreement import first_writes
from clipjax.errors import DataError, UsageError
from clipjax.finetune.data.shots import Shots, draw_shots, hold_out, read_shots, write_shots
from clipjax.finetune.data.splits import (
    TrainSplit,
    ValidationSplit,
    refuse_overlap,
    train_split,
    validation_split_of,
)
from clipjax.finetune.identity import identity
from clipjax.finetune.method import Method, Outcome, Problem, Settings, Setup, find_method
from clipjax.finetune.outcome import also_chosen
from clipjax.finetune.recipe import Recipe
from clipjax.finetune.search import choose, validation_split
from clipjax.finetune.training.solve import TrainingResult, train
from clipjax.finetune.training.trees import flatten
from clipjax.storage.locks import lock
from clipjax.storage.remote.buckets import as_path
from clipjax.storage.remote.publishing import forget, working_copy
from clipjax.storage.writing import write_bytes

SHOTS, RECORD = "shots.json", "run.json"


@dataclass(frozen=True)
class FinetuneData:
    """The data sets for training and validation.

    Attributes:
        validation: None: `hold_out` images per class of `train`, equal for all seeds, if set.
        shots: a file; None: the recipe's number, drawn with each seed.
        limit: the size of a random training sample.
    """

    train: Dataset
    validation: Dataset | None = None
    hold_out: int | None = None
    shots: Path | None = None
    limit: int | None = None


@dataclass(frozen=True)
class SeedRun:
    seed: int
    folder: Path
    model: Model
    resumed: bool  # an earlier call had finished it


def finetune(
    model: Model,
    recipe: Recipe,
    data: FinetuneData,
    out: str | Path,
    settings: Settings,
    *,
    name: str | None = None,
    announce: Callable[[str], None] = lambda _: None,
) -> list[SeedRun]:
    """Fine-tune a model by a recipe, once per seed.

    Args:
        out: folder for everything, or its URL on a bucket; replaces `settings.folder`.
        name: before "-seedN"; default: the base's and the method's.

    Raises:
        UsageError, DataError: names the option, file or key; before training where possible.
        Interrupted: the same call continues.
    """
    method = find_method(recipe.method)
    check(recipe, data)
    if name is not None and name in taken_names():
        raise UsageError(f"--name {name} is a published model: choose another name")
    whole, held_out = splits(data)
    runs = []
    for seed in recipe.seeds:
        folder = as_path(out) / f"seed{seed}"
        split, shots = _cut(whole, data, recipe, seed)
        fitting = _fitting(recipe, len(split), settings, announce)
        setup = Setup(
            model=model,
            train=split,
            validation=held_out,
            recipe=fitting,
            seed=seed,
            options=method.options_of(fitting),
            settings=dataclasses.replace(settings, folder=folder),
            shots=shots,
        )
        _refuse_other_shots(shots, folder)
        record = _record_of(setup)
        if (done := _finished(folder, record)) is not None:
            if name is not None and done.card.id != f"{name}-seed{seed}":
                raise UsageError(f"{folder} holds {done.card.id}: leave --name out, or name another --out")
            announce(f"{recipe.name}, seed {seed}: finished before, in {folder}")
            runs.append(SeedRun(seed, folder, done, True))
            continue
        announce(f"{recipe.name}, seed {seed}")
        with _alone(folder):
            runs.append(SeedRun(seed, folder, _save(solve(setup, method), folder, record, name), False))
    return runs


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Refuse a folder that another run writes to."""
    here = working_copy(folder)
    with contextlib.ExitStack() as held:

        def claim() -> None:
            here.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(here, os.O_RDONLY)
            held.callback(os.close, descriptor)
            if not lock(descriptor, wait=False):  # on the folder itself: no lock file remains
                raise UsageError(
                    f"another run writes to {folder} at this moment: wait for it, or name another --out"
                )

        first_writes(claim, str(folder))
        yield


def check(recipe: Recipe, data: FinetuneData) -> None:
    """Refuse unknown options (DataError), and a choice without validation images (UsageError)."""
    method = find_method(recipe.method)
    searches = method.searches(method.options_of(recipe))
    if (searches or recipe.select) and data.validation is None and not data.hold_out:
        what = [*(recipe.select or ()), *([f"what {method.title} searches"] if searches else [])]
        validation_split(None, " and ".join(what))


def solve(setup: Setup, method: Method) -> Outcome:
    """Train once, or keep the best of all candidate learning rates."""
    if "learning_rate" not in setup.recipe.select:
        problem = _prepared(setup, method)
        return _finish(problem, train(problem, setup))
    validation_split(setup.validation, "the learning rate")
    best: dict[float, tuple[Problem, TrainingResult]] = {}  # only the best so far

    def accuracy(rate: float, split: ValidationSplit) -> float:
        with_rate = _with_rate(setup, rate)
        problem = _prepared(with_rate, method)
        if problem.accuracy is None:
            raise UsageError(
                f"{method.name} cannot choose a learning rate: leave it out of the recipe's select"
            )
        trained = train(problem, with_rate)
        seen = problem.accuracy(trained.params, split)
        if not best or seen > max(accuracies):
            best.clear()
            best[rate] = problem, trained
        accuracies.append(seen)
        return seen

    accuracies: list[float] = []
    choice = choose(setup.recipe.learning_rates, accuracy, setup.validation, "the learning rate")
    record = {
        "learning_rate": choice.best,
        "learning_rates": list(setup.recipe.learning_rates),
        "learning_rate_accuracies": list(choice.tried),
    }
    return also_chosen(_finish(*best[choice.best]), record)


def _prepared(setup: Setup, method: Method) -> Problem:
    # First: a run that `prepare` refuses must leave no list of shots.
    problem = method.prepare(setup)
    folder = setup.settings.folder
    if setup.shots is not None and folder is not None and jax.process_index() == 0:
        write_shots(setup.shots, folder / SHOTS)
    return problem


def _finish(problem: Problem, trained: TrainingResult) -> Outcome:
    return also_chosen(problem.finish(trained.params), trained.chosen)


def _with_rate(setup: Setup, rate: float) -> Setup:
    optimizer = dataclasses.replace(setup.recipe.optimizer, learning_rate=rate)
    folder = None if setup.settings.folder is None else setup.settings.folder / f"learning_rate_{rate!r}"
    return dataclasses.replace(
        setup,
        recipe=dataclasses.replace(setup.recipe, optimizer=optimizer),
        settings=dataclasses.replace(setup.settings, folder=folder),
    )


def splits(data: FinetuneData) -> tuple[TrainSplit, ValidationSplit | None]:
    """All training images, and the validation split if any.

    Raises:
        UsageError: a data set for reported results.
        DataError: no labels, a class without images, different classes, or shared images.
    """
    whole = train_split(data.train)
    if data.validation is not None:
        held_out = validation_split_of(data.validation, whole)
        refuse_overlap(held_out, whole)
        return whole, held_out
    return hold_out(whole, data.hold_out, seed=0) if data.hold_out else (whole, None)


def abstract_setup(model: Model, recipe: Recipe, data: FinetuneData, settings: Settings) -> Setup:
    """The first seed's setup; errors as `finetune` before training.

    Reads images only for shots, or to compare a validation set with the training set.
    """
    check(recipe, data)
    whole, held_out = splits(data)
    split, shots = _cut(whole, data, recipe, recipe.seeds[0])
    recipe = _fitting(recipe, len(split), settings)
    options = find_method(recipe.method).options_of(recipe)
    return Setup(
        model=model,
        train=split,
        validation=held_out,
        recipe=recipe,
        seed=recipe.seeds[0],
        options=options,
        settings=settings,
        shots=shots,
    )


def _fitting(
    recipe: Recipe, images: int, settings: Settings, announce: Callable[[str], None] = lambda _: None
) -> Recipe:
    """A batch larger than the training images becomes the largest that they fill, on all devices.

    Raises UsageError for a warm-up as long as the run.
    """
    if not recipe.steps_of(images):
        return recipe
    parts = settings.mesh.size * recipe.accumulate
    size = images // parts * parts
    if recipe.batch_size > images and size:
        announce(
            f"{recipe.name}: a batch of {recipe.batch_size} is larger than the {images} images, so it is "
            f"{size}"
        )
        recipe = dataclasses.replace(recipe, batch_size=size)
    recipe.rate(images)  # refuses a warm-up that does not fit before anything is written
    return recipe


def _cut(whole: TrainSplit, data: FinetuneData, recipe: Recipe, seed: int) -> tuple[TrainSplit, Shots | None]:
    split = whole if data.limit is None else whole.sample(data.limit, seed)
    if data.shots is not None:
        shots = read_shots(data.shots)
    elif recipe.shots is not None:
        shots = draw_shots(split, recipe.shots, seed)
    else:
        return split, None
    return shots.of(split), shots


def _refuse_other_shots(shots: Shots | None, folder: Path) -> None:
    file = folder / SHOTS
    if not file.is_file() or not ((folder / RECORD).is_file() or (folder / "train").is_dir()):
        return
    there = read_shots(file)
    if shots is None or there.sha256 != shots.sha256:
        images = "all images" if shots is None else f"{shots.per_class} other images per class"
        raise DataError(
            f"{file} lists the images of another run ({there.per_class} per class, seed {there.seed}), this "
            f"one takes {images} (seed, --hold-out, --limit or data differ): name another --out, or remove "
            f"{folder}"
        )


def _finished(folder: Path, record: dict[str, Any]) -> Model | None:
    if not (folder / RECORD).is_file():
        return None
    try:
        there = flatten(dict(json.loads((folder / RECORD).read_text())))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{folder / RECORD} cannot be read ({error}): remove it, and the same command makes the model "
            "from the resume points"
        ) from None
    here = flatten(record)
    for key in sorted(there.keys() | here.keys(), key=[*here, *there].index):
        if there.get(key) != here.get(key):
            how = f"made with {key.replace('/', '.')} = {there.get(key)}, not {here.get(key)}"
            if key.startswith(("train/", "validation")):
                how = "made with other images (see --data, --shots, --hold-out, --validation, --limit)"
            raise DataError(f"{folder} holds a model {how}: name another --out, or remove {folder}")
    try:
        return load_model(folder / "model")
    except DataError as error:
        again = f"to train it again, remove {folder / RECORD} and {folder / 'model'}"
        raise DataError(f"{error}; {again}") from None


def _record_of(setup: Setup) -> dict[str, Any]:
    recipe = setup.recipe
    choices = {"select": list(recipe.select), "learning_rates": list(recipe.learning_rates)}
    return {**identity(setup), **choices}


def _save(outcome: Outcome, folder: Path, record: dict[str, Any], name: str | None) -> Model:
    card = outcome.model.card
    model = outcome.model.with_card(dataclasses.replace(card, id=f"{name or card.id}-seed{record['seed']}"))

    def write() -> None:
        model.save(folder / "model")
        for name, write_beside in outcome.beside.items():
            write_beside(folder / name)
        text = json.dumps(record, indent=1) + "\n"
        write_bytes(folder / RECORD, text.encode())

    first_writes(write, str(folder))
    # Every process evaluates the model that is on disk.
    model = load_model(folder / "model")
    first_writes(functools.partial(forget, folder), str(folder))
    return model

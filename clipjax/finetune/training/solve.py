"""Train a `Problem`: the same for every method."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from clipjax.devices.agreement import assert_same_everywhere
from clipjax.errors import UsageError
from clipjax.finetune.identity import identity
from clipjax.finetune.method import Problem, Setup
from clipjax.finetune.search import validation_split
from clipjax.finetune.training.epochs import Epochs
from clipjax.finetune.training.logs import Logs
from clipjax.finetune.training.loop import fit
from clipjax.finetune.training.resume import Checkpoints
from clipjax.finetune.training.step import (
    Step,
    TrainState,
    check_batch,
    fetch,
    init_state,
    make_step,
    state_shardings,
)
from clipjax.finetune.training.trees import ParamGroups, Params, flatten, merge, split
from clipjax.storage.digests import sha256_json


class TrainingResult(NamedTuple):
    """All params, and {"epoch", "epoch_accuracy", "epoch_accuracies"} or {}.

    Trained leaves and statistics are on the host.
    """

    params: Params
    chosen: Mapping[str, Any]


def train(problem: Problem, setup: Setup, name: str = "train") -> TrainingResult:
    """Train a problem by its recipe; `name` is this phase's line on stderr and sub-folder.

    Raises:
        UsageError: a batch indivisible by devices and parts, or larger than the split; an epoch to choose
            without a validation split.
        DataError: a loss that is not finite, unreadable images, or unusable checkpoints.
        Interrupted: the same call continues.
    """
    if problem.steps == 0:
        return TrainingResult(problem.params, {})
    recipe, settings = setup.recipe, setup.settings
    _check_batch(problem, setup)
    folder = None if settings.folder is None else settings.folder / name
    epochs = _epochs(problem, setup, name)
    parts = split(problem.params, problem.trained, update_statistics=recipe.batch_norm != "frozen")
    made_of = {}
    if folder is not None or jax.process_count() > 1:
        made_of = _identity(problem, setup, bool(parts.statistics))
    assert_same_everywhere("the fine-tuning run", sha256_json(made_of))
    logs = Logs(
        problem.steps,
        batch_size=recipe.batch_size,
        images=len(setup.train),
        folder=folder,
        description=name,
        progress=settings.progress,
        name=f"{setup.model.card.id}: {recipe.name}, seed {setup.seed} ({name})",
        config=made_of,
        track=settings.track,
    )
    step, initial = _step(problem, setup, parts)
    state = fit(
        initial(),  # no name holds it: each step reuses its memory
        step,
        problem.batches(),
        steps=problem.steps,
        mesh=settings.mesh,
        logs=logs,
        checkpoints=None if folder is None else Checkpoints(folder / "checkpoints", made_of),
        every=settings.every,
        snapshots=epochs,
        ids=setup.train.manifest.ids,
    )
    if epochs is None:
        return TrainingResult(merge(parts.frozen, fetch(state.statistics), fetch(state.params)), {})
    del state, step, initial
    assert problem.accuracy is not None
    return TrainingResult(*epochs.best(parts.frozen, problem.accuracy, setup.validation))


def _step(problem: Problem, setup: Setup, parts: ParamGroups) -> tuple[Step, Callable[[], TrainState]]:
    """The compiled step, and what makes the state before the first one."""
    recipe, settings = setup.recipe, setup.settings
    rate = recipe.schedule.of(recipe.optimizer.learning_rate, problem.steps, recipe.epochs)
    tx = recipe.optimizer.transformation(rate)
    shardings = state_shardings(parts, tx, settings.mesh, settings.rules)
    step = make_step(
        problem.loss,
        tx,
        settings.mesh,
        shardings,
        problem.constrain,
        frozen=parts.frozen,
        rules=settings.rules,
        accumulate=recipe.accumulate,
        rate=rate,
        compiler_options=problem.compiler_options,
    )
    return step, functools.partial(init_state, parts, tx, shardings, setup.seed)


def _epochs(problem: Problem, setup: Setup, name: str) -> Epochs | None:
    recipe, folder = setup.recipe, setup.settings.folder
    if "epoch" not in recipe.select:
        return None
    validation_split(setup.validation, "the epoch")
    if problem.accuracy is None:
        raise UsageError(f"{recipe.method} cannot choose an epoch: leave 'epoch' out of the recipe's select")
    where = None if folder is None else folder / name / "epochs"
    return Epochs(len(setup.train), recipe.batch_size, problem.steps, where)


def _identity(problem: Problem, setup: Setup, statistics: bool) -> dict[str, str]:
    record = {path.replace("/", "."): str(value) for path, value in flatten(identity(setup)).items()}
    record |= {"steps": str(problem.steps), "processes": str(jax.process_count())}
    if statistics and setup.recipe.batch_norm == "per_device":
        record["devices"] = str(setup.settings.mesh.size)
    return record


def _check_batch(problem: Problem, setup: Setup) -> None:
    recipe = setup.recipe
    if problem.contrastive and recipe.accumulate > 1:
        raise UsageError(
            f"{recipe.method} compares the images of a batch with each other: accumulate = "
            f"{recipe.accumulate} would make it another loss; use remat = true to save memory"
        )
    check_batch(recipe.batch_size, setup.settings.mesh, len(setup.train), recipe.accumulate)

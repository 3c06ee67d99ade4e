"""Solve a `Problem`: one optimiser, one sharded step, one loop, for every method."""

from __future__ import annotations

import jax

from clipjax.errors import UsageError
from clipjax.finetune.checkpoints import Checkpoints
from clipjax.finetune.loop import fit
from clipjax.finetune.method import Problem, Setup
from clipjax.finetune.step import init_state, make_step, state_shardings
from clipjax.finetune.trees import Params, merge, split


def train(problem: Problem, setup: Setup, name: str = "train") -> Params:
    """All params of a problem, the trained ones as the recipe leaves them; on the host.

    Args:
        name: of this phase: the bar, and the sub-folder of its resume points and logs.

    Raises:
        UsageError: a batch that does not divide over devices and parts, or is larger than the split.
        DataError: a loss that is not finite, unreadable images, unusable resume points.
    """
    if problem.steps == 0:
        return problem.params
    recipe, settings = setup.recipe, setup.settings
    _check_batch(problem, setup)
    parts = split(problem.params, problem.trained, update_statistics=recipe.batch_norm != "frozen")
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
        compiler_options=problem.compiler_options,
    )
    folder = None if settings.folder is None else settings.folder / name
    state = fit(
        init_state(parts, tx, shardings, setup.seed),
        step,
        problem.batches(),
        steps=problem.steps,
        mesh=settings.mesh,
        checkpoints=None if folder is None else Checkpoints(folder / "checkpoints"),
        every=settings.every,
        description=name,
        progress=settings.progress,
    )
    return merge(parts.frozen, jax.device_get(state.statistics), jax.device_get(state.params))


def _check_batch(problem: Problem, setup: Setup) -> None:
    recipe, mesh, images = setup.recipe, setup.settings.mesh, len(setup.train)
    if recipe.batch_size % (mesh.size * recipe.accumulate):
        parts = "" if recipe.accumulate == 1 else f" in {recipe.accumulate} parts"
        raise UsageError(
            f"a batch of {recipe.batch_size}{parts} does not divide over {mesh.size} devices: "
            f"give a multiple of {mesh.size * recipe.accumulate}"
        )
    if problem.contrastive and recipe.accumulate > 1:
        raise UsageError(
            f"{recipe.method} compares the images of a batch with each other: accumulate = "
            f"{recipe.accumulate} would make it another loss; use remat = true to save memory"
        )
    if recipe.batch_size > images:
        raise UsageError(f"a batch of {recipe.batch_size} is larger than the training split of {images}")

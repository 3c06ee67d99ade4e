"""The demo, all below one folder.

    world/      the data sets                 models/    one checkpoint per model
    training/   resume points                 store/     embeddings
    results/    result rows                   pixels/    decoded images
    finetuned/  a folder per method           programs/  compiled programs
    *.png, *.pdf   figures                    report.html

Existing parts are not made again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from clipjax.demo.beside import side_by_side
from clipjax.demo.plan import BASE, FULL, DemoModel, Plan
from clipjax.demo.rendering import render

if TYPE_CHECKING:
    from clipjax.demo.llava.asking import Asked
    from clipjax.evaluation.rows import Result
    from clipjax.results.row import Row


@dataclass(frozen=True)
class Demo:
    """`tuned`: rows of the base and the fine-tuned models. `asked`: the vision-language model's results."""

    out: Path
    results: list[Result]
    tuned: list[Row]
    asked: list[Asked]

    @property
    def rows(self) -> list[Row]:
        return [row for result in self.results for row in result.rows]


def run(out: Path, plan: Plan = FULL, *, progress: bool = True) -> Demo:
    """Make what is missing in `out`, and read all results.

    Raises:
        DataError: as `rendering.render`.
    """
    out = Path(out)
    render(out / "world", plan, progress=progress)
    # Here, so that JAX is not loaded before the world is rendered.
    from clipjax.demo import sweeps, training, tuning
    from clipjax.demo.llava import asking, making

    made = all(training.is_made(model, out) for model in plan.models) and making.is_made(out)
    if not (made and tuning.is_tuned(out)):
        _make(out, plan, progress)
    _keep_programs(out)
    results = sweeps.all_results(plan, out, progress)
    tuned = tuning.fine_tune(out, quick=plan.quick, progress=False)
    rows = tuning.evaluate(tuned, out, progress=False)
    return Demo(out, results, rows, asking.ask(plan, out, results, progress))


def _make(out: Path, plan: Plan, progress: bool) -> None:
    """Two processes take equally long."""
    import jax

    [base], others = _divided(plan)
    *earlier, last = others
    side_by_side(
        partial(_train, out, plan, others, [last], progress),
        partial(_train_and_tune, out, plan, base, earlier, progress),
        # A TPU belongs to one process, and the first takes most of a GPU's memory.
        apart=not plan.quick and jax.default_backend() == "cpu",
    )


def _divided(plan: Plan) -> tuple[list[DemoModel], list[DemoModel]]:
    return (
        [model for model in plan.models if model.id == BASE],
        [model for model in plan.models if model.id != BASE],
    )


def _train(
    out: Path, plan: Plan, models: Sequence[DemoModel], evaluated: Sequence[DemoModel], progress: bool
) -> None:
    from clipjax.demo import sweeps, training
    from clipjax.demo.llava import making

    _keep_programs(out)
    for model in models:
        training.make(model, plan, out, progress)
    making.make(plan, out)
    sweeps.evaluate([model.id for model in evaluated], out, progress)


def _train_and_tune(
    out: Path, plan: Plan, base: DemoModel, others: Sequence[DemoModel], progress: bool
) -> None:
    """Evaluates the base, and those of `others` that are made by then."""
    from clipjax.demo import sweeps, training, tuning

    _keep_programs(out)
    training.make(base, plan, out, progress)
    models = tuning.fine_tune(out, quick=plan.quick, progress=progress)
    tuning.evaluate(models, out, progress=progress)
    made = [model for model in others if training.is_made(model, out)]
    sweeps.evaluate([model.id for model in (base, *made)], out, progress)


def _keep_programs(out: Path) -> None:
    """For other processes, unless JAX has its own setting."""
    import jax

    if jax.config.jax_compilation_cache_dir is None:  # pyright: ignore[reportAttributeAccessIssue]
        jax.config.update("jax_compilation_cache_dir", str((out / "programs").absolute()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

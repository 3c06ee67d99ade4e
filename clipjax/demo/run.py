"""The demo, all below one folder.

    world/      the data sets                 models/    one checkpoint per model
    training/   resume points                 store/     embeddings
    results/    result rows                   pixels/    decoded images
    finetuned/  a folder per method           programs/  compiled programs
    *.png, *.pdf   figures                    report.html

Existing parts are not made again.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from clipjax.demo import rendering
from clipjax.demo.beside import work_through
from clipjax.demo.parts import jobs_of
from clipjax.demo.plan import FULL, Plan

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
        DataError: `out` holds another plan's world.
        ClipjaxError: a job failed.
    """
    out = Path(out)
    rendering.check(out / "world", plan)
    jobs = jobs_of(plan, out, progress)
    if all(job.is_made for job in jobs if job.makes):
        # Only look at the world: two processes would start for nothing. Results that lack are made below.
        work_through([job for job in jobs if not job.device], apart=False)
    else:
        work_through(jobs, partial(prepare, out), apart=not plan.quick)
    # Here, so that JAX is not loaded while the jobs run.
    from clipjax.demo import sweeps, tuning
    from clipjax.demo.llava import asking

    keep_programs(out)
    results = sweeps.all_results(plan, out, progress)
    tuned = tuning.fine_tune(plan, out, progress=False)
    rows = tuning.evaluate(tuned, out, progress=False)
    return Demo(out, results, rows, asking.ask(plan, out, results, progress))


def prepare(out: Path) -> bool:
    """Set JAX up in a process. -> whether two processes can compute: the backend is a CPU.

    A TPU belongs to one process, and the first process takes most of a GPU's memory.
    """
    import jax

    from clipjax.devices.memory import keep_freed

    keep_freed()
    keep_programs(out)
    return jax.default_backend() == "cpu"


def keep_programs(out: Path) -> None:
    """For other processes, unless JAX has its own setting."""
    import jax

    if jax.config.jax_compilation_cache_dir is None:  # pyright: ignore[reportAttributeAccessIssue]
        jax.config.update("jax_compilation_cache_dir", str((out / "programs").absolute()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

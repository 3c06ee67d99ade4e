"""The demo, all below one folder.

    world/      the data sets                 models/    one checkpoint per model
    training/   resume points                 store/     embeddings
    results/    result rows                   pixels/    decoded images
    finetuned/  a folder per method           programs/  compiled programs
    *.png, *.pdf   figures                    report.html, gallery.html

Existing models and results are not made again.
"""

from __future__ import annotations

import gc
import os
from functools import partial
from pathlib import Path

from clipjax.demo import rendering
from clipjax.demo.beside import work_through
from clipjax.demo.parts import jobs_of
from clipjax.demo.plan import FULL, Plan

# Programs compile in three quarters of the time, and steps of models as small as the demo's take as long.
FLAGS = "--xla_backend_optimization_level=1"


def run(out: Path, plan: Plan = FULL, *, progress: bool = True) -> None:
    """Make what is missing in `out`, draw the figures, and print the tables.

    Raises:
        DataError: `out` holds another plan's world.
        ClipjaxError: a job failed.
    """
    out = Path(out)
    rendering.check(out / "world", plan)
    jobs = jobs_of(plan, out, progress)
    # Two processes would start for nothing where all is made.
    apart = not plan.quick and not all(job.is_made for job in jobs)
    if not apart:
        from clipjax.demo import reading

        reading.forget()
        keep_programs(out)
    work_through(jobs, partial(prepare, out), apart=apart)


def prepare(out: Path) -> bool:
    """Set JAX up in a process. -> whether two processes can compute: the backend is a CPU.

    A TPU belongs to one process, and the first process takes most of a GPU's memory.
    """
    os.environ["XLA_FLAGS"] = flags(os.environ.get("XLA_FLAGS", ""))
    import jax

    from clipjax.devices.memory import keep_freed

    gc.set_threshold(5_000, 20, 30)  # JAX keeps what it traced: looking for garbage there takes time
    keep_freed()
    keep_programs(out)
    return jax.default_backend() == "cpu"


def flags(own: str) -> str:
    """XLA_FLAGS with the demo's. The user's `own` come last: XLA takes the last of two equal ones."""
    return f"{FLAGS} {own}".strip()


def keep_programs(out: Path) -> None:
    """Keep compiled programs for other processes, unless JAX has a setting of its own."""
    import jax

    from clipjax.devices import programs

    if programs.keep_programs(out / "programs"):
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

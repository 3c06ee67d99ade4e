"""The training loop: resume, step, show, save."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grain
import jax
from jax.sharding import Mesh
from tqdm import tqdm

from clipjax.errors import DataError
from clipjax.finetune.checkpoints import Checkpoints
from clipjax.finetune.step import Metrics, TrainState
from clipjax.sharding import shard_batch

# How often the numbers beside the bar are fetched: reading one waits for the device.
_SHOW_EVERY = 10


def fit(
    state: TrainState,
    step: Callable[[TrainState, dict[str, Any]], tuple[TrainState, Metrics]],
    batches: grain.DatasetIterator,
    *,
    steps: int,
    mesh: Mesh,
    checkpoints: Checkpoints | None = None,
    every: int = 1000,
    description: str = "train",
    progress: bool = True,
    on_step: Callable[[int, Metrics], None] | None = None,
) -> TrainState:
    """Run `step` until `steps` steps are done, going on from the newest checkpoint if there is one.

    Args:
        state: the state to start from (donated: do not use it afterwards); also says what a checkpoint must
            hold.
        step: from `clipjax.finetune.step.make_step`.
        batches: this process's batches, a grain iterator that starts at the first; closed at the end. Only
            its numeric arrays are passed on.
        checkpoints, every: where to save, and after how many steps; the last step is always saved.
        description, progress: the bar on stderr, with the time left.
        on_step: called with the number of steps done and the metrics (still on the device) after each.

    Raises:
        DataError: the data end before the last step; unusable checkpoints.
    """
    if checkpoints is not None:
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
        state = checkpoints.restore(abstract, batches) or state
    done = int(state.step)
    bar = tqdm(total=steps, initial=done, desc=description, unit="step", disable=not progress)
    try:
        for number in range(done + 1, steps + 1):
            state, metrics = step(state, shard_batch(_next_arrays(batches), mesh))
            bar.update()
            if on_step is not None:
                on_step(number, metrics)
            if progress and (number % _SHOW_EVERY == 0 or number == steps):
                bar.set_postfix_str(", ".join(f"{name} {float(metrics[name]):.3g}" for name in metrics))
            if checkpoints is not None and (number % every == 0 or number == steps):
                checkpoints.save(state, batches)
    finally:
        bar.close()
        batches.close()
        if checkpoints is not None:
            checkpoints.close()
    return state


def _next_arrays(batches: Iterator[dict[str, Any]]) -> dict[str, Any]:
    try:
        batch = next(batches)
    except StopIteration:
        raise DataError("the training data ended before the last step; repeat it or ask for fewer") from None
    return {name: value for name, value in batch.items() if name != "text"}

"""The training loop: resume, step, watch, save, stop when asked to."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from typing import Any, Protocol

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from clipjax.devices.sharding import shard_batch
from clipjax.errors import DataError
from clipjax.finetune.training.logs import Logs
from clipjax.finetune.training.preemption import Preemption
from clipjax.finetune.training.resume import Checkpoints
from clipjax.finetune.training.step import Metrics, Step, TrainState

# Steps that the device may be behind the host. Reading a step's numbers waits for it, so they are read when
# the next steps are on their way; that also bounds how far the host runs ahead, and what is lost by a stop.
_LAG = 2


class Snapshots(Protocol):
    """States to keep on the way: the params at the end of each epoch."""

    def due(self, step: int) -> bool: ...

    def keep(self, step: int, state: TrainState) -> None: ...


def fit(
    state: TrainState,
    step: Step,
    batches: grain.DatasetIterator,
    *,
    steps: int,
    mesh: Mesh,
    logs: Logs,
    checkpoints: Checkpoints | None = None,
    every: int = 1000,
    snapshots: Snapshots | None = None,
    ids: tuple[str, ...] | None = None,
) -> TrainState:
    """Run `step` until `steps` steps are done, going on from the newest checkpoint if there is one.

    Args:
        state: the state to start from (donated: do not use it afterwards); also says what a checkpoint must
            hold.
        step: from `clipjax.finetune.training.step.make_step`.
        batches: this process's batches, a grain iterator that starts at the first; closed at the end. Only
            its numeric arrays are passed on.
        logs: told of every step; closed at the end.
        checkpoints, every: where to save, and after how many steps; the last step is always saved.
        snapshots: see there; kept before a checkpoint of the same step is saved.
        ids: of the images that a batch's "row" counts, for messages.

    Raises:
        DataError: the loss, a gradient or a weight is no longer finite (the checkpoint before that is kept);
            the data end before the last step; unusable checkpoints.
        Interrupted: SIGTERM or Ctrl-C; the state of the last step is saved, and so is every host's part.
    """
    if checkpoints is not None:
        state = _resumed(state, checkpoints, batches)
    done = int(state.step)
    watch = _Watch(logs, ids, checkpoints)
    logs.start(done)
    try:
        with Preemption() as preemption:
            for number in range(done + 1, steps + 1):
                batch = _next_arrays(batches)
                state, metrics = step(state, shard_batch(batch, mesh))
                watch.add(number, metrics, batch.get("row"))
                # A single process is sent its signal again at the end of the run.
                stop = preemption.reached() and (number < steps or jax.process_count() > 1)
                snap = snapshots is not None and snapshots.due(number)
                save = checkpoints is not None and (number % every == 0 or number == steps or stop)
                if save or snap or number == steps:
                    watch.check_all(state)
                if stop:
                    preemption.saving()
                if snapshots is not None and snap:
                    snapshots.keep(number, state)
                if checkpoints is not None and save:
                    checkpoints.save(state, batches)
                    logs.publish()  # before the resume point is seen, so that none lacks its steps
                    checkpoints.publish()
                if stop:
                    kept = "" if checkpoints is None else str(checkpoints.place)
                    raise preemption.interrupted(number, steps, kept)
    finally:
        logs.close()
        batches.close()
        if checkpoints is not None:
            checkpoints.close()
    return state


def _resumed(state: TrainState, checkpoints: Checkpoints, batches: grain.DatasetIterator) -> TrainState:
    """The newest checkpoint's state, in the place of the given one, which makes room for it first."""
    if not checkpoints.steps:
        return state
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
    jax.tree.map(lambda leaf: leaf.delete(), state)
    restored = checkpoints.restore(abstract, batches)
    assert restored is not None
    return restored


def _next_arrays(batches: Iterator[dict[str, Any]]) -> dict[str, Any]:
    try:
        batch = next(batches)
    except StopIteration:
        raise DataError("the training data ended before the last step; repeat it or ask for fewer") from None
    return {name: value for name, value in batch.items() if name != "text"}


class _Watch:
    """Reads each step's numbers some steps later, passes them to the logs, and ends a run that diverged."""

    def __init__(self, logs: Logs, ids: tuple[str, ...] | None, checkpoints: Checkpoints | None) -> None:
        self._logs, self._ids, self._checkpoints = logs, ids, checkpoints
        self._waiting: deque[tuple[int, Metrics, np.ndarray | None]] = deque()

    def add(self, step: int, metrics: Metrics, rows: np.ndarray | None) -> None:
        self._waiting.append((step, metrics, rows))
        if len(self._waiting) > _LAG:
            self._check(*self._waiting.popleft())

    def check_all(self, state: TrainState) -> None:
        """Wait for the device; what passes here may be saved. An update can be the first to overflow."""
        last = None
        while self._waiting:
            last = self._waiting.popleft()
            self._check(*last)
        if last is not None and not bool(_all_finite((state.params, state.statistics))):
            raise self._diverged("the weights are", last[0], last[2])

    def _check(self, step: int, metrics: Metrics, rows: np.ndarray | None) -> None:
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        self._logs.add(step, values)
        for name, what in (("loss", "the loss is"), ("grad_norm", "the gradient is")):
            if not math.isfinite(values[name]):
                raise self._diverged(what, step, rows)

    def _diverged(self, what: str, step: int, rows: np.ndarray | None) -> DataError:
        kept = [] if self._checkpoints is None else self._checkpoints.steps
        where = f"the checkpoint of step {kept[0]} is kept" if kept else "no step was saved before it"
        return DataError(
            f"{what} not finite at step {step}{self._batch(rows)}; {where}; "
            "try a lower learning rate, or clip the gradients (optimizer.clip_norm)"
        )

    def _batch(self, rows: np.ndarray | None) -> str:
        if rows is None or self._ids is None:
            return ""
        named = [self._ids[row] for row in rows if row >= 0]
        rest = f" and {len(named) - 3} more" if len(named) > 3 else ""
        return f", whose batch is {', '.join(named[:3])}{rest}"


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
    leaves = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]
    return jnp.stack(leaves).all()

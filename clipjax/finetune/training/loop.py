"""Resume, step, check, save, stop on request."""

from __future__ import annotations

import functools
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
from clipjax.errors import DataError, some_of
from clipjax.finetune.training.logs import Logs
from clipjax.finetune.training.preemption import Preemption
from clipjax.finetune.training.resume import Checkpoints
from clipjax.finetune.training.step import Metrics, Step, TrainState

# Steps that the device may be behind the host. Reading a step's numbers waits for the device, so the next
# steps are queued first. This also bounds how far the host runs ahead, and what a stop loses.
_LAG = 2


class Snapshots(Protocol):
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
    """Run `step` until `steps` are done, resuming from the newest checkpoint.

    Args:
        state: the initial one. Donated: do not use it afterwards.
        batches: this process's, unread; closed at the end, as `logs`. "text" is not passed on.
        every: steps between checkpoints; the last step has one too.
        snapshots: kept before a checkpoint of the same step.
        ids: image ids by a batch's "row", for messages.

    Raises:
        DataError: a loss, gradient or weight that is not finite (the last checkpoint stays good), too few
            data, or unusable checkpoints.
        Interrupted: SIGTERM or Ctrl-C, after a checkpoint.
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
                # A single process need not stop after its last step: it gets the signal again at the end.
                stop = preemption.reached() and (number < steps or jax.process_count() > 1)
                snap = snapshots is not None and snapshots.due(number)
                save = checkpoints is not None and (number % every == 0 or number == steps or stop)
                if save or snap or number == steps:  # no file gets a weight that is not finite
                    watch.check_all(state)
                if stop:
                    preemption.saving()
                if snapshots is not None and snap:
                    snapshots.keep(number, state)
                if checkpoints is not None and save:
                    _save(checkpoints, state, batches, logs)
                if stop:
                    kept = "" if checkpoints is None else str(checkpoints.place)
                    raise preemption.interrupted(number, steps, kept)
    finally:
        logs.close()
        batches.close()
        if checkpoints is not None:
            checkpoints.close()
    return state


def _save(checkpoints: Checkpoints, state: TrainState, batches: grain.DatasetIterator, logs: Logs) -> None:
    checkpoints.save(state, batches)
    logs.publish()  # before the resume point, whose steps the logs must cover
    checkpoints.publish()


def _resumed(state: TrainState, checkpoints: Checkpoints, batches: grain.DatasetIterator) -> TrainState:
    if not checkpoints.steps:
        return state
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
    jax.tree.map(lambda leaf: leaf.delete(), state)  # makes room for the restored state
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
    """Reads a step's numbers some steps later, and ends a run that diverged."""

    def __init__(self, logs: Logs, ids: tuple[str, ...] | None, checkpoints: Checkpoints | None) -> None:
        self._logs, self._ids, self._checkpoints = logs, ids, checkpoints
        self._waiting: deque[tuple[int, Metrics, np.ndarray | None]] = deque()

    def add(self, step: int, metrics: Metrics, rows: np.ndarray | None) -> None:
        self._waiting.append((step, metrics, rows))
        if len(self._waiting) > _LAG:
            self._check(*self._waiting.popleft())

    def check_all(self, state: TrainState) -> None:
        last = None
        while self._waiting:
            last = self._waiting.popleft()
            self._check(*last)
        # The last update can overflow, and what passes here may be saved.
        if last is not None and not _is_finite((state.params, state.statistics)):
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
        return f", whose batch is {some_of(named, 3)}"


def _is_finite(tree: Any) -> bool:
    leaves = jax.tree.leaves(tree)
    # On the host nothing is compiled for the tree, which would take longer than some of a short run's steps.
    return all(map(_host_finite, leaves)) if _on_host(leaves) else bool(_all_finite(tree))


def _on_host(leaves: list[jax.Array]) -> bool:
    return all(leaf.is_fully_addressable and leaf.platform() == "cpu" for leaf in leaves)


def _host_finite(leaf: jax.Array) -> bool:
    return bool(np.isfinite(np.asarray(leaf)).all())


# It compiles four times faster unoptimised, and takes little beside the writing of a checkpoint.
@functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
def _all_finite(tree: Any) -> jax.Array:
    leaves = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]
    return jnp.stack(leaves).all()

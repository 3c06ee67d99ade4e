"""Training checkpoints: the state of the step and of the input pipeline, through orbax.

A resumed run is bit-equal to an uninterrupted one on the same devices; another mesh can resume too. A damaged
checkpoint is put aside, and the one before it is used. Orbax works on this disk, so a bucket's checkpoints
have a working copy here.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import logging
import os
import re
import shutil
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from clipjax.devices.agreement import barrier, failed_process, first_decides
from clipjax.errors import DataError, counted
from clipjax.finetune.training.point_files import SIZES, damage, write_contents
from clipjax.finetune.training.step import TrainState
from clipjax.finetune.training.uploads import Uploads
from clipjax.storage.remote.buckets import BucketPath
from clipjax.storage.remote.publishing import working_copy

# Seconds that a failed save waits for its threads and their last writes.
_PATIENCE = 10.0
_WHOLE = "whole"
_LOG = logging.getLogger(__name__)


class Checkpoints:
    """The newest `keep` checkpoints of one run, named by step.

    Args:
        place: their folder, or its URL on a bucket.
        identity: what decides the weights ("seed"); only a run of equal identity resumes.

    Attributes:
        folder: `place`, or its working copy on this disk.

    Raises:
        DataError: the folder cannot be made, or the bucket fails.
        UsageError: the processes do not share a bucket's working copy.
    """

    def __init__(self, place: Path, identity: Mapping[str, str] | None = None, keep: int = 2) -> None:
        self.place = place.absolute()
        self.folder = working_copy(self.place).absolute()
        self._uploads = Uploads(self.place, self.folder, keep) if isinstance(self.place, BucketPath) else None
        self._identity = dict(identity or {})
        self._keep = keep
        self._to_publish: int | None = None
        if self._uploads is not None:
            self._uploads.fetch()
        try:
            self._manager = self._open()
        except OSError as error:
            raise DataError(f"{self.folder}: cannot be written ({error.strerror or error})") from error

    def _open(self) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(
            max_to_keep=self._keep, enable_async_checkpointing=False, cleanup_tmp_directories=True
        )
        return ocp.CheckpointManager(self.folder, options=options)

    @property
    def steps(self) -> list[int]:
        """Newest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def save(self, state: TrainState, batches: grain.DatasetIterator) -> None:
        """Write a checkpoint, visible only when complete.

        Raises DataError if it cannot be written; earlier ones remain.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            batches=grain.checkpoint.CheckpointSave(batches),
            identity=ocp.args.JsonSave(self._identity),
        )
        what, failure = f"the checkpoint of step {step} cannot be written to {self.folder}", None
        try:
            self._check_room(state)
            with quiet_orbax():
                self._manager.save(step, args=items)
            if jax.process_index() == 0:
                write_contents(self.folder / str(step))
        except Exception as error:  # a full disk raises OSError, or TensorStore's own exception
            failure = error
            if jax.process_count() > 1:
                _LOG.error("%s: %s (waiting for the other processes)", what, _reason(error))
        failed = failed_process(failure)
        if failed is None:
            self._to_publish = step
            return
        self._remove_unfinished()
        reason = f"process {failed} has failed, see its message" if failure is None else _reason(failure)
        raise DataError(f"{what}: {reason}; make room there and run the same command again") from failure

    def publish(self) -> None:
        """Upload the last saved checkpoint to the bucket, if any.

        Raises DataError if that fails; the next run uploads it.
        """
        if self._uploads is not None and self._to_publish is not None:
            self._uploads.add(self._to_publish)
            self._to_publish = None

    def _remove_unfinished(self) -> None:
        if jax.process_index() > 0:
            return
        deadline = time.monotonic() + _PATIENCE
        while left := list(self.folder.glob("*.orbax-checkpoint-tmp*")):
            for path in left:
                shutil.rmtree(path, ignore_errors=True)
            if time.monotonic() > deadline:
                return
            time.sleep(0.05)  # TensorStore's threads may still write files

    def _check_room(self, state: TrainState) -> None:
        """Raise OSError on all processes if the first one's disk is too full."""
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        free = shutil.disk_usage(self.folder).free
        if jax.process_count() > 1:
            free = int(multihost_utils.broadcast_one_to_all(np.float32(free)))
        if free < size:
            raise OSError(f"it takes {size / 1e6:.3g} MB and {free / 1e6:.3g} MB are free")

    def restore(self, abstract: TrainState, batches: grain.DatasetIterator) -> TrainState | None:
        """The newest readable state, with `batches` moved to its position; None without checkpoints.

        Args:
            abstract: `jax.ShapeDtypeStruct` with shardings.
            batches: fresh, over the same data.

        Raises:
            DataError: no checkpoint is readable as such a state, or another run wrote them; nothing is
                changed.
        """
        damaged = []
        for step in self.steps:
            try:
                self._refuse_damaged(step)
                self._check_identity(step)
                state = self._read(step, abstract, batches)
            except DataError:
                raise
            except Exception as error:  # orbax raises a bare Exception for a damaged file
                _LOG.warning(
                    "checkpoint %s cannot be read, trying the one before it: %s", step, _first_line(error)
                )
                damaged.append(step)
                continue
            if jax.process_index() == 0 and not (self.folder / str(step) / SIZES).is_file():
                _LOG.warning(
                    "checkpoint %s has no %s: whether its files have changed is unknown", step, SIZES
                )
            self._put_aside(damaged)
            if self._uploads is not None:
                self._uploads.add(step, missing=True)
            return state
        if damaged:
            raise DataError(
                f"none of the checkpoints in {self._where()} fits this run or can be read; "
                "delete the folder to start afresh"
            )
        return None

    def _check_identity(self, step: int) -> None:
        """Raise DataError for another run's checkpoint; OSError or ValueError for an unreadable record."""
        identity = json.loads((self.folder / str(step) / "identity" / "metadata").read_text())
        names = [*self._identity, *(name for name in identity if name not in self._identity)]
        different = [
            f"{name} was {identity.get(name, 'not given')} and is {self._identity.get(name, 'not given')}"
            for name in names
            if identity.get(name) != self._identity.get(name)
        ]
        if different:
            more = len(different) - 3
            rest = f" and {counted(more, 'other value')}" if more > 0 else ""
            raise DataError(
                f"{self._where()} holds checkpoints of another run: {', '.join(different[:3])}{rest}; "
                "go on as that run was begun, or name another folder"
            )

    def _where(self) -> str:
        return str(self.folder if self._uploads is None else f"{self.place} (or its copy {self.folder})")

    def _read(self, step: int, abstract: TrainState, batches: grain.DatasetIterator) -> TrainState:
        items: Any = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract), batches=grain.checkpoint.CheckpointRestore(batches)
        )
        with quiet_orbax():
            return TrainState(*self._manager.restore(step, args=items)["state"])

    def _refuse_damaged(self, step: int) -> None:
        """Raise ValueError on all processes if the first one finds a damaged file."""
        folder = self.folder / str(step)
        wrong = first_decides(lambda: damage(folder) or _WHOLE, f"what is in {folder}")
        if wrong != _WHOLE:
            raise ValueError(wrong)

    def _put_aside(self, steps: list[int]) -> None:
        if not steps:
            return
        if jax.process_index() == 0:
            for step in steps:
                # Kept as evidence; the freed name lets the step be saved again.
                target = self.folder / f"{step}.damaged"
                shutil.rmtree(target, ignore_errors=True)  # put aside earlier
                (self.folder / str(step)).rename(target)
        barrier("damaged checkpoints put aside")
        self._manager.close()
        self._manager = self._open()

    def close(self) -> None:
        self._manager.close()


@contextlib.contextmanager
def quiet_orbax() -> Iterator[None]:
    """Hide notes of Orbax, and the tracebacks that it logs per thread; the error is raised anyway."""
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels, hook, before = [each.level for each in loggers], sys.unraisablehook, set(threading.enumerate())

    def restore() -> None:
        sys.unraisablehook = hook
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)

    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    sys.unraisablehook = functools.partial(_unless_closed, hook)
    try:
        yield
    except Exception as error:
        # Wait for the threads begun inside. Then stay quiet: TensorStore's own may end even later, and find
        # the event loop closed.
        deadline = time.monotonic() + _PATIENCE
        while set(threading.enumerate()) - before and time.monotonic() < deadline:
            time.sleep(0.01)
        _let_go(error)
        raise
    except BaseException:  # an interruption
        restore()
        raise
    restore()


def _let_go(error: BaseException | None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        while error is not None:
            traceback.clear_frames(error.__traceback__)  # Python warns of unstarted coroutines in frames
            error = error.__cause__ or error.__context__
        gc.collect()


def _unless_closed(hook: Callable[[Any], None], unraisable: Any) -> None:
    if str(unraisable.exc_value) != "Event loop is closed":
        hook(unraisable)


def _reason(error: Exception) -> str:
    """An OS error's own words: TensorStore's messages end with its code."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if code := re.search(r"os_error_code='(\d+)'", str(error)):
        return os.strerror(int(code[1]))
    return _first_line(error)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]

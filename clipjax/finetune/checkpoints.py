"""Training checkpoints: the state of the step and of the input pipeline, through orbax.

A checkpoint holds everything that a step changes, so a resumed run is bit-equal to one that was never stopped
(on the same devices), and it is read back into whatever mesh the run goes on with. One that cannot be read,
because the disk was full or the job killed, is reported and put aside, and the one before it is used.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import grain
import jax
import orbax.checkpoint as ocp

from clipjax.errors import DataError
from clipjax.finetune.step import TrainState
from clipjax.sharding import barrier

_SIZES = "sizes.json"
_LOG = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one run in `folder`, named by their step; the `keep` newest are kept."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = Path(folder).absolute()
        self._keep = keep
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(max_to_keep=self._keep, enable_async_checkpointing=False)
        return ocp.CheckpointManager(self.folder, options=options)

    def save(self, state: TrainState, batches: grain.DatasetIterator) -> None:
        """Write a checkpoint of the step that the state stands at; it is visible only when complete.

        Raises:
            DataError: it cannot be written.
        """
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state), batches=grain.checkpoint.CheckpointSave(batches)
        )
        try:
            self._manager.save(int(state.step), args=items)
            self._write_sizes(int(state.step))
        except OSError as error:
            raise DataError(f"no checkpoint can be written to {self.folder}: {error}") from error

    def restore(self, abstract: TrainState, batches: grain.DatasetIterator) -> TrainState | None:
        """The newest readable state, and `batches` set to where it was; None if there is no checkpoint yet.

        Args:
            abstract: a state of `jax.ShapeDtypeStruct` with shardings.
            batches: a fresh iterator over the same data.

        Raises:
            DataError: there are checkpoints and none of them can be read into such a state.
        """
        found = sorted(self._manager.all_steps(), reverse=True)
        damaged = []
        for step in found:
            try:
                state = self._read(step, abstract, batches)
            except Exception as error:  # orbax raises a bare Exception for a damaged file
                reason = str(error).strip().split("\n")[0][:200]
                _LOG.warning("checkpoint %s cannot be read, trying the one before it: %s", step, reason)
                damaged.append(step)
                continue
            self._put_aside(damaged)
            return state
        if found:
            raise DataError(
                f"none of the checkpoints in {self.folder} fits this run or can be read; "
                "delete the folder to start afresh"
            )
        return None

    def _read(self, step: int, abstract: TrainState, batches: grain.DatasetIterator) -> TrainState:
        self._check_sizes(step)
        items: Any = ocp.args.Composite(
            state=ocp.args.StandardRestore(abstract), batches=grain.checkpoint.CheckpointRestore(batches)
        )
        return TrainState(*self._manager.restore(step, args=items)["state"])

    def _write_sizes(self, step: int) -> None:
        """Note the size of every file of a checkpoint, inside it.

        Orbax would see a file that was cut short only while it reads, and say so once for every array.
        """
        if jax.process_index() == 0:
            folder = self.folder / str(step)
            sizes = {str(f.relative_to(folder)): f.stat().st_size for f in folder.rglob("*") if f.is_file()}
            (folder / _SIZES).write_text(json.dumps(sizes))

    def _check_sizes(self, step: int) -> None:
        """Raise ValueError for a file that is missing or cut short; without the note nothing is known."""
        folder = self.folder / str(step)
        if not (folder / _SIZES).is_file():
            return
        for name, size in json.loads((folder / _SIZES).read_text()).items():
            found = (folder / name).stat().st_size if (folder / name).is_file() else None
            if found != size:
                raise ValueError(f"{name} has {found or 0} bytes, {size} were written")

    def _put_aside(self, steps: list[int]) -> None:
        """Rename, so that training can save these steps again and the evidence is kept."""
        if not steps:
            return
        if jax.process_index() == 0:
            for step in steps:
                target = self.folder / f"{step}.damaged"
                if not target.exists():
                    (self.folder / str(step)).rename(target)
        barrier("damaged checkpoints put aside")
        self._manager.close()
        self._manager = self._open()

    def close(self) -> None:
        self._manager.close()

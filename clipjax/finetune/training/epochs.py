"""Weights at the end of each epoch, and the choice of the best."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from clipjax.checkpoints.fetch import on_this_disk
from clipjax.devices.agreement import first_writes
from clipjax.errors import DataError
from clipjax.finetune.data.splits import Split, ValidationSplit
from clipjax.finetune.search import choose
from clipjax.finetune.training.step import TrainState, fetch
from clipjax.finetune.training.trees import Params, flatten, merge, nest
from clipjax.storage.formats.safetensors import blocks_of, tensors_in, write_safetensors

_DIGEST = "sha256"  # in a file's metadata: of the same file without metadata


class Epochs:
    """The trained leaves and statistics after each epoch's last whole batch, and at the run's end.

        10 images in batches of 4, 7 steps: epochs end at steps 2, 5 and 7

    `folder` holds a file per epoch; None keeps them in memory.
    """

    def __init__(self, images: int, batch_size: int, steps: int, folder: Path | None) -> None:
        passes = steps * batch_size // images
        ends = {number * images // batch_size for number in range(1, passes + 1)} - {0}
        self._steps = sorted({step for step in ends if step < steps} | {steps})
        self._folder = folder
        self._held: dict[int, dict[str, np.ndarray]] = {}

    def __len__(self) -> int:
        return len(self._steps)

    def due(self, step: int) -> bool:
        return step in self._steps

    def keep(self, step: int, state: TrainState) -> None:
        """Every process must call this; the first writes. Raises DataError if it cannot."""
        leaves = flatten(fetch(merge(state.params, state.statistics)))
        if self._folder is None:
            self._held[step] = leaves
        else:
            file = self._file(step)
            first_writes(functools.partial(_write, file, leaves), str(file))

    def _file(self, step: int) -> Path:
        assert self._folder is not None
        return self._folder / f"{self._steps.index(step) + 1}.safetensors"

    def read(self, epoch: int) -> Params:
        """Leaves at the end of epoch 1, 2, ...; raises DataError for a lost or changed file."""
        step = self._steps[epoch - 1]
        if self._folder is None:
            return nest(self._held[step])
        try:
            leaves, about = tensors_in(on_this_disk(self._file(step)).read_bytes())
            # An older clipjax wrote no digest.
            if isinstance(about, Mapping) and about.get(_DIGEST) not in (None, _digest(leaves)):
                raise ValueError("it was changed after it was written: its SHA-256 is another")
            return nest(leaves)
        except Exception as error:  # damaged bytes raise anything
            raise DataError(
                f"{self._file(step)} cannot be read ({error}): the weights of epoch {epoch} are lost; remove "
                f"{self._folder.parent} and train again"
            ) from error

    def best(
        self,
        frozen: Params,
        accuracy: Callable[[Params, ValidationSplit], float],
        split: Split | None,
    ) -> tuple[Params, dict[str, Any]]:
        """All params after the most accurate epoch, and the choice's record; errors as `choose`."""
        choice = choose(
            range(1, len(self) + 1),
            lambda epoch, held_out: accuracy(merge(frozen, self.read(epoch)), held_out),
            split,
            "the epoch",
        )
        record = {
            "epoch": choice.best,
            "epoch_accuracy": choice.accuracy,
            "epoch_accuracies": list(choice.tried),
        }
        return merge(frozen, self.read(choice.best)), record


def _write(file: Path, leaves: Mapping[str, np.ndarray]) -> None:
    write_safetensors(file, leaves, {_DIGEST: _digest(leaves)})


def _digest(leaves: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for block in blocks_of(leaves, {}):
        digest.update(block)
    return digest.hexdigest()

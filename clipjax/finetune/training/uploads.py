"""Training checkpoints on a bucket."""

from __future__ import annotations

import functools
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import jax

from clipjax.checkpoints.fetch import copy_object
from clipjax.devices.agreement import failed_process, first_writes
from clipjax.errors import DataError, UsageError
from clipjax.finetune.training.point_files import SIZES, damage, read_contents, wrong_size
from clipjax.storage.remote.buckets import BucketPath
from clipjax.storage.remote.publishing import publish, remove
from clipjax.storage.writing import draft_folder, writing

_LOG = logging.getLogger(__name__)


class Uploads:
    """The newest `keep` checkpoints of one run. Only the first process uses the bucket; the others wait.

    `folder` has the working copies.
    """

    def __init__(self, place: BucketPath, folder: Path, keep: int) -> None:
        self._place, self._folder, self._keep = place, folder, keep

    def fetch(self) -> None:
        """Fetch the newest whole checkpoint, if newer than every undamaged one on this disk.

        Damaged ones are removed from the bucket.

        Raises:
            DataError: the bucket fails, or the disk is full.
            UsageError: the processes do not share the disk.
        """
        first_writes(self._fetch, str(self._folder))
        if jax.process_count() > 1:
            self._check_shared()

    def add(self, step: int, *, missing: bool = False) -> None:
        """Upload a checkpoint (if `missing`, only one that the bucket lacks); remove the oldest beyond
        `keep`.

        Raises DataError if the bucket fails.
        """
        first_writes(functools.partial(self._add, step, missing), f"{self._place / str(step)}")

    def _steps(self) -> list[int]:
        folders = [path for path in self._place.glob("*") if path.name.isdecimal()]
        return sorted((int(path.name) for path in folders if (path / SIZES).exists()), reverse=True)

    def _fetch(self) -> None:
        with writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        here = [int(path.name) for path in self._folder.iterdir() if path.name.isdecimal()]
        newest = next((n for n in sorted(here, reverse=True) if damage(self._folder / str(n)) is None), -1)
        for step in self._steps():
            if step <= newest:
                return
            there: Any = self._place / str(step)
            if (wrong := wrong_size(there) or self._copy(there, step)) is None:
                return
            _LOG.warning("%s is not whole (%s): it is removed, the one before it is tried", there, wrong)
            remove(there, SIZES)

    def _copy(self, there: Any, step: int) -> str | None:
        """All or nothing; returns what is wrong with the checkpoint, if anything."""
        place = self._folder / str(step)
        with writing(place), draft_folder(place) as draft:
            for name, (size, _) in read_contents(there).items():
                copy_object(there / name, size, draft / name)
            (draft / SIZES).write_bytes((there / SIZES).read_bytes())
            if (wrong := damage(draft)) is not None:
                return wrong
            if place.exists():
                shutil.rmtree(damaged := self._folder / f"{step}.damaged", ignore_errors=True)
                os.rename(place, damaged)
            os.rename(draft, place)
        return None

    def _check_shared(self) -> None:
        # Orbax writes to one folder from all processes: each must see the first one's files.
        token = self._folder / ".shared"
        first_writes(token.touch, str(token))
        process = failed_process(None if token.exists() else FileNotFoundError(token))
        if jax.process_index() == 0:
            token.unlink()
        if process is not None:
            raise UsageError(
                f"process {process} does not see what process 0 writes to its working copy of {self._place} "
                f"(here {self._folder}): set CLIPJAX_CACHE to a folder that all processes share"
            )

    def _add(self, step: int, missing: bool) -> None:
        there: Any = self._place / str(step)
        if missing and (there / SIZES).exists():
            return
        publish(self._folder / str(step), there, SIZES)
        try:
            for old in self._steps()[self._keep :]:
                remove(self._place / str(old), SIZES)  # type: ignore[arg-type]
        except DataError as error:  # our rights on the bucket may not include deleting
            _LOG.warning("older resume points stay on the bucket: %s", error)

"""Judge the checkpoints of a training run as they are finished, each once.

    watch = Watch(gate, Path("logs/run/checkpoints"), like=None)
    for name, judgement in watch.step(compute): ...      # and again, until training ends

The gate's record has every verdict, so a watch that starts again goes on. A checkpoint that cannot be read
spends no alpha; it is tried again when its files change.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from clipjax.checkpoints.model import Model
from clipjax.embeddings.compute import Compute
from clipjax.errors import DataError, UsageError
from clipjax.evaluation.models.encoders import encoder
from clipjax.gates.checkpoint_model import as_model
from clipjax.gates.checkpoints import CLIPJAX, FoundCheckpoint, checkpoints_in
from clipjax.gates.gate import Gate, SameWeights
from clipjax.gates.history import Judgement

SETTLE = 30.0  # seconds
CONVERTED = ".converted"  # folder in the gate's, while a checkpoint is judged


class Watched(NamedTuple):
    """A checkpoint's verdict, or why it has none.

    Attributes:
        is_new: False if other files with these weights were judged before.
        problem: why the checkpoint has no verdict.
        is_reference: the checkpoint has the reference's weights, which is not an error.
    """

    name: str
    judgement: Judgement | None
    is_new: bool = False
    problem: str = ""
    is_reference: bool = False


@dataclass
class Watch:
    """The checkpoints of a folder.

    Attributes:
        like: a model of their architecture, for those that do not state theirs; None: the reference.
        settle: as in `checkpoints_in`.
    """

    gate: Gate
    folder: Path
    like: str | None = None
    settle: float = SETTLE
    _seen: set[str] = field(default_factory=set)

    def unfinished(self) -> list[FoundCheckpoint]:
        """The checkpoints that are not whole. Raises DataError as `checkpoints_in`."""
        return [each for each in checkpoints_in(self.folder, self.settle) if each.unfinished]

    def step(self, compute: Compute) -> Iterator[Watched]:
        """Judge each new, whole checkpoint, in the order of their numbers, up to the planned number.

        Raises:
            UsageError, DataError: as `Gate.history` (the reference or the terms changed).
            Interrupted: the checkpoint at hand is judged by the next call.
        """
        for found in checkpoints_in(self.folder, self.settle):
            if found.unfinished:
                continue
            try:
                version = found.version
            except OSError:  # training has removed it
                continue
            history, planned = self.gate.history(compute), self.gate.spending.planned
            if planned is not None and len(history.judged) >= planned:
                return
            judged = {each.file for each in history.judged}
            if version in judged | self._seen:
                continue
            watched = self._judged(found, version, compute)
            self._seen.add(version)  # not before: an interrupted one is judged by the next call
            yield watched

    def _judged(self, found: FoundCheckpoint, version: str, compute: Compute) -> Watched:
        converted, is_model = self.gate.folder / CONVERTED / found.name, found.kind == CLIPJAX
        try:
            model = found.path if is_model else as_model(found, self._like(), converted)
            judgement, is_new = self.gate.judge(str(model.absolute()), compute, version)
        except SameWeights:
            why = f"{found.path} has the weights of the reference: it is not judged"
            return Watched(found.name, None, problem=why, is_reference=True)
        except DataError as error:
            return Watched(found.name, None, problem=str(error))
        finally:
            if not is_model:  # a model is judged where it is, and stays
                shutil.rmtree(converted, ignore_errors=True)
        return Watched(found.name, judgement, is_new)

    def _like(self) -> Model:
        name = self.like or self.gate.against
        if not isinstance(model := encoder(name), Model):
            raise UsageError(f"--like {name} is not one of clipjax's models: name one of their architecture")
        return model

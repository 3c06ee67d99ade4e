"""Find the checkpoints of a training run, and tell which of them are whole.

    open_clip   DIR/epoch_3.pt, written in place: whole when its zip is complete and has not grown for a
                while. epoch_latest.pt and tmp.pt are temporary copies
    Orbax       DIR/300, DIR/checkpoint_300: whole when the folder has its own name and Orbax has committed
                it; before, it is 300.orbax-checkpoint-tmp (on a bucket: without commit_success.txt)
    clipjax     DIR/mine, DIR/seed1/model: a folder with card.json, which appears whole

Imports no JAX and no Orbax.
"""

from __future__ import annotations

import re
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from clipjax.errors import DataError
from clipjax.storage.digests import sha256_json
from clipjax.storage.reading import is_dir, read_json

OPEN_CLIP, ORBAX, CLIPJAX = "open_clip", "Orbax", "clipjax"
TEMPORARY = ".orbax-checkpoint-tmp"
METADATA, COMMITTED = "_CHECKPOINT_METADATA", "commit_success.txt"
CARD = "card.json"
_EPOCH = re.compile(r"epoch_(\d+)\.pt")
_STEP = re.compile(r"(?:.*_)?(\d+)")


@dataclass(frozen=True)
class FoundCheckpoint:
    """A checkpoint in a folder of them.

    Attributes:
        kind: "open_clip", "Orbax" or "clipjax".
        number: epoch, step or seed; -1 if its name has none.
        unfinished: why it is not read yet; "" if it is whole.
    """

    path: Path
    kind: str
    number: int
    unfinished: str = ""

    @property
    def name(self) -> str:
        inside = self.kind == CLIPJAX and self.path.name == "model"
        return self.path.parent.name if inside else self.path.name.removesuffix(".pt")

    @property
    def version(self) -> str:
        """A digest of the names, sizes and times of its files: another one after each change."""
        files = [self.path] if self.path.is_file() else sorted(self.path.rglob("*"))
        states = [(str(file.relative_to(self.path.parent)), file.stat()) for file in files if file.is_file()]
        return sha256_json([self.name, [[name, at.st_size, at.st_mtime_ns] for name, at in states]])


def checkpoints_in(folder: Path, settle: float) -> list[FoundCheckpoint]:
    """The checkpoints in a folder, whole or not, in the order of their numbers.

    Args:
        settle: seconds for which a file of open_clip must not have changed.

    Raises:
        DataError: the folder does not exist.
    """
    if not is_dir(folder):
        raise DataError(f"{folder} is not a folder: name the folder that training writes checkpoints to")
    found = [each for path in folder.absolute().iterdir() for each in _at(path, settle)]
    return sorted(found, key=lambda each: (each.number, each.name))


def _at(path: Path, settle: float) -> Iterator[FoundCheckpoint]:
    if match := _EPOCH.fullmatch(path.name):
        yield FoundCheckpoint(path, OPEN_CLIP, int(match[1]), _growing(path, settle))
    elif TEMPORARY in path.name:
        number = _number(path.name.partition(TEMPORARY)[0])
        yield FoundCheckpoint(path, ORBAX, number, "Orbax is writing it")
    elif is_dir(path):
        for inside in (path, path / "model"):
            if (inside / CARD).is_file():
                yield FoundCheckpoint(inside, CLIPJAX, _number(path.name.removeprefix("seed")))
        if _STEP.fullmatch(path.name) and any((path / name).exists() for name in (METADATA, COMMITTED)):
            yield FoundCheckpoint(path, ORBAX, _number(path.name), _uncommitted(path))


def _number(name: str) -> int:
    match = _STEP.fullmatch(name)
    return -1 if match is None else int(match[1])


def _growing(path: Path, settle: float) -> str:
    """Why an open_clip file is not whole yet. Torch writes a zip's table of contents last."""
    try:
        with zipfile.ZipFile(path):
            pass
        age = time.time() - path.stat().st_mtime
    except (zipfile.BadZipFile, OSError):
        return "it is not complete yet"
    return f"it was written {max(age, 0):.0f} s ago" if age < settle else ""


def _uncommitted(path: Path) -> str:
    if (path / COMMITTED).is_file():
        return ""
    try:
        committed = read_json(path / METADATA).get("commit_timestamp_nsecs")
    except DataError:
        committed = None
    return "" if committed else "Orbax has not committed it"

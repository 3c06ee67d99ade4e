"""Images that are corrupted while they are read: the table `[corruption]` of a data card. Imports no JAX.

    [corruption]
    kind = "fog_3d"
    severity = 3
    depth = "depth"        # a folder beside the card

They are those that `clipjax corrupt` writes as PNG files, without the files. Their digests cover the source's
images, the corruption and everything that it reads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np

from clipjax.corruptions.corruption import SEVERITIES, find_corruption, kind_names
from clipjax.data.corrupted.depth import PREPARATION, DepthKind, file_of
from clipjax.data.corrupted.frost import frost_pictures
from clipjax.data.corrupted.inputs import CorruptionInputs, DecodedImage, needed_of
from clipjax.data.corrupted.record import in_words, record_of
from clipjax.data.manifest import Manifest, Opener, Progress, check_content
from clipjax.errors import DataError, UsageError, unknown_name
from clipjax.storage.digests import sha256_files, sha256_json
from clipjax.storage.reading import is_file

ON_READING = "on reading"
# Fields of a record that decide the pixels. The others are words.
_DECIDES = ("corruption", "severity", "version", "constants", "inputs", "seed", "preparation")


@dataclasses.dataclass(frozen=True)
class CorruptionTable:
    """One corruption of a card's images.

    Attributes:
        kind: as in `clipjax corrupt`.
        severity: as in `clipjax corrupt`.
        seed: of the random draws.
        depth: a folder, relative to the card's file.
        reshading: a folder, relative to the card's file.
        frost: a folder, relative to the card's file.
        depth_kind: what a depth file holds.

    Raises ValueError for an unknown kind or severity.
    """

    kind: str
    severity: int
    seed: int = 0
    depth: str | None = None
    depth_kind: DepthKind = "inverse"
    reshading: str | None = None
    frost: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in kind_names():
            raise ValueError(str(unknown_name("corruption", self.kind, kind_names())))
        if self.severity not in SEVERITIES:
            raise ValueError(f"a severity is one of 1, 2, 3, 4, 5, not {self.severity}")

    def inputs(self, beside: Path) -> CorruptionInputs:
        """Raises DataError for a missing folder, or one on a bucket, or unusable pictures of frost."""
        depth, reshading, frost = (
            None if name is None else _folder(beside, name)
            for name in (self.depth, self.reshading, self.frost)
        )
        shared = {} if frost is None else {"frost": frost_pictures(frost, PREPARATION.image_size)}
        return CorruptionInputs(depth, self.depth_kind, reshading, shared)


@dataclasses.dataclass(frozen=True, eq=False)
class CorruptedOpener:
    """Image i of `source` before and after its corruption.

    Attributes:
        ids: the source's; they decide the random draws and name the files of depth.
        making: digest of everything that decides the pixels, besides the files.
        contents: bytes [N], the digests when the images were hashed; None: they were not.
    """

    source: Opener
    ids: tuple[str, ...]
    table: CorruptionTable
    inputs: CorruptionInputs
    needed: tuple[str, ...]
    making: str
    contents: np.ndarray | None = None

    def open(self, i: int) -> NoReturn:
        """Raises UsageError: a corrupted image is computed, and has no file to read."""
        raise UsageError(
            f"{self.where(i)}: images that a card's [corruption] changes while they are read are only for "
            "evaluation: write them with `clipjax corrupt` and use the copies"
        )

    def read(self, i: int) -> DecodedImage:
        """Image i, decoded, with the arrays beside it that the corruption takes.

        Raises DataError naming the file that cannot be used, ChangedError for files other than were hashed.
        """
        encoded = self.inputs.encoded(self.source, i, self.ids[i], self.needed)
        if self.contents is not None:
            check_content(self._digest(encoded.digests()), self.contents[i].decode(), self._where_files(i))
        source = self.inputs.decoded(encoded, self.where(i), self.ids[i], self.needed)
        for each in source.extra.values():
            if isinstance(each, DataError):
                raise each
        return source

    def problems(self, i: int) -> list[str]:
        """Files beside a readable image that cannot be used, one sentence each."""
        try:
            source = self.inputs.read(self.source, i, self.ids[i], self.needed)
        except DataError:  # its own, which is reported elsewhere
            return []
        return list(dict.fromkeys(str(each) for each in source.extra.values() if isinstance(each, DataError)))

    def where(self, i: int) -> str:
        return self.source.where(i)

    def select(self, rows: Sequence[int]) -> CorruptedOpener:
        ids = tuple(self.ids[i] for i in rows)
        contents = None if self.contents is None else self.contents[list(rows)]
        return dataclasses.replace(self, source=self.source.select(rows), ids=ids, contents=contents)

    def _digest(self, files: Sequence[str | None]) -> str:
        return sha256_json([self.making, *files])

    def _where_files(self, i: int) -> str:
        names = " or its ".join(self.inputs.folders(self.needed))
        return f"{self.where(i)}{names and f' or its {names}'}"

    def content_digests(self, progress: Progress | None = None) -> list[str]:
        """One digest per image: its source, depth and reshading (None: missing), and `making`."""
        columns: list[list[str | None]] = [[*self.source.content_digests(progress)]]
        for folder in self.inputs.folders(self.needed).values():
            paths = [file_of(folder, name) for name in self.ids]
            present = [path for path in paths if is_file(path)]
            digests = dict(zip(present, sha256_files(present)))
            columns.append([digests.get(path) for path in paths])
        return [self._digest(row) for row in zip(*columns)]


def corrupted(manifest: Manifest, table: CorruptionTable, beside: Path) -> tuple[Manifest, str]:
    """The data set with each image corrupted while it is read, and how, in words.

    Args:
        beside: the folder that the table's folders are relative to.

    Raises:
        UsageError: a missing input, or a program that is not installed.
        DataError: see `CorruptionTable.inputs`.
    """
    corruption, inputs = find_corruption(table.kind), table.inputs(beside)
    inputs.check([corruption])
    record = record_of(corruption, table.severity, table.seed, inputs)
    making = sha256_json({name: record[name] for name in _DECIDES})
    opener = CorruptedOpener(manifest.opener, manifest.ids, table, inputs, needed_of([corruption]), making)
    return dataclasses.replace(manifest, opener=opener), in_words({**record, "format": ON_READING})


def source_of(manifest: Manifest) -> Manifest:
    """The images before they are corrupted; the same data set if they are not."""
    opener = manifest.opener
    return (
        dataclasses.replace(manifest, opener=opener.source)
        if isinstance(opener, CorruptedOpener)
        else manifest
    )


def is_corrupted(manifest: Manifest) -> bool:
    return isinstance(manifest.opener, CorruptedOpener)


def refuse_corrupted(manifest: Manifest) -> None:
    """Raises UsageError for images that are corrupted while they are read."""
    if isinstance(manifest.opener, CorruptedOpener):
        manifest.opener.open(0)


def _folder(beside: Path, name: str) -> Path:
    if "://" in f"{beside / name}" or "://" in name:
        raise DataError(
            f"{name}: depths, reshadings and pictures of frost are read on a disk: copy the folder to one"
        )
    return beside / Path(name).expanduser()

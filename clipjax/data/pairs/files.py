"""Pairs whose images, depths, poses and annotations are files below one folder."""

from __future__ import annotations

import abc
import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Self

import numpy as np
from etils import epath

from clipjax.data.manifest import FileOpener, Manifest, check_content, missing_files, unchanged
from clipjax.data.pairs.matching import NORMALISATIONS, Matching
from clipjax.data.pairs.pair import Pair
from clipjax.errors import DataError
from clipjax.storage.digests import canonical_json, sha256_bytes, sha256_files
from clipjax.storage.reading import is_file, read_bytes
from clipjax.storage.remote.buckets import as_path


@dataclasses.dataclass(frozen=True, eq=False)
class FilePairs(abc.ABC):
    """A `PairSet` of files. Every layout shares it and has its own `load`.

    Attributes:
        root: a folder or its URL.
        images: the ids of each pair's two images: paths relative to the root.
        files: the files that each pair's geometry comes from, beside the images; paths relative to the root.
        listed: the files of `files` that were read to list the pairs, each with the SHA-256 of what was read.
        contents: each image's and file's SHA-256 when it was hashed; None for an absent one.
    """

    root: str
    ids: tuple[str, ...]
    clusters: tuple[str, ...]
    images: tuple[tuple[str, str], ...]
    files: tuple[tuple[str, ...], ...]
    columns: dict[str, list]
    matching: Matching
    listed: Mapping[str, str] = dataclasses.field(default_factory=dict, kw_only=True)
    contents: Mapping[str, str | None] | None = dataclasses.field(default=None, kw_only=True)

    def __len__(self) -> int:
        return len(self.ids)

    def image_ids(self, i: int) -> tuple[str, str]:
        return self.images[i]

    @abc.abstractmethod
    def load(self, i: int) -> Pair: ...

    def problems(self, i: int) -> list[str]:
        try:
            self.load(i)
        except DataError as error:
            return [str(error)]
        return []

    def checked(self, images: Mapping[str, str]) -> Self:
        absent = dict.fromkeys(name for both in self.images for name in both)
        return dataclasses.replace(self, contents={**absent, **images, **self._file_contents})

    def select(self, rows: Sequence[int]) -> Self:
        return dataclasses.replace(
            self,
            ids=tuple(self.ids[i] for i in rows),
            clusters=tuple(self.clusters[i] for i in rows),
            images=tuple(self.images[i] for i in rows),
            files=tuple(self.files[i] for i in rows),
            columns={name: [values[i] for i in rows] for name, values in self.columns.items()},
        )

    @property
    def digest(self) -> str:
        """SHA-256 over preparation, ids, clusters, columns and files of the pairs.

        A file that does not exist counts as null, because its pair may be skipped.

        Raises ChangedError if a file is no longer the one that lists the pairs.
        """
        return self._digest

    @functools.cached_property
    def _file_contents(self) -> dict[str, str | None]:
        root = as_path(self.root)
        names = sorted({name for each in self.files for name in each})
        there = [name for name in names if is_file(root / name)]
        content = dict(zip(there, sha256_files([root / name for name in there])))
        for name, read in self.listed.items():
            if name in names:
                check_content(read, content.get(name), str(root / name))
        return dict.fromkeys(names) | content

    @functools.cached_property
    def _digest(self) -> str:
        content = self._file_contents
        text = hashlib.sha256(canonical_json(self.preparation()).encode() + b"\n")
        for i in range(len(self)):
            values = {name: column[i] for name, column in self.columns.items()}
            files = [content[name] for name in self.files[i]]
            line = [self.ids[i], self.clusters[i], self.images[i], values, files]
            text.update(canonical_json(line).encode() + b"\n")
        return text.hexdigest()

    def preparation(self) -> dict[str, object]:
        """All that decides the pairs' arrays besides the files, in JSON types."""
        return self.matching.preparation()

    @property
    def grid(self) -> tuple[int, int]:
        """The grid of geometric pairs; `manifest_of` refuses other pairs."""
        assert self.matching.grid is not None
        return self.matching.grid

    def where(self, i: int) -> str:
        """Pair i in messages."""
        return f"pair {self.ids[i]}"

    def file(self, i: int, name: str) -> epath.Path:
        """A file beside the images of pair i. Raises DataError if it does not exist."""
        path = epath.Path(as_path(self.root)) / name
        if not is_file(path):
            raise DataError(f"{self.where(i)}: {path} does not exist")
        return path

    def read(self, i: int, name: str) -> bytes:
        """The bytes of a file beside the images of pair i. Raises DataError, or ChangedError as `checked`."""
        path = self.file(i, name)
        return self._unchanged(read_bytes(path), name, f"{self.where(i)}: {path}")

    def _unchanged(self, data: bytes, name: str, where: str) -> bytes:
        return data if self.contents is None else unchanged(data, self.contents[name], where)

    def open(self, i: int) -> Iterator[bytes]:
        """The encoded images 0 and 1. Raises as `read`."""
        opener = FileOpener(self.root, self.images[i])
        for k in range(2):
            try:
                data = opener.open(k)
            except DataError as error:
                raise DataError(f"{self.where(i)}: {error}") from None
            yield self._unchanged(data, self.images[i][k], f"{self.where(i)}: {opener.where(k)}")

    def normalised(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        """Two uint8 images [H, W, 3] -> float32 [2, H, W, 3]."""
        mean, std = (np.array(each, np.float32) for each in NORMALISATIONS[self.matching.normalisation])
        return (np.stack(pixels).astype(np.float32) / np.float32(255) - mean) / std


def read_listed(path: epath.Path, name: str, listed: dict[str, str]) -> bytes:
    """Read a file that lists pairs, and record its SHA-256 in `listed` under `name`. Raises DataError."""
    data = read_bytes(path)
    listed[name] = sha256_bytes(data)
    return data


def manifest_of(pairs: FilePairs, kind: str) -> Manifest:
    """The images of `pairs` that exist, sorted, each once.

    Raises:
        DataError: no image exists; the card's [matching] is of another kind, or by an unknown column.
    """
    matching = pairs.matching
    if matching.kind != kind:
        raise DataError(f"{pairs.root} has {kind} pairs, and the card's [matching] is for {matching.kind}")
    if matching.by not in pairs.columns:
        known = ", ".join(pairs.columns)
        raise DataError(f"{pairs.root}: the card's [matching] has by = {matching.by!r}; known: {known}")
    named = sorted({name for both in pairs.images for name in both})
    gone = set(missing_files(epath.Path(as_path(pairs.root)), named))
    if len(gone) == len(named):
        raise DataError(f"{pairs.root} has none of the {len(named)} images of its pairs, such as {named[0]}")
    ids = tuple(name for name in named if name not in gone)
    return Manifest(ids, FileOpener(pairs.root, ids), pairs=pairs)

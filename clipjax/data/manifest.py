"""The manifest: a data set's order, and its encoded images.

Embeddings depend on `images_digest`, without labels and columns: tasks with other annotations share them.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import stat
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
from etils import epath

from clipjax.data.pairs.pair import PairSet
from clipjax.data.pixels.limits import check_bytes
from clipjax.errors import DataError, counted, some_of
from clipjax.guards import at_least
from clipjax.storage.digests import canonical_json, sha256_bytes, sha256_files
from clipjax.storage.reading import is_file
from clipjax.storage.remote.buckets import REQUESTS, BucketPath, as_path

Progress = Callable[[int], object]

# As in torchvision's folder loader (torchvision/datasets/folder.py, IMG_EXTENSIONS).
IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


class Opener(Protocol):
    """Encoded images by row. Small and picklable: worker processes get it."""

    def open(self, i: int) -> bytes:
        """Raises DataError if unreadable."""
        ...

    def where(self, i: int) -> str:
        """Image i in messages."""
        ...

    def select(self, rows: Sequence[int]) -> Opener:
        """Rows are renumbered from 0."""
        ...

    def content_digests(self, progress: Progress | None = None) -> list[str]:
        """Every image's SHA-256, in order; `progress` gets the bytes of each."""
        ...


@dataclasses.dataclass(frozen=True)
class FileOpener:
    """`paths` relative to `root`, a folder or its URL."""

    root: str
    paths: tuple[str, ...]

    def open(self, i: int) -> bytes:
        path = epath.Path(as_path(self.root)) / self.paths[i]
        try:
            if "://" not in self.root:  # on a bucket this would cost a request
                status = os.stat(path)
                check_bytes(status.st_size, self.where(i))
                if not stat.S_ISREG(status.st_mode):  # reading a FIFO would never end
                    raise OSError("not a regular file")
            return path.read_bytes()
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            reason = getattr(error, "strerror", None) or error
            raise DataError(f"{self.where(i)}: cannot be read ({reason}); replace or remove it") from None

    def where(self, i: int) -> str:
        return str(as_path(self.root) / self.paths[i])

    def select(self, rows: Sequence[int]) -> FileOpener:
        return FileOpener(self.root, tuple(self.paths[i] for i in rows))

    def content_digests(self, progress: Progress | None = None) -> list[str]:
        root = as_path(self.root)
        return sha256_files((root / path for path in self.paths), progress)


class ChangedError(DataError):
    """An image is not the one that was hashed: nothing made of it may be stored under the old digest."""


def unchanged(data: bytes, content: str | None, where: str) -> bytes:
    """The bytes of a file. Raises ChangedError unless their SHA-256 is `content` (None: it was absent)."""
    check_content(sha256_bytes(data), content, where)
    return data


def check_content(digest: str, content: str | None, where: str) -> None:
    """Raises ChangedError if the digest is not that of the hashed contents."""
    if digest != content:
        raise ChangedError(f"{where} changes while it is read: run again when it is written")


@dataclasses.dataclass(frozen=True, eq=False)
class CheckedOpener:
    """An opener whose images must be those that were hashed.

    Attributes:
        contents: bytes [N], each image's SHA-256 in hexadecimal; an array travels quickly to workers.
    """

    opener: Opener
    contents: np.ndarray

    def open(self, i: int) -> bytes:
        """Raises ChangedError for other bytes; else as the opener."""
        return unchanged(self.opener.open(i), self.contents[i].decode(), self.where(i))

    def where(self, i: int) -> str:
        return self.opener.where(i)

    def select(self, rows: Sequence[int]) -> CheckedOpener:
        return CheckedOpener(self.opener.select(rows), self.contents[list(rows)])

    def content_digests(self, progress: Progress | None = None) -> list[str]:
        return self.opener.content_digests(progress)


def sample_ranks(ids: Sequence[str], seed: int) -> list[bytes]:
    """Hashes of (seed, id): the images with the smallest ones are a uniform random sample.

    A larger sample contains every smaller one, and the order of the images does not matter.
    """
    return [hashlib.sha256(f"{seed}\n{name}".encode()).digest() for name in ids]


def missing_files(root: epath.Path, names: Sequence[str]) -> list[str]:
    if not isinstance(root, BucketPath):
        return [name for name in names if not is_file(root / name)]
    with ThreadPoolExecutor(REQUESTS) as pool:
        there = pool.map(lambda name: is_file(root / name), names)
        return [name for name, is_there in zip(names, there) if not is_there]


@dataclasses.dataclass(frozen=True, eq=False)
class Manifest:
    """A data set's images in a fixed order.

    Attributes:
        ids: unique and stable: posix path relative to the root, or key.
        labels: int32 [N], indices into the label names.
        columns: further JSON values, N by name (captions, groups, ...).
        label_names: as the data spells them.
        selection: how it was cut from the data set, "" for all.
        pairs: the pairs of these images, in a data set of pairs.
        left_out: names beside them that look like images, but of formats that are not read, or folders.
    """

    ids: tuple[str, ...]
    opener: Opener
    labels: np.ndarray | None = None
    columns: dict[str, list] = dataclasses.field(default_factory=dict)
    label_names: tuple[str, ...] | None = None
    name: str = ""
    selection: str = ""
    pairs: PairSet | None = None
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        sizes = {name: len(values) for name, values in self.columns.items()}
        if self.labels is not None:
            sizes["labels"] = len(self.labels)
        for column, size in sizes.items():
            if size != len(self.ids):
                raise DataError(f"{self.name}: {len(self.ids)} images but {size} values in {column!r}")
        if len(set(self.ids)) != len(self.ids):
            twice, _ = Counter(self.ids).most_common(1)[0]
            raise DataError(f"{self.name}: the image id {twice!r} occurs twice; ids must be unique")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lacks(self) -> str | None:
        """What is left out, in a sentence."""
        if not self.left_out:
            return None
        images, names = counted(len(self.left_out), "image is", "images are"), some_of(self.left_out, 3)
        return f"{images} left out, {names}: of a format that is not read, or a folder; convert or remove"

    def open(self, i: int) -> bytes:
        """Raises as `checked_opener`'s."""
        return self.checked_opener.open(i)

    @property
    def checked_opener(self) -> Opener:
        """The opener; once a digest is computed, it refuses images that have changed since then."""
        contents = self.contents
        return self.opener if contents is None else CheckedOpener(self.opener, contents)

    @property
    def contents(self) -> np.ndarray | None:
        """bytes [N], each image's digest in hexadecimal; None before a digest is computed."""
        return self.__dict__.get("_contents")

    @property
    def checked_pairs(self) -> PairSet | None:
        """The pairs; once a digest is computed, they refuse files that have changed since then."""
        if self.pairs is None or self.contents is None:
            return self.pairs
        return self.pairs.checked(dict(zip(self.ids, map(bytes.decode, self.contents.tolist()))))

    @property
    def digest(self) -> str:
        """SHA-256 over ids, contents, labels, columns and pairs in order: equal for copies.

        May read all images.
        """
        return self.compute_digest()

    @property
    def images_digest(self) -> str:
        """SHA-256 over ids and contents; reads as `digest`."""
        self.compute_digest()
        return self.__dict__["_images_digest"]

    def compute_digest(self, progress: Progress | None = None) -> str:
        """Hash what the images hold, their labels and columns; `progress` gets the bytes of each image."""
        if "_digest" not in self.__dict__:
            rows, images = hashlib.sha256(), hashlib.sha256()
            contents = self.opener.content_digests(progress)
            self.__dict__["_contents"] = np.array(contents, "S")
            for i, content in enumerate(contents):
                label = None if self.labels is None else int(self.labels[i])
                values = {name: column[i] for name, column in self.columns.items()}
                rows.update(canonical_json([self.ids[i], content, label, values]).encode() + b"\n")
                images.update(canonical_json([self.ids[i], content]).encode() + b"\n")
            if self.pairs is not None:
                rows.update(canonical_json({"pairs": self.pairs.digest}).encode() + b"\n")
            self.__dict__["_digest"] = rows.hexdigest()
            self.__dict__["_images_digest"] = images.hexdigest()
        return self.__dict__["_digest"]

    @functools.cached_property
    def order_digest(self) -> str:
        """SHA-256 over the ids in order; reads no image."""
        return hashlib.sha256("\n".join(self.ids).encode()).hexdigest()

    def rows_of(self, ids: Sequence[str]) -> list[int]:
        """The rows of some images, as when unreadable ones were skipped."""
        row = {name: i for i, name in enumerate(self.ids)}
        return [row[name] for name in ids]

    def select(self, rows: Sequence[int] | np.ndarray, selection: str = "") -> Manifest:
        """Images keep their ids. A pair stays if both its images do."""
        rows = [int(i) for i in rows]
        ids = tuple(self.ids[i] for i in rows)
        pairs, kept = self.pairs, set(ids)
        if pairs is not None:
            pairs = pairs.select([i for i in range(len(pairs)) if kept.issuperset(pairs.image_ids(i))])
        selected = dataclasses.replace(
            self,
            ids=ids,
            opener=self.opener.select(rows),
            labels=None if self.labels is None else self.labels[rows],
            columns={name: [values[i] for i in rows] for name, values in self.columns.items()},
            selection=selection or self.selection,
            pairs=pairs,
        )
        if "_contents" in self.__dict__:
            selected.__dict__["_contents"] = self.__dict__["_contents"][rows]
        return selected

    def sample(self, limit: int, seed: int = 0) -> Manifest:
        """A uniform random sample in manifest order; all if there are no more than `limit`.

        Takes the smallest hashes of (seed, id): image order does not matter, and larger samples contain
        smaller ones. In a data set of pairs, draws pairs and keeps their images.
        """
        at_least("the limit must be at least 1 image", limit, 1)
        names = self.ids if self.pairs is None else self.pairs.ids
        if limit >= len(names):
            return self
        rows = sorted(_shuffled(names, seed)[:limit])
        what = "images" if self.pairs is None else "pairs"
        selection = f"random sample of {limit} of {len(names)} {what}, seed {seed}"
        if self.pairs is None:
            return self.select(rows, selection)
        pairs = self.pairs.select(rows)
        images = {name for i in range(limit) for name in pairs.image_ids(i)}
        kept = self.select([i for i, name in enumerate(self.ids) if name in images], selection)
        return dataclasses.replace(kept, pairs=pairs)

    def sample_per_class(self, limit: int, seed: int = 0) -> Manifest:
        """A uniform random sample of `limit` images of each class, or all of a smaller one; as `sample`.

        Raises DataError without labels.
        """
        at_least("the limit must be at least 1 image of each class", limit, 1)
        if self.labels is None:
            raise DataError(f"{self.name} has no labels: images of each class cannot be drawn")
        drawn: Counter[int] = Counter()
        rows = []
        for row in _shuffled(self.ids, seed):
            label = int(self.labels[row])
            if drawn[label] < limit:
                drawn[label] += 1
                rows.append(row)
        if len(rows) == len(self):
            return self
        title = f"random sample of {limit} of each class of {len(self)} images, seed {seed}"
        return self.select(sorted(rows), title)


def _shuffled(names: Sequence[str], seed: int) -> list[int]:
    """Rows by the hashes of (seed, name): a name's place depends on no other name."""
    rank = sample_ranks(names, seed)
    return sorted(range(len(names)), key=rank.__getitem__)

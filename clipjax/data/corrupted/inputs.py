"""Inputs of corruptions beside the image, read from files and prepared as the image is. Imports no JAX."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from clipjax.corruptions.corruption import PER_IMAGE, Corruption
from clipjax.corruptions.program import check_program, version_of
from clipjax.data.corrupted import depth as depths
from clipjax.data.manifest import Manifest, Opener
from clipjax.data.pixels.limits import DECODED
from clipjax.data.pixels.preprocess import open_image, to_pixels
from clipjax.errors import DataError, UsageError
from clipjax.storage.digests import sha256_bytes
from clipjax.storage.reading import is_dir, is_file, read_bytes

SUBSTITUTE = (
    "N . L from the normals of the depth, the light at the camera: a substitute for a reshading network"
)


class DecodedImage(NamedTuple):
    """One image: pixels uint8 [224, 224, 3], and its own entries of `extra`.

    An entry is an array, or the DataError of a file that cannot be used.
    """

    pixels: np.ndarray
    extra: Mapping[str, Any]


class EncodedImage(NamedTuple):
    """The bytes of one image, and of its files by folder: None for an absent one, or why it is unreadable."""

    image: bytes
    beside: Mapping[str, bytes | DataError | None]

    def digests(self) -> list[str | None]:
        """SHA-256 of each; None for what has no bytes."""
        files = (self.image, *self.beside.values())
        return [sha256_bytes(each) if isinstance(each, bytes) else None for each in files]


@dataclasses.dataclass(frozen=True)
class CorruptionInputs:
    """Folders and arrays that corruptions read beside the images.

    Attributes:
        depth: folder of depth files.
        depth_kind: "inverse" or "metric", see `prepared_depth`.
        reshading: folder of reshading files. Without it, the substitute from the depth is taken.
        shared: entries of `extra` that all images share, each a tuple of arrays.
    """

    depth: Path | None = None
    depth_kind: str = "inverse"
    reshading: Path | None = None
    shared: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def check(self, corruptions: Sequence[Corruption]) -> None:
        """Raises UsageError, or DataError for a missing folder, unless everything that is needed is given."""
        depths.check_kind(self.depth_kind)
        for folder in (self.depth, self.reshading):
            if folder is not None and not is_dir(folder):
                raise DataError(f"{folder} is not a folder")
        for each in corruptions:
            check_program(each.name, each.program)
            for name in each.needs:
                if not self._has(name):
                    instead = ", or of its depth for a substitute (--depth)" if name == "reshading" else ""
                    raise UsageError(
                        f"the corruption {each.name} needs {name}: name the folder of its files with "
                        f"--{name}{instead}, or in a card as {name} in the table [corruption]"
                    )

    def _has(self, name: str) -> bool:
        if name == "depth":
            return self.depth is not None
        if name == "reshading":
            return self.reshading is not None or self.depth is not None
        return name in self.shared

    def conventions(self, corruption: Corruption) -> dict[str, str]:
        """The corruption's inputs as the record of the written images names them."""
        said = {}
        if "depth" in corruption.needs:
            said["depth"] = self.depth_kind
        if "reshading" in corruption.needs:
            said["reshading"] = "files" if self.reshading is not None else SUBSTITUTE
        for name in sorted(set(corruption.needs) & set(self.shared)):
            arrays = [np.ascontiguousarray(each) for each in self.shared[name]]
            said[name] = sha256_bytes(b"".join(str(each.shape).encode() + each.tobytes() for each in arrays))
        if corruption.program:
            said["program"] = version_of(corruption.program)
        return said

    def folders(self, needed: Sequence[str]) -> dict[str, Path]:
        """The folders that are read for these entries of `extra`, with one file for each image."""
        folders = {}
        if self.depth is not None and (
            "depth" in needed or ("reshading" in needed and self.reshading is None)
        ):
            folders["depth"] = self.depth
        if self.reshading is not None and "reshading" in needed:
            folders["reshading"] = self.reshading
        return folders

    def first_files(self, manifest: Manifest, needed: Sequence[str]) -> dict[str, str | None]:
        """SHA-256 of the first image's file and of its file in each folder; None for an unusable one.

        They tell apart data sets and folders whose files have the same names.
        """
        digests: dict[str, str | None] = {"image": None}
        with contextlib.suppress(DataError):
            digests["image"] = sha256_bytes(manifest.open(0))
        for name, folder in self.folders(needed).items():
            path = depths.file_of(folder, manifest.ids[0])
            digests[name] = None
            with contextlib.suppress(DataError):
                digests[name] = sha256_bytes(read_bytes(path))
        return digests

    def encoded(self, opener: Opener, row: int, image_id: str, needed: Sequence[str]) -> EncodedImage:
        """The bytes of an image and of its files. Raises DataError naming the image's file."""
        beside: dict[str, bytes | DataError | None] = {}
        for name, folder in self.folders(needed).items():
            path = depths.file_of(folder, image_id)
            try:
                beside[name] = read_bytes(path) if is_file(path) else None
            except DataError as error:
                beside[name] = error
        return EncodedImage(opener.open(row), beside)

    def read(self, opener: Opener, row: int, image_id: str, needed: Sequence[str]) -> DecodedImage:
        """An image and its entries of `extra`. Raises DataError naming the image's file."""
        encoded = self.encoded(opener, row, image_id, needed)
        return self.decoded(encoded, opener.where(row), image_id, needed)

    def decoded(
        self, encoded: EncodedImage, where: str, image_id: str, needed: Sequence[str]
    ) -> DecodedImage:
        """The image and entries of `encoded`; raises as `read`. `where`: the image in messages."""
        with DECODED.waiting() as before:
            image = open_image(encoded.image, where, before=before)
            try:
                pixels = to_pixels(image, depths.PREPARATION)
            except DataError as error:
                raise DataError(f"{where}: {error}; replace or remove it") from None
        return DecodedImage(pixels, self._extra(encoded.beside, image_id, image.size, needed))

    def _extra(
        self,
        beside: Mapping[str, bytes | DataError | None],
        image_id: str,
        size: tuple[int, int],
        needed: Sequence[str],
    ) -> dict[str, Any]:
        extra: dict[str, Any] = {}
        for name, folder in self.folders(needed).items():
            path, data = depths.file_of(folder, image_id), beside[name]
            try:
                if isinstance(data, DataError):
                    extra[name] = data
                elif name == "depth":
                    extra[name] = depths.prepared_depth(path, image_id, size, self.depth_kind, data)
                else:
                    extra[name] = depths.prepared_reshading(path, image_id, size, data)
            except DataError as error:
                extra[name] = error
        if "reshading" in needed and self.reshading is None:
            depth = extra["depth"]
            extra["reshading"] = depth if isinstance(depth, DataError) else depths.shading_of_depth(depth)
        return extra


def needed_of(corruptions: Sequence[Corruption]) -> tuple[str, ...]:
    """Entries with a row per image."""
    return tuple(sorted({name for each in corruptions for name in each.needs if name in PER_IMAGE}))

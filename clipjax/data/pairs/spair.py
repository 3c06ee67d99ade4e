"""SPair-71k: pairs of objects of one class, with keypoints.

    PairAnnotation/test/<pair>.json       category, viewpoint_variation, box and size of the target
    ImageAnnotation/<class>/<image>.json  kps: {"0": [x, y] or null, ...}
    JPEGImages/<class>/<image>.jpg
    Segmentation/<class>/<image>.png      optional: no number depends on it

Prepared as in probe3d (evals/datasets/spair.py at a1f1464, use_bbox False): padded with white to a square at
the right and the bottom, then resized by PIL's bicubic filter. The reference shuffles files in the order of
its file system; here they are sorted by name first.
"""

from __future__ import annotations

import dataclasses
import functools
import random
from pathlib import PurePosixPath
from typing import Any, Self

import numpy as np
import PIL.Image
from etils import epath

from clipjax.data.manifest import Manifest
from clipjax.data.pairs.files import FilePairs, manifest_of, read_listed
from clipjax.data.pairs.matching import Matching
from clipjax.data.pairs.pair import Pair
from clipjax.data.pairs.poses import LARGEST
from clipjax.data.pixels.preprocess import open_image, to_rgb
from clipjax.data.readers.walk import list_folder
from clipjax.errors import DataError
from clipjax.storage.reading import is_dir, is_file, parse_json, read_bytes
from clipjax.storage.remote.buckets import as_path

PAIRS = "PairAnnotation"
ALL = "all"  # the group of pairs of every viewpoint
VIEWPOINTS = (0, 1, 2)


@dataclasses.dataclass(frozen=True)
class _Listed:
    """The contents of one file of PairAnnotation."""

    id: str
    file: str
    category: str
    viewpoint: int
    images: tuple[str, str]
    sizes: tuple[tuple[int, int], tuple[int, int]]
    box: tuple[float, float, float, float]

    @property
    def paths(self) -> tuple[str, str]:
        """Both images."""
        first, second = (f"JPEGImages/{self.category}/{name}.jpg" for name in self.images)
        return first, second

    @property
    def beside(self) -> tuple[str, ...]:
        """The files of annotations."""
        return self.file, *(f"ImageAnnotation/{self.category}/{name}.json" for name in self.images)


def read_pairs(root: epath.Path, matching: Matching, split: str, per_draw: int, seed: int) -> Manifest:
    """The pairs of a split that some draw takes, sorted by the names of their files.

    A draw shuffles the sorted pairs of one class, and of one viewpoint or all of them, with a generator of
    its own, and takes the first `per_draw`. Columns of the pairs: `category`, `viewpoint` (0, 1, 2), and
    `groups`, the draws of its class that take it ("0", "1", "2", "all").

    Args:
        split: "trn", "val" or "test".
        per_draw: 0 takes every pair.

    Raises:
        DataError: no such split; a file that is not a pair's; no image exists; a size that is not square.
    """
    if matching.size[0] != matching.size[1]:
        raise DataError(f"{root}: its images become squares: [matching] cannot have another size")
    contents: dict[str, str] = {}
    listed = _split(root, f"{PAIRS}/{split}", contents)
    groups = _groups(listed, per_draw, seed)
    kept = [each for each in listed if groups[each.id]]
    return manifest_of(
        SpairPairs(
            root=str(root),
            ids=tuple(each.id for each in kept),
            clusters=tuple(each.category for each in kept),
            images=tuple(each.paths for each in kept),
            files=tuple(each.beside for each in kept),
            columns={
                "category": [each.category for each in kept],
                "viewpoint": [each.viewpoint for each in kept],
                "groups": [groups[each.id] for each in kept],
            },
            matching=matching,
            listed=contents,
            sizes=tuple(each.sizes for each in kept),
            boxes=tuple(each.box for each in kept),
        ),
        "keypoints",
    )


def _groups(listed: list[_Listed], per_draw: int, seed: int) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {each.id: [] for each in listed}
    for category in sorted({each.category for each in listed}):
        of_class = [each for each in listed if each.category == category]
        for viewpoint in (*VIEWPOINTS, None):
            drawn = [each for each in of_class if viewpoint in (None, each.viewpoint)]
            random.Random(seed).shuffle(drawn)
            for each in drawn[: per_draw or None]:
                groups[each.id].append(ALL if viewpoint is None else str(viewpoint))
    return groups


def _split(root: epath.Path, folder: str, contents: dict[str, str]) -> list[_Listed]:
    if not is_dir(root / folder):
        raise DataError(f"{root / folder} does not exist; give the folder SPair-71k, with {PAIRS} in it")
    names = sorted(entry.name for entry in list_folder(root / folder) if entry.kind == "file")
    if not (names := [name for name in names if name.endswith(".json")]):
        raise DataError(f"{root / folder} has no pairs (.json)")
    listed = [_pair(root, f"{folder}/{name}", contents) for name in names]
    ids = [each.id for each in listed]
    if len(set(ids)) != len(ids):
        twice = max(ids, key=ids.count)
        raise DataError(f"{root / listed[ids.index(twice)].file}: another file has the pair {twice}, too")
    return listed


def _pair(root: epath.Path, file: str, contents: dict[str, str]) -> _Listed:
    path = root / file
    record = parse_json(read_listed(path, file, contents), path)
    name, category = record.get("filename"), record.get("category")
    viewpoint = record.get("viewpoint_variation")
    parts = name.split(":")[0].split("-") if isinstance(name, str) else []
    if len(parts) != 3 or not all(map(_is_name, parts)) or not _is_name(category):
        raise DataError(f"{path}: filename {name!r:.80} or the category is not a pair's")
    if type(viewpoint) is not int or viewpoint not in VIEWPOINTS:
        raise DataError(f"{path}: the pair {name}: viewpoint_variation {viewpoint!r} is not 0, 1 or 2")
    sizes = [_numbers(path, record, key, 3) for key in ("src_imsize", "trg_imsize")]
    if any(side < 1 for size in sizes for side in size[:2]):
        raise DataError(f"{path}: the pair {name}: a size of images is below 1 pixel")
    (a, b, _), (c, d, _) = sizes
    left, top, right, bottom = _numbers(path, record, "trg_bndbox", 4)
    return _Listed(
        str(name),
        file,
        str(category),
        viewpoint,
        (parts[1], parts[2]),
        ((int(a), int(b)), (int(c), int(d))),
        (left, top, right, bottom),
    )


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value not in ("", ".", "..") and "/" not in value and "\0" not in value


def _is_point(value: Any, count: int) -> bool:
    if not isinstance(value, list) or len(value) != count:
        return False
    return all(type(v) in (int, float) and abs(v) < LARGEST for v in value)


def _numbers(path: epath.Path, record: dict[str, Any], key: str, count: int) -> list[float]:
    if not _is_point(record.get(key), count):
        raise DataError(f"{path}: {key!r} is not a list of {count} numbers")
    return record[key]


@dataclasses.dataclass(frozen=True, eq=False)
class SpairPairs(FilePairs):
    """`sizes`: (width, height) of each pair's images; `boxes`: left, top, right, bottom of its target."""

    sizes: tuple[tuple[tuple[int, int], tuple[int, int]], ...]
    boxes: tuple[tuple[float, float, float, float], ...]

    def select(self, rows: Any) -> Self:
        sizes, boxes = (tuple(each[i] for i in rows) for each in (self.sizes, self.boxes))
        return dataclasses.replace(super().select(rows), sizes=sizes, boxes=boxes)

    def load(self, i: int) -> Pair:
        geometry = self._geometry(i)
        pixels = []
        for k, encoded in enumerate(self.open(i)):
            image = to_rgb(open_image(encoded, self._image_name(i, k)))
            self._check_size(i, k, image)
            pixels.append(_squared(image, self.matching.size[0]))
        return Pair(self.normalised(pixels), geometry)

    def _geometry(self, i: int) -> dict[str, np.ndarray]:
        keypoints = np.zeros((2, self._most, 2), np.float32)
        visible = np.ones(self._most, bool)
        for k in range(2):
            file = self.files[i][1 + k]
            there = np.zeros(self._most, bool)
            for number, (x, y) in self._keypoints(i, file).items():
                # In whole pixels before and after: the reference keeps them as int32.
                side, longest = self.matching.size[0], max(self.sizes[i][k])
                keypoints[k, number] = np.trunc([int(x) * side / longest, int(y) * side / longest])
                there[number] = True
            visible &= there
        if not visible.any():
            raise DataError(
                f"{self.where(i)}: {self.file(i, self.files[i][0])}: no keypoint is in both images"
            )
        left, top, right, bottom = self.boxes[i]
        extent = max(right - left, bottom - top) / max(self.sizes[i][1])
        if extent <= 0:
            raise DataError(f"{self.where(i)}: {self.files[i][0]}: the target's box is empty")
        return {"keypoints": keypoints, "visible": visible, "extent": np.array(extent, np.float32)}

    @property
    def _most(self) -> int:
        assert self.matching.keypoints is not None
        return self.matching.keypoints

    def _keypoints(self, i: int, file: str) -> dict[int, tuple[float, float]]:
        """Number -> x, y in pixels of the image, without those that are null."""
        path = self.file(i, file)
        named = parse_json(self.read(i, file), path).get("kps")
        if not isinstance(named, dict):
            raise DataError(f"{self.where(i)}: {path} has no keypoints (kps)")
        points = {}
        for number, point in named.items():
            if not number.isdecimal() or int(number) >= self._most:
                raise DataError(
                    f"{self.where(i)}: {path}: the keypoint {number!r} is not a number below "
                    f"{self._most}, the number of keypoints in [matching]"
                )
            if point is None:
                continue
            if not _is_point(point, 2):
                raise DataError(f"{self.where(i)}: {path}: the keypoint {number} is not [x, y] or null")
            points[int(number)] = tuple(point)
        return points

    def _image_name(self, i: int, k: int) -> str:
        return f"{self.where(i)}: {self.images[i][k]}"

    def _check_size(self, i: int, k: int, image: PIL.Image.Image) -> None:
        if image.size != self.sizes[i][k]:
            sizes = [f"{width} x {height}" for width, height in (image.size, self.sizes[i][k])]
            raise DataError(f"{self._image_name(i, k)} has {sizes[0]} pixels; its annotation says {sizes[1]}")

    def problems(self, i: int) -> list[str]:
        """What is wrong with a pair, a sentence each. Resizes no image: a pair costs a tenth of `load`."""
        problems, of_image = [], (self._check_image, self._check_mask)
        checks = [functools.partial(check, k=k) for k in range(2) for check in of_image]
        for check in (self._geometry, *checks):
            try:
                check(i)
            except DataError as error:
                problems.append(str(error))
        return problems

    def _check_image(self, i: int, k: int) -> None:
        path = self.file(i, self.images[i][k])

        def shrink(image: PIL.Image.Image) -> int:
            self._check_size(i, k, image)
            return 8

        open_image(read_bytes(path), self._image_name(i, k), shrink=shrink)

    def _check_mask(self, i: int, k: int) -> None:
        image = PurePosixPath(self.images[i][k])
        path = epath.Path(as_path(self.root)) / f"Segmentation/{image.parent.name}/{image.stem}.png"
        if not is_file(path):
            return
        size = open_image(read_bytes(path), f"{self.where(i)}: {path}").size
        if size != self.sizes[i][k]:
            sizes = [f"{width} x {height}" for width, height in (size, self.sizes[i][k])]
            raise DataError(f"{self.where(i)}: the mask {path} has {sizes[0]} pixels, its image {sizes[1]}")


def _squared(image: PIL.Image.Image, side: int) -> np.ndarray:
    """Padded with white at the right and the bottom, then resized: uint8 [side, side, 3]."""
    longest = max(image.size)
    square = PIL.Image.new("RGB", (longest, longest), (255, 255, 255))
    square.paste(image)
    return np.asarray(square.resize((side, side), PIL.Image.Resampling.BICUBIC))

"""Pairs of NAVI's images, v1.0 and v1.5: one object in two places, with depth and cameras.

    <object>/wild_set/{annotations.json, images/000.jpg, depth/000.png, masks/000.png}
    <object>/multiview-00-pixel_5/..., or multiview_00_pixel_5/...
    custom_splits/pairwise_pixel_correspondences/pairs-wild_set.txt: path 1, path 2, angle

Prepared as in probe3d (evals/datasets/navi.py and data_processing/resize_navi.py at a1f1464): see
`clipjax.data.pairs.navi_view` for one image. The motion takes points from camera 0 to camera 1, in metres.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
from etils import epath

from clipjax.data.manifest import Manifest
from clipjax.data.pairs.depth import check_points, decode_depth
from clipjax.data.pairs.files import FilePairs, manifest_of, read_listed
from clipjax.data.pairs.matching import Matching
from clipjax.data.pairs.navi_view import PREPARED, View, mask_problem, view_of
from clipjax.data.pairs.pair import Pair
from clipjax.data.pairs.poses import angle_of
from clipjax.data.readers.walk import list_folder
from clipjax.errors import DataError
from clipjax.storage.reading import check_exists, is_dir, is_file, parse_json, read_text
from clipjax.storage.remote.buckets import as_path

LISTS = "custom_splits/pairwise_pixel_correspondences/pairs-{}.txt"
OFFICIAL = ("wild_set", "multiview")


class _Name(NamedTuple):
    """An image of a list: object, scene as it is spelled on disk, and 000."""

    object: str
    scene: str
    stem: str

    @property
    def folder(self) -> str:
        return f"{self.object}/{self.scene}"


@dataclasses.dataclass(frozen=True)
class _Scene:
    """`files`: 000 -> name in images/, prepared if there is one. `views`: 000 -> a view, or what is wrong."""

    files: Mapping[str, str]
    views: Mapping[str, View | str]


def read_pairs(root: epath.Path, matching: Matching, pairs: str, crop: bool) -> Manifest:
    """Every pair of a list, in its order.

    Columns of the pairs: `angle`, between the cameras in degrees (null where an annotation is unusable), and
    `listed_angle`, where each line has one.

    Args:
        pairs: "wild_set" or "multiview" (the official lists), or a file of lines of that form: a path
            relative to the root, or an absolute one.
        crop: to the object's box.

    Raises:
        DataError: a list, or annotations.json, missing or malformed; a pair twice or of two objects; a scene
            that does not exist; no image exists; a size that is not square.
    """
    if matching.size[0] != matching.size[1]:
        raise DataError(f"{root}: its images become squares: [matching] cannot have another size")
    lines = list(_lines(root, _list_file(root, pairs)))
    names = [name for _, a, b, _ in lines for name in (a, b)]
    scenes: dict[str, _Scene] = {}
    listed: dict[str, str] = {}
    for name in names:
        if name.folder not in scenes:
            scenes[name.folder] = _scene(root, name.folder, listed)
    ids: dict[str, None] = {}
    for where, a, b, _ in lines:
        pair = f"{a.folder}/{a.stem} {b.folder}/{b.stem}"
        if pair in ids:
            raise DataError(f"{where}: the pair {pair} is listed twice")
        ids[pair] = None
    navi_pairs = NaviPairs(
        root=str(root),
        ids=tuple(ids),
        clusters=tuple(a.object for _, a, _, _ in lines),
        images=tuple((_image(scenes, a), _image(scenes, b)) for _, a, b, _ in lines),
        files=tuple((*_beside(scenes, a), *_beside(scenes, b)) for _, a, b, _ in lines),
        columns={},
        matching=matching,
        listed=listed,
        views={_image(scenes, name): _view(scenes, name) for name in names},
        crop=crop,
    )
    angles = [angle for *_, angle in lines]
    columns = {"angle": navi_pairs.angles()} | ({} if None in angles else {"listed_angle": angles})
    return manifest_of(dataclasses.replace(navi_pairs, columns=columns), "geometric")


def _list_file(root: epath.Path, pairs: str) -> epath.Path:
    if pairs in OFFICIAL:
        path = root / LISTS.format(pairs)
        hint = "give the folder with NAVI's objects and custom_splits, or a file as the option pairs"
    else:
        path = epath.Path(as_path(pairs)).expanduser()
        path = path if path.is_absolute() or "://" in pairs else root / pairs
        hint = f"the option pairs is {' or '.join(OFFICIAL)}, or a file of pairs"
    check_exists(path, f": {hint}")
    return path


def _lines(root: epath.Path, path: epath.Path) -> Iterator[tuple[str, _Name, _Name, float | None]]:
    """Yield place, image 0, image 1, angle. Raises DataError with file and line; also for no lines."""
    number, spelled = 0, dict[str, str]()
    for number, line in enumerate(read_text(path).splitlines(), 1):
        where, parts = f"{path}:{number}", line.split()
        if not parts:
            continue
        if len(parts) not in (2, 3):
            raise DataError(f"{where}: expected two image paths and an angle, found {line[:80]!r}")
        try:
            angle = float(parts[2]) if len(parts) == 3 else None
        except ValueError:
            angle = np.nan
        if angle is not None and not 0 <= angle <= 180:
            raise DataError(f"{where}: the angle {parts[2]!r} is not a number of degrees from 0 to 180")
        a, b = (_name(root, text, where, spelled) for text in parts[:2])
        if a.object != b.object:
            raise DataError(f"{where}: a pair of two objects, {a.object} and {b.object}")
        yield where, a, b, angle
    if not spelled:
        raise DataError(f"{path} lists no pairs")


def _name(root: epath.Path, text: str, where: str, spelled: dict[str, str]) -> _Name:
    """`<object>/<scene>/images/000.jpg`, below any folder, the scene in either spelling."""
    parts = [part for part in PurePosixPath(text).parts if part not in (".", "images")]
    if len(parts) < 3 or ".." in parts:
        raise DataError(f"{where}: {text!r} is not <object>/<scene>/images/<number>.jpg")
    thing, scene, file = parts[-3:]
    folder = f"{thing}/{scene}"
    if folder not in spelled:
        for each in (scene, _respelled(scene, "-", "_"), _respelled(scene, "_", "-")):
            if is_dir(root / thing / each):
                spelled[folder] = each
                break
        else:
            raise DataError(f"{where}: the scene {folder} does not exist in {root}")
    return _Name(thing, spelled[folder], file.split(".")[0].removeprefix(PREPARED))


def _respelled(scene: str, old: str, new: str) -> str:
    return scene.replace(f"multiview{old}", f"multiview{new}")


def _scene(root: epath.Path, folder: str, listed: dict[str, str]) -> _Scene:
    file = f"{folder}/annotations.json"
    path, views = root / file, {}
    for i, record in enumerate(parse_json(read_listed(path, file, listed), path, list)):
        name = record.get("filename") if isinstance(record, dict) else None
        if not isinstance(name, str):
            raise DataError(f"{path}: image {i} (counted from 0) has no 'filename'")
        try:
            views[name.split(".")[0]] = view_of(record)
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            views[name.split(".")[0]] = f"{path}: {name}: {_reason(error)}"
    images = root / folder / "images"
    entries = list_folder(images) if is_dir(images) else []
    names = sorted(entry.name for entry in entries if entry.kind == "file")
    raw = {name.split(".")[0]: name for name in names if not name.startswith(PREPARED)}
    small = {name.removeprefix(PREPARED).split(".")[0]: name for name in names if name.startswith(PREPARED)}
    return _Scene(raw | small, views)


def _reason(error: Exception) -> str:
    return f"the key {error} is missing" if isinstance(error, KeyError) else str(error)


def _image(scenes: Mapping[str, _Scene], name: _Name) -> str:
    return f"{name.folder}/images/{scenes[name.folder].files.get(name.stem, f'{name.stem}.jpg')}"


def _view(scenes: Mapping[str, _Scene], name: _Name) -> View | str:
    missing = f"{name.folder}/annotations.json has no image {name.stem}"
    return scenes[name.folder].views.get(name.stem, missing)


def _beside(scenes: Mapping[str, _Scene], name: _Name) -> tuple[str, str]:
    image = PurePosixPath(_image(scenes, name))
    return f"{name.folder}/annotations.json", f"{name.folder}/depth/{image.stem}.png"


@dataclasses.dataclass(frozen=True, eq=False)
class NaviPairs(FilePairs):
    """`views`: image id -> its camera, or what is wrong with its annotation."""

    views: dict[str, View | str]
    crop: bool

    def view(self, i: int, k: int) -> View:
        """Raises DataError for an unusable annotation."""
        view = self.views[self.images[i][k]]
        if isinstance(view, str):
            raise DataError(f"{self.where(i)}: {view}")
        return view

    def motion(self, i: int) -> np.ndarray:
        """The motion from camera 0 to camera 1, float64 [4, 4]."""
        return self.view(i, 1).pose @ np.linalg.inv(self.view(i, 0).pose)

    def angles(self) -> list[float | None]:
        angles: list[float | None] = []
        for i in range(len(self)):
            known = not any(isinstance(self.views[name], str) for name in self.images[i])
            angles.append(angle_of(self.motion(i)) if known else None)
        return angles

    def load(self, i: int) -> Pair:
        pixels, points, focal = [], [], 0.0
        for k, encoded in enumerate(self.open(i)):
            view, prepared = self.view(i, k), self._is_prepared(i, k)
            file, side = self.files[i][1 + 2 * k], self.matching.size[0]
            where = f"{self.where(i)}: {self.file(i, file)}"
            disparity = decode_depth(self.read(i, file), where)
            image = view.open(encoded, f"{self.where(i)}: {self.images[i][k]}", prepared)
            made = view.prepare(image, disparity, side, self.crop, prepared, where)
            pixels.append(made.pixels)
            points.append(self._on_grid(made.points))
            focal = made.focal  # the errors in pixels are those of image 1
        geometry: dict[str, Any] = {
            "points": np.stack(points),
            "intrinsics": np.diag([focal, focal, 1]),
            "motion": self.motion(i),
        }
        check_points(geometry["points"], self.where(i))
        return Pair(self.normalised(pixels), {key: each.astype(np.float32) for key, each in geometry.items()})

    def _on_grid(self, points: np.ndarray) -> np.ndarray:
        rows, columns = self.grid
        return points[:: self.matching.size[0] // rows, :: self.matching.size[1] // columns]

    def _is_prepared(self, i: int, k: int) -> bool:
        return PurePosixPath(self.images[i][k]).name.startswith(PREPARED)

    def preparation(self) -> dict[str, object]:
        return super().preparation() | {"crop": self.crop, "pillow": PIL.__version__}

    def problems(self, i: int) -> list[str]:
        problems = super().problems(i)
        for k in range(2):
            image = PurePosixPath(self.images[i][k])
            mask = f"{image.parent.parent}/masks/{image.stem.removeprefix(PREPARED)}.png"
            view = self.views[str(image)]
            if isinstance(view, View) and is_file(path := epath.Path(as_path(self.root)) / mask):
                problems += mask_problem(path, view, self.where(i))
        return problems

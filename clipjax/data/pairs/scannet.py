"""Pairs of ScanNet's test scenes in the layout `scannet_test_1500` of SuperGlue and LoFTR.

    test.npz                 name: uint16 [N, 4] = room, scan, frame 0, frame 1; rel_pose: float32 [N, 12]
    intrinsics.npz           scene0707_00, ...: float64 [3, 3], for images of 640 x 480 pixels
    scene0707_00/color/15.jpg, depth/15.png (millimetres), pose/15.txt (camera to world)

Prepared as in probe3d (evals/datasets/scannet_pairs.py at a1f1464): colour is resized by PIL's bilinear
filter, depth is read at every fourth pixel, and the motion is inverse(pose 1) pose 0.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping

import numpy as np
import PIL.Image
from etils import epath

from clipjax.data.manifest import Manifest
from clipjax.data.pairs.depth import check_points, decode_depth, unproject
from clipjax.data.pairs.files import FilePairs, manifest_of, read_listed
from clipjax.data.pairs.matching import Matching
from clipjax.data.pairs.pair import Pair
from clipjax.data.pairs.poses import LARGEST, angle_of, check_motion
from clipjax.data.pixels.preprocess import open_image, to_rgb
from clipjax.errors import DataError
from clipjax.storage.reading import check_exists, decode_text

PAIRS, INTRINSICS = "test.npz", "intrinsics.npz"
_APART = 1.0  # degrees between the two sources of a pair's motion: rounding is far below


def read_pairs(root: epath.Path, matching: Matching) -> Manifest:
    """Every pair of test.npz, in its order. Columns of the pairs: `angle`, of test.npz's motion, in degrees.

    Raises:
        DataError: a file missing or malformed, a pair twice, a scene without intrinsics; no image exists.
    """
    listed: dict[str, str] = {}
    names, motions = _listed(root / PAIRS, listed)
    arrays = _arrays(root / INTRINSICS, listed)
    scenes = [f"scene{room:04d}_{scan:02d}" for room, scan, _, _ in names]
    intrinsics = {scene: _intrinsics(root / INTRINSICS, arrays, scene) for scene in dict.fromkeys(scenes)}
    frames = [(f"{scene}/{a}", f"{scene}/{b}") for scene, (_, _, a, b) in zip(scenes, names)]
    ids = [f"{scene}/{a}-{b}" for scene, (_, _, a, b) in zip(scenes, names)]
    if len(set(ids)) != len(ids):
        raise DataError(f"{root / PAIRS}: the pair {max(ids, key=ids.count)} is listed twice")
    pairs = ScanNetPairs(
        root=str(root),
        ids=tuple(ids),
        clusters=tuple(scenes),
        images=tuple((_beside(a, "color", "jpg"), _beside(b, "color", "jpg")) for a, b in frames),
        files=tuple(
            (INTRINSICS, *(_beside(f, *kind) for f in both for kind in (("depth", "png"), ("pose", "txt"))))
            for both in frames
        ),
        columns={"angle": [_angle(root / PAIRS, *each) for each in zip(ids, motions)]},
        matching=matching,
        listed=listed,
        intrinsics=intrinsics,
    )
    return manifest_of(pairs, "geometric")


def _angle(path: epath.Path, pair: str, motion: np.ndarray) -> float:
    try:
        return angle_of(motion)
    except ValueError as error:
        raise DataError(f"{path}: the motion of {pair}: {error}") from None


def _beside(frame: str, folder: str, ending: str) -> str:
    """scene0707_00/15 -> scene0707_00/color/15.jpg."""
    scene, number = frame.split("/")
    return f"{scene}/{folder}/{number}.{ending}"


def _listed(path: epath.Path, listed: dict[str, str]) -> tuple[np.ndarray, np.ndarray]:
    """The names and the motions, [N, 4] and [N, 3, 4]."""
    arrays = _arrays(path, listed)
    for name, width in (("name", 4), ("rel_pose", 12)):
        array = arrays.get(name)
        if array is None or array.ndim != 2 or array.shape[1] != width or array.dtype.kind not in "uif":
            raise DataError(f"{path}: expected the array {name!r} of {width} numbers per pair")
    names, motions = arrays["name"], arrays["rel_pose"]
    if len(names) == 0 or len(names) != len(motions):
        raise DataError(f"{path}: {len(names)} names and {len(motions)} motions; expected one of each a pair")
    if names.dtype.kind not in "ui" or names.min() < 0 or not np.abs(motions).max() < LARGEST:
        raise DataError(f"{path}: a name has whole numbers from 0, a motion finite numbers")
    return names, motions.reshape(-1, 3, 4)


def _arrays(path: epath.Path, listed: dict[str, str]) -> Mapping[str, np.ndarray]:
    check_exists(path, "; give the folder scannet_test_1500, with test.npz in it")
    try:
        with np.load(io.BytesIO(read_listed(path, path.name, listed)), allow_pickle=False) as arrays:
            values = {name: arrays[name] for name in arrays.files}
    except DataError:
        raise
    except Exception as error:  # NumPy raises nearly anything on a damaged header: TokenError, ...
        raise DataError(f"{path} is not an npz of arrays ({error}); fetch it again") from None
    if wrong := [name for name, value in values.items() if not isinstance(value, np.ndarray)]:
        raise DataError(f"{path}: {wrong[0]!r} is not an array; fetch it again")
    return values


def _intrinsics(path: epath.Path, arrays: Mapping[str, np.ndarray], scene: str) -> np.ndarray:
    matrix = arrays.get(scene)
    if matrix is None or matrix.shape != (3, 3) or matrix.dtype.kind != "f":
        raise DataError(f"{path}: expected a 3 x 3 matrix for {scene}")
    # A camera: [[fx, skew, cx], [0, fy, cy], [0, 0, 1]]. NaN is not bounded.
    bounded = np.abs(matrix).max() < LARGEST
    focal = min(matrix[0, 0], matrix[1, 1])
    below = (matrix[1, 0], *matrix[2])
    if not bounded or focal <= 0 or below != (0, 0, 0, 1):
        raise DataError(f"{path}: the matrix of {scene} is not that of a camera")
    return matrix.astype(np.float64)


@dataclasses.dataclass(frozen=True, eq=False)
class ScanNetPairs(FilePairs):
    """`intrinsics`: scene -> float64 [3, 3], in pixels of `matching.size`."""

    intrinsics: dict[str, np.ndarray]

    def load(self, i: int) -> Pair:
        poses, depths, pixels = [], [], []
        for k, encoded in enumerate(self.open(i)):
            _, depth, pose = self.files[i][0], *self.files[i][1 + 2 * k : 3 + 2 * k]
            poses.append(self._pose(i, pose))
            depths.append(self._depth(i, depth))
            pixels.append(self._pixels(i, k, encoded))
        height, width = self.matching.size
        rows, columns = self.grid
        scale = np.diag([columns / width, rows / height, 1])
        intrinsics = scale @ self.intrinsics[self.clusters[i]]
        points = np.stack(
            [unproject(each[:: height // rows, :: width // columns], intrinsics) for each in depths]
        )
        check_points(points, self.where(i))
        motion = np.linalg.inv(poses[1]) @ poses[0]
        self._check_angle(i, motion)
        geometry = {"points": points, "intrinsics": intrinsics, "motion": motion}
        return Pair(self.normalised(pixels), {key: each.astype(np.float32) for key, each in geometry.items()})

    def _check_angle(self, i: int, motion: np.ndarray) -> None:
        """The bins rely on test.npz, the errors on the poses: both must be of one motion."""
        turned, listed = angle_of(motion), self.columns["angle"][i]
        if abs(turned - listed) > _APART:
            raise DataError(
                f"{self.where(i)}: its poses are {turned:g} degrees apart, and {PAIRS} says {listed:g}"
            )

    def _pose(self, i: int, name: str) -> np.ndarray:
        path = self.file(i, name)
        lines = decode_text(self.read(i, name), path).splitlines()
        try:
            pose = np.array([line.split() for line in lines if line.strip()], np.float64)
            check_motion(pose)
        except ValueError as error:
            raise DataError(f"{self.where(i)}: {path}: {error}") from None
        return pose

    def _depth(self, i: int, name: str) -> np.ndarray:
        """The depth in metres, [H, W]."""
        path = self.file(i, name)
        millimetres = decode_depth(self.read(i, name), f"{self.where(i)}: {path}")
        if millimetres.shape != self.matching.size:
            sizes = [f"{width} x {height}" for height, width in (millimetres.shape, self.matching.size)]
            raise DataError(f"{self.where(i)}: {path} has {sizes[0]} pixels; expected {sizes[1]}")
        if not millimetres.any():
            raise DataError(f"{self.where(i)}: {path}: all depths are 0")
        return millimetres / 1000

    def _pixels(self, i: int, k: int, encoded: bytes) -> np.ndarray:
        height, width = self.matching.size
        image = to_rgb(open_image(encoded, f"{self.where(i)}: {self.images[i][k]}"))
        return np.asarray(image.resize((width, height), PIL.Image.Resampling.BILINEAR))

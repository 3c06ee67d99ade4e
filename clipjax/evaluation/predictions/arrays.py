"""Predictions as logits in an .npz: a task describes them like features, with the identity as head."""

from __future__ import annotations

import dataclasses
import math
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np

from clipjax.data.labels import LabelSpace, load_projection
from clipjax.errors import DataError
from clipjax.evaluation.predictions.checks import check_named
from clipjax.evaluation.predictions.file import PredictionsFile, PredictionTable, check_ids, with_file
from clipjax.heads.head import identity_head
from clipjax.storage.reading import check_regular
from clipjax.tasks.inputs import ImageInputs

LOGITS = ("logits", "cosines")  # suffixes of the arrays of numbers [N, K]
EXACT = 2**53  # float64 holds every whole number up to this one
# How far rounding may take a cosine beyond -1 and 1.
ROUNDING = 1e-3
# Arrays over MAX_UNPACKED bytes may unpack to this many times their packed bytes.
MAX_UNPACKED = 2**30
MAX_RATIO = 50
_HEADER_2 = np.lib.format.read_array_header_2_0
UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    NotImplementedError,
    RuntimeError,
)


def read_arrays(file: PredictionsFile) -> PredictionTable:
    arrays = _load_arrays(file.path, file.task.predictions.arrays, file.task.name)
    logits = {
        name: _numbers(file.path, name, values) for name, values in arrays.items() if name.endswith(LOGITS)
    }
    if all(values.dtype == np.float32 for values in logits.values()):
        return _contents(file, arrays | logits)
    # One dtype for all: scores of both sides are compared. Without x64 JAX would narrow them to float32.
    logits = {name: values.astype(np.float64) for name, values in logits.items()}
    with jax.enable_x64(True):
        return _contents(file, arrays | logits)


def _contents(file: PredictionsFile, arrays: dict[str, np.ndarray]) -> PredictionTable:
    if file.task.tells_apart:
        return _two_sides(file, arrays)
    main = _inputs(file, arrays, file.task.predictions.prefix, file.dataset, file.space)
    if all(main.columns.get("calibration", [False])):
        raise DataError(f"{file.path}: all images are marked for calibration, none is left to measure")
    known = None
    if "id_logits" in arrays:
        known = _inputs(file, arrays, "id_", f"{file.dataset} (calibration)", file.columns_of)
        main = dataclasses.replace(main, id=known)
    elif "id" in file.task.needs:
        main = dataclasses.replace(main, id=main)
    columns = with_file(file.path, {}, lambda: file.task.describe(main))
    id_ids = known.ids if known is not None else None
    return PredictionTable(
        {"id": list(main.ids), **columns}, main.label_space, main.projection, main.ids, id_ids
    )


def _two_sides(file: PredictionsFile, arrays: dict[str, np.ndarray]) -> PredictionTable:
    """All logits are over the classes of the ID images."""
    path, side, made = file.path, file.task.predictions.prefix, file.task.predictions.of_cosines
    known = _inputs(file, arrays, "id_", "in_distribution", file.columns_of)
    main = _inputs(file, arrays, side, file.dataset, file.columns_of)
    _check_sides(path, side, known.features, main.features)
    more, m, name = {}, len(main.ids), f"{side}class"
    if name in arrays:
        more[name] = _texts(path, arrays, name, m)
        check_named(file, name, more[name], [True] * m)
    main = dataclasses.replace(main, id=known, columns=more)
    columns = with_file(path, {}, lambda: file.task.describe(main))
    if {"id_cosines", f"{side}cosines"} & arrays.keys():
        both = (_cosines(path, arrays, *each) for each in (("id_", known), (side, main)))
        cosines = np.concatenate(list(both))
        columns |= {name: np.asarray(score(cosines)) for name, score in made.items()}
    return PredictionTable(columns, known.label_space, None, main.ids, known.ids)


def _check_sides(path: Path, side: str, known: np.ndarray, others: np.ndarray) -> None:
    """Raises DataError if both sides have other classes or the same images."""
    if known.shape[1] != others.shape[1]:
        raise DataError(
            f"{path}: id_logits has {known.shape[1]} columns, but {side}logits {others.shape[1]}; give both "
            "over the same classes"
        )
    if {row.tobytes() for row in others} <= {row.tobytes() for row in known}:
        raise DataError(
            f"{path}: each row of {side}logits is a row of id_logits, too; give the logits of other images "
            f"as {side}logits"
        )


def _cosines(path: Path, arrays: dict[str, np.ndarray], side: str, logits: ImageInputs) -> np.ndarray:
    cosines, shape = _logits(path, arrays, f"{side}cosines"), logits.features.shape
    if cosines.shape != shape:
        raise DataError(f"{path}: {side}cosines has shape {cosines.shape}, {side}logits {shape}")
    beyond = np.flatnonzero((abs(cosines) > 1 + ROUNDING).any(axis=1))
    if beyond.size:
        row = cosines[beyond[0]]
        raise DataError(
            f"{path}: row {beyond[0]} of {side}cosines holds {row[abs(row).argmax()]:g}, and a cosine is "
            "-1 to 1; give cosines before any scale, not logits"
        )
    return cosines


def _inputs(
    file: PredictionsFile, arrays: dict[str, np.ndarray], prefix: str, dataset: str, space: LabelSpace | None
) -> ImageInputs:
    """The features are logits; `space`: of the labels."""
    path, logits = file.path, _logits(file.path, arrays, f"{prefix}logits")
    n, k = logits.shape
    numbers = tuple(map(str, range(k)))
    of = file.columns_of or LabelSpace("numbered", numbers, numbers)
    if len(of) != k:
        raise DataError(f"{path}: {prefix}logits has {k} columns, but {of.name} has {len(of)} classes")
    space = space or of
    names = [f"{row:08d}" for row in range(n)]
    if f"{prefix}ids" in arrays:
        names = _texts(path, arrays, f"{prefix}ids", n)
    check_ids(path, names)
    columns = {}
    if f"{prefix}calibration" in arrays:
        columns["calibration"] = _marks(path, arrays, f"{prefix}calibration", n)
    return ImageInputs(
        ids=names,
        features=logits,
        labels=_labels(path, arrays, f"{prefix}labels", n, space),
        head=identity_head(of),
        label_space=space,
        projection=load_projection(of, space),
        columns=columns,
        dataset=dataset,
        annotations=file.about.annotations,
        resamples=file.about.resamples,
        seed=file.about.seed,
    )


def _texts(path: Path, arrays: dict[str, np.ndarray], name: str, n: int) -> list[str]:
    if arrays[name].shape != (n,):
        raise DataError(f"{path}: {name} has shape {arrays[name].shape}; give one for each of {n} images")
    return arrays[name].astype(str).tolist()


def _marks(path: Path, arrays: dict[str, np.ndarray], name: str, n: int) -> list[bool]:
    if arrays[name].shape != (n,) or arrays[name].dtype != np.bool_:
        raise DataError(
            f"{path}: {name} is {arrays[name].dtype} of shape {arrays[name].shape}; give {n} bools"
        )
    if not arrays[name].any():
        raise DataError(f"{path}: no image is marked in {name}; mark those to fit T on")
    return arrays[name].tolist()


def _logits(path: Path, arrays: dict[str, np.ndarray], name: str) -> np.ndarray:
    if name not in arrays:
        raise DataError(f"{path}: there is no {name!r}, but its other half is there")
    return arrays[name]


def _numbers(path: Path, name: str, values: np.ndarray) -> np.ndarray:
    """[N, K]: float16 and float32 as float32, others as float64.

    Raises DataError if not numbers [N, K], not finite, or not exact in float64, where two may become equal.
    """
    if values.ndim != 2 or values.dtype.kind not in "fiu" or not values.size:
        raise DataError(f"{path}: {name} is {values.dtype} of shape {values.shape}; give numbers [N, K]")
    wrong = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if wrong.size:
        raise DataError(f"{path}: row {wrong[0]} of {name} holds NaN or infinity")
    if values.dtype.kind == "f" and values.dtype.itemsize <= 4:
        return values.astype(np.float32)
    with np.errstate(over="ignore", under="ignore"):
        exact = values.astype(np.float64)
    if values.dtype.kind == "f":
        rounded = exact.astype(values.dtype) != values
    else:
        rounded = (values > EXACT) | (values < -EXACT)
    if (rows := np.flatnonzero(rounded.any(axis=1))).size:
        number = values[rows[0]][rounded[rows[0]]][0]
        raise DataError(
            f"{path}: row {rows[0]} of {name} holds {number!s}, which float64 may round; give float64"
        )
    return exact


def _labels(
    path: Path, arrays: dict[str, np.ndarray], name: str, n: int, space: LabelSpace
) -> np.ndarray | None:
    if name not in arrays:
        return None
    values = arrays[name]
    if values.shape != (n,) or values.dtype.kind not in "iu":
        raise DataError(f"{path}: {name} is {values.dtype} of shape {values.shape}; give {n} whole numbers")
    outside = np.flatnonzero((values < 0) | (values >= len(space)))
    if outside.size:
        raise DataError(
            f"{path}: row {outside[0]} of {name} is {values[outside[0]]}, outside the {len(space)} classes "
            f"of {space.name!r}"
        )
    return values.astype(np.int32)


def _load_arrays(path: Path, known: Mapping[str, bool], task: str) -> dict[str, np.ndarray]:
    arrays = _read_npz(path)
    missing = [name for name, needed in known.items() if needed and name not in arrays]
    unknown = sorted(arrays.keys() - known.keys())
    if missing or unknown:
        what = f"no array {missing[0]!r}" if missing else f"an unknown array {unknown[0]!r}"
        raise DataError(f"{path} has {what}; those of {task!r} are {', '.join(known)}")
    return arrays


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    """NumPy's own messages are left out: they advise allowing pickles."""
    save = "save it again with np.savez(file, name=array, ...)"
    check_regular(path)
    with path.open("rb") as stream:
        try:
            file = np.load(stream, allow_pickle=False)
        except UNREADABLE:
            raise DataError(f"{path} is not an .npz of plain arrays, or it is cut short; {save}") from None
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise DataError(f"{path} is not an .npz of plain arrays but a single array (.npy); {save}")
        with file:
            _check_headers(path, file)
            return {name: _read_array(path, file, name) for name in file.files}


def _check_headers(path: Path, file: np.lib.npyio.NpzFile) -> None:
    """Raises DataError before an array is read.

    A header may contradict the bytes or declare Python objects; a file may unpack to far more than its size.
    """
    total, archive = 0, cast(zipfile.ZipFile, file.zip)
    for info in archive.infolist():
        name = info.filename.removesuffix(".npy")
        try:
            with archive.open(info) as member:
                version = np.lib.format.read_magic(member)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else _HEADER_2
                shape, _, dtype = read(member)
                declared = member.tell() + math.prod(shape) * dtype.itemsize
        except Exception:  # NumPy parses the header as Python: nearly anything is raised
            raise _damaged(path, name) from None
        if dtype.hasobject or declared != info.file_size:
            raise _damaged(path, name)
        total += declared
    packed = sum(info.compress_size for info in archive.infolist())
    if total > MAX_UNPACKED and total > MAX_RATIO * packed:
        raise DataError(
            f"{path}: {packed:,} bytes unpack to {total:,}, which no predictions do; save it with np.savez"
        )


def _damaged(path: Path, name: str) -> DataError:
    return DataError(
        f"{path} is not an .npz of plain arrays: {name!r} is damaged or holds Python objects; give "
        "numbers, bools or texts (array.astype(str))"
    )


def _read_array(path: Path, file: Mapping[str, Any], name: str) -> np.ndarray:
    try:
        array = file[name]
    except UNREADABLE:
        array = None
    if not isinstance(array, np.ndarray):  # NumPy returns the bytes of a member that is not an array
        raise _damaged(path, name)
    return array

"""Visual factors of images, from ImageNet-X's annotation files or others of the same formats.

`*_top_factor.jsonl`     one image per line: `file_name`, `class`, each factor 0 or 1 (at most one is 1)
`*_multi_factor.jsonl`   the same images with all their factors
`prototypical_paths.csv` `file_name`: images shown to the annotators as typical of their class
`*real_labels.jsonl`     all correct labels (ReaL): `{"file_name": [classes], ...}`, or one list in the
                         order of ImageNet's validation images
`*metaclasses.csv`       `name`: the group of each class, in label order

The last three are optional. ImageNet-X's files are in the package `imagenet-x` (CC BY-NC, so not in clipjax),
which is never imported. Factors are matched by name, because our order differs.
"""

from __future__ import annotations

import functools
import importlib.util
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipjax.config import config_dir
from clipjax.errors import DataError, UsageError
from clipjax.storage.digests import sha256_files, sha256_json
from clipjax.storage.reading import check_regular, exists, is_file, read_csv, read_json, read_jsonl, read_toml

PACKAGE = "imagenet_x"
TOP, MULTI = "_top_factor.jsonl", "_multi_factor.jsonl"
DEFAULT_PART = "_val"  # preferred if a folder holds several pairs of files
NOT_FACTORS = ("file_name", "class", "justification", "one_word")
OF_ALL_CLASSES = "imagenet_1k_classes_to_100_metaclasses.csv"
OTHER = "other"


@dataclass(frozen=True, eq=False)
class FactorAnnotations:
    """The annotated images; None where a file is absent.

    Attributes:
        names: [A], without folders.
        classes: int32 [A].
        factors: [F], in the order of configs/imagenet_x.toml; unknown ones last.
        top: bool [A, F].
        multi: bool [A, F].
        accepted: file name -> its correct labels.
        digest: SHA-256 over the files' names and contents.
    """

    names: tuple[str, ...]
    classes: np.ndarray
    factors: tuple[str, ...]
    top: np.ndarray
    multi: np.ndarray
    prototypes: frozenset[str] | None
    accepted: Mapping[str, Sequence[int]] | None
    metaclasses: tuple[str, ...] | None
    digest: str

    def rows(self, ids: Sequence[str]) -> np.ndarray:
        """int [N]: each image's annotation, by file name; -1 without one.

        Raises:
            DataError: two images share an annotation, or no image has one.
        """
        row = {name: i for i, name in enumerate(self.names)}
        rows = np.array([row.get(posixpath.basename(name), -1) for name in ids], np.int64)
        seen: dict[int, str] = {}
        for name, i in zip(ids, rows):
            if i >= 0 and seen.setdefault(int(i), name) != name:
                raise DataError(
                    f"{seen[int(i)]} and {name} have one file name: which is annotated is unclear"
                )
        if not seen:
            raise DataError(
                f"none of the {len(ids)} images ({', '.join(ids[:2])}, ...) is annotated; the "
                f"annotations are of {self.names[0]}, ...: give their own images, or other annotations"
            )
        return rows


@functools.cache
def imagenet_x_facts() -> Mapping[str, tuple[str, ...]]:
    """configs/imagenet_x.toml: `factors`, `ten`, `metaclasses`."""
    return {name: tuple(values) for name, values in read_toml(config_dir() / "imagenet_x.toml").items()}


def load_factors(path: Path | None = None) -> FactorAnnotations:
    """`path`: a folder, or its `*_top_factor.jsonl`; None: the validation part of imagenet-x.

    Raises:
        UsageError: neither path nor package; several pairs of files.
        DataError: a missing file or wrong line.
    """
    top_file = _top_file(_package_folder() if path is None else path)
    folder, multi_file = top_file.parent, top_file.with_name(top_file.name.replace(TOP, MULTI))
    real, groups = _one(folder, "*real_labels.jsonl"), _one(folder, "*metaclasses.csv")
    listed = folder / "prototypical_paths.csv"
    names, classes, factors, top = _read_factors(top_file)
    multi = _aligned(names, classes, factors, _read_factors(multi_file), top_file, multi_file)
    _check_top(names, top, multi, top_file)
    used = [top_file, multi_file, *filter(None, (real, groups)), *([listed] if exists(listed) else [])]
    for file in used:
        check_regular(file)
    digests = dict(zip((file.name for file in used), sha256_files(used)))
    return FactorAnnotations(
        names,
        classes,
        factors,
        top,
        multi,
        prototypes=_read_prototypes(listed) if exists(listed) else None,
        accepted=None if real is None else _read_accepted(real),
        metaclasses=None if groups is None else _read_metaclasses(groups),
        digest=sha256_json(digests),
    )


def _package_folder() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(
            "the annotations of ImageNet-X are not here: pip install imagenet-x==0.0.7 (CC BY-NC), or give "
            "their folder with annotations=DIR (--annotations DIR on the command line)"
        )
    return Path(spec.submodule_search_locations[0]) / "annotations"


def _top_file(path: Path) -> Path:
    if is_file(path):
        if not path.name.endswith(TOP):
            raise UsageError(f"{path}: give a folder of annotations, or its file that ends in {TOP}")
        return path
    files = sorted(path.glob(f"*{TOP}"))
    if not files:
        raise DataError(f"{path} holds no *{TOP}; give the folder with the annotations")
    parts = [file for file in files if file.name.endswith(DEFAULT_PART + TOP)] if len(files) > 1 else files
    if len(parts) != 1:
        raise UsageError(f"{path} holds {', '.join(file.name for file in files)}: give one of the files")
    return parts[0]


def _one(folder: Path, pattern: str) -> Path | None:
    files = sorted(folder.glob(pattern))
    if len(files) > 1:
        raise DataError(f"{folder} holds {files[0].name} and {files[1].name}; leave one of them")
    return files[0] if files else None


def _read_factors(path: Path) -> tuple[tuple[str, ...], np.ndarray, tuple[str, ...], np.ndarray]:
    """Names, classes int32 [A], factors, and marks bool [A, F]."""
    names: dict[str, int] = {}
    classes, marks = [], []
    keys: list[str] = []
    for number, record in read_jsonl(path):
        _check_record(record, f"{path}:{number}")
        keys = keys or [key for key in record if key not in NOT_FACTORS]
        name = record["file_name"]
        if name in names:
            raise DataError(f"{path}:{number}: {name} is also in line {names[name]}")
        names[name] = number
        classes.append(record["class"])
        marks.append(_marks(record, keys, f"{path}:{number}"))
    if not names or not keys:
        raise DataError(f"{path} annotates no {'factor' if names else 'image'}")
    known = imagenet_x_facts()["factors"]
    factors = [*(name for name in known if name in keys), *(key for key in keys if key not in known)]
    order = [keys.index(name) for name in factors]
    return tuple(names), np.array(classes, np.int32), tuple(factors), np.array(marks, bool)[:, order]


def _check_record(record: dict[str, Any], where: str) -> None:
    """Check a record, and strip the folder from its name."""
    if not isinstance(record.get("file_name"), str):
        raise DataError(f"{where}: expected an object with a `file_name`")
    if not _is_class(record.get("class")):
        raise DataError(f"{where}: `class` is {record.get('class')!r}; it must be a class index")
    record["file_name"] = posixpath.basename(record["file_name"])


def _is_class(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _marks(record: dict[str, Any], keys: list[str], where: str) -> list[int]:
    if record.keys() - set(NOT_FACTORS) != set(keys):
        differing = sorted((record.keys() - set(NOT_FACTORS)) ^ set(keys))
        raise DataError(f"{where}: its factors are not those of the first line ({', '.join(differing)})")
    for key in keys:
        if type(record[key]) not in (bool, int, float) or record[key] not in (0, 1):
            raise DataError(f"{where}: {key!r} is {record[key]!r}; it must be 0 or 1")
    return [record[key] for key in keys]


def _aligned(names, classes, factors, second, top_file: Path, multi_file: Path) -> np.ndarray:
    other_names, other_classes, other_factors, marks = second
    if set(factors) != set(other_factors):
        raise DataError(f"{multi_file} and {top_file.name} have different factors")
    row = {name: i for i, name in enumerate(other_names)}
    if missing := [name for name in names if name not in row]:
        raise DataError(f"{multi_file} has no line for {missing[0]}, which is in {top_file.name}")
    if extra := row.keys() - set(names):
        raise DataError(f"{top_file} has no line for {min(extra)}, which is in {multi_file.name}")
    order = [row[name] for name in names]
    wrong = np.flatnonzero(other_classes[order] != classes)
    if wrong.size:
        raise DataError(f"{multi_file}: {names[wrong[0]]} has another class than in {top_file.name}")
    return marks[order]


def _check_top(names: tuple[str, ...], top: np.ndarray, multi: np.ndarray, path: Path) -> None:
    wrong = np.flatnonzero((top.sum(axis=1) > 1) | (top & ~multi).any(axis=1))
    if wrong.size:
        raise DataError(
            f"{path}: {names[wrong[0]]} has several top factors, or one that is not among all its factors"
        )


def _read_prototypes(path: Path) -> frozenset[str]:
    rows = read_csv(path)
    if not rows or "file_name" not in rows[0]:
        raise DataError(f"{path}: expected the header `file_name` and one image per line")
    return frozenset(posixpath.basename(row["file_name"]) for row in rows)


def _read_accepted(path: Path) -> dict[str, Sequence[int]]:
    record = read_json(path, object)
    if isinstance(record, list):
        record = {f"ILSVRC2012_val_{i:08d}.JPEG": labels for i, labels in enumerate(record, 1)}
    if not isinstance(record, dict):
        raise DataError(f"{path}: expected a list, or an object of file names, of lists of class indices")
    for name, labels in record.items():
        if not isinstance(labels, list) or not all(map(_is_class, labels)):
            raise DataError(f"{path}: the labels of {name} are {labels!r:.60}; they must be class indices")
    return record


def _read_metaclasses(path: Path) -> tuple[str, ...]:
    rows = read_csv(path)
    if not rows or "name" not in rows[0]:
        raise DataError(f"{path}: expected a column `name` and one class a line")
    names = [row["name"] for row in rows]
    if path.name != OF_ALL_CLASSES:
        return tuple(names)
    kept = imagenet_x_facts()["metaclasses"]
    return tuple(name if name in kept else OTHER for name in names)

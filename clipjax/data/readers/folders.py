"""Readers: the layouts in which data sets are published -> a manifest.

A reader is a function `(root, label_names, **options) -> Manifest`; READERS names them for data set cards.
`label_names` are the labels as the data spells them (WordNet ids, folder names, class labels), in label
order. None of them decodes an image, and none needs TensorFlow or PyTorch. Paths are etils.epath's; on a
bucket a `BucketPath`, which is one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath

from clipjax.data.manifest import IMAGE_EXTENSIONS, FileOpener, Manifest, Progress, missing_files
from clipjax.data.readers.hf_parquet import read_hf_parquet
from clipjax.data.readers.karpathy import read_karpathy
from clipjax.data.readers.label_values import Names, number_labels
from clipjax.data.readers.packed import read_packed
from clipjax.data.readers.vid_robust import read_vid_robust
from clipjax.data.readers.walk import Walk, folders_in
from clipjax.data.readers.webdataset import read_webdataset
from clipjax.errors import DataError
from clipjax.storage.buckets import BucketPath
from clipjax.storage.reading import exists, is_dir, is_file, numbered_csv, read_json, read_jsonl, read_text


def read_folder(
    root: epath.Path,
    label_names: Names = None,
    *,
    folder_is_index: bool = False,
    ignore_unknown: bool = False,
    allow_missing: bool = False,
    columns: dict[str, str] | None = None,
) -> Manifest:
    """Class folders, as ImageNet val: `<root>/<class>/**/<image>`; files beside the folders are ignored.

    A class folder may be a link; no folder may be reached twice (`clipjax.data.readers.walk`).

    Args:
        root: the folder of class folders.
        label_names: folder names in label order; every one must be there and no other. Without them the
            labels follow the sorted folder names (by value where all are numbers).
        folder_is_index: the folder names are the labels themselves, 0 .. K-1 (ImageNet-V2).
        ignore_unknown: folders that are no label are left out (ObjectNet's 200 beside ImageNet's classes).
        allow_missing: some labels have no folder (the parts of ImageNet-D).
        columns: column name -> regular expression whose first group, found in the image's relative path, is
            the value.

    Raises:
        DataError: class folders that are missing, unexpected, empty or unreadable (named), no image at all,
            links in a circle.
    """
    found = folders_in(root)
    if not found:
        hint = f"; {root.name} is a class itself: give its parent" if root.name in (label_names or ()) else ""
        raise DataError(f"{root} holds no class folders; expected {root}/<class>/<image>{hint}")
    if all(name.isdecimal() for name in found):
        found.sort(key=int)
    if folder_is_index:
        folders = [str(i) for i in range(len(found) if label_names is None else len(label_names))]
        spelled = {str(int(name)) if name.isdecimal() else name: name for name in found}
    else:
        folders = list(found if label_names is None else label_names)
        spelled = {name: name for name in found}
    _same_folders(root, folders, spelled, ignore_unknown=ignore_unknown, allow_missing=allow_missing)

    labelled, walk = [], Walk(root)
    for label, name in enumerate(folders):
        if name not in spelled:
            continue
        images = list(walk.files(IMAGE_EXTENSIONS, spelled[name]))
        if not images:
            raise DataError(f"the class folder {root / spelled[name]} holds no images")
        labelled += [(image, label) for image in images]
    labelled.sort()
    ids = [image for image, _ in labelled]
    return Manifest(
        tuple(ids),
        FileOpener(str(root), tuple(ids)),
        labels=np.array([label for _, label in labelled], np.int32),
        columns=_columns_from_names(root, ids, columns or {}),
        label_names=tuple(folders if label_names is None else label_names),
    )


def read_flat(
    root: epath.Path,
    label_names: Names = None,
    *,
    columns: dict[str, str] | None = None,
    extensions: Sequence[str] = (),
) -> Manifest:
    """Every image below `root`, without labels.

    Args:
        columns: as in `read_folder`.
        extensions: what images may end in beside the usual, e.g. ".gif" (whose first frame is the image).
    """
    known = (*IMAGE_EXTENSIONS, *extensions)
    ids = tuple(sorted(Walk(root).files(known)))
    if not ids:
        raise DataError(f"{root} holds no images ({', '.join(known)})")
    names = None if label_names is None else tuple(label_names)
    found = _columns_from_names(root, ids, columns or {})
    return Manifest(ids, FileOpener(str(root), ids), columns=found, label_names=names)


def read_manifest_file(root: epath.Path, label_names: Names = None, *, file: str = "") -> Manifest:
    """A CSV, TSV or JSONL file with one image a row; other columns (captions, groups, ...) are kept.

    The column `path` is relative to the file; `label` is an int or a class name; `id` replaces the path as
    the image's id, and is needed where one image has several rows. A JSONL value may be a list (several
    captions).

    Args:
        root: the file, or its folder if `file` is given.
        label_names: class names in label order. Without them, labels given as names are numbered in sorted
            order.
        file: the file's name below `root`.

    Raises:
        DataError: with file and line: a row that does not parse or lacks a value, an image that does not
            exist, a label outside the set, an id that occurs twice.
    """
    path = root / file if file else root
    ids: dict[str, str] = {}
    paths: list[str] = []
    raw_labels: list[tuple[Any, str]] = []
    columns: dict[str, list] | None = None
    for where, row in _rows(path):
        if "path" not in row:
            named = ", ".join(map(repr, row))
            raise DataError(f"{where}: there is no column 'path' with the image; the columns are {named}")
        image = row.pop("path")
        if not isinstance(image, str) or not image:
            raise DataError(f"{where}: no value for 'path'")
        if not isinstance(path, BucketPath) and not is_file(path.parent / image):
            raise _no_image(where, image, path)
        key = row.pop("id", image)
        if not isinstance(key, str | int):
            raise DataError(f"{where}: 'id' is {key!r}; it must be a text or a whole number")
        key = str(key)
        if key in ids:
            hint = "give each row its own 'id', or one row a list of captions"
            raise DataError(f"{where}: {key!r} is also in {ids[key].rsplit('/', 1)[-1]}; {hint}")
        ids[key] = where
        paths.append(image)
        if "label" in row:
            raw_labels.append((row.pop("label"), where))
        columns = {name: [] for name in row} if columns is None else columns
        if row.keys() != columns.keys() or len(raw_labels) not in (0, len(paths)):
            raise DataError(f"{where}: its columns differ from those of the first row")
        for name, value in row.items():
            columns[name].append(value)
    if columns is None:
        raise DataError(f"{path} lists no images")
    if isinstance(path, BucketPath) and (missing := missing_files(path.parent, paths)):
        raise _no_image(list(ids.values())[paths.index(missing[0])], missing[0], path)
    labels, names = number_labels(raw_labels, label_names)
    opener = FileOpener(str(path.parent), tuple(paths))
    return Manifest(tuple(ids), opener, labels=labels, columns=columns, label_names=names)


def _no_image(where: str, image: str, path: epath.Path) -> DataError:
    return DataError(f"{where}: the image {image} does not exist in {path.parent}")


def read_tfds(
    root: epath.Path,
    label_names: Names = None,
    *,
    split: str,
    image: str = "image",
    label: str | None = "label",
    key: str | None = "file_name",
) -> Manifest:
    """A prepared TensorFlow Datasets folder, read without TensorFlow and without decoding.

    Args:
        root: the version folder (with dataset_info.json), prepared as array_record or parquet.
        label_names: if given, must be the class labels the data set itself declares, in its order.
        split: e.g. "test".
        image, label, key: the features with the image, the class label and a unique name; without a `key`
            (None, or no such feature) the id is the record's number.

    Raises:
        DataError: not a prepared data set, unknown split or feature, a file format without random access.
    """
    source, features = _tfds_source(root, split, image)
    for feature in (image, label):
        if feature is not None and feature not in features:
            raise DataError(f"{root} has no feature {feature!r}; it has {', '.join(sorted(features))}")
    declared = getattr(features[label], "names", None) if label is not None else None
    if label_names is not None and declared is not None and list(label_names) != list(declared):
        wrong = next((i for i, (a, b) in enumerate(zip(label_names, declared)) if a != b), "the length")
        raise DataError(f"{root}: its class labels differ from the card's, first at {wrong}")

    ids, labels, digests = [], [], []
    for i, record in enumerate(source):
        ids.append(record[key].decode() if key in features else f"{i:08d}")
        digests.append(hashlib.sha256(record[image]).hexdigest())
        if label is not None:
            labels.append((int(record[label]), f"{root} record {i}"))
    numbers, names = number_labels(labels, declared if label_names is None else label_names)
    opener = TfdsOpener(str(root), source, image, tuple(range(len(ids))), tuple(digests))
    return Manifest(tuple(ids), opener, labels=numbers, label_names=names)


@dataclasses.dataclass(frozen=True)
class TfdsOpener:
    """Images that are records of a TFDS data source; `digests` were taken when the labels were read."""

    root: str
    source: Any
    feature: str
    records: tuple[int, ...]
    digests: tuple[str, ...]

    def open(self, i: int) -> bytes:
        return self.source[self.records[i]][self.feature]

    def where(self, i: int) -> str:
        return f"{self.root} record {self.records[i]}"

    def select(self, rows: Sequence[int]) -> TfdsOpener:
        records, digests = tuple(self.records[i] for i in rows), tuple(self.digests[i] for i in rows)
        return TfdsOpener(self.root, self.source, self.feature, records, digests)

    def content_digests(self, progress: Progress | None = None) -> list[str]:
        return list(self.digests)


READERS: dict[str, Callable[..., Manifest]] = {
    "folder": read_folder,
    "flat": read_flat,
    "manifest_file": read_manifest_file,
    "tfds": read_tfds,
    "webdataset": read_webdataset,
    "hf_parquet": read_hf_parquet,
    "packed": read_packed,
    "vid_robust": read_vid_robust,
    "karpathy": read_karpathy,
}


def _same_folders(
    root: epath.Path,
    expected: Sequence[str],
    found: dict[str, str],
    *,
    ignore_unknown: bool = False,
    allow_missing: bool = False,
) -> None:
    """Raises DataError naming folders that are missing or unexpected, and where they may lie instead."""
    missing = [name for name in expected if name not in found]
    extra = sorted(found[name] for name in found.keys() - set(expected))
    nested = _nested(root, extra, set(expected)) if len(missing) == len(set(expected)) else ""
    wrong = [
        f"{what} {_some(names)}"
        for what, names, allowed in (
            ("missing", missing, allow_missing and len(missing) < len(set(expected))),
            ("unexpected", extra, ignore_unknown),
        )
        if names and not allowed
    ]
    if wrong:
        raise DataError(f"{root}: wrong class folders: {'; '.join(wrong)}{nested}")


def _nested(root: epath.Path, folders: Sequence[str], expected: set[str]) -> str:
    """A hint where (most of) the class folders lie one folder deeper, as archives like to unpack."""
    fits: dict[tuple[int, int], list[str]] = {}
    for name in folders:
        inside = set(folders_in(root / name))
        if known := len(inside & expected):
            fits.setdefault((known, -len(inside - expected)), []).append(name)
    if not fits:
        return ""
    best = fits[max(fits)]
    if len(best) > 1:  # any one of them would be a guess
        return f"; class folders lie in {_some([str(root / name) for name in best])}: give one of them"
    return f"; class folders lie in {root / best[0]}: give that folder"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:8])
    return f"{shown} and {len(names) - 8} more" if len(names) > 8 else shown


def _columns_from_names(root: epath.Path, ids: Sequence[str], patterns: dict[str, str]) -> dict[str, list]:
    columns = {}
    for column, pattern in patterns.items():
        try:
            re.compile(pattern)
        except re.error as error:
            raise DataError(f"the pattern {pattern!r} of the column {column!r} is wrong: {error}") from None
        matches = [(name, re.search(pattern, name)) for name in ids]
        wrong = [name for name, match in matches if match is None]
        if wrong:
            raise DataError(f"{root / wrong[0]}: its name has no {column} (expected {pattern})")
        columns[column] = [match[1] for _, match in matches if match is not None]
    return columns


def _rows(path: epath.Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file:line, row) of a CSV, TSV or JSONL file."""
    if is_dir(path):
        raise DataError(f"{path} is a folder, and a list of images is asked for: a .csv, .tsv or .jsonl file")
    if not exists(path):
        raise DataError(f"{path} does not exist; give a .csv, .tsv or .jsonl file with a 'path' column")
    if path.suffix == ".jsonl":
        rows = read_jsonl(path)
    elif path.suffix in (".csv", ".tsv"):
        rows = numbered_csv(read_text(path), path, "," if path.suffix == ".csv" else "\t")
    else:
        raise DataError(f"{path}: expected a .csv, .tsv or .jsonl file")
    return ((f"{path}:{number}", dict(row)) for number, row in rows)


def _tfds_source(root: epath.Path, split: str, image: str) -> tuple[Any, Any]:
    """The data source of encoded images and the features of a prepared TFDS folder."""
    import tensorflow_datasets as tfds

    if isinstance(root, BucketPath):
        raise DataError(f"{root}: a prepared TFDS folder is read on a disk: copy it, or mount the bucket")
    if not is_file(root / "dataset_info.json"):
        inside = sorted(str(p.parent.relative_to(root)) for p in root.glob("*/*/dataset_info.json"))
        hint = f"it holds {', '.join(inside)}" if inside else "prepare it with tensorflow_datasets"
        raise DataError(f"{root} is not a prepared TFDS version folder (no dataset_info.json); {hint}")
    read_json(root / "dataset_info.json")
    try:
        builder: Any = tfds.builder_from_directory(root)
        splits, file_format = list(builder.info.splits), builder.info.file_format
    except Exception as error:  # its readers raise nearly anything on damaged files
        what = (str(error).splitlines() or [""])[0][:200]
        raise DataError(
            f"{root}: TensorFlow Datasets cannot read it ({type(error).__name__}: {what}); copy it again"
        ) from None
    if split not in splits:
        raise DataError(f"{root} has no split {split!r}; it has {', '.join(splits)}")
    if file_format is None or file_format.value not in ("array_record", "parquet"):
        name = "an unknown format" if file_format is None else file_format.value
        raise DataError(
            f"{root} is in {name}, without random access; prepare it with file_format='array_record'"
        )
    source = builder.as_data_source(split, decoders={image: tfds.decode.SkipDecoding()})
    return source, builder.info.features

"""A CSV, TSV or JSONL list of images."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from etils import epath

from clipjax.data.manifest import FileOpener, Manifest, missing_files
from clipjax.data.readers.flat import is_image
from clipjax.data.readers.label_values import Names, number_labels
from clipjax.data.readers.reader import Reader
from clipjax.errors import DataError
from clipjax.storage.reading import check_exists, is_dir, is_file, numbered_csv, read_jsonl, read_text
from clipjax.storage.remote.buckets import BucketPath

# The columns of open_clip's training lists (open_clip_train/params.py, --csv-img-key and --csv-caption-key).
_FILE, _CAPTION = "filepath", "title"


def read_manifest_file(root: epath.Path, label_names: Names = None, *, file: str = "") -> Manifest:
    """A CSV, TSV or JSONL file with one image per row; other columns are kept.

    `path` is relative to the file; `label` is an int or class name; `id` replaces `path` as the image's id:
    images with several rows need it. A JSONL value may be a list (several captions).
    open_clip's training lists are read, too: tabs between the columns, whatever the ending, `filepath` and
    `title`. The rows of one image become one, with all their titles as its `captions`. They must have one
    `label` and `id`; of other columns the first row's value is kept.

    Args:
        root: the file, or its folder if `file` is given.

    Raises:
        DataError: a malformed or incomplete row, a missing image, a label outside the set, a repeated id.
    """
    path = root / file if file else root
    ids: dict[str, str] = {}
    paths: list[str] = []
    raw_labels: list[tuple[Any, str]] = []
    columns: dict[str, list] | None = None
    for where, row in _rows(path):
        image, key = _image_and_id(where, row)
        # Images on a bucket are looked up together at the end: a request for each would be slow.
        if not isinstance(path, BucketPath) and not is_file(path.parent / image):
            raise _no_image(where, image, path)
        if key in ids:
            hint = "give each row its own 'id', or one row a list of captions"
            raise DataError(f"{where}: {key!r} is also in {ids[key].rsplit('/', 1)[-1]}; {hint}")
        ids[key] = where
        paths.append(image)
        if "label" in row:
            raw_labels.append((row.pop("label"), where))
        if columns is None:  # the first row
            columns = {name: [] for name in row}
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


def _image_and_id(where: str, row: dict[str, Any]) -> tuple[str, str]:
    """Take the image and its id out of a row."""
    if "path" not in row:
        named = ", ".join(map(repr, row))
        raise DataError(f"{where}: there is no column 'path' with the image; the columns are {named}")
    image = row.pop("path")
    if not isinstance(image, str) or not image:
        raise DataError(f"{where}: no value for 'path'")
    key = row.pop("id", image)
    if not isinstance(key, str | int):
        raise DataError(f"{where}: 'id' is {key!r}; it must be a text or a whole number")
    return image, str(key)


def _no_image(where: str, image: str, path: epath.Path) -> DataError:
    if os.path.isabs(image):
        return DataError(f"{where}: the image {image} does not exist: an absolute path is taken as it is")
    return DataError(f"{where}: the image {image} does not exist in {path.parent}, the list's folder")


def _rows(path: epath.Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if is_dir(path):
        raise DataError(f"{path} is a folder, and a list of images is asked for: a .csv, .tsv or .jsonl file")
    check_exists(path, "; give a .csv, .tsv or .jsonl file with a 'path' column")
    if path.suffix == ".jsonl":
        rows = read_jsonl(path)
    elif path.suffix in (".csv", ".tsv"):
        text = read_text(path)
        rows = numbered_csv(text, path, _delimiter(path, text))
        if {_FILE, _CAPTION} <= set(re.split(r"[\t,\r\n]", text.partition("\n")[0])):
            rows = _captioned(rows, path)
    else:
        raise DataError(f"{path}: expected a .csv, .tsv or .jsonl file")
    return ((f"{path}:{number}", dict(row)) for number, row in rows)


def _captioned(
    rows: Iterator[tuple[int, dict[str, str]]], path: epath.Path
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of open_clip's list as one per image, at its first line.

    Raises DataError if an image has two labels or ids.
    """
    images: dict[str, tuple[int, dict[str, Any]]] = {}
    for number, row in rows:
        file, caption = row.pop(_FILE), row.pop(_CAPTION)
        line, image = images.setdefault(file, (number, {**row, "path": file, "captions": []}))
        for name in ("label", "id"):
            if row.get(name) != image.get(name):
                raise DataError(
                    f"{path}:{number}: {file} has another {name!r} than in line {line}; give it one"
                )
        image["captions"].append(caption)
    return iter(images.values())


def _delimiter(path: epath.Path, text: str) -> str:
    header = text.partition("\n")[0]
    return "\t" if path.suffix == ".tsv" or ("\t" in header and "," not in header) else ","


def _recognises(path: Path) -> bool:
    return is_file(path) and not is_image(path)


READER = Reader(read_manifest_file, recognises=_recognises, order=2)

"""Prepared TensorFlow Datasets folders, read without TensorFlow."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

from etils import epath

from clipjax.data.manifest import Manifest, Progress
from clipjax.data.readers.label_values import Names, number_labels
from clipjax.data.readers.reader import Reader
from clipjax.errors import DataError
from clipjax.storage.reading import is_file, read_json
from clipjax.storage.remote.buckets import BucketPath


def read_tfds(
    root: epath.Path,
    label_names: Names = None,
    *,
    split: str,
    image: str = "image",
    label: str | None = "label",
    key: str | None = "file_name",
) -> Manifest:
    """A version folder (with dataset_info.json), prepared as array_record or parquet.

    Args:
        label_names: must equal the declared class labels, if both exist.
        key: feature with a unique name; without it ids are record numbers.

    Raises:
        DataError: not a prepared data set, unknown split or feature, a format without random access.
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
    """`digests` come from reading the labels."""

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


def _tfds_source(root: epath.Path, split: str, image: str) -> tuple[Any, Any]:
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


READER = Reader(read_tfds)

"""Our own checkpoint: a folder with `model.safetensors` and `card.json`, written whole or not at all.

    model.safetensors  leaves by path ("vision/blocks/attn/q/kernel") in the dtypes of the source file, and
                       under "carried/" its tensors that no model needs. The metadata names the source's
                       layout (a table of `converters`), to write it back bit by bit.
    card.json          the model card; under `files` the SHA-256 of weights, classes and card
    labels.csv         a classifier's classes, if configs/labels does not have them

A vocabulary may be there, too.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from clipjax.checkpoints.card import ADAPTER, CARD, LABELS, WEIGHTS
from clipjax.checkpoints.origin import Origin
from clipjax.data.labels import LabelSpace, load_labels
from clipjax.errors import DataError
from clipjax.storage.digests import sha256_bytes, sha256_files, sha256_json
from clipjax.storage.formats.safetensors import write_tensors
from clipjax.storage.reading import exists, parse_json, read_json
from clipjax.storage.remote.buckets import BucketPath, as_path
from clipjax.storage.remote.publishing import forget, is_unfinished, publish, working_copy
from clipjax.storage.writing import whole_folder, write_flushed, writing
from converters.engine import Conversion, conversion_of, flatten, nest
from converters.sources import open_source
from converters.table import Table, TableRow

_CARRIED = "carried/"
_METADATA = "origin_metadata"


@dataclass(frozen=True)
class ModelCardFile:
    """A card.json that clipjax wrote, parsed once; do not change `record`."""

    folder: Path
    record: Mapping[str, Any]

    @property
    def path(self) -> Path:
        return self.folder / CARD

    @property
    def card(self) -> dict[str, Any]:
        """The part for `card_from_dict`."""
        beside = ("files", "adapter", "base") if self.has_adapter else ("files",)
        return {name: value for name, value in self.record.items() if name not in beside}

    @property
    def has_adapter(self) -> bool:
        return "adapter" in self.record

    @property
    def is_edited(self) -> bool:
        """Changed after it was written; False for older files without a digest."""
        files = self.record.get("files")
        sealed = files.get(CARD) if isinstance(files, Mapping) else None
        return sealed is not None and sealed != _digest(self.record)


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint of ours; its weights are not read yet.

    Attributes:
        sha256: of `weights` when written.
    """

    weights: Path
    sha256: str
    labels: LabelSpace | None
    conversion: Conversion
    origin: Origin

    def carried(self) -> dict[str, np.ndarray]:
        return {key.removeprefix(_CARRIED): tensor.read() for key, tensor in self.conversion.carried.items()}


def is_checkpoint(folder: Path) -> bool:
    return (folder / CARD).is_file() and any((folder / file).is_file() for file in (WEIGHTS, ADAPTER))


def card_file(source: Any) -> ModelCardFile | None:
    """The card's file; None unless clipjax wrote the folder `source`."""
    if not isinstance(source, str | Path) or not exists(Path(source) / CARD):
        return None
    return read_card_file(source)


def read_card_file(folder: str | Path) -> ModelCardFile:
    """Raises DataError if the folder has none."""
    path = Path(folder) / CARD
    if not exists(path):
        raise DataError(f"{folder} is not a clipjax checkpoint: it has no {CARD}")
    return ModelCardFile(Path(folder), read_json(path))


def load_checkpoint(file: ModelCardFile, target: Mapping[str, Any], *, verify: bool = False) -> Checkpoint:
    """Open a checkpoint; `load_params` reads it.

    Args:
        target: the abstract params of the card's architecture: the leaves that the file must have.
        verify: also compare the weights' SHA-256 with that in card.json.

    Raises:
        DataError: no checkpoint there, a truncated or damaged file, or another SHA-256.
        ConversionError: missing or unknown leaves, or wrong shapes; names them all.
    """
    try:
        files = dict(file.record["files"])
        sha256 = files[WEIGHTS]
    except (KeyError, TypeError, ValueError):
        raise DataError(
            f"{file.path} does not say what {WEIGHTS} should be: its `files` is missing"
        ) from None
    weights = file.folder / WEIGHTS
    source = open_source(weights)
    if source.metadata.get("format") != "clipjax":
        raise DataError(f"{weights} was not written by clipjax, the {CARD} beside it does not belong to it")
    if verify and sha256_files([weights]) != [sha256]:
        raise DataError(f"{weights} was changed after it was written: its SHA-256 is not that in {CARD}")
    # Our own files need no table of names: every leaf is stored under its path.
    rows = tuple(TableRow(path, path, "copy", WEIGHTS) for path in flatten(target))
    conversion = conversion_of(
        source, target, Table("clipjax", rows, carried={_CARRIED + "*": "the reference's"})
    )
    header = source.metadata.get(_METADATA)
    metadata = None if header is None else parse_json(header, f"{weights}: {_METADATA} in its header")
    origin = Origin(source.metadata.get("layout"), conversion.dtypes, metadata)
    return Checkpoint(weights, sha256, _labels(file, files), conversion, origin)


def _labels(file: ModelCardFile, files: Mapping[str, str]) -> LabelSpace | None:
    if file.record.get("classes") != LABELS:
        return None
    path = file.folder / LABELS
    if not path.is_file():
        raise DataError(
            f"{path} does not exist: the classes of the model are in it, copy it from the original"
        )
    if sha256_files([path]) != [files.get(LABELS)]:
        raise DataError(f"{path} was changed after it was written: its SHA-256 is not that in {CARD}")
    return dataclasses.replace(
        load_labels(path), name=_trained_classes(file.record.get("lineage")) or path.stem
    )


def _trained_classes(lineage: Mapping[str, Any] | None) -> str | None:
    """The classes' name in training; for a mixture, the fine-tuned model's."""
    while lineage:
        if train := lineage.get("train"):
            return train.get("classes")
        lineage = lineage.get("tuned")
    return None


def load_params(
    conversion: Conversion, shardings: Mapping[str, Any] | None = None, dtype: Any = np.float32
) -> dict[str, Any]:
    """Read params; at most one leaf is held twice.

    Args:
        shardings: of each leaf; a process keeps its own shards. Default: the default device; a CPU takes
            arrays over without a copy.
        dtype: of all leaves, or a mapping from their paths.
    """
    sharding_of = None if shardings is None else flatten(shardings)
    params: dict[str, Any] = {}
    for path, leaf in conversion.leaves(dtype):
        if sharding_of is None:
            params[path] = jax.device_put(leaf)
        else:
            params[path] = jax.make_array_from_callback(leaf.shape, sharding_of[path], leaf.__getitem__)
            params[path].block_until_ready()  # before the next leaf takes memory
        del leaf
    return nest(params)


def save_checkpoint(
    folder: str | Path,
    leaves: Mapping[str, Any],
    carried: Mapping[str, Any],
    card: Mapping[str, Any],
    layout: str | None,
    origin_metadata: Mapping[str, str] | None = None,
    beside: Sequence[Path] = (),
    labels: LabelSpace | None = None,
    check: Callable[[], None] = lambda: None,
) -> Path:
    """Write a checkpoint. Raises as `write_folder`.

    Args:
        leaves: by path, in the dtype to keep; lazy ones are read when written.
        carried: tensors of the reference's file that no leaf holds, by its key.
        layout: a table of `converters`; None for params of our own.
        origin_metadata: a safetensors header's strings.
        beside: files to copy.
        check: called when all leaves are read; if it raises, nothing is written.
    """
    tensors = {**leaves, **{_CARRIED + key: tensor for key, tensor in carried.items()}}
    metadata = {"format": "clipjax", **({"layout": layout} if layout else {})}
    if origin_metadata is not None:
        metadata[_METADATA] = json.dumps(dict(origin_metadata), ensure_ascii=False)

    def fill(draft: Path) -> dict[str, Any]:
        for file in beside:
            shutil.copyfile(file, draft / file.name)
        files = {} if labels is None else {LABELS: _write_labels(draft / LABELS, labels)}
        files = {WEIGHTS: write_tensors(draft / WEIGHTS, tensors, metadata), **files}
        check()
        return {**card, "files": files}

    return write_folder(folder, fill)


def write_folder(folder: str | Path, fill: Callable[[Path], Mapping[str, Any]]) -> Path:
    """Write a folder with a card.json, all or nothing; an older checkpoint there is replaced.

    Args:
        folder: a path, or a URL on a bucket, where card.json is uploaded last.
        fill: writes the other files into a draft folder; returns the contents of card.json.

    Raises DataError if the folder holds something else, or cannot be written; nothing half-written is left.
    """
    folder = as_path(folder)
    if not (is_checkpoint(folder) or is_unfinished(folder) or _is_empty(folder)):
        raise DataError(f"{folder} exists and is not a clipjax checkpoint: name another folder, or remove it")
    if isinstance(folder, BucketPath):
        publish(write_folder(working_copy(folder), fill), folder, CARD)
        forget(folder)
        return folder
    with writing(folder), whole_folder(folder) as draft:
        text = json.dumps(_sealed(fill(draft)), indent=2, ensure_ascii=False)
        write_flushed(draft / CARD, f"{text}\n".encode())
    return folder


def _sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    return {**record, "files": {CARD: _digest(record), **record["files"]}}


def _digest(record: Mapping[str, Any]) -> str:
    return sha256_json({name: value for name, value in record.items() if name != "files"})


def _is_empty(folder: Path) -> bool:
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


def _write_labels(path: Path, labels: LabelSpace) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("id", "name"), *zip(labels.ids, labels.classes)])
    data = text.getvalue().encode()
    write_flushed(path, data)
    return sha256_bytes(data)

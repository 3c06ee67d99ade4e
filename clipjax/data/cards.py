"""Data set cards: configs/datasets/*.toml, or a user's own file, -> a data set.

A card says which reader reads the published layout, what the labels mean and how many images there should be.
Whoever has the data gives a folder and the card's name, and never a class order. Cards are parsed strictly.
"""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

from etils import epath

from clipjax.config import config_dir, read_lines, read_toml
from clipjax.data.manifest import Manifest
from clipjax.data.readers import READERS
from clipjax.errors import DataError, unknown_name
from clipjax.labels import LabelSpace, load_labels


@dataclasses.dataclass(frozen=True)
class DatasetCard:
    """One data set. Of the keys in the file only `name`, `title` and `reader` are required.

    Attributes:
        name, title: the short name that users type, and what it is called in tables.
        reader, options: a name in `clipjax.data.readers.READERS` and the reader's keyword options.
        label_space: what the labels mean: a name in configs/labels, or a CSV file (`id,name`) beside the
            card. Its ids are the labels as the data spells them (folder names, WordNet ids).
        classes: instead of a label space, class names in label order as the data spells them: a list, or the
            name of a text file beside the card with one a line. With neither, the classes are those found in
            the data.
        head_space: the label space that a zero-shot head is built over, where it is not `label_space`: its
            scores are then projected (`configs/labels/HEAD_SPACE-to-LABEL_SPACE.toml`, or by the ids).
        prompts: the default prompt set, a name in configs/prompts.
        pixels: how its images depart from what a model's own transform expects: `pre_crop` pixels cut from
            each side before all else, or `already_cropped = true` (square crops, only resized).
        tasks: the tasks that it is made for: what `--data-root` runs on it.
        place: where it lies below a common root of data sets; its name where not given.
        id: for OOD detection and calibration, the card of the in-distribution images it is compared with.
        images, per_class: how many there are in the complete data set, and in each class.
        licence, source, paper: for whoever wants to use or cite it.
        tfds: its builder (and configuration) in TensorFlow Datasets, where there is one.
        note: what else a user must know: how it is made where there is no download, what disagrees.
        path: the file the card was read from.
    """

    name: str
    title: str
    reader: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    label_space: str | None = None
    classes: tuple[str, ...] | None = None
    head_space: str | None = None
    prompts: str | None = None
    pixels: dict[str, Any] = dataclasses.field(default_factory=dict)
    tasks: tuple[str, ...] = ()
    place: str | None = None
    id: str | None = None
    images: int | None = None
    per_class: int | None = None
    licence: str | None = None
    source: str | None = None
    paper: str | None = None
    tfds: str | None = None
    note: str | None = None
    path: Path | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A card, the images it was read from, and what their labels mean (None where they have none).

    head_space: what a zero-shot head is built over: the card's, or the labels' own.
    """

    card: DatasetCard
    manifest: Manifest
    label_space: LabelSpace | None
    head_space: LabelSpace | None = None


_TYPES: dict[str, type] = {"options": dict, "pixels": dict, "images": int, "per_class": int}
_PIXELS: dict[str, type] = {"pre_crop": int, "already_cropped": bool}


def dataset_names() -> list[str]:
    """The names of the cards in configs/datasets."""
    return sorted(path.stem for path in (config_dir() / "datasets").glob("*.toml"))


def read_card(name_or_path: str | Path) -> DatasetCard:
    """The card of that name, or the card file at that path (anything that ends in .toml).

    Raises:
        UsageError: there is no card of that name.
        DataError: an unknown, missing or mistyped key, an unknown reader or reader option; names file and
            key.
    """
    if str(name_or_path).endswith(".toml"):
        path = Path(name_or_path)
    elif name_or_path in dataset_names():
        path = config_dir() / "datasets" / f"{name_or_path}.toml"
    else:
        raise unknown_name("data set", str(name_or_path), dataset_names())
    record = read_toml(path)
    keys = {field.name for field in dataclasses.fields(DatasetCard)} - {"path"}
    for key, value in record.items():
        if key not in keys:
            raise DataError(f"{path}: unknown key {key!r}; known: {', '.join(sorted(keys))}")
        if key == "classes":
            record[key] = _class_list(path, value)
        elif key == "tasks":
            record[key] = _names(path, key, value)
        elif not isinstance(value, _TYPES.get(key, str)):
            raise DataError(f"{path}: {key!r} must be of type {_TYPES.get(key, str).__name__}, not {value!r}")
    for key in ("name", "title", "reader"):
        if key not in record:
            raise DataError(f"{path}: the key {key!r} is missing")
    card = DatasetCard(**record, path=path)
    _check_reader(card)
    for key, value in card.pixels.items():
        if type(value) is not _PIXELS.get(key):
            known = ", ".join(f"{name} ({kind.__name__})" for name, kind in _PIXELS.items())
            raise DataError(f"{path}: pixels.{key} = {value!r} is not one of {known}")
    return card


def load_dataset(card: str | Path | DatasetCard, root: str | Path) -> Dataset:
    """Read the data set that lies at `root` as its card says.

    Args:
        card: a card, its name, or the path of a card file; "folder" is a plain folder of class folders.
        root: the folder (or manifest file) with the data.

    Raises:
        UsageError, DataError: as `read_card`; what the reader finds wrong with the data.
    """
    if not isinstance(card, DatasetCard):
        card = read_card(card)
    space = _label_space(card)
    manifest = READERS[card.reader](epath.Path(root), space.ids if space else None, **card.options)
    if space is None and manifest.label_names is not None:
        space = LabelSpace(card.name, manifest.label_names, manifest.label_names)
    head = space if card.head_space is None else _labels_of(card, card.head_space)
    return Dataset(card, dataclasses.replace(manifest, name=card.name), space, head)


def _class_list(path: Path, value: Any) -> tuple[str, ...]:
    """Class names, given in the card or as the name of a text file beside it."""
    names = read_lines(path.parent / value) if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise DataError(f"{path}: 'classes' must be a list of names or the name of a file with one a line")
    return tuple(names)


def _names(path: Path, key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise DataError(f"{path}: {key!r} must be a list of names, not {value!r}")
    return tuple(value)


def _label_space(card: DatasetCard) -> LabelSpace | None:
    if card.classes is not None:
        return LabelSpace(card.name, card.classes, card.classes)
    return None if card.label_space is None else _labels_of(card, card.label_space)


def _labels_of(card: DatasetCard, name: str) -> LabelSpace:
    beside = name.endswith(".csv") and card.path is not None
    return load_labels(card.path.parent / name if beside and card.path else name)


def _check_reader(card: DatasetCard) -> None:
    if card.reader not in READERS:
        raise DataError(f"{card.path}: unknown reader {card.reader!r}; known: {', '.join(READERS)}")
    parameters = inspect.signature(READERS[card.reader]).parameters.values()
    options = {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
    for key in card.options:
        if key not in options:
            known = ", ".join(options) or "none"
            raise DataError(f"{card.path}: the reader {card.reader!r} has no option {key!r}; known: {known}")
    for key, default in options.items():
        if default is inspect.Parameter.empty and key not in card.options:
            raise DataError(f"{card.path}: the reader {card.reader!r} needs the option {key!r}")
    if card.label_space is not None and card.classes is not None:
        raise DataError(f"{card.path}: give 'label_space' or 'classes', not both")

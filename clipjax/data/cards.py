"""Data set cards: configs/datasets/*.toml, or a user's own file, -> a data set."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from etils import epath

from clipjax.config import ConfigFolder, config_dir, config_file, config_files
from clipjax.data.card_families import Variant, filled, members
from clipjax.data.card_files import CardFile, files_of_variant
from clipjax.data.card_images import CardIds
from clipjax.data.corrupted.opener import CorruptionTable, corrupted
from clipjax.data.corrupted.record import RECORD, making_of
from clipjax.data.labels import LabelSpace, PromptSet, load_labels, load_prompts
from clipjax.data.manifest import Manifest
from clipjax.data.pairs.matching import Matching
from clipjax.data.questions import Question
from clipjax.data.readers.packed import is_packed, read_packed
from clipjax.data.readers.reader import READERS, find_reader
from clipjax.entry_points import cached
from clipjax.errors import ClipjaxError, DataError, UsageError, counted, unknown_name
from clipjax.storage.reading import read_lines, read_toml
from clipjax.storage.records import AtLeast, MatchesPattern, read
from clipjax.storage.remote.buckets import BucketPath, as_path

_Count = Annotated[int | None, AtLeast(1, below=2**53)]  # exact in every reader of JSON
_Name = Annotated[
    str,
    MatchesPattern(
        r"^\w[^/\\\x00-\x1f\x7f]{0,99}$",
        "1 to 100 characters without slashes, the first a letter, a digit or _",
    ),
]


@dataclasses.dataclass(frozen=True)
class DatasetCard:
    """One data set. Only `name`, `title` and `reader` are required.

    Attributes:
        reader: a module of `clipjax.data.readers`.
        options: the reader's keyword options.
        label_space: a name in configs/labels, or a file beside the card, as `load_labels` takes them. Its ids
            are the labels as the data spells them.
        classes: instead, those labels in order: a list, or a text file beside the card, one per line.
            Default: the data's own.
        head_space: the zero-shot head's label space, if another; scores are projected (`load_projection`).
        prompts: default prompt set: a name in configs/prompts, a file beside the card, or a template.
        pixels: `pre_crop`, pixels cut from each side before the model's transform; or `already_cropped =
            true` (square crops, only resized).
        corruption: the images are corrupted so while they are read.
        matching: how the pairs of a data set of pairs are prepared and matched.
        pairs: number of pairs.
        question: what a model that answers is asked about each image.
        tasks: what `--data-root` runs.
        place: folder below the data root; default `name`.
        id: card of the in-distribution images, for OOD detection and calibration.
        annotations: further file or folder for tasks, beside the card.
        split: "train" or "validation" (for choices). Without it, nothing is trained or chosen on the images.
        images: the number of images.
        per_class: the number of images of each class.
        about: images, or pairs, where their exact number is not known: for costs, and never checked.
        hidden: why the images may not be shown, where their licence forbids it.
        private: why a page with the images may not be passed on, where their terms forbid it.
        files: what the data set is distributed in; empty: nobody distributes it.
        tfds: builder in TensorFlow Datasets.
        in_paper: reported by the study that this toolkit follows.
        demo: its absence is not reported.
        variant: axis -> value.
    """

    name: _Name
    title: str
    reader: str
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    label_space: str | None = None
    classes: tuple[str, ...] | None = None
    head_space: str | None = None
    prompts: str | None = None
    pixels: dict[str, Any] = dataclasses.field(default_factory=dict)
    corruption: CorruptionTable | None = None
    matching: Matching | None = None
    pairs: _Count = None
    question: Question | None = None
    tasks: tuple[str, ...] = ()
    place: str | None = None
    id: str | None = None
    annotations: str | None = None
    split: str | None = None
    images: _Count = None
    per_class: _Count = None
    about: _Count = None
    ids: CardIds | None = None
    licence: str | None = None
    hidden: str | None = None
    private: str | None = None
    source: str | None = None
    paper: str | None = None
    files: tuple[CardFile, ...] = ()
    tfds: str | None = None
    note: str | None = None
    in_paper: bool | None = None
    demo: bool | None = None
    variant: Variant = dataclasses.field(default_factory=dict)
    path: Path | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A card's images.

    Attributes:
        label_space: None without labels.
        head_space: None without labels.
        made: the corruption that clipjax applied to the images; None if it applied none.
        folder: the end of the path of images that no card describes (`tail_of`); None: the card does.
    """

    card: DatasetCard
    manifest: Manifest
    label_space: LabelSpace | None
    head_space: LabelSpace | None = None
    made: str | None = None
    folder: str | None = None


SPLITS = ("train", "validation")
PLAIN = "folder"  # the card of class folders that no card describes
PARTS = 4  # of a folder's path in a row: what is above them may name a person


@dataclasses.dataclass(frozen=True)
class _Pixels:
    pre_crop: int = 0
    already_cropped: bool = False


def dataset_names() -> list[str]:
    """The names of all data sets, also of members of families, sorted."""
    paths = config_files(ConfigFolder.DATASETS).values()
    return sorted(name for path in paths for name in members(path, _registered(path)))


def registered_cards() -> list[DatasetCard]:
    """Every card of configs/datasets and of the added folders. Raises DataError as `read_card`."""
    return [card for path in config_files(ConfigFolder.DATASETS).values() for card in cards_of(path)]


def cards_of(path: Path) -> list[DatasetCard]:
    """The card of a file named after it, or its whole family. Raises DataError as `read_card`."""
    return list(_shipped_cards(path) if path.is_relative_to(config_dir()) else _family_cards(path))


@functools.cache  # a plan of a suite asks for all cards once a run; only the shipped files cannot change
def _shipped_cards(path: Path) -> tuple[DatasetCard, ...]:
    return _family_cards(path)


def _family_cards(path: Path) -> tuple[DatasetCard, ...]:
    return tuple(_card(path, *member) for member in members(path, _registered(path)).values())


def _registered(path: Path) -> dict[str, Any]:
    """Raises DataError unless the card has its file's name, by which it is found."""
    record = read_toml(path)
    if (name := record.get("name")) != path.stem:
        raise DataError(f"{path}: 'name' is {name!r}, and the file's is {path.stem!r}: rename one")
    return record


def cards_in(folder: Path) -> list[DatasetCard]:
    """Every card in the folder's *.toml files. Raises DataError as `read_card`, and for a file of no card."""
    cards = []
    for path in sorted(folder.glob("*.toml")):
        record = read_toml(path)
        if not {"name", "reader"} & record.keys():
            raise DataError(
                f"{path} is not a data card (it has neither 'name' nor 'reader'), and in a folder of data "
                "sets every .toml file must be one: move it, such as a suite, elsewhere"
            )
        cards += [_card(path, *member) for member in members(path, record).values()]
    return cards


def read_card(name_or_path: str | Path) -> DatasetCard:
    """A card by its name or file (anything ending in .toml).

    A member of a family is NAME:VALUE or FILE.toml:VALUE, one value per axis.

    Raises:
        UsageError: an unknown name, or a family without its member.
        DataError: an unknown, missing or mistyped key, reader or reader option.
    """
    text = str(name_or_path)
    if file := re.fullmatch(r"(.*\.toml)(?::(.*))?", text):
        path, member = Path(file[1]), file[2]
    else:
        stem, _, member = text.partition(":")
        path = config_file(ConfigFolder.DATASETS, stem)
        if path is None:
            unknown = unknown_name("data set", text, dataset_names())
            raise UsageError(f"{unknown} (or folder, for class folders without a card, or a card's file)")
    record = read_toml(path) if file else _registered(path)
    family = members(path, record)
    name = f"{record.get('name')}:{member}" if member else record.get("name")
    if name in family:
        return _card(path, *family[name])
    if member or len(family) == 1:
        raise unknown_name("data set", str(name), list(family))
    some = ", ".join(text + each.removeprefix(str(name)) for each in list(family)[:3])
    raise UsageError(f"{text} stands for {len(family)} data sets: name one, {some}, ...")


def data_folder(root: Path, card: DatasetCard) -> Path:
    """Where the card's images are below the data root."""
    return root / (card.place or card.name)


def tail_of(root: str | Path) -> str:
    """The last parts of a path, joined by `/`: at most `PARTS`, and none above the user's home."""
    path = as_path(root)
    if isinstance(path, BucketPath):
        return "/".join(str(path).partition("://")[2].split("/")[-PARTS:])
    path, home = path.resolve(), Path(os.path.expanduser("~")).resolve()  # raises nothing without a home
    below = path.relative_to(home) if home in path.parents else path.relative_to(path.anchor)
    return os.fsencode("/".join(below.parts[-PARTS:])).decode("utf-8", "replace")  # a row is Unicode


@cached
def is_registered(dataset: str) -> bool:
    """Whether a card of configs/datasets, or of the added folders, has that name."""
    try:
        return dataset != PLAIN and not dataset.endswith(".toml") and read_card(dataset).name == dataset
    except ClipjaxError:
        return False


@cached
def shipped_count(dataset: str) -> int | None:
    """The card's number of images; None without a number or card."""
    try:
        return read_card(dataset).images
    except ClipjaxError:
        return None


def _card(path: Path, keys: dict[str, Any], variant: Variant) -> DatasetCard:
    record = filled(keys, variant)
    if "classes" in record:
        record = {**record, "classes": _class_list(path, record["classes"])}
    card = read(DatasetCard, record, path, given={"variant": variant, "path": path})
    files = files_of_variant(card.files, tuple(variant.values()))
    if twice := [name for name, n in Counter(file.name for file in files).items() if n > 1]:
        raise DataError(f"{path}: two files are called {twice[0]!r} ([[files]]): rename or remove one")
    card = dataclasses.replace(card, files=files)
    if card.split is not None and card.split not in SPLITS:
        raise DataError(
            f"{path}: 'split' must be {' or '.join(SPLITS)}, not {card.split!r}; leave it out for a test set"
        )
    _check_reader(card)
    if card.corruption is not None and (card.split is not None or card.matching is not None):
        raise DataError(
            f"{path}: images that are corrupted while they are read are for evaluation, one by one: leave "
            "[corruption] out, or 'split' and [matching]"
        )
    read(_Pixels, card.pixels, f"{path}: pixels")
    return card


def load_dataset(card: str | Path | DatasetCard, root: str | Path) -> Dataset:
    """Read the data set at `root` by its card, or its copy by `clipjax datasets pack`.

    Args:
        card: "folder" is a plain folder of class folders.
        root: folder or manifest file.

    Raises:
        UsageError, DataError: as `read_card`; problems in the data.
    """
    if not isinstance(card, DatasetCard):
        card = read_card(card)
    space, head = label_spaces(card)
    names, folder = (space.ids if space else None), epath.Path(as_path(root))
    # A packed copy is read as such, whatever its reader and options were.
    manifest = read_packed(folder, names) if is_packed(root) else _read_loose(card, folder, names)
    if space is None and manifest.label_names is not None:
        space = LabelSpace(card.name, manifest.label_names, manifest.label_names)
    _check_listing(card, root, manifest)
    manifest, made = dataclasses.replace(manifest, name=card.name), making_of(folder)
    if card.corruption is not None:
        if made is not None:
            raise DataError(
                f"{folder} holds corrupted copies ({RECORD}): give the images they were made from"
            )
        beside = Path() if card.path is None else card.path.parent
        manifest, made = corrupted(manifest, card.corruption, beside)
    plain = card.name == PLAIN and card.path is not None
    return Dataset(card, manifest, space, head or space, made, tail_of(root) if plain else None)


def _check_listing(card: DatasetCard, root: str | Path, manifest: Manifest) -> None:
    """Raises DataError if a listing far away gave another number of images than the card's: it may be cut."""
    if isinstance(as_path(root), BucketPath) and card.images not in (None, len(manifest)):
        raise DataError(
            f"{as_path(root)} holds {counted(len(manifest), 'image')}, not the {card.images} of the card of "
            f"{card.name}: what its server listed may not be all; run again, or correct the card"
        )


def _read_loose(card: DatasetCard, root: epath.Path, names: tuple[str, ...] | None) -> Manifest:
    reader = find_reader(card.reader)
    return reader.read(root, card.matching if reader.pairs else names, **card.options)


def label_spaces(card: DatasetCard) -> tuple[LabelSpace | None, LabelSpace | None]:
    """(the labels', the zero-shot head's); None if only the data can tell."""
    space = _label_space(card)
    return space, space if card.head_space is None else _labels_of(card, "head_space", card.head_space)


def _class_list(path: Path, value: Any) -> tuple[str, ...]:
    names = read_lines(path.parent / value) if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise DataError(f"{path}: 'classes' must be a list of names or the name of a file with one per line")
    return tuple(names)


def _label_space(card: DatasetCard) -> LabelSpace | None:
    if card.classes is not None:
        with said_of(card, "classes"):
            return LabelSpace(card.name, card.classes, card.classes)
    return None if card.label_space is None else _labels_of(card, "label_space", card.label_space)


def _labels_of(card: DatasetCard, key: str, name: str) -> LabelSpace:
    with said_of(card, key):
        return load_labels(name, card.path and card.path.parent)


@contextlib.contextmanager
def said_of(card: DatasetCard, key: str) -> Iterator[None]:
    """What is wrong with a value of the card names its file and key."""
    try:
        yield
    except ClipjaxError as error:
        raise type(error)(f"{card.path or f'card {card.name}'}: {key}: {error}") from None


def own_prompts(card: DatasetCard) -> PromptSet | None:
    """The card's default prompt set. Raises UsageError or DataError as `load_prompts`."""
    if card.prompts is None:
        return None
    with said_of(card, "prompts"):
        return load_prompts(card.prompts, card.path and card.path.parent)


def _check_reader(card: DatasetCard) -> None:
    if card.reader not in READERS.names():
        raise DataError(f"{card.path}: unknown reader {card.reader!r}; known: {', '.join(READERS.names())}")
    parameters = inspect.signature(find_reader(card.reader).read).parameters.values()
    options = {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
    for key in card.options:
        if key not in options:
            known = ", ".join(options) or "none"
            raise DataError(f"{card.path}: the reader {card.reader!r} has no option {key!r}; known: {known}")
    for key, default in options.items():
        if default is inspect.Parameter.empty and key not in card.options:
            raise DataError(f"{card.path}: the reader {card.reader!r} needs the option {key!r}")
    if find_reader(card.reader).pairs != (card.matching is not None):
        needs = "has no pairs: leave [matching] out" if card.matching else "needs the table [matching]"
        raise DataError(f"{card.path}: the reader {card.reader!r} {needs}")
    if card.label_space is not None and card.classes is not None:
        raise DataError(f"{card.path}: give 'label_space' or 'classes', not both")

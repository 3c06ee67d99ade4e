"""Data sets below one folder: which cards there are, where their data are, and what is wrong with either.

Needs no JAX, unless a card's task reads annotations.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clipjax.data.cards import (
    Dataset,
    DatasetCard,
    cards_in,
    data_folder,
    load_dataset,
    read_card,
    registered_cards,
)
from clipjax.data.check import check_dataset
from clipjax.errors import ClipjaxError, DataError
from clipjax.storage.reading import exists, is_dir, is_file
from clipjax.storage.remote.buckets import as_path
from clipjax.tasks.task import find_task
from clipjax.tasks.task_names import TASKS, listed

DEFAULT_ID = "imagenet_val"


@dataclass(frozen=True)
class DataFolder:
    """The folder may not exist. `given`: the data set, where it is read already."""

    card: DatasetCard
    root: Path
    given: Dataset | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, dataset: Dataset) -> DataFolder:
        """A data set that is read already: its folder is not asked for."""
        return cls(dataset.card, Path(), dataset)

    @functools.cached_property
    def dataset(self) -> Dataset:
        """Read once. Raises UsageError or DataError if the reader refuses it."""
        return load_dataset(self.card, self.root) if self.given is None else self.given


def cards_below(data_root: str | Path | None) -> list[DataFolder]:
    """The user's cards (*.toml in `data_root`) and the registered ones, by name; the user's win.

    None: the shipped ones, at relative paths.
    """
    base = Path() if data_root is None else as_path(data_root).expanduser()
    if not is_dir(base):
        raise DataError(f"{base} is not a folder; give the one that holds the data sets")
    own = [] if data_root is None else cards_in(base)
    cards = {card.name: card for card in [*registered_cards(), *own]}
    return [DataFolder(cards[name], data_folder(base, cards[name])) for name in sorted(cards)]


def id_card(card: DatasetCard) -> DatasetCard:
    """The card itself if it names itself, else one of that name beside it, else the shipped one."""
    name = card.id or DEFAULT_ID
    if name == card.name:
        return card
    beside = card.path and card.path.parent / f"{name.removesuffix('.toml')}.toml"
    return read_card(beside if beside and is_file(beside) else name)


def annotations_path(card: DatasetCard, file: str | Path | None = None) -> Path | None:
    """The file or folder, else the card's, relative to the card's file."""
    if file is None and card.annotations is not None and card.path is not None:
        return card.path.parent / card.annotations
    return None if file is None else as_path(file)


def in_one_line(missing: Sequence[str], data_root: str | Path | None) -> list[str]:
    """A plan's missing data sets as at most one line: the one that is missing, or their number.

    data_root: None if they are not below one folder.
    """
    if len(missing) < 2:
        return list(missing)
    lists = "" if data_root is None else f"; `clipjax datasets check --all {data_root}` lists them"
    return [f"{len(missing)} data sets that are not there, among them {missing[0]}{lists}"]


def survey(data_root: str | Path, *, decode: bool = False) -> Iterator[tuple[DataFolder, list[str] | None]]:
    """Each data set with its problems; None if it is missing."""
    for data in cards_below(data_root):
        if not exists(data.root):
            if data.card.tasks and not data.card.demo:
                yield data, None
        else:
            problems = check_dataset(data.root, data.card, decode=decode)
            yield data, [*problems, *card_problems(data.card)]


def card_problems(card: DatasetCard) -> list[str]:
    problems = []
    for name in card.tasks:
        try:
            TASKS.check(name)
            task = listed(name)
            if task.annotated and (load := find_task(name).load_annotations) is not None:
                load(annotations_path(card))
            if "id" in task.needs:
                id_card(card)
        except ClipjaxError as error:
            problems.append(f"card {card.name}: {error}")
    return problems

"""The data set that a `Request` names."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from clipjax.data.cards import Dataset, DatasetCard, is_registered, load_dataset, tail_of
from clipjax.data.readers.reader import recognise
from clipjax.errors import DataError, UsageError, visible
from clipjax.evaluation.request import Request
from clipjax.storage.reading import exists, is_dir
from clipjax.storage.remote.buckets import as_path


def dataset_of(request: Request) -> Dataset:
    """Read the data set of a request; without a card, `root` decides the layout.

    Raises UsageError or DataError: no such card or folder, or the reader refuses the data.
    """
    dataset, root = request.dataset, request.root
    _check_name(request)
    if isinstance(dataset, Dataset):
        return dataset
    if root is None:
        if isinstance(dataset, DatasetCard) or dataset is None or not exists(as_path(dataset)):
            wanted = (
                "a data set" if dataset is None else f"the folder of {getattr(dataset, 'name', dataset)!r}"
            )
            raise UsageError(f"say where {wanted} is: --data FOLDER (root=FOLDER in Python)")
        dataset, root = None, dataset
    if dataset is not None:
        return load_dataset(dataset, root)
    read = load_dataset(plain_card(root, request.data_name), as_path(root))
    return dataclasses.replace(read, folder=tail_of(root))


def plain_card(root: str | Path, name: str | None = None) -> DatasetCard:
    """A card of images that no card describes; their layout is recognised.

    name: default: the folder's or the file's.

    Raises DataError if there is nothing.
    """
    path = as_path(root)
    reader = recognise(path)
    if reader is None:
        raise DataError(f"{path} does not exist")
    whole = path.resolve()
    name = name or (whole.name if is_dir(whole) else whole.stem)
    return DatasetCard(name=name, title=str(path), reader=reader)


def _check_name(request: Request) -> None:
    """Raises UsageError for a name beside a card, or a name that cannot be one."""
    name = request.data_name
    if name is None:
        return
    if isinstance(request.dataset, Dataset | DatasetCard) or None not in (request.dataset, request.root):
        raise UsageError(
            "the data set's card has its name: leave data_name (--data-name) out, or give the folder without "
            "a card"
        )
    if not name.strip() or visible(name) != name:
        raise UsageError(f"data_name (--data-name) is {name!r}: give a name without control characters")
    if is_registered(name):
        raise UsageError(
            f"data_name (--data-name) is {name!r}, the name of a card: give another, or the card"
        )

"""Arrangements: modules of `clipjax.downloads.arrangements` that set `ARRANGEMENT`. Data cards name them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from clipjax.errors import DataError
from clipjax.registry import Registry

ARRANGEMENTS = Registry("arrangement", "ARRANGEMENT")


@dataclass(frozen=True)
class Arrangement:
    """Sorts what was unpacked into the layout that a card's reader expects.

    Attributes:
        name: of the module.
        about: what it does, in a few words.
        arrange: takes the folder into which all files of a card were unpacked, each below its `into`. Raises
            DataError, before it changes anything, where the contents are not what it expects. After it was
            killed it can be called again.
    """

    name: str
    about: str
    arrange: Callable[[Path], None]


def find_arrangement(name: str) -> Arrangement:
    """Imports no other arrangement. Raises UsageError for an unknown name."""
    return ARRANGEMENTS.find(name, Arrangement)


@contextlib.contextmanager
def arranging(folder: Path) -> Iterator[None]:
    """Turn an OSError into a DataError."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{folder} cannot be sorted ({error.strerror}): fetch again when it can") from None

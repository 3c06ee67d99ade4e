"""A subject of the fuzzer, and the table of all subjects.

A subject writes its files into an empty folder; one of them is injured; `read` then answers or raises a
`ClipjaxError`. Answers are plain values that can be compared. Where `digest` is true, clipjax keeps a digest
of the file: an answer other than the whole file's is an error that it should have seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Read = Callable[[Path], Any]
SUBJECTS: dict[str, Subject] = {}


@dataclass(frozen=True)
class Subject:
    """A reader.

    Attributes:
        make: writes whole files into a folder.
        file: the one that is injured.
        kind: of its format, see `_mutate.KINDS`.
        read: reads the folder.
    """

    name: str
    make: Callable[[Path], object]
    file: str
    kind: str
    read: Read
    digest: bool = False


def subject(
    file: str, kind: str, read: Read, name: str = "", digest: bool = False
) -> Callable[[Callable[[Path], object]], Callable[[Path], object]]:
    """Register what follows, which writes the files, as a subject."""

    def register(make: Callable[[Path], object]) -> Callable[[Path], object]:
        title = name or make.__name__.strip("_").replace("_", " ")
        SUBJECTS[title] = Subject(title, make, file, kind, read, digest)
        return make

    return register


def plain(value: Any) -> Any:
    """A value that compares by its contents."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value

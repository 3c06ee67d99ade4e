"""Walk a folder of images.

Links are followed, but a folder reached twice is an error: its images would repeat without end, or count
twice. Hidden names are skipped (also macOS's "._" copies of images).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from clipjax.errors import DataError
from clipjax.storage.reading import AnyPath, check_exists, is_dir
from clipjax.storage.remote.buckets import BucketPath

UNREAD = (".gif", ".jfif", ".jpe", ".heic", ".avif", ".jp2")  # endings of images that readers ignore


class FolderEntry(NamedTuple):
    """ "other" is a FIFO, a socket or a device; a link has the kind of its target."""

    name: str
    kind: Literal["folder", "file", "other"]
    is_link: bool = False


def list_folder(folder: AnyPath) -> list[FolderEntry]:
    """Unsorted entries, without hidden ones.

    Raises:
        DataError: not a readable folder; a broken link in it; a name that is not UTF-8.
    """
    if isinstance(folder, BucketPath) and not folder.is_listed:
        raise DataError(
            f"{folder}: a web server has no folders to list: name the shards of a data set, as in "
            "https://HOST/FOLDER/{0..63}.tar"
        )
    check_exists(folder, "; give the folder that holds the data set")
    if not is_dir(folder):
        raise DataError(f"{folder} is a file, not a folder of images")
    try:
        if isinstance(folder, BucketPath):
            children = [
                FolderEntry(each.name, "folder" if each.is_dir() else "file") for each in folder.iterdir()
            ]
            return [entry for entry in children if not entry.name.startswith(".")]
        with os.scandir(folder) as entries:
            return [_listed(entry) for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"the folder {folder} cannot be read ({error.strerror})") from None


def folders_in(folder: AnyPath) -> list[str]:
    """Sorted names. Raises as `list_folder`."""
    return sorted(entry.name for entry in list_folder(folder) if entry.kind == "folder")


def _listed(entry: os.DirEntry[str]) -> FolderEntry:
    try:
        entry.name.encode()
    except UnicodeEncodeError:
        name, folder = os.fsencode(entry.name), os.path.dirname(entry.path)
        raise DataError(f"{folder} holds the name {name!r}, which is not UTF-8: rename it") from None
    if entry.is_symlink():
        try:
            os.stat(entry.path)
        except OSError as error:
            raise DataError(
                f"{entry.path} is a link to {os.readlink(entry.path)}, which cannot be reached "
                f"({error.strerror}): mend or remove the link"
            ) from None
    kind = "folder" if entry.is_dir() else "file" if entry.is_file() else "other"
    return FolderEntry(entry.name, kind, entry.is_symlink())


class Walk:
    """Attributes:
    left_out: what looks like an image and is not read, relative to `root`: a file of another format, or a
        folder with an image's name that holds none.
    """

    def __init__(self, root: AnyPath) -> None:
        self.root = root
        self.left_out: list[str] = []
        self._visited: dict[object, str] = {}
        self._links: list[str] = []

    def files(self, endings: Sequence[str], below: str = "") -> Iterator[str]:
        """Files below `root`/`below` with one of the endings (".png", lower case), relative to `root`.

        Raises:
            DataError: as `list_folder`; a folder reached twice; a FIFO, socket or device with such an ending.
        """
        left = [below]
        while left:  # a stack, because folders may be nested deeper than Python's calls
            inner = left.pop()
            folder = self.root / inner if inner else self.root
            entries = list_folder(folder)
            self._visit(folder, is_root=not inner)
            if not entries and _ending(inner) in endings:
                self.left_out.append(inner)
            for name, kind, is_link in entries:
                inside = f"{inner}/{name}" if inner else name
                if kind == "folder":
                    left.append(inside)
                elif (ending := _ending(name)) not in endings:
                    if ending in UNREAD:
                        self.left_out.append(inside)
                elif kind == "other":
                    raise DataError(
                        f"{self.root / inside} is a FIFO, a socket or a device, not an image: remove it"
                    )
                else:
                    if is_link:
                        self._links.append(inside)
                    yield inside

    def refuse_double(self, images: Sequence[str]) -> None:
        """Raises DataError for a link to one of these images, which are relative to `root`.

        Two links to one file elsewhere are two images: stores by content are linked like that.
        """
        if not self._links:
            return
        top = os.path.realpath(self.root)
        own = {os.path.join(top, image): image for image in images}
        for link in self._links:
            target = own.get(os.path.realpath(self.root / link))
            if target is not None and target != link:
                raise DataError(
                    f"{self.root / link} is a link to {target}, an image of the same data set, which would "
                    "count twice: remove one of them"
                )

    def _visit(self, folder: AnyPath, *, is_root: bool) -> None:
        if isinstance(folder, BucketPath):
            return
        path = os.fspath(folder)
        if not is_root and os.path.islink(path):
            _check_no_circle(path)
        first = self._visited.setdefault(_identity(path), path)
        if first != path:
            raise DataError(
                f"{first} and {path} are one folder: its images would count twice; remove one (a link?)"
            )


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _check_no_circle(link: str) -> None:
    here, there = os.path.realpath(os.path.dirname(link)), os.path.realpath(link)
    if os.path.commonpath([here, there]) == there:
        raise DataError(
            f"{link} is a link to {os.readlink(link)}, a folder that it is in: its images would count "
            "again and again; remove the link"
        )


def _identity(path: str) -> object:
    status = os.stat(path)
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)  # 0: some networks

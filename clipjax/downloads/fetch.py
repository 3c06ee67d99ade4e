"""Fetch data sets: download their files, verify them, unpack them and put them below the data root.

Each bundle goes through the same steps, and each step can be cut off and done again:

    absent_cards   what is there already?           a second fetch ends here
    _locate        which files are on this disk?    downloaded before, or in the user's folder
    downloading    the others                       NAME.part grows, and becomes NAME when it is verified
    prepare        unpack into a draft, check it    a draft that was cut off is thrown away
    complete       place it by renames              goes on where it was cut off
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from clipjax.data.card_files import NEEDS, CardFile
from clipjax.data.cards import DatasetCard
from clipjax.downloads.bundles import Bundle
from clipjax.downloads.downloads import downloading
from clipjax.downloads.installation import FileOnDisk, absent_cards, complete, drop_draft, prepare
from clipjax.downloads.receipts import FetchedFile, FetchFolders, Receipt
from clipjax.downloads.transfer import Downloaded, existing
from clipjax.errors import ClipjaxError, DataError, UsageError, readable_bytes
from clipjax.progress import progress_bar
from clipjax.storage.buckets import refuse_url
from clipjax.storage.reading import exists, is_file

State = Literal["there", "fetched", "by hand", "not accepted", "failed"]


@dataclass(frozen=True)
class FetchReport:
    """How the fetch of a bundle ended.

    Attributes:
        line: where the data sets are, what the user must do, or why the fetch failed.
    """

    bundle: Bundle
    state: State
    line: str


@dataclass
class _Work:
    """A bundle on its way."""

    bundle: Bundle
    absent: Sequence[DatasetCard]
    files: dict[CardFile, FileOnDisk] = field(default_factory=dict)
    records: dict[CardFile, FetchedFile] = field(default_factory=dict)
    passwords: dict[CardFile, str] = field(default_factory=dict)

    @property
    def missing(self) -> list[CardFile]:
        return [file for file in self.bundle.files if file not in self.files]


@dataclass(frozen=True, kw_only=True)
class Fetch:
    """How bundles are fetched.

    Attributes:
        root: the data root.
        accepts: whether the user accepts a bundle's sentences (`Bundle.asks`).
        password: the password of an encrypted file, typed by the user. Raises UsageError if nobody can.
        source: a folder of files that the user has already; None: there is none.
        keep: whether downloaded files stay after their contents are in their places.
        tell: is called with a sentence about what goes on.
    """

    root: Path
    accepts: Callable[[Bundle], bool]
    password: Callable[[CardFile], str]
    source: Path | None = None
    keep: bool = False
    tell: Callable[[str], object] = print

    @property
    def folders(self) -> FetchFolders:
        return FetchFolders(self.root)

    def run(self, bundles: Sequence[Bundle]) -> Iterator[FetchReport]:
        """Fetch the bundles; each reports once, in the order in which they end.

        Raises DataError if the data root cannot be written to, or its disk has too little room.
        """
        refuse_url(self.root, "a data set")
        with self.folders.locked(self.tell):
            started = [self._start(bundle) for bundle in bundles]
            yield from (each for each in started if isinstance(each, FetchReport))
            work = [each for each in started if isinstance(each, _Work)]
            check_space(work, self.root)
            yield from self._finish(work)

    def _start(self, bundle: Bundle) -> FetchReport | _Work:
        """Everything that needs no network."""
        drop_draft(bundle, self.folders)
        try:
            if exists(self.folders.ready(bundle.key)):
                complete(bundle, self.folders)
                self._remove([self.folders.downloads / file.name for file in bundle.files])
            if not (absent := absent_cards(bundle, self.folders)):
                return FetchReport(bundle, "there", _where(bundle, self.root))
            work = _Work(bundle, absent)
            for file in bundle.files:
                self._locate(file, work)
        except ClipjaxError as error:
            return FetchReport(bundle, "failed", str(error))
        if by_hand := [file for file in work.missing if not file.downloadable]:
            return FetchReport(bundle, "by hand", f"{by_hand[0].name}: {NEEDS[by_hand[0].needs]}")
        if bundle.asks and not self.accepts(bundle):
            return FetchReport(bundle, "not accepted", " ".join(bundle.asks))
        try:
            encrypted = [file for file in bundle.files if file.needs == "password"]
            work.passwords |= {file: self.password(file) for file in encrypted}
        except UsageError as error:
            return FetchReport(bundle, "failed", str(error))
        return work

    def _locate(self, file: CardFile, work: _Work) -> None:
        """Add the file if it is on this disk. Raises DataError if it is another file of that name."""
        for folder in (self.folders.downloads, self.source):
            path = None if folder is None else folder / file.name
            if path is not None and is_file(path):
                with progress_bar(path.stat().st_size, f"verify {file.name}", "B", delay=1) as bar:
                    self._add(file, existing(file, path, bar.update), work)
                return

    def _add(self, file: CardFile, done: Downloaded, work: _Work) -> None:
        """Add a file that fits its card. Raises DataError if it differs from the one of the first fetch."""
        first = self.folders.first_checksum(file)
        compared = "sha256" if file.sha256 else "md5" if file.md5 else "first fetch" if first else None
        if compared is None:
            self.folders.remember(file, done.sha256)
            self.tell(f"{file.name}: no checksum was known; SHA-256 {done.sha256} is recorded")
        elif compared == "first fetch" and done.sha256 != first:
            raise DataError(
                f"{done.path} is not the file that was fetched first: its SHA-256 is {done.sha256}, not "
                f"{first} ({self.folders.checksums}): remove the file, or that line to accept it"
            )
        record = FetchedFile(file.name, done.address, done.revision, done.bytes, done.sha256, compared)
        work.records[file] = record
        work.files[file] = FileOnDisk(file, done.path, done.path.parent == self.folders.downloads)

    def _finish(self, work: Sequence[_Work]) -> Iterator[FetchReport]:
        """Download the missing files, several at once; install each bundle when it has all of its files."""
        open_work = list(work)
        for each in [each for each in work if not each.missing]:
            open_work.remove(each)
            yield self._install(each, open_work)
        # By name: cards that take other members of one archive have other records of it.
        wanted = {file.name: file for each in open_work for file in each.missing}
        targets = [(file, self.folders.downloads / name) for name, file in wanted.items()]
        for got, done in downloading(targets, notice=self.tell):
            holders = [(each, file) for each in open_work for file in each.missing if file.name == got.name]
            for each, file in holders:
                try:
                    if isinstance(done, ClipjaxError):
                        raise done
                    self._add(file, done, each)
                except ClipjaxError as error:
                    open_work.remove(each)
                    yield FetchReport(each.bundle, "failed", str(error))
                    continue
                if not each.missing:
                    open_work.remove(each)
                    yield self._install(each, open_work)

    def _install(self, work: _Work, others: Sequence[_Work]) -> FetchReport:
        """Unpack and place a bundle; `others` may still need its files."""
        bundle, files = work.bundle, [work.files[file] for file in work.bundle.files]
        receipt = Receipt(tuple(work.records[file] for file in bundle.files), bundle.asks)
        try:
            prepare(bundle, work.absent, files, receipt, self.folders, work.passwords)
            complete(bundle, self.folders)
        except ClipjaxError as error:
            return FetchReport(bundle, "failed", str(error))
        needed = {file.name for each in others for file in each.bundle.files}
        self._remove([each.path for each in files if each.temporary and each.file.name not in needed])
        return FetchReport(bundle, "fetched", _where(bundle, self.root))

    def _remove(self, downloads: Sequence[Path]) -> None:
        """Remove downloaded files whose contents are in their places."""
        for path in [] if self.keep else downloads:
            path.unlink(missing_ok=True)


def check_space(work: Sequence[_Work], root: Path) -> None:
    """Raises DataError if the disk has too little room for the files and for what they contain."""
    files = {file: each for each in work for file in each.missing}
    contents = {file for each in work for file in each.bundle.files}
    needed = sum(file.size or 0 for file in files) + sum(file.unpacked or file.size or 0 for file in contents)
    free = shutil.disk_usage(root).free
    if needed > free:
        raise DataError(
            f"{root} has {readable_bytes(free)} free, and the files and their contents take "
            f"about {readable_bytes(needed)}: give another --to, or fetch fewer data sets at a time"
        )


def _where(bundle: Bundle, root: Path) -> str:
    first, *others = [folder for _, folder in bundle.folders(root)]
    return f"{first}, ..." if others and len({first, *others}) > 1 else str(first)

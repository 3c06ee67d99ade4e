"""Fetch data sets: download their files, verify them, unpack them and put them below the data root.

Each bundle goes through the same steps, and each step can be cut off and done again:

    absent_cards   what is there already?           a second fetch ends here
    _locate        which files are on this disk?    downloaded before, or in the user's folder
    downloading    the others                       NAME.part grows, and becomes NAME when it is verified
    prepare        unpack into a draft, check it    a draft that was cut off is thrown away
    complete       place it by renames              goes on where it was cut off
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from clipjax.data.card_files import NEEDS, CardFile
from clipjax.data.cards import DatasetCard
from clipjax.downloads.arrangement import find_arrangement
from clipjax.downloads.bundles import Bundle, bytes_unpacked
from clipjax.downloads.downloads import downloading
from clipjax.downloads.installation import FileOnDisk, absent_cards, complete, drop_draft, prepare
from clipjax.downloads.part_file import part_of
from clipjax.downloads.receipts import FetchedFile, FetchFolders, Receipt
from clipjax.downloads.transfer import Downloaded, existing
from clipjax.errors import ClipjaxError, DataError, readable_bytes
from clipjax.progress import progress_bar
from clipjax.storage.reading import exists, is_file
from clipjax.storage.remote.buckets import refuse_url

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
    """A bundle that is being fetched.

    Attributes:
        absent: the cards whose data are not there yet.
        files: those that are on this disk.
        passwords: of encrypted files.
    """

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
        source: a folder of files that the user has already; None: the user has none.
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

        Raises DataError if the data root cannot be written to.
        """
        refuse_url(self.root, "a data set")
        with self.folders.locked(self.tell):
            work: list[_Work] = []
            for bundle in bundles:
                start = self._start(bundle)
                if isinstance(start, _Work):
                    work.append(start)
                else:
                    yield start
            if (why := lack_of_space(work, self.folders)) is not None:
                yield from (FetchReport(each.bundle, "failed", why) for each in work)
            else:
                yield from self._finish(work)

    def _start(self, bundle: Bundle) -> FetchReport | _Work:
        """Do all that needs no network: returns the report of a bundle that needs no work, else its work."""
        drop_draft(bundle, self.folders)
        try:
            check_card(bundle, self.folders)
            if exists(self.folders.ready(bundle.key)):
                complete(bundle, self.folders)
                self._remove(bundle.files)
            if not (absent := absent_cards(bundle, self.folders)):
                return FetchReport(bundle, "there", _where(bundle, self.root))
            work = _Work(bundle, absent)
            for file in bundle.files:
                self._locate(file, work)
            if by_hand := [file for file in work.missing if not file.downloadable]:
                return FetchReport(bundle, "by hand", f"{by_hand[0].name}: {NEEDS[by_hand[0].needs]}")
            if bundle.asks and not self.accepts(bundle):
                return FetchReport(bundle, "not accepted", " ".join(bundle.asks))
            encrypted = [file for file in bundle.files if file.needs == "password"]
            work.passwords |= {file: self.password(file) for file in encrypted}
        except ClipjaxError as error:
            return FetchReport(bundle, "failed", str(error))
        return work

    def _locate(self, file: CardFile, work: _Work) -> None:
        """Add the file if it is on this disk. Raises DataError if it is another file of that name."""
        for path in (self.folders.download(file), self.source and self.source / file.name):
            if path is not None and is_file(path):
                with progress_bar(path.stat().st_size, f"verify {file.name}", "B", delay=1) as bar:
                    self._add(file, existing(file, path, bar.update), work)
                return

    def _add(self, file: CardFile, done: Downloaded, work: _Work) -> None:
        """Add a file that fits its card. Raises DataError if it differs from the one of the first fetch."""
        first = self.folders.first_checksum(file)
        compared = "sha256" if file.sha256 else "md5" if file.md5 else "first fetch" if first else None
        if compared == "first fetch" and done.sha256 != first:
            raise DataError(
                f"{done.path} is not the file that was fetched first: its SHA-256 is {done.sha256}, not "
                f"{first} ({self.folders.checksums}): remove the file, or that line to accept it"
            )
        record = FetchedFile(file.name, done.address, done.revision, done.bytes, done.sha256, compared)
        work.records[file] = record
        work.files[file] = FileOnDisk(file, done.path, done.path == self.folders.download(file))

    def _finish(self, work: Sequence[_Work]) -> Iterator[FetchReport]:
        """Download the missing files, several at once; install each bundle when it has all of its files."""
        open_work = list(work)
        for each in [each for each in work if not each.missing]:
            open_work.remove(each)
            yield self._install(each, open_work)
        # By path: cards that take other members of one archive have other records of it.
        wanted = {self.folders.download(file): file for each in open_work for file in each.missing}
        targets = [(file, path) for path, file in wanted.items()]
        for got, done in downloading(targets, notice=self.tell):
            holders = [
                (each, file) for each in open_work for file in each.missing if file.identity == got.identity
            ]
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
            self._remember(work)
        except ClipjaxError as error:
            kept = [str(each.path) for each in files if each.temporary]
            more = f" ({', '.join(kept)} is kept: remove it to download it again)" if kept else ""
            return FetchReport(bundle, "failed", f"{error}{more}")
        needed = {file.identity for each in others for file in each.bundle.files}
        self._remove(each.file for each in files if each.temporary and each.file.identity not in needed)
        return FetchReport(bundle, "fetched", _where(bundle, self.root))

    def _remember(self, work: _Work) -> None:
        """Record the first checksums of files without a known one: their contents are the data set."""
        for file, record in work.records.items():
            if record.compared is None:
                self.folders.remember(file, record.sha256)
                self.tell(f"{file.name}: no checksum was known; SHA-256 {record.sha256} is recorded")

    def _remove(self, files: Iterable[CardFile]) -> None:
        """Remove downloaded files whose contents are in their places."""
        for path in [] if self.keep else map(self.folders.download, files):
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # not empty, or never made
                path.parent.rmdir()


def check_card(bundle: Bundle, folders: FetchFolders) -> None:
    """Raises ClipjaxError for what would be refused after the download."""
    for name in {file.arrange for file in bundle.files if file.arrange is not None}:
        find_arrangement(name)
    for card, folder in bundle.folders(folders.root):
        if folders.own in (folder, *folder.parents):
            raise DataError(
                f"{card.path}: the place of {card.name} is in {folders.own}: give another 'place'"
            )


def lack_of_space(work: Sequence[_Work], folders: FetchFolders) -> str | None:
    """Why the disk has too little room for the files and for what they contain; None if it has enough."""
    files = {folders.download(file): file for each in work for file in each.missing}
    needed = bytes_unpacked(each.bundle for each in work)
    for path, file in files.items():
        part = part_of(path)
        begun = part.stat().st_size if is_file(part) else 0
        needed += max((file.size or 0) - begun, 0)
    free = shutil.disk_usage(folders.root).free
    if needed <= free:
        return None
    return (
        f"{folders.root} has {readable_bytes(free)} free, and the files and their contents take "
        f"about {readable_bytes(needed)}: give another --to, or fetch fewer data sets at a time"
    )


def _where(bundle: Bundle, root: Path) -> str:
    first, *others = [folder for _, folder in bundle.folders(root)]
    return f"{first}, ..." if others and len({first, *others}) > 1 else str(first)

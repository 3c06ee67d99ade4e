"""From files on this disk to a data set below the data root.

`prepare` unpacks them into a draft and checks it; `complete` moves the draft's contents to their places and
writes the receipt. Either may be cut off anywhere: a draft that is not ready is thrown away by the next
`prepare`, and `complete` goes on with a ready one.
"""

from __future__ import annotations

import datetime
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from clipjax.data.card_files import CardFile
from clipjax.data.cards import DatasetCard, data_folder, load_dataset
from clipjax.data.check import check_dataset
from clipjax.downloads.archives import check_kind, unpack
from clipjax.downloads.arrangement import find_arrangement
from clipjax.downloads.bundles import Bundle
from clipjax.downloads.placement import is_empty, place
from clipjax.downloads.receipts import FetchFolders, Receipt, read_receipt
from clipjax.errors import DataError
from clipjax.progress import progress_bar
from clipjax.storage.reading import exists
from clipjax.storage.writing import writing

_TREE, _RECEIPT = "tree", "receipt.json"  # in a ready draft


@dataclass(frozen=True)
class FileOnDisk:
    """A verified file of a card. `temporary`: it was downloaded, and may be removed after its use."""

    file: CardFile
    path: Path
    temporary: bool


def absent_cards(bundle: Bundle, folders: FetchFolders) -> list[DatasetCard]:
    """The bundle's data sets that are not below the data root.

    Those that are there are verified: by the digest of their receipt, else by `check_dataset`.

    Raises DataError if one is not as it was fetched, or if something else fills its folder.
    """
    receipt = read_receipt(folders.receipt(bundle.key))
    absent = []
    for card, folder in bundle.folders(folders.root):
        if not exists(folder) or is_empty(folder):
            absent.append(card)
        elif receipt is not None and card.name in receipt.data:
            if (why := _difference(card, folder, receipt.data[card.name])) is not None:
                raise DataError(
                    f"{folder} has changed since {card.name} was fetched ({why}): move it away and run again"
                )
        elif problems := check_dataset(folder, card, decode=False):
            raise DataError(
                f"{folder} is filled already, and not as {card.name} should be ({problems[0]}): move it away "
                "or give another --to"
            )
    return absent


def _difference(card: DatasetCard, folder: Path, digest: str) -> str | None:
    """How a data set differs from its receipt; None if it does not."""
    try:
        return None if digest_of(card, folder) == digest else "its digest differs"
    except DataError as error:
        return str(error)


def digest_of(card: DatasetCard, folder: Path) -> str:
    """The digest of a data set, as result rows have it. Raises DataError if it cannot be read."""
    manifest = load_dataset(card, folder).manifest
    with progress_bar(len(manifest), f"verify {card.name}", "image", delay=1) as bar:
        return manifest.compute_digest(lambda _: bar.update())


def prepare(
    bundle: Bundle,
    absent: Sequence[DatasetCard],
    files: Sequence[FileOnDisk],
    receipt: Receipt,
    folders: FetchFolders,
    passwords: Mapping[CardFile, str],
) -> None:
    """Unpack a bundle's files into a draft, check it, and mark it as ready.

    Args:
        absent: the data sets that will be placed; the others are there already.
        files: all files of the bundle.
        receipt: without digests.
        passwords: of encrypted files.

    Raises DataError: a file that is not what its card says, or contents that are not the data set.
    """
    draft = folders.draft(bundle.key)
    tree = draft / _TREE
    drop_draft(bundle, folders)
    with writing(draft):
        tree.mkdir(parents=True)
    try:
        for each in files:
            _unpack(each, tree, passwords.get(each.file))
        for name in dict.fromkeys(each.file.arrange for each in files if each.file.arrange is not None):
            find_arrangement(name).arrange(tree)
        _check_places(tree, absent, files)
        _drop_others(tree, bundle, absent)
        _check(tree, absent, files)
        receipt.write(draft / _RECEIPT)
        with writing(draft):
            os.rename(draft, folders.ready(bundle.key))
    except BaseException:
        drop_draft(bundle, folders)
        raise


def complete(bundle: Bundle, folders: FetchFolders) -> None:
    """Move a ready draft's contents to their places, and write the receipt with the data sets' digests.

    Raises DataError if something else fills a place, or the disk refuses.
    """
    ready = folders.ready(bundle.key)
    receipt = read_receipt(ready / _RECEIPT)
    if receipt is None:
        raise DataError(f"{ready} has no {_RECEIPT}: remove that folder, and run again")
    if exists(ready / _TREE):
        place(ready / _TREE, folders.root)
    before = read_receipt(folders.receipt(bundle.key))
    digests = {} if before is None else dict(before.data)  # of cards that are gone, too
    digests |= {card.name: digest_of(card, folder) for card, folder in bundle.folders(folders.root)}
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    replace(receipt, data=digests, finished=now).write(folders.receipt(bundle.key))
    # Not removed under this name: a kill on the way would leave a ready draft without its receipt.
    with writing(ready):
        os.rename(ready, folders.draft(bundle.key))
    drop_draft(bundle, folders)


def drop_draft(bundle: Bundle, folders: FetchFolders) -> None:
    """Remove what a fetch that was cut off has left of a draft."""
    shutil.rmtree(folders.draft(bundle.key), ignore_errors=True)


def _unpack(each: FileOnDisk, tree: Path, password: str | None) -> None:
    file, target = each.file, tree / each.file.into
    check_kind(file, each.path)
    with writing(target):
        target.mkdir(parents=True, exist_ok=True)
        if file.kind == "plain":
            shutil.copyfile(each.path, target / file.name)
            return
    with progress_bar(each.path.stat().st_size, f"unpack {file.name}", "B", delay=1) as bar:
        unpack(each.path, target, strip=file.strip, only=file.only, password=password, progress=bar.update)


def _check_places(tree: Path, absent: Sequence[DatasetCard], files: Sequence[FileOnDisk]) -> None:
    """Raises DataError, naming the folders that there are, if a data set's folder is not there."""
    for card in absent:
        if not exists(data_folder(tree, card)):
            # The first folders that hold more than one thing: those above them are the archive's wrapping.
            held = [path.relative_to(tree).as_posix() for path in _first_folders(tree)]
            raise DataError(
                f"{_names(files)} has no folder {data_folder(Path(), card)}, but {', '.join(held)}: correct "
                f"'into' or 'strip' of the file, or 'place', in the card of {card.name}"
            )


def _first_folders(tree: Path) -> list[Path]:
    """At most five of the entries of the first folder that has several, or files."""
    while len(entries := sorted(tree.iterdir())) == 1 and entries[0].is_dir():
        tree = entries[0]
    return entries[:5] or [tree]


def _names(files: Sequence[FileOnDisk]) -> str:
    return ", ".join(each.file.name for each in files)


def _drop_others(tree: Path, bundle: Bundle, absent: Sequence[DatasetCard]) -> None:
    """Keep what is to be placed: no stray files of the archive, and no data set that is there already."""
    tops = {data_folder(Path(), card).parts[0] for card in absent}
    with writing(tree):
        for path in tree.iterdir():
            if path.name not in tops:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    for card, folder in bundle.folders(tree):
        if card not in absent:
            shutil.rmtree(folder, ignore_errors=True)


def _check(tree: Path, absent: Sequence[DatasetCard], files: Sequence[FileOnDisk]) -> None:
    """Raises DataError with the first problem of the unpacked data sets."""
    for card, folder in ((card, data_folder(tree, card)) for card in absent):
        if problems := check_dataset(folder, card, decode=False):
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            problem = problems[0].replace(f"{tree}/", "")
            raise DataError(f"{_names(files)} does not contain {card.name} as its card says: {problem}{more}")

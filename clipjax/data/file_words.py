"""The files of a data card in words: their sizes, their checksums, how to get them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from clipjax.data.card_files import NEEDS, CardFile
from clipjax.errors import readable_bytes
from clipjax.storage.remote.web import shown


def size_words(file: CardFile) -> str:
    """ "687,552,512 bytes", "about 1.0 GB" or "size unknown" """
    if file.bytes is not None:
        return f"{file.bytes:,} bytes"
    return "size unknown" if file.about is None else f"about {readable_bytes(file.about)}"


def total_words(files: Iterable[CardFile]) -> str:
    """The size of several files: "21.0 GB", "about 62.0 GB", "over 6.6 GB" or "unknown"; "" for no file."""
    each = list(files)
    known = sum(file.size or 0 for file in each)
    if any(file.size is None for file in each):
        return f"over {readable_bytes(known)}" if known else "unknown"
    about = "" if all(file.bytes is not None for file in each) else "about "
    return f"{about}{readable_bytes(known)}" if each else ""


def checksum_kind(file: CardFile) -> str:
    """ "SHA-256", "MD5" or "none" """
    return "SHA-256" if file.sha256 is not None else "none" if file.md5 is None else "MD5"


def checksum_words(file: CardFile) -> str:
    """The checksum that a file is compared with, and what it is worth."""
    if file.sha256 is not None:
        return f"SHA-256 {file.sha256}"
    if file.md5 is None:
        return "no checksum known: it is recorded at the first fetch"
    insecure = bool(file.addresses) and all(address.startswith("http:") for address in file.addresses)
    return f"MD5 {file.md5} (weak{', over http worth little' if insecure else ''})"


def file_lines(file: CardFile) -> list[str]:
    """What is known of a file, a line each. A licence is the file's own: the card's is not repeated."""
    lines = [f"{file.name}: {size_words(file)}", f"  {checksum_words(file)}"]
    lines += [f"  from {shown(address)}" for address in file.addresses]
    lines += [f"  page {page}" for page in file.pages]
    lines += [f"  into {file.into or 'the data root'}"]
    lines += [f"  licence: {file.licence}"] if file.licence else []
    lines += [f"  you are asked: {file.ask}"] if file.ask else []
    lines += [f"  unverified: {file.unverified}"] if file.unverified else []
    return lines


def way(files: Sequence[CardFile]) -> str:
    """How to get a data set, in a word: "fetch", or what it takes besides; "" without files."""
    needs = max((file.needs for file in files), key=list(NEEDS).index, default="")
    return {"none": "fetch", "by_hand": "by hand"}.get(needs, needs)


def way_lines(name: str, files: Sequence[CardFile], root: object = "/data") -> list[str]:
    """How to get a data set or a family, a step a line.

    Args:
        name: as `clipjax datasets fetch` takes it.
        files: of the data set.
        root: the data root; cards write /data.
    """
    steps = dict.fromkeys(file.how.strip() for file in files if file.how is not None)
    lines = [line for step in steps for line in step.splitlines()]
    if files and all(file.downloadable for file in files):
        lines.append(f"clipjax datasets fetch {name} --to /data")
    return [re.sub(r"(?<![\w/])/data\b", lambda _: str(root), line) for line in lines]

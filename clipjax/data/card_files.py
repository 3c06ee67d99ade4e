"""The files that a data set is distributed in: the table `[[files]]` of a data card.

[[files]]
name = "imagenet-a.tar"
addresses = ["https://people.eecs.berkeley.edu/~hendrycks/imagenet-a.tar"]
bytes = 687552512
sha256 = "3bb3632277e6ba6392ea64c02ddbf4dd2266c9caffd6bc09c9656d28f012589e"
kind = "tar"
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Literal
from urllib.parse import urlsplit

from clipjax.storage.digests import sha256_json
from clipjax.storage.records import AtLeast, MatchesPattern

FileKind = Literal["tar", "zip", "plain"]
_ADDRESS = re.compile(r"https?://[^/\s]+/\S*|hf://datasets/[\w.-]+/[\w.-]+(@[\w.-]+)?/\S+", re.ASCII)
_Size = Annotated[int | None, AtLeast(0)]
# Why a program may not get a file, in words.
NEEDS = {
    "none": "anybody may download it",
    "account": "it needs an account",
    "form": "it needs a form that its owners answer",
    "password": "it is encrypted, and its password is typed after the licence is read",
    "by_hand": "only a browser can download it",
    "made": "it is made, not downloaded",
}


@dataclass(frozen=True)
class CardFile:
    """One file that a data set is distributed in.

    Attributes:
        name: the file's name in the folder of downloads. Cards that name the same file share it.
        kind: what the file must be, recognised by its first bytes: tar (compressed or not), zip, plain.
        addresses: where the file is, in order of trust: https://, http:// or
            hf://datasets/ORG/NAME[@REVISION]/PATH.
        pages: addresses for a browser, of a file that a program cannot get.
        bytes: the exact size of the file; None: not known.
        about: the size in bytes where the exact one is not known, for estimates.
        unpacked: about how many bytes it contains; None: not known.
        sha256: in hexadecimal digits.
        md5: in hexadecimal digits. It guards against accidents only.
        into: the folder below the data root that the contents go into.
        strip: this many leading folders of each member are dropped.
        only: glob patterns of members; the others stay packed. Empty: all.
        arrange: how the contents are sorted after unpacking, a name in `clipjax.downloads.arrangements`.
        variants: values of the card's variants that need the file. Empty: all.
        needs: a key of `NEEDS`.
        how: how the user gets a file that `fetch` cannot, at most three lines.
        licence: of the contents; None: the card's.
        ask: the sentence that the user accepts before the first byte.
        unverified: what nobody has confirmed of this file, as a sentence.
    """

    name: Annotated[str, MatchesPattern(r"^\w[\w.+-]*$", "the name of a file")]
    kind: FileKind
    addresses: tuple[str, ...] = ()
    pages: tuple[str, ...] = ()
    bytes: _Size = None
    about: _Size = None
    unpacked: _Size = None
    sha256: Annotated[str | None, MatchesPattern("^[0-9a-f]{64}$", "64 hexadecimal digits")] = None
    md5: Annotated[str | None, MatchesPattern("^[0-9a-f]{32}$", "32 hexadecimal digits")] = None
    into: str = ""
    strip: Annotated[int, AtLeast(0)] = 0
    only: tuple[str, ...] = ()
    arrange: str | None = None
    variants: tuple[str | int, ...] = ()
    needs: Literal["none", "account", "form", "password", "by_hand", "made"] = "none"
    how: str | None = None
    licence: str | None = None
    ask: str | None = None
    unverified: str | None = None

    def __post_init__(self) -> None:
        """Raises ValueError where fields contradict each other, or an address or a folder is wrong."""
        for address in self.addresses:
            if not _ADDRESS.fullmatch(address) or not _is_url(address):
                raise ValueError(
                    f"{address!r} is not an address: write https://HOST/PATH or hf://datasets/ORG/NAME/PATH"
                )
        inside = PurePosixPath(self.into)
        if inside.is_absolute() or ".." in inside.parts or not self.into.isprintable():
            raise ValueError(f"into = {self.into!r} must be a folder below the data root")
        if self.downloadable != bool(self.addresses):
            raise ValueError(f"{self.name}: give 'addresses', or 'needs' with what else it takes")
        if (self.needs == "none") != (self.how is None):
            raise ValueError(
                f"{self.name}: 'how' tells how to get a file that needs something, and only then"
            )
        if self.how is not None and len(self.how.strip().splitlines()) > 3:
            raise ValueError(f"{self.name}: 'how' has three lines at most")

    @property
    def identity(self) -> str:
        """Tells files of one name apart: a digest of the addresses and checksums."""
        return sha256_json([self.name, self.addresses, self.sha256, self.md5])[:8]

    @property
    def size(self) -> int | None:
        """The size in bytes, exact or about; None where neither is known."""
        return self.about if self.bytes is None else self.bytes

    @property
    def downloadable(self) -> bool:
        """Whether `fetch` may download the file: it takes nothing but a licence or a password."""
        return self.needs in ("none", "password")


def _is_url(address: str) -> bool:
    try:
        _ = urlsplit(address).port
    except ValueError:  # a port above 65535, half an IPv6 address
        return False
    return True


def files_of_variant(files: tuple[CardFile, ...], values: tuple[str | int, ...]) -> tuple[CardFile, ...]:
    """The files of one member of a family.

    Args:
        files: of the family.
        values: of the member's variants.
    """
    return tuple(file for file in files if not file.variants or {*file.variants} & {*values})

"""One file of a data card: from the first of its addresses that gives it, checked, under its name.

Beside the target, `part_file` keeps what came. A wrong byte is never under the file's name.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import requests

from clipjax.data.card_files import CardFile
from clipjax.downloads import part_file as parts
from clipjax.downloads.hub import hub_file
from clipjax.downloads.part_file import PartFile, PartOrigin, Stopped
from clipjax.errors import DataError
from clipjax.storage.remote.web import (
    MayPass,
    Refused,
    is_page,
    pause_before,
    pieces,
    request,
    shown,
)

ATTEMPTS = 6  # in a row without a new byte
FIRST_PAUSE = 1.0  # seconds before the second attempt; each further pause doubles
_START = 512  # bytes by which a web page is recognised


@dataclass(frozen=True)
class Downloaded:
    """A file that is whole and fits its card.

    Attributes:
        address: where the bytes came from, without secrets; None: the file was there already.
        bytes: its size.
        revision: the hub's commit; None elsewhere.
    """

    path: Path
    address: str | None
    bytes: int
    sha256: str
    revision: str | None = None


@dataclass(frozen=True)
class Reports:
    """Who is told what while a file comes.

    Attributes:
        progress: is told numbers of bytes: first those that an earlier run left, and a negative number
            where bytes are dropped.
        length: is told the size of the file as soon as the server states it, after the bytes of an earlier
            run and before new ones.
        notice: is told sentences.
        stop: ends the download soon after it is set.
    """

    progress: Callable[[int], object]
    length: Callable[[int], object] = lambda _: None
    notice: Callable[[str], object] = lambda _: None
    stop: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class _Source:
    """An address, ready to be asked. Of the hub's files more is known.

    Attributes:
        address: without secrets.
        version: see `PartOrigin`.
    """

    address: str
    url: str
    headers: dict[str, str] = field(default_factory=dict)
    version: str | None = None
    revision: str | None = None
    length: int | None = None
    sha256: str | None = None


def download(file: CardFile, target: Path, reports: Reports) -> Downloaded:
    """Get a file, from where an earlier run stopped.

    Args:
        file: its addresses are tried in their order; that of a part that is here comes first.
        target: `FOLDER/NAME`. Another process that downloads it is waited for. A file that is there
            is checked and kept.

    Raises:
        DataError: no address gives the file, with the reason of each; the disk is full or refuses.
        Stopped: `reports.stop` was set. The part stays.
    """
    with parts.locked_part(target, _hashes(file), reports.progress, reports.notice, reports.stop) as part:
        if part is None:
            return existing(file, target, reports.progress)
        reasons = []
        begun = part.origin and part.origin.address
        for address in sorted(file.addresses, key=lambda each: shown(each) != begun):
            try:
                return _from(address, part, file, target, reports)
            except Refused as refusal:
                reasons.append(f"{shown(address)}: {refusal}")
                reports.notice(f"{file.name}: {reasons[-1]}")
    raise DataError(
        f"{file.name} could not be downloaded ({'; '.join(reasons) or 'its card has no address'}): try again "
        f"later, or get it in another way and put it at {target}"
    )


def _from(address: str, part: PartFile, file: CardFile, target: Path, reports: Reports) -> Downloaded:
    """Raises Refused where the address does not give the file; then nothing wrong is left in the part."""
    with requests.Session() as session:
        source = _transfer(session, address, part, file, reports)
        if part.inherited and _wrong(part, file, source):
            # After a crash of the machine a disk may hold other bytes than were written.
            reports.notice(f"{file.name}: what an earlier run left is damaged; starting anew")
            part.empty()
            source = _transfer(session, address, part, file, reports)
    if wrong := _wrong(part, file, source):
        part.empty()
        raise Refused(f"{wrong}; what came was removed")
    part.publish()
    sha256 = part.hashes.hexdigests()["sha256"]
    return Downloaded(target, source.address, part.size, sha256, source.revision)


def existing(file: CardFile, target: Path, progress: Callable[[int], object]) -> Downloaded:
    """A file on this disk, compared with its card.

    Args:
        progress: gets the bytes of each piece that is hashed.

    Raises DataError if it cannot be read, or is another file.
    """
    try:
        size = target.stat().st_size
        digests = parts.hexdigests_of(target, _hashes(file), progress)
    except OSError as error:
        raise DataError(f"{target} cannot be read ({error.strerror}): remove it and run again") from None
    if wrong := _difference(file, size, digests):
        raise DataError(
            f"{target} is not the file that its card describes ({wrong}): put the right one in its "
            "place, or move it away to have it downloaded"
        )
    return Downloaded(target, None, size, digests["sha256"])


def _transfer(
    session: requests.Session, address: str, part: PartFile, file: CardFile, reports: Reports
) -> _Source:
    """Bring all bytes of an address into the part, in as many requests as it takes. Raises Refused."""
    furthest, failures, source = part.size, 0, None
    while True:
        try:
            source = source or _source(address)
            _receive(session, source, part, file, reports)
            return source
        except MayPass as failure:
            came = part.size > furthest and not failure.stalled
            furthest, failures = max(furthest, part.size), 1 if came else failures + 1
            if failures == ATTEMPTS:
                raise Refused(f"{failure}, {ATTEMPTS} times in a row") from None
            pause = pause_before(failures + 1, failure.wait, FIRST_PAUSE)
            if pause >= 2:
                reports.notice(f"{file.name}: {failure}; the next attempt is in {pause:.0f} s")
            if reports.stop.wait(pause):
                raise Stopped from None


def _source(address: str) -> _Source:
    if not address.startswith("hf://"):
        return _Source(shown(address), address)
    found = hub_file(address)
    version = found.sha256 or found.commit
    return _Source(address, found.url, found.headers, version, found.commit, found.size, found.sha256)


def _receive(
    session: requests.Session, source: _Source, part: PartFile, file: CardFile, reports: Reports
) -> None:
    """One request, for the bytes that are missing. Raises Refused, and MayPass where it ended early."""
    start = part.begin(source.address, source.version)
    origin = part.origin if start else None
    if origin is not None and origin.length == start:
        return  # an earlier run ended before it could name the file
    with closing(request(session, source.url, source.headers | _range(origin, start))) as response:
        fresh = response.status_code == 200
        if fresh:
            origin = _origin(source, response, file)
        elif origin is None or not _continues(response, origin, start):
            part.forget()
            raise MayPass("the file on the server changed", 0)
        if origin.length is not None:
            reports.length(origin.length)
        if response.status_code == 416:
            return
        _write(pieces(response), part, origin, file)
    whole = file.bytes if origin.length is None else origin.length
    if whole is not None and part.size < whole:
        raise MayPass(f"the server ended after {part.size:,} of {whole:,} bytes")


def _range(origin: PartOrigin | None, start: int) -> dict[str, str]:
    """Headers that ask for the bytes after `start`, unless the file has changed."""
    if origin is None:
        return {}
    unchanged = {} if origin.validator is None or origin.version else {"If-Range": origin.validator}
    return {"Range": f"bytes={start}-", **unchanged}


def _origin(source: _Source, response: requests.Response, file: CardFile) -> PartOrigin:
    """What the answer with the whole file states. Raises Refused where its length is wrong or missing."""
    stated = response.headers.get("Content-Length", "")
    length = int(stated) if re.fullmatch(r"\d{1,18}", stated, re.ASCII) else source.length
    if length is not None and file.bytes not in (None, length):
        raise Refused(f"it has {length:,} bytes, not {file.bytes:,} as the card says")
    ends = length is not None or response.headers.get("Transfer-Encoding", "").lower() == "chunked"
    if not ends and (file.bytes, file.sha256, file.md5, source.sha256) == (None,) * 4:
        raise Refused("it states no length, so nobody can tell whether a file without a checksum is whole")
    tag = response.headers.get("ETag", "")
    validator = tag if tag.startswith('"') else response.headers.get("Last-Modified")
    return PartOrigin(source.address, validator, source.version, length)


def _continues(response: requests.Response, origin: PartOrigin, start: int) -> bool:
    """Whether the answer to a request with a range goes on where the part of `start` bytes ends.

    416 means that the file ends there: the part is whole.
    """
    is_part, known = response.status_code == 206, origin.validator or ""
    is_tag = known.startswith('"')
    stated = response.headers.get("ETag" if is_tag else "Last-Modified")
    # A part has the ETag of the whole (RFC 9110, 15.3.7); a date may be missing, then the length decides.
    needed = is_part and (is_tag or origin.length is None)
    if origin.version is None and stated != known and (needed or stated is not None):
        return False
    content_range = re.fullmatch(
        r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", response.headers.get("Content-Range", ""), re.ASCII
    )
    if not is_part:
        return content_range is not None and content_range[2] == str(start)
    total = None if content_range is None or content_range[2] == "*" else int(content_range[2])
    return (
        content_range is not None
        and content_range[1] == str(start)
        and origin.length in (None, total or origin.length)
    )


def _write(answer: Iterator[bytes], part: PartFile, origin: PartOrigin, file: CardFile) -> None:
    """Append the bytes of an answer to the part. One that begins anew empties it when its first bytes fit.

    Raises Refused where the bytes are not the file's.
    """
    fresh, head = part.origin is not origin, b""
    for data in answer:
        if fresh and len(head) < _START:
            head += data[:_START]
            if is_page(head) and not file.name.lower().endswith((".html", ".htm")):
                if part.origin is origin:
                    part.empty()
                raise Refused(
                    "it answers with a web page in place of the file, as Google Drive and the login page of "
                    "a network do: open it in a browser"
                )
        if part.origin is not origin:
            part.restart(origin)
        part.append(data)
        if file.bytes is not None and part.size > file.bytes:
            part.empty()
            raise Refused(f"it has more than the {file.bytes:,} bytes that the card says")
    if part.origin is not origin:
        part.restart(origin)  # an empty file


def _wrong(part: PartFile, file: CardFile, source: _Source) -> str | None:
    """How the part differs from the file, as a clause; None where it fits."""
    digests = part.hashes.hexdigests()
    if wrong := _difference(file, part.size, digests):
        return wrong
    if source.sha256 in (None, digests["sha256"]):
        return None
    return f"its SHA-256 is {digests['sha256']}, not {source.sha256} as the hub says"


def _hashes(file: CardFile) -> list[str]:
    """MD5 takes longer than SHA-256: only where the card has it."""
    return ["sha256"] if file.md5 is None else ["sha256", "md5"]


def _difference(file: CardFile, size: int, digests: Mapping[str, str]) -> str | None:
    """How a file differs from its card, as a clause; None where it fits."""
    if file.bytes not in (None, size):
        return f"it has {size:,} bytes, not {file.bytes:,} as the card says"
    for name, key, wanted in (("SHA-256", "sha256", file.sha256), ("MD5", "md5", file.md5)):
        if wanted not in (None, digests.get(key)):
            return f"its {name} is {digests[key]}, not {wanted} as the card says"
    return None

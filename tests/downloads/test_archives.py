"""Archives, whole and hostile: the files that `tar` and `unzip` write, or one sentence and none outside."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import os
import random
import shutil
import stat
import struct
import subprocess
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clipjax.data.card_files import CardFile
from clipjax.downloads import members
from clipjax.downloads.archives import Unpacked, check_kind, content_kind, unpack
from clipjax.errors import DataError

RANDOM = random.Random(0)
FILES = {
    "set/a/1.jpg": RANDOM.randbytes(300_000),
    "set/a/2.jpg": RANDOM.randbytes(512),
    "set/b/3.jpg": b"",
    "set/b/é 4.jpg": RANDOM.randbytes(513),
    f"set/{'deep/' * 30}5.txt": b"five",
    "list.txt": b"one\n" * 50,
}


def no_progress(count: int) -> None:
    del count


def tar_of(path: Path, files: dict[str, bytes] | None = None, mode: Any = "w", **options: Any) -> Path:
    with tarfile.open(path, mode, **options) as archive:
        for name, data in (FILES if files is None else files).items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def zip_of(path: Path, files: dict[str, bytes] | None = None, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in (FILES if files is None else files).items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() or path.is_symlink()
    }


WHOLE: dict[str, Callable[[Path], Path]] = {
    "tar": tar_of,
    "gnu tar": lambda path: tar_of(path, format=tarfile.GNU_FORMAT),
    "tar.gz": lambda path: tar_of(path, mode="w:gz"),
    "tar.bz2": lambda path: tar_of(path, mode="w:bz2"),
    "tar.xz": lambda path: tar_of(path, mode="w:xz"),
    "zip": zip_of,
    "stored zip": lambda path: zip_of(path, method=zipfile.ZIP_STORED),
}


@pytest.mark.parametrize("case", WHOLE)
def test_a_whole_archive(case: str, tmp_path: Path) -> None:
    """The ending says nothing: the archives of ImageNetV2 are plain tars that end in .tar.gz."""
    path = WHOLE[case](tmp_path / "x.tar.gz")
    assert content_kind(path) == ("zip" if "zip" in case else "tar")
    counts: list[int] = []
    done = unpack(path, tmp_path / "to", progress=counts.append)
    assert contents(tmp_path / "to") == FILES
    assert done == Unpacked(len(FILES), sum(map(len, FILES.values())))
    assert sum(counts) == path.stat().st_size


@pytest.mark.parametrize("program", ["tar", "unzip"])
def test_the_same_files_as_the_system_writes(program: str, tmp_path: Path) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"no {program} here")
    path = (zip_of if program == "unzip" else tar_of)(tmp_path / "x")
    (tmp_path / "theirs").mkdir()
    command = ["unzip", "-q", path, "-d"] if program == "unzip" else ["tar", "-xf", path, "-C"]
    subprocess.run([*command, tmp_path / "theirs"], check=True)
    unpack(path, tmp_path / "ours", progress=no_progress)
    assert contents(tmp_path / "ours") == contents(tmp_path / "theirs") == FILES


def test_a_tar_of_the_systems_tar(tmp_path: Path) -> None:
    for name, data in FILES.items():
        (tmp_path / "from" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "from" / name).write_bytes(data)
    (tmp_path / "from" / "empty").mkdir()
    subprocess.run(["tar", "-czf", tmp_path / "x", "-C", tmp_path / "from", "."], check=True)
    unpack(tmp_path / "x", tmp_path / "to", progress=no_progress)
    assert contents(tmp_path / "to") == FILES
    assert (tmp_path / "to" / "empty").is_dir()


def test_leading_folders_are_dropped_and_others_stay_packed(tmp_path: Path) -> None:
    for make in (tar_of, zip_of):
        path, to = make(tmp_path / make.__name__), tmp_path / f"to {make.__name__}"
        unpack(path, to, strip=2, only=("set/a/*", "set/b/3*", "list.txt"), progress=no_progress)
        assert sorted(contents(to)) == ["1.jpg", "2.jpg", "3.jpg"]


def test_nothing_wanted_is_refused(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "x.tar")
    with pytest.raises(
        DataError, match=r"x\.tar holds no file that is wanted \(only = \['other/\*'\], strip = 1"
    ):
        unpack(path, tmp_path / "to", strip=1, only=("other/*",), progress=no_progress)


def test_what_a_mac_adds_is_left_out(tmp_path: Path) -> None:
    files = {"a/x.jpg": b"x", "__MACOSX/a/._x.jpg": b"m", "a/._x.jpg": b"m", "a/.DS_Store": b"m"}
    for make in (tar_of, zip_of):
        unpack(make(tmp_path / "x", files), tmp_path / make.__name__, progress=no_progress)
        assert contents(tmp_path / make.__name__) == {"a/x.jpg": b"x"}


def test_a_macs_zip_has_utf8_names_without_the_flag(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "x", {"é.jpg": b"x"})
    path.write_bytes(_clear_utf8_flag(path.read_bytes()))
    unpack(path, tmp_path / "to", progress=no_progress)
    assert contents(tmp_path / "to") == {"é.jpg": b"x"}


def _clear_utf8_flag(data: bytes) -> bytes:
    raw = bytearray(data)
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        raw[raw.find(signature) + at + 1] &= ~0x08
    return bytes(raw)


def test_permissions_are_ours(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x", "w") as archive:
        folder = tarfile.TarInfo("a")
        folder.type, folder.mode = tarfile.DIRTYPE, 0o000
        archive.addfile(folder)
        info = tarfile.TarInfo("a/run")
        info.mode = 0o6777
        archive.addfile(info)
    unpack(tmp_path / "x", tmp_path / "to", progress=no_progress)
    before = os.umask(0o022)
    os.umask(before)
    for name, mode in (("a", 0o755), ("a/run", 0o644)):
        assert stat.S_IMODE((tmp_path / "to" / name).stat().st_mode) == mode & ~before


def test_a_zip_of_more_than_four_gigabytes_by_its_fields(tmp_path: Path) -> None:
    with (
        zipfile.ZipFile(tmp_path / "x", "w") as archive,
        archive.open(zipfile.ZipInfo("a"), "w", force_zip64=True) as file,
    ):
        file.write(b"aaa")
    unpack(tmp_path / "x", tmp_path / "to", progress=no_progress)
    assert contents(tmp_path / "to") == {"a": b"aaa"}


# --- what is refused ---


def _linked(kind: bytes, target: str) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        with tarfile.open(path, "w") as archive:
            archive.addfile(tarfile.TarInfo("real"))
            info = tarfile.TarInfo("other")
            info.type, info.linkname = kind, target
            archive.addfile(info)
            archive.addfile(tarfile.TarInfo("other/inside.txt"))
        return path

    return make


def _zip_link(path: Path) -> Path:
    info = zipfile.ZipInfo("other")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, "../outside")
    return path


def _nul_in_an_extended_header(path: Path) -> Path:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("a")
        info.pax_headers = {"path": "a\0b"}
        archive.addfile(info)
    return path


def _both(names: list[str]) -> list[Callable[[Path], Path]]:
    """A tar and a zip with members of these names, which may be equal."""

    def tar(path: Path) -> Path:
        with tarfile.open(path, "w") as archive:
            for name in names:
                archive.addfile(tarfile.TarInfo(name))
        return path

    def zipped(path: Path) -> Path:
        with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(zipfile.ZipInfo(name), b"")
        return path

    return [tar, zipped]


def _edited(edit: Callable[[bytes], bytes], make: Callable[[Path], Path] = tar_of) -> Callable[[Path], Path]:
    def made(path: Path) -> Path:
        path.write_bytes(edit(make(path).read_bytes()))
        return path

    return made


def _header(data: bytes, at: int, field: bytes) -> bytes:
    """A tar whose first header has another field, with a checksum that fits."""
    block = bytearray(data[:512])
    block[at : at + len(field)] = field
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + data[512:]


def _zip_field(data: bytes, signature: bytes, at: int, value: int) -> bytes:
    place = data.find(signature) + at
    return data[:place] + struct.pack("<I", value) + data[place + 4 :]


def _lying_size(data: bytes) -> bytes:
    """The first member of a zip, whose headers state half of its bytes and their checksum."""
    half = FILES["set/a/1.jpg"][:100_000]
    for signature, crc, size in ((b"PK\x03\x04", 14, 22), (b"PK\x01\x02", 16, 24)):
        data = _zip_field(data, signature, crc, zlib.crc32(half))
        data = _zip_field(data, signature, size, 200_000)
    return data


def _overlapping(path: Path) -> Path:
    """Every entry of the directory is the same bytes of the file."""
    zip_of(path, {"0": bytes(10**6)})
    with zipfile.ZipFile(path) as archive:
        entry, local = archive.infolist()[0], path.read_bytes()[: archive.start_dir]
    with zipfile.ZipFile(path, "w") as archive:
        assert archive.fp is not None
        archive.fp.write(local)
        archive.start_dir = len(local)
        vars(archive)["_didModify"] = True
        archive.filelist += [entry] * 50
    return path


TAR, ZIP = "not a whole tar file", "not a whole zip file"
HOSTILE: dict[str, tuple[Callable[[Path], Path], str]] = {
    **{f"{name!r} {k}": (make, "leaves its folder") for name in ("/x", "../x", "a/../../x", "..", "..\\x")
       for k, make in enumerate(_both([name]))},
    **{f"twice {k}": (make, "is twice below") for k, make in enumerate(_both(["a/x", "a/x"]))},
    **{f"twice by ./ {k}": (make, "is twice below") for k, make in enumerate(_both(["a/x", "./a//x"]))},
    **{f"file, folder {k}": (make, "once a folder") for k, make in enumerate(_both(["a", "a/x"]))},
    **{f"folder, file {k}": (make, "once a folder") for k, make in enumerate(_both(["a/x", "a"]))},
    **{f"long name {k}": (make, "File name too long") for k, make in enumerate(_both(["n" * 300]))},
    "symbolic link": (_linked(tarfile.SYMTYPE, "../outside"), "is a symbolic link"),
    "symbolic link inside": (_linked(tarfile.SYMTYPE, "real"), "is a symbolic link"),
    "hard link": (_linked(tarfile.LNKTYPE, "../outside"), "is a hard link"),
    "device": (_linked(tarfile.CHRTYPE, ""), "is a device"),
    "FIFO": (_linked(tarfile.FIFOTYPE, ""), "is a FIFO"),
    "link in a zip": (_zip_link, "is a symbolic link"),
    "not UTF-8": (_both(["\udcff"])[0], "not UTF-8"),
    "not UTF-8 in a zip": (_edited(lambda data: data.replace(b"list", b"\xfflis"), zip_of), "not UTF-8"),
    "NUL": (_nul_in_an_extended_header, "not UTF-8"),
    "NUL in a zip": (_edited(lambda data: data.replace(b"list", b"li\0t"), zip_of), "not UTF-8"),
    "sparse": (_edited(lambda data: _header(data, 156, b"S")), "sparse"),
    "unknown kind": (_edited(lambda data: _header(data, 156, b"V")), "unknown kind"),
    "truncated": (_edited(lambda data: data[:290_000]), "fewer bytes than the 300,000 it states"),
    "truncated at a header": (_edited(lambda data: data[: 512 + 300_032]), TAR),
    "truncated in a header": (_edited(lambda data: data[: 512 + 300_032 + 100]), TAR),
    "damaged header": (_edited(lambda data: data[: 300_544] + b"\xff" * 512 + data[301_056:]), TAR),
    "another tar after the end": (_edited(lambda data: data + data), f"{TAR}.*more follows"),
    "larger than the file": (_edited(lambda data: _header(data, 124, b"%011o\0" % 10**7)), "fewer bytes"),
    "negative": (_edited(lambda data: _header(data, 124, b"\xff" * 11 + b"\0")), TAR),
    "huge extended header": (
        _edited(lambda data: _header(data, 124, b"7" * 11 + b" " * 21 + b"x")), f"{TAR} .a header of"),
    "truncated gzip": (_edited(lambda data: gzip.compress(data)[:-9]), TAR),
    "wrong checksum of a gzip": (_edited(lambda data: gzip.compress(data)[:-8] + bytes(8)), TAR),
    "garbage after a gzip": (_edited(lambda data: gzip.compress(data) + b"garbage"), TAR),
    "damaged bzip2": (_edited(lambda data: bz2.compress(data, 1)[:-1000]), TAR),
    "damaged xz": (_edited(lambda data: lzma.compress(data)[:-1000]), TAR),
    "truncated zip": (_edited(lambda data: data[:-100], zip_of), ZIP),
    "wrong checksum in a zip": (
        _edited(lambda data: data.replace(b"one\n", b"two\n"), lambda path: zip_of(path, method=0)), ZIP),
    "a member longer than a zip states": (_edited(_lying_size, zip_of), ZIP),
    "overlapping members": (_overlapping, f"{ZIP} .its members overlap"),
    "a bomb in a zip": (lambda path: zip_of(path, {"zeros": bytes(10**6)}), "of a bomb"),
    "a bomb in a tar": (lambda path: tar_of(path, {"zeros": bytes(10**6)}, "w:bz2"), "of a bomb"),
    "zeros without end": (
        _edited(lambda data: bz2.compress(data + bytes(2 * 10**6)), lambda path: tar_of(path, {"a": b"b"})),
        f"{TAR}.*more follows"),
    "a page": (_edited(lambda data: b"\n<!DOCTYPE html><html>quota exceeded"), "is a web page and cannot"),
    "nothing": (_edited(lambda data: b""), "is empty and cannot"),
    "no archive": (_edited(lambda data: data[7:]), "is no archive that we read and cannot"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_refused_and_nothing_outside(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, message = HOSTILE[case]
    if "bomb" in case or case == "zeros without end":
        monkeypatch.setattr(members, "FREELY", 500_000)
        monkeypatch.setattr("clipjax.downloads.tars.FREELY", 10**6)
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "outside").write_bytes(b"mine")
    path = make(tmp_path / "inner" / "archive.zip")
    before = contents(tmp_path)
    with pytest.raises(DataError, match=rf"archive\.zip.*{message}") as error:
        unpack(path, tmp_path / "inner" / "to", progress=no_progress)
    assert "\n" not in str(error.value)
    to = tmp_path / "inner" / "to"
    assert {name: data for name, data in contents(tmp_path).items() if "/to/" not in name} == before
    assert not any(found.is_symlink() or found.is_fifo() for found in to.rglob("*"))
    for name, data in contents(to).items():
        assert len(data) <= 1_000_000, name


def test_a_member_never_replaces_a_file(tmp_path: Path) -> None:
    (tmp_path / "to" / "set" / "a").mkdir(parents=True)
    (tmp_path / "to" / "set" / "a" / "2.jpg").write_bytes(b"mine")
    with pytest.raises(DataError, match=r"the member set/a/2\.jpg is twice below"):
        unpack(tar_of(tmp_path / "x"), tmp_path / "to", progress=no_progress)
    assert (tmp_path / "to" / "set" / "a" / "2.jpg").read_bytes() == b"mine"


def test_a_link_that_is_not_wanted_is_no_harm(tmp_path: Path) -> None:
    path = _linked(tarfile.SYMTYPE, "/etc/passwd")(tmp_path / "x")
    unpack(path, tmp_path / "to", only=("real",), progress=no_progress)
    assert contents(tmp_path / "to") == {"real": b""}


def test_more_than_the_limit(tmp_path: Path) -> None:
    for make in (tar_of, zip_of):
        to = tmp_path / make.__name__
        with pytest.raises(DataError, match="unpacks to more than the 300,100 bytes"):
            unpack(make(tmp_path / "x"), to, limit=300_100, progress=no_progress)
        assert sum(map(len, contents(to).values())) <= 300_100


def test_more_than_the_disk_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = shutil.disk_usage(tmp_path)._replace(free=members.SPARED + 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    with pytest.raises(DataError, match="more than the 1,000 bytes that are allowed or free in"):
        unpack(tar_of(tmp_path / "x"), tmp_path / "to", progress=no_progress)


def test_too_many_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "MOST_MEMBERS", 4)
    with pytest.raises(DataError, match="has more than 4 members"):
        unpack(tar_of(tmp_path / "x"), tmp_path / "to", progress=no_progress)


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, write = tar_of(tmp_path / "x"), os.write
    room = [270_000]

    def full(descriptor: int, data: bytes) -> int:
        if len(data) > room[0] > 0:
            data = data[: room[0]]  # what is left is written first
        if room[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        room[0] -= len(data)
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(DataError, match=r"the disk of .*to is full, .*x is not unpacked"):
        unpack(path, tmp_path / "to", progress=no_progress)


# --- what a file is ---


def card_file(kind: Any) -> CardFile:
    return CardFile("x", kind, ("https://example.org/x",))


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\xef\xbb\xbf <!DOCTYPE HTML PUBLIC><HTML>", "html"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code>", "html"),
        (b"<?xml version='1.0'?><annotation>", "plain"),
        (b'{"images": []}', "plain"),
        (gzip.compress(b"one line", mtime=0), "plain"),
        (bytes(2000), "plain"),
        (b"", "empty"),
    ],
)
def test_kinds(data: bytes, kind: str, tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(data)
    assert content_kind(tmp_path / "x.tar") == kind
    for stated in ("tar", "zip"):
        with pytest.raises(DataError, match=rf"x\.tar is .*, and the data card states a {stated} archive: "):
            check_kind(card_file(stated), tmp_path / "x.tar")
    if kind == "plain":
        check_kind(card_file("plain"), tmp_path / "x.tar")
    else:
        with pytest.raises(DataError, match="states a plain file"):
            check_kind(card_file("plain"), tmp_path / "x.tar")


def test_the_kind_of_an_archive_is_compared_with_the_cards(tmp_path: Path) -> None:
    check_kind(card_file("tar"), tar_of(tmp_path / "x.zip"))
    check_kind(card_file("zip"), zip_of(tmp_path / "y.tar"))
    check_kind(card_file("plain"), zip_of(tmp_path / "z.npz"))  # NumPy's files are zips
    with pytest.raises(DataError, match=r"x\.zip is a tar archive, and the data card states a zip archive"):
        check_kind(card_file("zip"), tmp_path / "x.zip")

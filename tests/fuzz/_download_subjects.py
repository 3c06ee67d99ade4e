"""Subjects of the fuzzer: archives that were downloaded."""

from __future__ import annotations

import gzip
import os
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from _encrypted import encrypted_zip
from _subject import subject

FILES = {"set/a/1.jpg": b"first" * 300, "set/a/2.jpg": b"", "set/b/3.jpg": bytes(range(256)) * 4}


def unpacked(folder: Path) -> Any:
    from clipjax.downloads.archives import content_kind, unpack

    with tempfile.TemporaryDirectory() as temporary:
        to = Path(temporary, "to")
        try:
            unpack(folder / "w", to, password="password", limit=10**7, progress=lambda count: None)
        finally:
            assert os.listdir(temporary) in ([], ["to"]), "a file outside of the folder"
            assert not any(path.is_symlink() for path in to.rglob("*")), "a link"
        files = (path for path in to.rglob("*") if path.is_file())
        return content_kind(folder / "w"), {str(path.relative_to(to)): path.read_bytes() for path in files}


def _tar(folder: Path) -> None:
    for name, data in FILES.items():
        (folder / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "set" / name).write_bytes(data)
    with tarfile.open(folder / "w", "w") as archive:
        archive.add(folder / "set", "set")


def _compressed_tar(folder: Path) -> None:
    _tar(folder)
    (folder / "w").write_bytes(gzip.compress((folder / "w").read_bytes(), mtime=0))


def _zip(folder: Path) -> None:
    with zipfile.ZipFile(folder / "w", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in FILES.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)


def _encrypted(folder: Path) -> None:
    encrypted_zip(folder / "w", {**FILES, **{f"{i}.jpg": b"%d" % i * 40 for i in range(12)}}, "password")


def register_downloads() -> None:
    subject("w", "tar", unpacked, name="download: tar")(_tar)
    subject("w", "bytes", unpacked, name="download: compressed tar")(_compressed_tar)
    subject("w", "zip", unpacked, name="download: zip")(_zip)
    subject("w", "zip", unpacked, name="download: encrypted zip")(_encrypted)

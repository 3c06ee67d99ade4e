"""A server of archives and a data root, as `clipjax datasets fetch` sees them."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

from _file_server import Content, FileServer
from PIL import Image
from typer.testing import CliRunner

from clipjax.cli import app
from clipjax.data.cards import load_dataset, read_card
from clipjax.errors import ClipjaxError, DataError

CLASSES = ("cat", "dog")


def png(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 0, 0)).save(file, "PNG")
    return file.getvalue()


def images(top: str, shade: int = 0) -> dict[str, bytes]:
    """Two images of each class, below a folder."""
    names = [(each, k) for each in CLASSES for k in range(2)]
    return {f"{top}/{each}/{k}.png": png(shade + 10 * n) for n, (each, k) in enumerate(names)}


def tar(members: dict[str, bytes], mode: str = "w") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:  # pyright: ignore[reportCallIssue, reportArgumentType]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


class World:
    """A server of archives, and a data root whose own cards name them."""

    def __init__(self, root: Path, server: FileServer) -> None:
        self.root, self.server = root, server
        root.mkdir()

    def card(self, own: str, data: bytes, *, place: str | None = None, images: int = 4, **file: Any) -> None:
        """A card with one file, which the server has. None for a key of the file leaves it out."""
        kind = file.get("kind", "tar")
        self.server.files[f"/{own}.{kind}"] = Content(data)
        keys = {
            "name": f"{own}.{kind}",
            "kind": kind,
            "addresses": [f"{self.server.url}/{own}.{kind}"],
            "sha256": hashlib.sha256(data).hexdigest(),
            **file,
        }
        lines = [
            f'name = "{own}"\ntitle = "Title of {own}"\nreader = "folder"\nplace = "{place or own}"',
            f"images = {images}\nclasses = {json.dumps(CLASSES)}\n[[files]]",
            *(f"{key} = {json.dumps(value)}" for key, value in keys.items() if value is not None),
        ]
        (self.root / f"{own}.toml").write_text("\n".join(lines))

    def family(self) -> None:
        """The card of two data sets, a and b, in one archive."""
        self.server.files["/kinds.tar"] = Content(tar({**images("a"), **images("b", 90)}))
        text = f"""
name = "kinds"
title = "Kinds"
reader = "folder"
place = "Kinds/{{kind}}"
images = 4
variants = {{ kind = ["a", "b"] }}
[[files]]
name = "kinds.tar"
kind = "tar"
into = "Kinds"
addresses = ["{self.server.url}/kinds.tar"]
"""
        (self.root / "kinds.toml").write_text(text)

    def fetch(self, *arguments: object) -> tuple[str, BaseException | None]:
        """What the command prints, and its error."""
        words = ["datasets", "fetch", *map(str, arguments), "--to", str(self.root)]
        done = CliRunner().invoke(app, words)
        assert done.exception is None or isinstance(done.exception, ClipjaxError), done.exception
        return done.output, done.exception

    def fetched(self, *arguments: object) -> str:
        text, error = self.fetch(*arguments)
        assert error is None, (text, error)
        return text

    def failure(self, *arguments: object) -> str:
        """What is printed of a fetch that fails, without the line breaks of its table."""
        text, error = self.fetch(*arguments)
        assert isinstance(error, DataError), (text, error)
        return " ".join(text.split())

    def check(self, name: str) -> None:
        """The data set is whole, and nothing else is left than what a fetch keeps."""
        card = read_card(self.root / f"{name}.toml")
        manifest = load_dataset(card, self.root / (card.place or name)).manifest
        assert len(manifest) == card.images
        left = (self.root / ".clipjax" / "downloads").rglob("*")
        assert not [path for path in left if path.is_file()]
        assert not list((self.root / ".clipjax" / "drafts").glob("*"))

    @property
    def asked(self) -> int:
        return len(self.server.requests)

    def names(self) -> set[str]:
        """Of what is in the data root but cards and the folder of fetch."""
        paths = (path for path in self.root.iterdir() if path.suffix != ".toml")
        return {path.name for path in paths} - {".clipjax"}

"""Shipped cards fetch archives that are laid out as the published ones, from a folder of the user's.

The cards are copies without checksums: the archives are ours.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from clipjax.cli import app
from clipjax.config import ConfigFolder, config_file
from clipjax.data.cards import data_folder, load_dataset, read_card
from clipjax.data.labels import load_labels

SHAPES = load_labels("cue_conflict").ids


@pytest.fixture(scope="module")
def image() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (9, 9, 9)).save(file, "PNG")
    return file.getvalue()


def zipped(path: Path, members: Mapping[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def tar(path: Path, members: Mapping[str, bytes]) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def stimuli(folder: Path, image: bytes) -> None:
    """texture-vs-shape's archive: 80 images of each shape, and folders that the card leaves packed."""
    top = "texture-vs-shape-1b69c6a445c3348927139edb30a5134521fd4b03"
    names = [f"{shape}/{shape}{i}-{SHAPES[i % 16]}{i}.png" for shape in SHAPES for i in range(80)]
    members = {f"{top}/stimuli/style-transfer-preprocessed-512/{name}": image for name in names}
    more = {f"{top}/README.md": b"read", f"{top}/stimuli/silhouettes/cat/cat1.png": image}
    zipped(folder / f"{top}.zip", members | more)


def flickr30k(folder: Path, image: bytes) -> None:
    """The images of the form, more than the captions name, and the archive of all captions."""
    names = [f"{i}.jpg" for i in range(1100)]
    tar(folder / "flickr30k-images.tar.gz", {f"flickr30k-images/{name}": image for name in names})
    sentences = [{"raw": f"sentence {i}"} for i in range(5)]
    images = [
        {"filename": name, "split": "test" if i < 1000 else "val", "sentences": sentences}
        for i, name in enumerate(names)
    ]
    captions = json.dumps({"images": images, "dataset": "flickr30k"}).encode()
    zipped(folder / "caption_datasets.zip", {"dataset_flickr30k.json": captions, "dataset_coco.json": b"{}"})


@pytest.mark.parametrize(
    ("name", "archives", "inside"),
    [
        ("cue_conflict", stimuli, {*SHAPES}),
        ("flickr30k", flickr30k, {"dataset_flickr30k.json", *(f"{i}.jpg" for i in range(1100))}),
    ],
)
def test_archives_of_the_published_layout_become_the_data_set(
    name: str, archives: Callable[[Path, bytes], None], inside: set[str], tmp_path: Path, image: bytes
) -> None:
    files, root = tmp_path / "files", tmp_path / "data"
    files.mkdir()
    root.mkdir()
    shipped = config_file(ConfigFolder.DATASETS, name)
    assert shipped is not None
    archives(files, image)
    card = root / f"{name}.toml"
    card.write_text(re.sub(r"(?m)^(bytes|sha256) = .*\n", "", shipped.read_text(encoding="utf-8")))
    command = ["datasets", "fetch", name, "--from", str(files), "--to", str(root)]
    done = CliRunner().invoke(app, command)
    assert done.exception is None, done.output
    folder = data_folder(root, read_card(card))
    assert {path.name for path in folder.iterdir()} == inside
    assert len(load_dataset(name, folder).manifest) == read_card(name).images
    assert len(list(files.iterdir())) == len(read_card(name).files), "the user's files stay"

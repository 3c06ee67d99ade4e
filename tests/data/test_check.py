"""`check_dataset` says exactly what is wrong with a folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from _images import write_images

from clipjax.data.check import check_dataset

CARD = 'name = "pets"\ntitle = "Pets"\nreader = "folder"\n'


@pytest.fixture
def card(tmp_path):
    def write(extra: str, base: str = CARD) -> Path:
        path = tmp_path / "pets.toml"
        path.write_text(base + extra)
        return path

    return write


def test_check_dataset_lists_every_problem(card, tmp_path):
    root = write_images(tmp_path / "data", ["cat/0.png", "cat/1.png", "dog/0.png"])
    path = card("images = 4\nper_class = 2\n")
    (root / "cat/1.png").write_bytes((root / "cat/1.png").read_bytes()[:50])
    seen: list[int] = []
    problems = check_dataset(root, path, seen.append)
    assert problems[0].endswith("holds 3 images; Pets has 4")
    assert problems[1] == "class dog has 1 images; Pets has 2"
    assert problems[2].startswith("cat/1.png: is not a readable image")
    assert len(problems) == 3
    assert len(seen) == 3

    shutil.copy(root / "cat/0.png", root / "cat/1.png")
    shutil.copy(root / "dog/0.png", root / "dog/1.png")
    assert check_dataset(root, path) == []
    shutil.rmtree(root)
    assert check_dataset(root, path) == [f"{root} does not exist; give the folder that holds the data set"]

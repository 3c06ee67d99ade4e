"""Links within a data set: a class folder may be one, but no folder counts twice, and every walk ends."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from etils import epath

from clipjax.data.check import check_dataset
from clipjax.data.readers.flat import read_flat
from clipjax.data.readers.folder import read_folder
from clipjax.data.readers.walk import list_folder
from clipjax.errors import DataError
from clipjax.evaluation.data_set import dataset_of
from clipjax.evaluation.request import Request

COUNT = 6  # images of each class


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three classes of six images; nothing reads their bytes."""
    for name in ("circle", "square", "star"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(COUNT):
            (tmp_path / "data" / name / f"{name}{i}.png").write_bytes(name.encode())
    return tmp_path / "data"


def _own_folder(root: Path) -> Path:
    os.symlink(".", root / "circle" / "loop")
    return root / "circle" / "loop"


def _all_classes(root: Path) -> Path:
    os.symlink("..", root / "circle" / "up")
    return root / "circle" / "up"


def _above_the_root(root: Path) -> Path:
    os.symlink(root.parent, root / "circle" / "up")
    return root / "circle" / "up"


def _two_loops(root: Path) -> Path:
    os.symlink("..", root / "circle" / "up")
    os.symlink(root / "circle", root / "square" / "across")
    os.symlink("../square", root / "circle" / "back")
    return root / "circle"


def _within_a_linked_class(root: Path) -> Path:
    elsewhere = root.parent / "elsewhere" / "moon"
    elsewhere.mkdir(parents=True)
    (elsewhere / "moon.png").write_bytes(b"")
    os.symlink("..", elsewhere / "up")
    os.symlink(elsewhere, root / "moon")
    return root / "moon" / "up"


def _root_as_a_class(root: Path) -> Path:
    os.symlink(".", root / "everything")
    return root / "everything"


CIRCLES = [_own_folder, _all_classes, _above_the_root, _two_loops, _within_a_linked_class, _root_as_a_class]


@pytest.mark.parametrize("read", [read_folder, read_flat])
@pytest.mark.parametrize("make", CIRCLES)
def test_a_circle_is_refused_by_name(read: Callable, make: Callable[[Path], Path], root: Path) -> None:
    link = make(root)
    with pytest.raises(DataError, match=r"count (again and again|twice)") as caught:
        read(epath.Path(root))
    assert str(link) in str(caught.value)


def test_a_circle_names_the_links_target(root: Path) -> None:
    _all_classes(root)
    with pytest.raises(DataError, match=r"circle/up is a link to \.\., a folder that it is in"):
        read_folder(epath.Path(root))


def test_what_evaluation_and_the_check_say_of_a_circle(root: Path) -> None:
    _own_folder(root)
    with pytest.raises(DataError, match="circle/loop is a link to"):
        dataset_of(Request(root=root))
    [problem] = check_dataset(root, "folder", decode=False)
    assert "circle/loop is a link to" in problem


def test_linked_class_folders_are_read(root: Path, tmp_path: Path) -> None:
    plain = read_folder(epath.Path(root))
    for name in ("circle", "square"):
        (root / name).rename(tmp_path / f"moved_{name}")
        os.symlink(tmp_path / f"moved_{name}", root / name)
    linked = read_folder(epath.Path(root))
    assert linked.ids == plain.ids
    assert linked.digest == plain.digest


def test_one_folder_under_two_labels_is_refused(root: Path) -> None:
    os.symlink("circle", root / "disc")
    with pytest.raises(DataError, match=r"circle and .*disc are one folder: its images would count twice"):
        read_folder(epath.Path(root))
    assert len(read_folder(epath.Path(root), ["circle", "square", "star"], ignore_unknown=True)) == 3 * COUNT


def test_one_folder_below_two_classes_is_refused(root: Path, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    os.symlink(tmp_path / "shared", root / "circle" / "more")
    os.symlink(tmp_path / "shared", root / "star" / "more")
    with pytest.raises(DataError, match="are one folder"):
        read_folder(epath.Path(root))


@pytest.mark.parametrize("name", ["circle/gone.png", "circle/gone", "gone", "self"])
def test_a_broken_link_is_named(name: str, root: Path) -> None:
    os.symlink("self" if name == "self" else "/nowhere/at/all", root / name)
    for read in (read_folder, read_flat):
        with pytest.raises(DataError, match=f"{name} is a link to .*, which cannot be reached"):
            read(epath.Path(root))


def test_a_fifo_is_no_image(root: Path) -> None:
    os.mkfifo(root / "star" / "pipe.png")
    with pytest.raises(DataError, match=r"pipe\.png is a FIFO"):
        read_folder(epath.Path(root))


def test_a_name_that_is_not_utf8_is_refused(root: Path) -> None:
    with open(os.fsencode(root / "star") + b"/\xff.png", "wb"):
        pass
    with pytest.raises(DataError, match=r"star holds the name b'\\xff\.png', which is not UTF-8"):
        read_folder(epath.Path(root))


def test_folders_nest_deeper_than_pythons_calls(tmp_path: Path) -> None:
    place = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1050):
        os.mkdir("d", dir_fd=place)
        inside = os.open("d", os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = inside
    os.close(os.open("x.png", os.O_CREAT | os.O_WRONLY, dir_fd=place))
    os.close(place)
    manifest = read_flat(epath.Path(tmp_path))
    subprocess.run(["rm", "-r", tmp_path / "d"], check=True)  # pytest's own removal is recursive
    assert manifest.ids == ("d/" * 1050 + "x.png",)


def test_hidden_names_are_left_out(root: Path) -> None:
    os.symlink("/nowhere", root / ".hidden")
    (root / "star" / "._star0.png").write_bytes(b"")
    assert {entry.name for entry in list_folder(root)} == {"circle", "square", "star"}
    assert len(read_flat(epath.Path(root))) == 3 * COUNT


@pytest.mark.parametrize("read", [read_folder, read_flat])
def test_a_link_to_an_image_of_the_data_set_is_refused(root: Path, read: Callable[..., object]) -> None:
    os.symlink("../circle/circle0.png", root / "star" / "again.png")
    with pytest.raises(DataError, match=r"star/again\.png is a link to circle/circle0\.png, an image of the"):
        read(epath.Path(root))


def test_links_to_one_file_elsewhere_are_two_images(root: Path, tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"pixels")
    for name in ("one.png", "two.png"):
        os.symlink(tmp_path / "blob", root / "star" / name)
    assert len(read_folder(epath.Path(root))) == 3 * COUNT + 2


@pytest.mark.parametrize("options", [{}, {"folder_is_index": True}])
def test_one_number_spelled_twice_is_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    for name in ("0", "1", "01"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match="the class folders 01 and 1 are one number"):
        read_folder(epath.Path(tmp_path), **options)

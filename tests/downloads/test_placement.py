"""Drafts moved below the data root: by few renames, never over a file, and again after a kill."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from clipjax.downloads import placement
from clipjax.downloads.placement import place
from clipjax.errors import DataError


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


DRAFT = ("C/blur/1/a.jpg", "C/noise/1/b.jpg", "C/README", "val/n01/c.jpg", "list.csv")


@pytest.fixture(name="draft")
def _draft(tmp_path: Path) -> Path:
    write(tmp_path / "draft", *DRAFT)
    return tmp_path / "draft"


@pytest.fixture(name="root")
def _root(tmp_path: Path) -> Path:
    return tmp_path / "data" / "root"


def test_a_fresh_set_is_one_rename_of_each_folder(draft: Path, root: Path) -> None:
    assert place(draft, root) == [root / "list.csv", root / "C", root / "val"]
    assert files(root) == sorted(DRAFT)
    assert os.listdir(draft) == []


def test_a_folder_that_exists_is_entered(draft: Path, root: Path) -> None:
    write(root, "C/weather/1/z.jpg", "val/n02/d.jpg")
    moved = place(draft, root)
    assert moved == [root / name for name in ("list.csv", "C/README", "C/blur", "C/noise", "val/n01")]
    assert files(root) == sorted([*DRAFT, "C/weather/1/z.jpg", "val/n02/d.jpg"])
    assert os.listdir(draft) == []


def test_an_empty_folder_is_filled(draft: Path, root: Path) -> None:
    (root / "C" / "blur").mkdir(parents=True)
    assert root / "C" / "blur" in place(draft, root)
    assert files(root) == sorted(DRAFT)


@pytest.mark.parametrize(
    "taken",
    ["list.csv", "C/README", "C/blur/1/z.jpg", "val/n01/z.jpg", "val/n01/c.jpg", "val", "C/noise"],
)
def test_what_exists_is_never_replaced_or_mixed_with(taken: str, draft: Path, root: Path) -> None:
    write(root, taken)
    shown = str(Path(taken).parent) if taken.endswith(("z.jpg", "c.jpg")) else taken
    with pytest.raises(DataError, match=rf"root/{shown} exists already, .*nothing was moved"):
        place(draft, root)
    assert (files(root), files(draft)) == ([taken], sorted(DRAFT))


def test_a_dangling_link_is_not_replaced(draft: Path, root: Path) -> None:
    root.mkdir(parents=True)
    (root / "C").symlink_to("elsewhere")
    with pytest.raises(DataError, match="root/C exists already"):
        place(draft, root)


def test_killed_between_any_two_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And killed again at the next call."""
    rename = os.rename
    before = ("C/weather/1/z.jpg", "val/n02/d.jpg")
    for kills in range(1, 6):
        draft, root = tmp_path / f"draft{kills}", tmp_path / f"root{kills}"
        write(draft, *DRAFT)
        write(root, *before)
        left = [kills]

        def killed(source: Path, target: Path, left: list[int] = left) -> None:
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
            rename(source, target)

        monkeypatch.setattr(os, "rename", killed)
        for _ in range(10):
            left[0] = left[0] or kills
            try:
                place(draft, root)
            except KeyboardInterrupt:
                continue
            break
        assert files(root) == sorted([*DRAFT, *before])
        assert files(draft) == []


def test_another_disk_is_refused_before_anything_moves(draft: Path, root: Path) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or os.stat(other).st_dev == os.stat(draft).st_dev:
        pytest.skip("one disk here")
    root.mkdir(parents=True)
    (root / "C").symlink_to(other)  # a user's large folder that is elsewhere
    with pytest.raises(DataError, match=r"root/C is on another disk than .*draft/C: nothing is moved"):
        place(draft, root)
    assert files(draft) == sorted(DRAFT)


def test_the_files_are_on_the_disk_before_they_are_moved(
    draft: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    rename = os.rename
    monkeypatch.setattr(placement, "flush_disk", lambda folder: calls.append("flush"))
    monkeypatch.setattr(os, "rename", lambda *paths: (calls.append("rename"), rename(*paths)))
    monkeypatch.setattr(placement, "flush_folder", lambda folder: calls.append("flush folder"))
    place(draft, root)
    assert calls == ["flush"] + ["rename", "flush folder"] * 3


def test_a_refusal_of_the_system_is_one_sentence(
    draft: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EACCES, "Permission denied", str(source))

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(DataError, match=r"list\.csv cannot be moved below .*root \(Permission denied\)"):
        place(draft, root)

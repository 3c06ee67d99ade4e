"""Remembered file digests: right, and computed again when a file changes."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from clipjax.errors import DataError
from clipjax.storage import digests
from clipjax.storage.local_files import keeps_ctime, mounted


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_digest_is_sha256_and_follows_the_content(tmp_path: Path) -> None:
    files = [tmp_path / f"{i}.bin" for i in range(3)]
    for i, file in enumerate(files):
        file.write_bytes(bytes([i]) * 1000)
    expected = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    assert digests.sha256_files(files) == expected
    files[1].write_bytes(b"changed")
    expected[1] = hashlib.sha256(b"changed").hexdigest()
    assert digests.sha256_files(files) == expected


@pytest.mark.usefixtures("settled")
def test_an_unchanged_file_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"a")
    first = digests.sha256_files([file])
    monkeypatch.setattr(digests.hashlib, "file_digest", lambda *_: pytest.fail("read again"))
    assert digests.sha256_files([file]) == first


def test_a_broken_cache_only_costs_time(tmp_path: Path, cache: Path) -> None:
    cache.mkdir()
    (cache / "digests.sqlite").write_bytes(b"not a database" * 100)
    file = tmp_path / "a"
    file.write_bytes(b"a")
    assert digests.sha256_files([file]) == [hashlib.sha256(b"a").hexdigest()]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gone"):
        digests.sha256_files([tmp_path / "gone"])


def test_canonical_json_has_one_form_and_no_nan() -> None:
    assert digests.canonical_json({"b": 1, "a": [1.5, None]}) == '{"a":[1.5,null],"b":1}'
    with pytest.raises(ValueError, match="Out of range"):
        digests.canonical_json(float("nan"))


@pytest.mark.usefixtures("settled")
def test_more_files_than_one_query_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "_ASKED", 2)
    files = [tmp_path / f"{i}.bin" for i in range(5)]
    for i, file in enumerate(files):
        file.write_bytes(bytes([i]))
    first = digests.sha256_files(iter(files))
    assert first == [hashlib.sha256(bytes([i])).hexdigest() for i in range(5)]
    monkeypatch.setattr(digests.hashlib, "file_digest", lambda *_: pytest.fail("read again"))
    assert digests.sha256_files(reversed(files)) == first[::-1]


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def copy_over(new: Path, file: Path) -> None:
    """As `cp -p`: the same inode, with the time of the new contents."""
    file.write_bytes(new.read_bytes())
    shutil.copystat(new, file)


def rename_over(new: Path, file: Path) -> None:
    """As rsync and tar: another inode under the name."""
    os.replace(new, file)


REPLACEMENTS = [copy_over, rename_over]


def twins(folder: Path, a: bytes, b: bytes) -> tuple[Path, Path]:
    """Two files of one modification time."""
    folder.mkdir(exist_ok=True)
    files = folder / "a.bin", folder / "b.bin"
    then = 1_500_000_000_123_456_789
    for file, data in zip(files, (a, b)):
        file.write_bytes(data)
        os.utime(file, ns=(then, then))
    return files


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("replace", REPLACEMENTS)
def test_another_file_of_the_same_size_and_time_has_its_own_digest(
    tmp_path: Path, replace: Callable[[Path, Path], None]
) -> None:
    file, new = twins(tmp_path, b"a" * 100, b"b" * 100)
    expected, before = sha256(new), file.stat()
    assert digests.sha256_files([file]) != [expected]
    replace(new, file)
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert digests.sha256_files([file]) == [expected]


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("replace", REPLACEMENTS)
def test_parts_of_another_file_of_the_same_size_and_time(
    tmp_path: Path, replace: Callable[[Path, Path], None]
) -> None:
    file, new = twins(tmp_path, b"a" * 100, b"b" * 100)

    def parts() -> list[str]:
        return digests.sha256_parts(file, ["0", "50"], lambda i: file.read_bytes()[50 * i : 50 * i + 50])

    assert parts() == [hashlib.sha256(b"a" * 50).hexdigest()] * 2
    replace(new, file)
    assert parts() == [hashlib.sha256(b"b" * 50).hexdigest()] * 2


def test_a_file_that_changed_just_now_is_not_remembered(tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"a")
    os.utime(file, (0, 0))  # the time of change stays that of now
    digests.sha256_files([file])
    assert not remembered(cache)


def test_what_was_remembered_by_size_and_time_is_not_believed(tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"a")
    cache.mkdir()
    with sqlite3.connect(cache / "digests.sqlite") as table:
        table.execute("CREATE TABLE digests (path TEXT PRIMARY KEY, size INT, mtime_ns INT, sha256)")
        row = str(file), 1, file.stat().st_mtime_ns, "0" * 64
        table.execute("INSERT INTO digests VALUES (?, ?, ?, ?)", row)
    table.close()
    assert digests.sha256_files([file]) == [sha256(file)]


@pytest.mark.usefixtures("settled")
def test_a_record_that_was_changed_is_not_believed(tmp_path: Path, cache: Path) -> None:
    files = [tmp_path / "a", tmp_path / "b"]
    for file in files:
        file.write_bytes(file.name.encode())
    digests.sha256_files(files)
    with sqlite3.connect(cache / "digests.sqlite") as table:
        table.execute("UPDATE records SET sha256 = ? WHERE path = ?", (sha256(files[1]), str(files[0])))
    table.close()
    assert digests.sha256_files(files) == [sha256(file) for file in files]


def test_a_clock_ahead_of_the_file_systems_does_not_settle_a_file(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"a")
    now = digests.time.time_ns()
    monkeypatch.setattr(digests.time, "time_ns", lambda: now + 3600 * 10**9)
    digests.sha256_files([file])
    assert not remembered(cache)


def remembered(cache: Path) -> list[tuple[str, ...]]:
    table = sqlite3.connect(cache / "digests.sqlite")
    rows = table.execute("SELECT * FROM records").fetchall()
    table.close()
    return rows


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("changes", [1, 100])
def test_a_file_that_changes_while_it_is_read(
    changes: int, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, hash_file = tmp_path / "a", digests.sha256_file
    file.write_bytes(b"a")
    left = iter(range(changes))

    def hash_and_change(path: Path, size: int | None = None) -> str:
        value = hash_file(path, size)
        if (change := next(left, None)) is not None:
            file.write_bytes(b"a" * (change + 2))
        return value

    monkeypatch.setattr(digests, "sha256_file", hash_and_change)
    if changes == 1:
        assert digests.sha256_files([file]) == [sha256(file)]
    else:
        with pytest.raises(DataError, match=f"{file} changes while it is read"):
            digests.sha256_files([file])


@pytest.mark.parametrize("kind", ["squashfs", "fuse.sshfs", "vfat"])
def test_a_disk_without_times_of_change_is_always_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, settled: None
) -> None:
    """Two images mounted at one place may have files of one size, time and inode."""
    file = tmp_path / "a.png"
    file.write_bytes(b"one")
    [before] = digests.sha256_files([file])  # remembered, as of the disk that the path was on
    device = os.stat(file).st_dev
    monkeypatch.setattr(digests, "mounted", lambda: {(os.major(device), os.minor(device)): kind})
    read, whole = [], digests.sha256_file
    monkeypatch.setattr(digests, "sha256_file", lambda *each: read.append(each) or whole(*each))
    for _ in range(2):
        assert digests.sha256_files([file]) == [before]
    assert len(read) == 2


def test_the_file_system_of_this_machine_is_found(tmp_path: Path) -> None:
    kinds = mounted()
    assert not Path("/proc/self/mountinfo").exists() or "proc" in kinds.values()
    assert keeps_ctime(0, kinds)
    assert not keeps_ctime(os.makedev(7, 3), {(7, 3): "squashfs"})
    assert keeps_ctime(os.makedev(7, 3), {(7, 4): "squashfs"})

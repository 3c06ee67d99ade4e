"""A packed data set is the data set: ids, bytes, labels, columns, digest; interruptions cost nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import pickle
import random
import resource
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from _images import MemoryOpener, memory_manifest, png, write_images
from etils import epath
from typer.testing import CliRunner

from clipjax.cli import app
from clipjax.data.cards import load_dataset
from clipjax.data.check import check_dataset
from clipjax.data.manifest import Manifest
from clipjax.data.pack import PLAN, pack
from clipjax.data.pixels import limits
from clipjax.data.readers.folder import read_folder
from clipjax.data.readers.manifest_file import read_manifest_file
from clipjax.data.readers.packed import DIGEST, KINDS, MANIFEST, is_packed, read_packed
from clipjax.data.readers.webdataset import read_webdataset
from clipjax.errors import DataError, UsageError
from clipjax.evaluation.data_set import dataset_of
from clipjax.evaluation.request import Request

NAMES = [f"{'cat' if i % 2 else 'dog'}/{i:02d}.png" for i in range(10)]
BOTH = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Manifest:
    return read_folder(epath.Path(write_images(tmp_path / "data", NAMES)))


def read(path: Path, names=None) -> Manifest:
    return read_packed(epath.Path(path), names)


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def same(found: Manifest, expected: Manifest) -> None:
    assert found.ids == expected.ids
    assert found.label_names == expected.label_names
    assert found.columns == expected.columns
    assert (found.labels is None) == (expected.labels is None)
    if found.labels is not None and expected.labels is not None:
        assert found.labels.tolist() == expected.labels.tolist()
    assert [found.open(i) for i in range(len(found))] == [expected.open(i) for i in range(len(expected))]
    assert (found.digest, found.images_digest) == (expected.digest, expected.images_digest)


@BOTH
def test_a_packed_folder_is_the_folder(tmp_path: Path, folder: Manifest, kind: str) -> None:
    seen: list[int] = []
    done = pack(folder, tmp_path / "out", kind, images_per_shard=4, progress=seen.append)
    assert (done.digest, done.images, done.shards, done.kept) == (folder.digest, 10, 3, 0)
    assert seen == [4, 4, 2]
    assert visible(tmp_path / "out") == [
        *(f"{k:05d}{KINDS[kind]}" for k in range(3)),
        "classnames.txt",
        MANIFEST,
    ]
    packed = read(tmp_path / "out")
    same(packed, folder)
    same(dataset_of(Request(root=tmp_path / "out")).manifest, folder)
    part = pickle.loads(pickle.dumps(packed.select([9, 3]).opener))
    assert [part.open(0), part.open(1)] == [folder.open(9), folder.open(3)]
    assert f"0000{2}{KINDS[kind]}" in part.where(0)
    assert packed.select([9, 3]).digest == folder.select([9, 3]).digest


def test_others_read_the_tars_as_well(tmp_path: Path, folder: Manifest) -> None:
    pack(folder, tmp_path / "out", "webdataset", images_per_shard=4)
    same(read_webdataset(epath.Path(tmp_path / "out")), folder)
    pack(folder, tmp_path / "again", "webdataset", images_per_shard=4)
    for name in ("00000.tar", MANIFEST):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_classes_that_are_called_by_numbers(tmp_path: Path) -> None:
    names = [f"{name}/{i}.png" for name in (1, 2, 3, 10) for i in range(2)]
    numbered = read_folder(epath.Path(write_images(tmp_path / "data", names)))
    assert numbered.label_names == ("1", "2", "3", "10"), "no name is its index"
    pack(numbered, tmp_path / "out", "webdataset")
    same(read_webdataset(epath.Path(tmp_path / "out")), numbered)
    same(read(tmp_path / "out"), numbered)


@BOTH
def test_captions_columns_and_ids_that_are_no_file_names(tmp_path: Path, kind: str) -> None:
    write_images(tmp_path, ["a.png", "b.png"])
    rows = [
        {"path": "a.png", "id": "x/1", "label": 1, "captions": ["one", "two\nlines"], "size": 3.5},
        {"path": "b.png", "id": "../é", "label": 0, "captions": ["three"], "size": None},
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    expected = read_manifest_file(epath.Path(tmp_path / "m.jsonl"), ("cat", "dog"))
    pack(expected, tmp_path / "out", kind)
    same(read(tmp_path / "out"), expected)
    if kind == "webdataset":
        with tarfile.open(tmp_path / "out" / "00000.tar") as archive:
            names = archive.getnames()
        assert names == [f"{i:08d}.{ending}" for i in range(2) for ending in ("png", "cls", "txt", "json")]


@BOTH
def test_images_that_share_a_key_or_have_no_labels(tmp_path: Path, kind: str) -> None:
    """0.png and 0.PNG would be one sample of a tar."""
    opener = MemoryOpener((png(0), png(1), b"\xff\xd8 no ending"))
    expected = Manifest(("0.png", "0.PNG", "three"), opener)
    pack(expected, tmp_path / "out", kind)
    same(read(tmp_path / "out"), expected)


class Breaks(MemoryOpener):
    """Image 5 cannot be read."""

    def open(self, i: int) -> bytes:
        if i == 5:
            raise DataError("image 5 cannot be read")
        return super().open(i)


@BOTH
def test_an_interrupted_run_goes_on(tmp_path: Path, kind: str) -> None:
    whole, out = memory_manifest(10), tmp_path / "out"
    broken = Manifest(whole.ids, Breaks(tuple(whole.open(i) for i in range(10))), whole.labels)
    with pytest.raises(DataError, match=r"^image 5 cannot be read$"):
        pack(broken, out, kind, images_per_shard=4)
    first = f"00000{KINDS[kind]}"
    assert visible(out) == [first, PLAN], "whole shards alone"
    assert not is_packed(out)
    written = (out / first).stat().st_mtime_ns
    (out / f".00001.tar.{'dead' * 8}.tmp").write_bytes(b"of a run that was killed")
    done = pack(whole, out, kind, images_per_shard=4)
    assert (done.shards, done.kept, done.digest) == (3, 1, whole.digest)
    assert (out / first).stat().st_mtime_ns == written
    assert not [name for name in visible(out) if name.endswith((".tmp", PLAN))]
    assert pack(whole, out, kind, images_per_shard=4).kept == 3, "the same command once more does nothing"
    with pytest.raises(DataError, match="packed already, 4 images per shard, not 5"):
        pack(whole, out, kind, images_per_shard=5)


@BOTH
@pytest.mark.parametrize("damage", ["cut", "flipped", "of another image"])
def test_a_shard_that_is_not_right_is_written_again(tmp_path: Path, kind: str, damage: str) -> None:
    whole, out = memory_manifest(8), tmp_path / "out"
    pack(whole, out, kind, images_per_shard=4)
    shard, manifest = out / f"00000{KINDS[kind]}", out / MANIFEST
    data = shard.read_bytes()
    place = data.index(png(2)) + 60
    if damage == "cut":
        shard.write_bytes(data[: len(data) // 2])
    elif damage == "flipped":
        shard.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    else:
        pack(memory_manifest(9).select([1, 2, 3, 8]), tmp_path / "other", kind)
        shard.write_bytes((tmp_path / "other" / shard.name).read_bytes())
    manifest.unlink()
    (out / "classnames.txt").unlink(missing_ok=True)
    for k in (out / PLAN, tmp_path / "begun"):
        assert not k.exists()
    with pytest.raises(DataError, match="is not empty; choose a new folder"):
        pack(whole, out, kind, images_per_shard=4)
    interrupted(whole, tmp_path / "begun", kind)
    (tmp_path / "begun" / PLAN).rename(out / PLAN)
    assert pack(whole, out, kind, images_per_shard=4).kept == 1
    assert shard.read_bytes() == data
    same(read(out), whole)


def interrupted(manifest: Manifest, out: Path, kind: str) -> None:
    """Leaves the plan of a run that stopped at its first image."""
    opener = Breaks(tuple(manifest.open(i) for i in range(len(manifest))))
    broken = Manifest(manifest.ids, opener, manifest.labels)
    with pytest.raises(DataError, match="image 5"):
        pack(broken, out, kind, images_per_shard=4)


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The system refuses to write more into a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@BOTH
def test_a_disk_that_takes_no_more(tmp_path: Path, kind: str) -> None:
    images = tuple(os.urandom(50_000) for _ in range(6))
    whole = Manifest(tuple(f"{i}.png" for i in range(6)), MemoryOpener(images))
    with files_of_at_most(60_000), pytest.raises(DataError) as refused:
        pack(whole, tmp_path / "out", kind, images_per_shard=3)
    shard = tmp_path / "out" / f"00000{KINDS[kind]}"
    assert str(refused.value).startswith(f"{shard}: the shard cannot be written (")
    assert str(refused.value).endswith("run it again: finished shards are kept")
    assert "\n" not in str(refused.value)
    assert [path.name for path in (tmp_path / "out").glob("*")] == [PLAN], "nothing half-written"
    assert pack(whole, tmp_path / "out", kind, images_per_shard=3).digest == whole.digest


def test_a_full_disk_is_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "addfile", full)
    with pytest.raises(DataError, match=r"00000\.tar: the shard cannot be written \(no space left\); free"):
        pack(memory_manifest(3), tmp_path / "out", "webdataset")
    assert visible(tmp_path / "out") == [PLAN]


@BOTH
def test_what_is_written_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """A disk that keeps something else than it was given."""
    from clipjax.data import pack as module

    written = module._FORMATS[kind].write  # pyright: ignore[reportAttributeAccessIssue]

    def write(self, path, rows):
        digests = written(self, path, rows)
        data = path.read_bytes()
        path.write_bytes(data.replace(png(1), png(2)))
        return digests

    monkeypatch.setattr(module._FORMATS[kind], "write", write)
    with pytest.raises(DataError, match=r"00000\.\w+"):
        pack(memory_manifest(3), tmp_path / "out", kind)
    assert visible(tmp_path / "out") == [PLAN]


def test_a_run_killed_in_its_first_write_goes_on(tmp_path: Path, folder: Manifest) -> None:
    """All it left is the draft of its plan."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / f".{PLAN}.{'0' * 32}.tmp").write_text("{")
    pack(folder, tmp_path / "out", "webdataset")
    assert not list((tmp_path / "out").glob(".*"))


def test_folders_of_something_else_are_left_alone(tmp_path: Path, folder: Manifest) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / ".mine.tmp").write_text("mine")
    with pytest.raises(DataError, match=r"full is not empty; choose a new folder"):
        pack(folder, tmp_path / "full", "webdataset")
    assert (tmp_path / "full" / ".mine.tmp").read_text() == "mine"
    pack(folder, tmp_path / "out", "webdataset")
    for other, kind in ((folder.select([1, 0]), "webdataset"), (folder, "array_record")):
        with pytest.raises(DataError, match="out holds another packed data set; choose a new folder"):
            pack(other, tmp_path / "out", kind)
    interrupted(memory_manifest(8), tmp_path / "begun", "webdataset")
    with pytest.raises(DataError, match="begun holds the begun packing of something else"):
        pack(folder, tmp_path / "begun", "webdataset")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file: the folder cannot be written \(Not a directory\)"):
        pack(folder, tmp_path / "file", "webdataset")


def test_wrong_arguments(tmp_path: Path, folder: Manifest) -> None:
    with pytest.raises(UsageError, match="unknown format 'tar'"):
        pack(folder, tmp_path / "out", "tar")
    with pytest.raises(UsageError, match="at least 1 image, not 0"):
        pack(folder, tmp_path / "out", "webdataset", images_per_shard=0)
    with pytest.raises(DataError, match="has no images to pack"):
        pack(folder.select([]), tmp_path / "out", "webdataset")
    assert not (tmp_path / "out").exists()


@BOTH
def test_damage_to_what_was_packed_is_named(tmp_path: Path, folder: Manifest, kind: str) -> None:
    out = tmp_path / "out"
    pack(folder, out, kind, images_per_shard=4)
    shard, manifest = out / f"00001{KINDS[kind]}", out / MANIFEST
    data, text = shard.read_bytes(), manifest.read_text()
    shard.write_bytes(data[:-512])
    with pytest.raises(
        DataError, match=rf"{shard.name} has {len(data) - 512} bytes, manifest\.json says {len(data)}"
    ):
        read(out)
    shard.write_bytes(data.replace(png(2), png(6)))  # of the same size; ArrayRecord has checksums of its own
    with pytest.raises(DataError, match=rf"{shard.name}.*(has changed since it was packed|cannot be read)"):
        _ = read(out).digest
    shard.unlink()
    with pytest.raises(DataError, match=rf"{shard.name} does not exist, and manifest\.json names it"):
        read(out)
    shard.write_bytes(data)
    for wrong in (
        text[:-20],
        text.replace('"kind": "', '"kind": "x'),
        text.replace('"images": 4', '"images": 5'),
    ):
        manifest.write_text(wrong)
        with pytest.raises(DataError, match=r"manifest\.json is damaged"):
            read(out)
    record = without_digest(json.loads(text))
    record["shards"][0]["images"], record["shards"][1]["images"] = 3, 5
    manifest.write_text(json.dumps(record))
    with pytest.raises(DataError, match=r"00000\.\w+ holds 4 images, manifest\.json says 3"):
        read(out)


def without_digest(record: dict[str, Any]) -> dict[str, Any]:
    """As clipjax wrote manifests before they had a digest of their own."""
    return {name: value for name, value in record.items() if name != DIGEST}


@pytest.mark.parametrize("key", ["ids", "labels", "label_names", "columns", "sha256", "name", DIGEST])
def test_a_changed_manifest_is_refused(key: str, tmp_path: Path, folder: Manifest) -> None:
    out = tmp_path / "out"
    columns = {"factor": [str(i) for i in range(len(folder))]}
    pack(dataclasses.replace(folder, columns=columns), out, "webdataset", images_per_shard=4)
    record = json.loads((out / MANIFEST).read_text())
    value = record["columns"]["factor"] if key == "columns" else record[key]
    if isinstance(value, list):
        value[0], value[-1] = value[-1], value[0]
    else:
        record[key] = f"{value}0"
    (out / MANIFEST).write_text(json.dumps(record, ensure_ascii=False))
    with pytest.raises(
        DataError, match=r"manifest\.json is damaged \(its SHA-256 is not that in its 'digest'"
    ):
        read(out)


def test_a_manifest_without_a_digest_is_read_with_one_note(
    tmp_path: Path, folder: Manifest, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    pack(folder, out, "webdataset", images_per_shard=4)
    record = json.loads((out / MANIFEST).read_text())
    (out / MANIFEST).write_text(json.dumps(without_digest(record)))
    assert read(out).digest == read(out).digest == folder.digest
    [note] = [each.getMessage() for each in caplog.records]
    assert note.startswith(f"{out / MANIFEST} has no SHA-256 of its own")


@pytest.mark.parametrize("where", ["absolute", "../other/00000.tar", "a link"])
def test_a_manifest_names_no_shard_outside_of_its_folder(
    where: str, tmp_path: Path, folder: Manifest
) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    pack(folder, out, "webdataset", images_per_shard=4)
    other.mkdir()
    (out / "00000.tar").rename(other / "00000.tar")
    record = without_digest(json.loads((out / MANIFEST).read_text()))
    name = {"absolute": str(other / "00000.tar"), "a link": "00000.tar"}.get(where, where)
    if where == "a link":
        (out / "00000.tar").symlink_to(other / "00000.tar")
    record["shards"][0]["file"] = name
    (out / MANIFEST).write_text(json.dumps(record))
    with pytest.raises(DataError, match=f"names the shard '{name}', which is outside of its folder"):
        read(out)


@BOTH
@pytest.mark.parametrize("damage", ["missing", "cut", "changed"])
def test_packing_again_mends_the_damaged_shard_alone(
    tmp_path: Path, folder: Manifest, kind: str, damage: str
) -> None:
    out = tmp_path / "out"
    pack(folder, out, kind, images_per_shard=4)
    shard, before = out / f"00001{KINDS[kind]}", {path: path.read_bytes() for path in out.iterdir()}
    data = before[shard]
    if damage == "missing":
        shard.unlink()
    else:
        at = data.index(folder.open(5)) + 60
        shard.write_bytes(data[:-512] if damage == "cut" else data[:at] + b"?" + data[at + 1 :])
    others = {path: path.stat().st_ino for path in out.glob(f"*{KINDS[kind]}") if path != shard}
    done = pack(folder, out, kind, images_per_shard=4)
    assert (done.shards, done.kept, done.digest) == (3, 2, folder.digest)
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    assert {path: path.stat().st_ino for path in others} == others, "the others were not written"
    assert pack(folder, out, kind, images_per_shard=4).kept == 3


@BOTH
@pytest.mark.parametrize("damage", ["cut", "counts", "digests", "image"])
def test_what_packing_again_does_not_mend(tmp_path: Path, folder: Manifest, kind: str, damage: str) -> None:
    """A damaged manifest.json does not say whose folder it is; other images are another data set."""
    out = tmp_path / "out"
    pack(folder, out, kind, images_per_shard=5)
    manifest, record = out / MANIFEST, without_digest(json.loads((out / MANIFEST).read_text()))
    if damage == "counts":
        record["shards"][0]["images"], record["shards"][1]["images"] = 4, 6
        message = "packed already, 4 images per shard, not 5"
    elif damage == "digests":
        record["sha256"][7] = "0" * 64
        message = (
            "was packed when the images were others .*, or remove the folder and pack the data set again"
        )
    else:
        message = "is damaged .*, or remove the folder and pack the data set again"
    manifest.write_text(json.dumps(record) if damage in ("counts", "digests") else manifest.read_text()[:-1])
    if damage == "image":
        (tmp_path / "data" / NAMES[0]).write_bytes(png(77))
        manifest.write_text(json.dumps(record))
        folder = read_folder(epath.Path(tmp_path / "data"))
        message = "was packed when the images were others"
    kept = {path: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(DataError, match=message):
        pack(folder, out, kind, images_per_shard=5)
    assert {path: path.read_bytes() for path in out.iterdir()} == kept


SLOWLY = """
import sys, time
from etils import epath
from clipjax.data import pack
from clipjax.data.readers import folder as readers
class Slow(readers.FileOpener):
    def open(self, i):
        print(i, flush=True)
        time.sleep(0.1)
        return super().open(i)
readers.FileOpener = Slow
pack.pack(readers.read_folder(epath.Path(sys.argv[1])), sys.argv[2], sys.argv[3], images_per_shard=2)
"""


def killed(data: Path, out: Path, kind: str, images: int, later: float) -> None:
    """Packing that dies so many seconds after it has begun to read so many images."""
    command = [sys.executable, "-c", SLOWLY, str(data), str(out), kind]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(images):
            assert process.stdout.readline()
        time.sleep(later)
        process.kill()
    assert process.returncode == -signal.SIGKILL


@BOTH
def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(
    tmp_path: Path, folder: Manifest, kind: str
) -> None:
    pack(folder, tmp_path / "whole", kind, images_per_shard=2)
    whole = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    out, rng = tmp_path / "out", random.Random(0)
    there: list[Path] = []
    for _ in range(3):
        killed(tmp_path / "data", out, kind, rng.randint(1, 3), rng.uniform(0, 0.12))
        assert not is_packed(out)
        there = list(out.glob(f"*{KINDS[kind]}"))
        assert all(path.read_bytes() == whole[path.name] for path in there), "what can be seen is whole"
    done = pack(folder, out, kind, images_per_shard=2)
    assert (done.kept, done.digest) == (len(there), folder.digest)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == whole


def test_a_class_that_is_no_line_is_in_no_list_of_lines(tmp_path: Path) -> None:
    odd = read_folder(epath.Path(write_images(tmp_path / "data", ["a\u2028b/0.png", "c/0.png"])))
    pack(odd, tmp_path / "out", "webdataset")
    same(read(tmp_path / "out"), odd)
    assert read_webdataset(epath.Path(tmp_path / "out")).label_names is None


def test_a_card_reads_its_packed_data_set(tmp_path: Path, folder: Manifest) -> None:
    out, card = tmp_path / "out", tmp_path / "pets.toml"
    pack(folder, out, "array_record")
    card.write_text(
        'name = "pets"\ntitle = "Pets"\nreader = "folder"\nclasses = ["cat", "dog"]\nimages = 10\n'
    )
    assert load_dataset(card, out).manifest.digest == folder.digest
    assert check_dataset(out, card) == []
    card.write_text(card.read_text().replace('"cat", "dog"', '"dog", "cat"'))
    with pytest.raises(DataError, match="packed with other classes than the card's, first at 0"):
        load_dataset(card, out)


def test_the_command(tmp_path: Path, folder: Manifest) -> None:
    arguments = ["datasets", "pack", str(tmp_path / "data"), str(tmp_path / "out"), "--images-per-shard", "3"]
    done = CliRunner().invoke(app, arguments)
    assert (
        done.stdout == f"{tmp_path / 'out'}: 10 images in 4 shards, 0 of them kept\ndigest {folder.digest}\n"
    )
    assert "4 of them kept" in CliRunner().invoke(app, arguments).stdout
    wrong = CliRunner().invoke(app, [*arguments[:4], "--format", "zip"])
    assert isinstance(wrong.exception, UsageError)


@BOTH
def test_an_image_of_more_bytes_than_any_is_refused(
    tmp_path: Path, folder: Manifest, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    pack(folder, tmp_path / "out", kind)
    packed = read(tmp_path / "out")
    monkeypatch.setattr(limits, "MAX_BYTES", len(png(1)) - 1)
    with pytest.raises(DataError, match=rf"00000\.\w+.*: {len(png(1))} bytes, more than any image"):
        packed.open(1)


def test_where_nothing_is_packed(tmp_path: Path, folder: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Into the data set itself, where it would be a class."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "data")
    before = [*visible(tmp_path), *visible(tmp_path / "data")]
    for out in ("data", "data/packed", "link/cat/packed"):
        refused = CliRunner().invoke(app, ["datasets", "pack", str(tmp_path / "data"), out]).exception
        assert isinstance(refused, UsageError)
        assert f"{out} is in the data set {tmp_path / 'data'} itself; give" in str(refused)
    assert [*visible(tmp_path), *visible(tmp_path / "data")] == before
    assert CliRunner().invoke(app, ["datasets", "pack", "data", "data2"]).exit_code == 0, "is not in data"

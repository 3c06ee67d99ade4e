"""WebDataset shards are the same images as a folder; what is wrong with a shard is named, with its member."""

from __future__ import annotations

import bz2
import contextlib
import gc
import gzip
import io
import json
import lzma
import os
import pickle
import sqlite3
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _long import mostly_long
from etils import epath

from clipjax.data.check import check_dataset
from clipjax.data.pixels.loader import batches
from clipjax.data.readers import webdataset
from clipjax.data.readers.folder import read_folder
from clipjax.data.readers.reader import recognise
from clipjax.data.readers.webdataset import read_webdataset
from clipjax.errors import DataError
from clipjax.evaluation.data_set import dataset_of
from clipjax.evaluation.request import Request
from tests.data._images import RECIPE, png, row_of, write_images

TRAVELS = "data/readers/test_webdataset.py::test_an_opener_travels_to_other_processes"
NAMES = [f"{'cat' if i % 2 else 'dog'}/{i:02d}.png" for i in range(10)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path / "cache"))


def write_tar(path: Path, members: Iterable[tuple[str, bytes]], **attributes: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in attributes.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(data) if info.isreg() else None)
    return path


def sample(i: int, **others: str) -> list[tuple[str, bytes]]:
    """Image i and its other members, under one key."""
    return [(f"{i:04d}.png", png(i)), *((f"{i:04d}.{kind}", text.encode()) for kind, text in others.items())]


def write_shards(folder: Path, count: int = 3, per_shard: int = 4) -> Path:
    for k in range(count):
        rows = range(k * per_shard, (k + 1) * per_shard)
        write_tar(folder / f"{k}.tar", [member for i in rows for member in sample(i, cls=str(i % 2))])
    return folder


def read(path: Path, names=None, **options):
    return read_webdataset(epath.Path(path), names, **options)


def test_a_packed_folder_is_the_folder(tmp_path: Path) -> None:
    """Ids, order, bytes, labels and digests; whether it was packed as `.` or not."""
    folder = write_images(tmp_path / "data", NAMES)
    expected = read_folder(epath.Path(folder))
    assert expected.labels is not None
    files = dict(zip(expected.ids, zip((expected.open(i) for i in range(10)), expected.labels)))
    for prefix in ("", "./"):
        members = []
        for name, (data, label) in files.items():
            members += [(prefix + name, data), (f"{prefix}{name[:-4]}.cls", str(label).encode())]
        packed = read(write_tar(tmp_path / f"{len(prefix)}.tar", members), ("cat", "dog"))
        assert packed.ids == expected.ids
        assert [packed.open(i) for i in range(10)] == [expected.open(i) for i in range(10)]
        assert packed.labels is not None
        assert packed.labels.tolist() == expected.labels.tolist()
        assert (packed.digest, packed.images_digest) == (expected.digest, expected.images_digest)
        chosen = [7, 2, 5]
        assert packed.select(chosen).digest == expected.select(chosen).digest


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the library leaves its shards open
def test_clip_benchmarks_own_files_are_read(tmp_path: Path) -> None:
    """Written and read by the library itself; class names lie above the shards, which are numbered."""
    wds = pytest.importorskip("webdataset", reason="the reference library is not installed")
    (tmp_path / "test").mkdir()
    (tmp_path / "classnames.txt").write_text("dog\ncat\n")
    with wds.ShardWriter(str(tmp_path / "test" / "%d.tar"), maxcount=2, verbose=False) as sink:
        for i in range(22):
            texts = {"cls": i % 2, "txt": f"number {i}\nan image"}
            sink.write({"__key__": f"s{i:07d}", "webp": png(i), **texts})
    (tmp_path / "test" / "nshards.txt").write_text("11\n")
    manifest = dataset_of(Request(root=tmp_path / "test")).manifest
    theirs = list(wds.WebDataset(str(tmp_path / "test" / "{0..10}.tar"), shardshuffle=False))
    gc.collect()
    assert list(manifest.ids) == [f"{each['__key__']}.webp" for each in theirs]
    assert [manifest.open(i) for i in range(22)] == [each["webp"] for each in theirs]
    assert manifest.labels is not None
    assert manifest.labels.tolist() == [int(each["cls"]) for each in theirs]
    assert manifest.columns == {"captions": [each["txt"].decode().splitlines() for each in theirs]}
    assert manifest.label_names == ("dog", "cat")


def test_one_shard_a_folder_or_a_pattern(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "shards", 12, 1)
    whole = read(folder)
    assert whole.ids == tuple(f"{i:04d}.png" for i in range(12)), "10.tar comes behind 9.tar"
    assert read(folder / "7.tar").ids == ("0007.png",)
    assert read(folder / "{2..11}.tar").ids == whole.ids[2:]
    assert read(folder / "{11,3}.tar").ids == ("0011.png", "0003.png")
    for i in range(2):
        (folder / f"{i}.tar").rename(folder / f"x{i:03d}.tar")
    assert dataset_of(Request(root=folder / "x{000..001}.tar")).manifest.ids == whole.ids[:2]


@pytest.mark.parametrize("workers", mostly_long([0, 2], keep=[0], guard=TRAVELS))
def test_the_loader_gives_one_order(tmp_path: Path, workers: int) -> None:
    manifest = read(write_shards(tmp_path / "shards"))
    with batches(manifest, RECIPE, batch_size=5, workers=workers) as iterator:
        rows = np.concatenate([batch["row"] for batch in iterator])
    with batches(manifest, RECIPE, batch_size=12) as iterator:
        assert row_of(next(iterator)["pixels"]).tolist() == list(range(12))
    assert rows.tolist() == [*range(12), -1, -1, -1]


def test_an_opener_travels_to_other_processes(tmp_path: Path) -> None:
    part = read(write_shards(tmp_path / "shards")).select([11, 0]).opener
    again = pickle.loads(pickle.dumps(part))
    assert [again.open(0), again.open(1)] == [png(11), png(0)]
    assert again.where(0) == f"{tmp_path / 'shards' / '2.tar'}/0011.png"


def test_labels_from_json_and_names(tmp_path: Path) -> None:
    members = [each for i in range(3) for each in sample(i, json=json.dumps({"class": "ab"[i % 2], "n": i}))]
    path = write_tar(tmp_path / "a.tar", members)
    manifest = read(path, label="json:class")
    assert (manifest.label_names, manifest.labels is not None and manifest.labels.tolist()) == (
        ("a", "b"),
        [0, 1, 0],
    )
    assert read(path).labels is None
    with pytest.raises(DataError, match=r"a\.tar: 0000: \.json has no 'klass'; it has class, n$"):
        read(path, label="json:klass")
    (tmp_path / "card.toml").write_text(
        'name = "w"\ntitle = "W"\nreader = "webdataset"\nclasses = ["a", "b"]\nimages = 3\n'
        '[options]\nlabel = "json:class"\n'
    )
    assert check_dataset(path, tmp_path / "card.toml") == []
    assert check_dataset(tmp_path / "b.tar", tmp_path / "card.toml")[0].startswith(
        f"{tmp_path / 'b.tar'} does"
    )


def test_a_number_in_cls_is_an_index_where_classes_are_called_by_numbers(tmp_path: Path) -> None:
    names = ["1", "2", "10", "three"]
    rows = [sample(i, cls=text) for i, text in enumerate(["1", "02", "0\n", "three"])]
    path = write_tar(tmp_path / "a.tar", [member for row in rows for member in row])
    labels = read(path, names).labels
    assert labels is not None
    assert labels.tolist() == [1, 2, 0, 3]
    for beyond in ("10", "-1"):
        path = write_tar(tmp_path / "b.tar", sample(0, cls=beyond))
        with pytest.raises(DataError, match=rf"b\.tar: 0000: the label {beyond} is outside the set of 4"):
            read(path, names)


def test_captions_end_where_lines_do(tmp_path: Path) -> None:
    text = "one\u2028still one\r\n\n\ftwo\n"
    path = write_tar(tmp_path / "a.tar", [*sample(0, txt=text), *sample(1, txt=""), *sample(2, txt="a")])
    assert read(path).columns["captions"] == [["one\u2028still one", "", "\ftwo"], [], ["a"]]


def test_several_images_in_a_sample(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [("k.jpg", png(1)), ("k.png", png(2)), ("k.seg.png", png(3))])
    with pytest.raises(
        DataError, match=r'the sample k has 2 images \(jpg, png, seg\.png\); .* image = "jpg"'
    ):
        read(path)
    assert read(path, image="png").open(0) == png(2)
    assert read(path, image="seg.png").ids == ("k.seg.png",)


def test_what_is_no_part_of_a_sample_is_passed_over(tmp_path: Path) -> None:
    others = [("._0000.png", b"macOS"), ("__index__.json", b"{}"), ("README", b"")]
    assert read(write_tar(tmp_path / "a.tar", [*others, *sample(0)])).ids == ("0000.png",)


def test_shards_that_repeat_their_keys(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_tar(tmp_path / f"{name}.tar", sample(0))
    with pytest.raises(DataError, match=r"b\.tar: 0000\.png is also in a\.tar; .* shard_in_id = true"):
        read(tmp_path)
    assert read(tmp_path, shard_in_id=True).ids == ("a.tar/0000.png", "b.tar/0000.png")


WHOLE = [*sample(0, cls="0"), *sample(1, cls="1")]


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ([("/etc/a.png", b"")], r"the member /etc/a\.png leaves its folder; do not trust"),
        ([("x/../../a.png", b"")], r"the member x/\.\./\.\./a\.png leaves its folder"),
        ([("..\\a.png", b"")], r"the member \.\.\\a\.png leaves its folder"),
        ([*WHOLE, *sample(0)], r"the key 0000 occurs twice; a sample's members must stand together"),
        ([("k.png", png(0)), ("k.PNG", png(1))], r"the member k\.PNG occurs twice"),
        ([*WHOLE, *sample(2)], r"0002 has no \.cls, as others do; it has png$"),
        ([*WHOLE, ("k.cls", b"1")], r"the sample k has no image \(jpg, .*\), only cls$"),
        ([*WHOLE, *sample(2, cls="7")], r"0002: the label 7 is outside the set of 2 classes"),
        ([*WHOLE, *sample(2, cls="")], r"0002: the label is empty"),
        ([*sample(0), ("0000.cls", b"\xff\xfe")], r"0000: \.cls is not UTF-8 text"),
        ([], r"a\.tar holds no images"),
    ],
)
def test_what_is_wrong_in_a_shard_is_named(tmp_path: Path, members: list, says: str) -> None:
    path = write_tar(tmp_path / "a.tar", members)
    with pytest.raises(DataError, match=says) as refused:
        read(path, ("cat", "dog"))
    assert str(refused.value).startswith(str(path))
    assert list(tmp_path.glob("**/*.png")) == [], "nothing is unpacked"


def test_links_are_refused(tmp_path: Path) -> None:
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        path = write_tar(tmp_path / "a.tar", [("a.png", b"")], type=kind, linkname="/etc/passwd")
        with pytest.raises(DataError, match=r"a\.tar: the member a\.png is not a plain file \(a link\?\)"):
            read(path)


def test_every_cut_of_a_shard_is_seen(tmp_path: Path) -> None:
    path = write_shards(tmp_path, 1) / "0.tar"
    data = path.read_bytes()
    end = data.rindex(b"0003.cls") + 1024  # where the last member's block ends: two empty blocks follow
    for size in [1, 100, *range(512, end + 1, 512), end - 300]:
        path.write_bytes(data[:size])
        with pytest.raises(DataError, match=r"0\.tar: not a whole tar file .*; copy it again"):
            read(path)
    path.write_bytes(data[:512] + b"x" * 100 + data[612:])
    assert len(read(path)) == 4, "an image's own bytes are the decoder's business"
    path.write_bytes(data.replace(b"0002.png", b"9992.png", 1))  # its header's checksum is wrong now
    with pytest.raises(DataError, match="not a whole tar file"):
        read(path)


@pytest.mark.parametrize(("pack", "unpack"), [(gzip, "gunzip"), (bz2, "bunzip2"), (lzma, "unxz")])
def test_compressed_shards(tmp_path: Path, pack: Any, unpack: str) -> None:
    whole = write_shards(tmp_path / "whole", 1) / "0.tar"
    for name in ("a.tar", "a.tar.gz"):
        (tmp_path / name).write_bytes(pack.compress(whole.read_bytes()))
        says = rf"{name} is compressed and cannot be read at random; unpack it: {unpack} \S*/{name}$"
        with pytest.raises(DataError, match=says):
            read(tmp_path / name)


def test_missing_shards(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "shards")
    with pytest.raises(DataError, match=r"2 of its 5 shards do not exist, the first is \S*/3\.tar$"):
        read(folder / "{0..4}.tar")
    (folder / "nshards.txt").write_text("4")
    with pytest.raises(DataError, match=r"holds 3 shards, nshards\.txt says 4: copy the missing ones"):
        read(folder)
    for name, says in (
        ("gone.tar", "does not exist"),
        ("{4..0}.tar", "is not a range"),
        ("{0..9999999}.tar", "smaller"),
    ):
        with pytest.raises(DataError, match=says):
            read(folder / name)
    with pytest.raises(DataError, match=r"holds no \.tar"):
        read(tmp_path)


def test_archives_beside_other_things_are_no_shards(tmp_path: Path) -> None:
    write_shards(tmp_path)
    assert recognise(tmp_path) == "webdataset"
    write_images(tmp_path, ["cat/0.png"])
    assert recognise(tmp_path) == "folder"
    assert dataset_of(Request(root=tmp_path)).manifest.ids == ("cat/0.png",)


@pytest.mark.usefixtures("settled")
def test_another_shard_of_the_same_size_and_time_is_read(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "a.tar", [("0.bmp", b"BM" + b"a" * 100), ("1.bmp", b"BM" + b"b" * 200)])
    other = write_tar(tmp_path / "b.tar", [("0.bmp", b"BM" + b"c" * 200), ("1.bmp", b"BM" + b"d" * 100)])
    for file in (shard, other):
        os.utime(file, ns=(10**18, 10**18))
    assert shard.stat().st_size == other.stat().st_size
    before, expected = (read_webdataset(epath.Path(file)) for file in (shard, other))
    assert before.images_digest != expected.images_digest
    os.replace(other, shard)
    after = read_webdataset(epath.Path(shard))
    assert after.images_digest == expected.images_digest
    assert after.open(1) == b"BM" + b"d" * 100


@pytest.mark.usefixtures("settled")
def test_a_shard_is_walked_and_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_shards(tmp_path / "shards")
    seen: list[int] = []
    digest = read(folder).compute_digest(seen.append)
    assert sum(seen) == sum(len(png(i)) for i in range(12))
    with monkeypatch.context() as patch:
        patch.setattr(webdataset, "walk_tar", lambda *_: pytest.fail("walked again"))
        again = read(folder)
        patch.setattr(type(again.opener), "open", lambda *_: pytest.fail("hashed again"))
        assert again.digest == digest
    write_tar(folder / "1.tar", [each for i in range(4, 8) for each in sample(i + 100, cls="0")])
    os.utime(folder / "1.tar", ns=(1, 1))
    assert read(folder).digest != digest, "another file is read anew"


def test_a_shard_that_shrinks_later_is_named(tmp_path: Path) -> None:
    manifest = read(write_shards(tmp_path / "shards"))
    os.truncate(tmp_path / "shards" / "1.tar", 520)
    with pytest.raises(DataError, match=r"1\.tar/0004\.png: the shard was cut off; copy it again"):
        manifest.open(4)
    (tmp_path / "shards" / "1.tar").unlink()
    with pytest.raises(DataError, match=r"1\.tar/0004\.png: cannot be read \(No such file"):
        manifest.open(4)
    with pytest.raises(DataError, match=r"1\.tar: cannot be read"):
        _ = manifest.digest


@pytest.mark.usefixtures("settled")
def test_lists_of_members_that_were_swapped_are_not_believed(tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "shards", count=2)
    digest = read(folder).digest
    with contextlib.closing(sqlite3.connect(tmp_path / "cache" / "digests.sqlite")) as table:
        lists = "SELECT path, sha256 FROM records WHERE path LIKE 'tar members %' ORDER BY path"
        made = table.execute(lists).fetchall()
        [(one, first), (other, second)] = made
        for path, value in ((one, second), (other, first)):
            table.execute("UPDATE records SET sha256 = ? WHERE path = ?", (value, path))
        table.commit()
        assert read(folder).digest == digest
        assert table.execute(lists).fetchall() == made  # made again

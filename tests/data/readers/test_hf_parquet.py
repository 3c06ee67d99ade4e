"""Parquet files as `datasets` writes them are the images of a folder; mistakes are named by file and row."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from _long import mostly_long
from etils import epath

from clipjax.data.check import check_dataset
from clipjax.data.pixels import limits
from clipjax.data.pixels.loader import batches
from clipjax.data.readers import hf_parquet
from clipjax.data.readers.folder import read_folder
from clipjax.data.readers.hf_parquet import read_hf_parquet
from clipjax.data.readers.reader import recognise
from clipjax.errors import DataError
from clipjax.evaluation.data_set import dataset_of
from clipjax.evaluation.request import Request
from tests.data._images import RECIPE, png, row_of, write_images

TRAVELS = "data/readers/test_hf_parquet.py::test_an_opener_travels_to_other_processes"
NAMES = [f"{'cat' if i % 2 else 'dog'}/{i:02d}.png" for i in range(10)]
CLASSES = ["cat", "dog"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path / "cache"))


def images(rows: Sequence[int], names: Sequence[str | None] | None = None) -> list[dict]:
    paths = [f"{i:02d}.png" for i in rows] if names is None else names
    return [{"bytes": png(i), "path": path} for i, path in zip(rows, paths)]


def write(
    path: Path, columns: dict[str, Any], classes: dict[str, list[str]] | None = None, group: int = 3
) -> Path:
    """As `datasets.Dataset.to_parquet` (5.2) does, its metadata included, in row groups of `group` images."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    features: dict[str, Any] = {name: {"_type": "Value"} for name in columns} | {"image": {"_type": "Image"}}
    for name, names in (classes or {}).items():
        features[name] = {"names": names, "_type": "ClassLabel"}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(metadata), path, row_group_size=group)
    return path


def write_split(folder: Path, split: str = "test", files: int = 3, each: int = 4) -> Path:
    for k in range(files):
        rows = range(k * each, (k + 1) * each)
        columns = {"image": images(rows), "label": [i % 2 for i in rows]}
        write(folder / f"{split}-{k:05d}-of-{files:05d}.parquet", columns, {"label": CLASSES})
    return folder


def read(path: Path, names=None, **options):
    return read_hf_parquet(epath.Path(path), names, **options)


def test_the_images_of_a_folder_are_the_folder(tmp_path: Path) -> None:
    """Ids, order, bytes, labels, digests; and of any part of it."""
    expected = read_folder(epath.Path(write_images(tmp_path / "data", NAMES)))
    assert expected.labels is not None
    rows = [{"bytes": expected.open(i), "path": name} for i, name in enumerate(expected.ids)]
    for k, part in enumerate((slice(0, 7), slice(7, 10))):
        columns = {"image": rows[part], "label": expected.labels[part].astype(np.int64)}
        write(tmp_path / "hf" / f"{k}.parquet", columns, {"label": CLASSES})
    found = read(tmp_path / "hf")
    assert found.ids == expected.ids
    assert found.label_names == expected.label_names
    assert found.labels is not None
    assert found.labels.tolist() == expected.labels.tolist()
    assert [found.open(i) for i in range(10)] == [expected.open(i) for i in range(10)]
    assert (found.digest, found.images_digest) == (expected.digest, expected.images_digest)
    chosen = [9, 2, 5]
    assert found.select(chosen).digest == expected.select(chosen).digest


def test_a_repository_a_folder_a_file_or_a_pattern(tmp_path: Path) -> None:
    write_split(tmp_path / "data")
    (tmp_path / "README.md").write_text("")
    ids = tuple(f"{i:02d}.png" for i in range(12))
    for root in (tmp_path, tmp_path / "data", tmp_path / "data" / "test-{00000..00002}-of-00003.parquet"):
        dataset = dataset_of(Request(root=root))
        assert dataset.manifest.ids == ids
        assert dataset.label_space is not None
        assert list(dataset.label_space.classes) == CLASSES
    assert read(tmp_path / "data" / "test-00001-of-00003.parquet").ids == ids[4:8]


def test_splits(tmp_path: Path) -> None:
    write_split(write_split(tmp_path), "train", 1)
    assert len(read(tmp_path, split="train")) == 4
    with pytest.raises(DataError, match=r'holds several splits \(test, train\); say which, split = "test"'):
        read(tmp_path)
    with pytest.raises(DataError, match=r"has no split 'val'; it has test, train$"):
        read(tmp_path, split="val")
    (tmp_path / "test-00001-of-00003.parquet").unlink()
    with pytest.raises(DataError, match=r"lacks the shard test-00001-of-00003\.parquet: copy it"):
        read(tmp_path, split="test")


@pytest.mark.parametrize("workers", mostly_long([0, 2], keep=[0], guard=TRAVELS))
def test_the_loader_gives_one_order(tmp_path: Path, workers: int) -> None:
    manifest = read(write_split(tmp_path))
    with batches(manifest, RECIPE, batch_size=5, workers=workers) as iterator:
        found = list(iterator)
    rows = np.concatenate([batch["row"] for batch in found])
    assert rows.tolist() == [*range(12), -1, -1, -1]
    assert np.concatenate([row_of(batch["pixels"]) for batch in found])[:12].tolist() == list(range(12))


def test_threads_share_a_row_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    read_batches = hf_parquet.read_batches
    columns = {"image": images(range(12)), "label": [0] * 12}
    manifest = read(write(tmp_path / "a.parquet", columns, group=6))

    def counted(path: Path, columns: list[str], groups: list[int]) -> Any:
        reads.extend(groups)
        return read_batches(path, columns, groups)

    monkeypatch.setattr(hf_parquet, "read_batches", counted)
    with batches(manifest, RECIPE, batch_size=12, threads=4) as iterator:
        assert row_of(next(iterator)["pixels"]).tolist() == list(range(12))
    assert sorted(reads) == [0, 1]


def test_an_opener_travels_to_other_processes(tmp_path: Path) -> None:
    part = read(write_split(tmp_path)).select([11, 0]).opener
    again = pickle.loads(pickle.dumps(part))
    assert [again.open(0), again.open(1)] == [png(11), png(0)]
    assert again.where(0) == f"{tmp_path / 'test-00002-of-00003.parquet'} row 3"


def test_ids_captions_and_labels_by_name(tmp_path: Path) -> None:
    columns = {
        "image": images(range(3), ["same.png"] * 3),
        "species": ["tabby", "collie", "tabby"],
        "caption": ["a cat", "a dog", "a cat"],
        "sentences": [["a", "b"], ["c"], ["d"]],
        "number": [7, 8, 9],
    }
    path = write(tmp_path / "a.parquet", columns)
    plain = read(path)
    assert (plain.ids, plain.labels) == (("a.parquet/0", "a.parquet/1", "a.parquet/2"), None)
    named = read(path, label="species", captions="caption", key="number")
    assert named.ids == ("7", "8", "9")
    assert named.label_names == ("collie", "tabby")
    assert named.labels is not None
    assert named.labels.tolist() == [1, 0, 1]
    assert named.columns == {"captions": [["a cat"], ["a dog"], ["a cat"]]}
    assert read(path, captions="sentences").columns == {"captions": [["a", "b"], ["c"], ["d"]]}


def test_a_column_of_bytes_is_an_image_as_well(tmp_path: Path) -> None:
    for kind in (pa.binary(), pa.large_binary()):
        path = write(
            tmp_path / "a.parquet", {"jpg": pa.array([png(i) for i in range(4)], kind), "label": [0, 1, 0, 1]}
        )
        manifest = read(path, CLASSES)
        assert [manifest.open(i) for i in range(4)] == [png(i) for i in range(4)]
        assert manifest.ids[3] == "a.parquet/3"


def test_classes_of_a_card(tmp_path: Path) -> None:
    path = write_split(tmp_path / "hf")
    assert read(path, CLASSES).label_names == ("cat", "dog")
    with pytest.raises(DataError, match=r"differ from the card's, first at 0; .* check_names = false"):
        read(path, ["dog", "cat"])
    assert read(path, ["n01", "n02"], check_names=False).label_names == ("n01", "n02")
    (tmp_path / "card.toml").write_text(
        'name = "h"\ntitle = "H"\nreader = "hf_parquet"\nclasses = ["n01", "n02"]\nimages = 12\n'
        "[options]\ncheck_names = false\n"
    )
    assert check_dataset(path, tmp_path / "card.toml") == []


BYTES = images(range(4))


@pytest.mark.parametrize(
    ("columns", "options", "says"),
    [
        ({"label": [0, 1]}, {}, r"no column holds images .*; it has label \(int64\)$"),
        ({"a": BYTES, "b": BYTES}, {}, r'the columns a, b may all be the image; say which, image = "a"'),
        ({"image": BYTES}, {"label": "class"}, r"has no column 'class'; it has image$"),
        (
            {"image": BYTES, "label": [0, 1, 2, 0]},
            {},
            r"a\.parquet row 2: the label 2 is outside",
        ),
        ({"image": BYTES, "label": [0, -1, 1, 0]}, {}, r"a\.parquet row 1: the label -1 is outside"),
        ({"image": BYTES, "label": [0, 1, 1, None]}, {}, r"a\.parquet row 3: the label is None; it must be"),
        (
            {"image": BYTES, "label": [0, 1, 1, 0], "key": ["a", "b", "a", "c"]},
            {"key": "key"},
            r"a\.parquet row 2: 'a' in the column 'key' is also in \S+ row 0",
        ),
        ({"image": pa.array([], pa.binary())}, {}, r"a\.parquet holds no images$"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, columns: dict, options: dict, says: str) -> None:
    path = write(tmp_path / "a.parquet", columns)
    with pytest.raises(DataError, match=says):
        read(path, CLASSES, **options)


def test_several_class_labels(tmp_path: Path) -> None:
    columns = {"image": BYTES, "fine": [0, 1, 0, 1], "coarse": [0, 0, 0, 0]}
    path = write(tmp_path / "a.parquet", columns, {"fine": CLASSES, "coarse": ["animal"]})
    with pytest.raises(DataError, match=r'fine, coarse are all class labels; say which, label = "fine"'):
        read(path)
    assert read(path, label="coarse").label_names == ("animal",)


def test_images_that_are_paths_alone(tmp_path: Path) -> None:
    rows = [*BYTES[:2], {"bytes": None, "path": "c.png"}, None]
    manifest = read(write(tmp_path / "a.parquet", {"image": rows}, group=10))
    assert manifest.open(1) == png(1)
    for i in (2, 3):
        with pytest.raises(DataError, match=rf"a\.parquet row {i}: has no image bytes; write the file again"):
            manifest.open(i)


def test_files_of_different_schemas(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"image": BYTES, "label": [0, 1, 0, 1]})
    write(tmp_path / "b.parquet", {"image": BYTES})
    with pytest.raises(DataError, match=r"b\.parquet has no column 'label'; it has image"):
        read(tmp_path)
    write(tmp_path / "b.parquet", {"image": BYTES, "label": ["x"] * 4})
    with pytest.raises(DataError, match=r"b\.parquet: the column 'label' is string, in the first .* int64"):
        read(tmp_path)


def test_files_of_different_classes(tmp_path: Path) -> None:
    columns = {"image": BYTES, "label": [0, 1, 0, 1]}
    write(tmp_path / "a.parquet", columns, {"label": CLASSES, "fine": ["x"]})
    for names, wrong in ((["dog", "cat"], 0), (["cat", "dog", "fox"], "the length")):
        write(tmp_path / "b.parquet", columns, {"label": names})
        for options in ({}, {"check_names": False}):
            with pytest.raises(
                DataError, match=rf"b\.parquet: the classes of the column 'label' .* at {wrong}"
            ):
                read(tmp_path, label="label", **options)
    write(tmp_path / "b.parquet", columns, {"label": CLASSES, "fine": ["y"]})
    write(tmp_path / "c.parquet", columns)  # of a writer that declares nothing
    assert read(tmp_path, label="label").label_names == ("cat", "dog")


def test_missing_files_whose_names_end_in_hashes(tmp_path: Path) -> None:
    write_split(tmp_path)
    for path, digest in zip(sorted(tmp_path.iterdir()), ("b42a775f407cee45", "0f", "6c")):
        path.rename(path.with_name(f"{path.stem}-{digest}.parquet"))
    assert len(read(tmp_path)) == 12
    (tmp_path / "test-00001-of-00003-0f.parquet").unlink()
    with pytest.raises(DataError, match=r"lacks the shard test-00001-of-00003: copy it"):
        read(tmp_path)
    (tmp_path / "test-00002-of-00003-6c.parquet").unlink()
    with pytest.raises(DataError, match=r"lacks the shard test-00001-of-00003 and 1 more: copy it"):
        read(tmp_path)


def test_an_image_of_more_bytes_than_any_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = read(write(tmp_path / "a.parquet", {"image": BYTES}))
    monkeypatch.setattr(limits, "MAX_BYTES", len(png(1)) - 1)
    with pytest.raises(DataError, match=rf"a\.parquet row 1: {len(png(1))} bytes, more than any image"):
        manifest.open(1)


def test_damaged_files(tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    path = write_split(tmp_path, files=1) / "test-00000-of-00001.parquet"
    data = path.read_bytes()
    for damaged in (b"", data[:-10], data[: len(data) // 2], b"x" * len(data)):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"-00001\.parquet: not a whole Parquet file .*; copy it"):
            read(tmp_path)
    path.write_bytes(data)
    manifest = read(tmp_path)
    path.write_bytes(data[:100] + bytes(len(data) - 100))
    with pytest.raises(DataError, match=r"-00001\.parquet row 3: cannot be read"):
        manifest.open(3)
    with pytest.raises(DataError, match="does not exist"):
        read(tmp_path / "gone.parquet")
    with pytest.raises(DataError, match=r"holds no \.parquet files"):
        read(tmp_path / "hf")


@pytest.mark.usefixtures("settled")
def test_images_are_hashed_once_and_labels_read_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_split(tmp_path / "hf")
    seen: list[int] = []
    digest = read(tmp_path / "hf").compute_digest(seen.append)
    assert sum(seen) == sum(len(png(i)) for i in range(12))
    monkeypatch.setattr(hf_parquet, "_row_group", lambda *_: pytest.fail("images were read again"))
    assert read(tmp_path / "hf").digest == digest


def test_what_plain_folders_of_parquet_are(tmp_path: Path) -> None:
    write_split(tmp_path / "hf" / "data")
    assert recognise(tmp_path / "hf") == recognise(tmp_path / "hf" / "data") == "hf_parquet"
    write_images(tmp_path / "hf", ["cat/0.png"])
    assert recognise(tmp_path / "hf") == "folder"


def test_a_folder_is_listed_once_to_recognise_it_and_once_to_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_split(tmp_path / "hub" / "data", files=2)
    listed: list[Path] = []
    entries = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda folder: listed.append(folder) or entries(folder))
    assert hf_parquet.READER.recognises is not None
    assert hf_parquet.READER.recognises(tmp_path / "hub")
    assert listed == [tmp_path / "hub", tmp_path / "hub" / "data"]
    listed.clear()
    read_hf_parquet(epath.Path(tmp_path / "hub"))
    assert listed == [tmp_path / "hub", tmp_path / "hub" / "data"]

"""A data set on a bucket is the data set that it was copied from, in every layout."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from _bucket import URL, FakeBucket
from _factors import write as write_factors
from _images import RECIPE, png, write_images
from etils import epath

from clipjax.data.annotations import load_factors
from clipjax.data.check import check_dataset
from clipjax.data.labels import load_labels, load_prompts
from clipjax.data.manifest import Manifest
from clipjax.data.pack import pack
from clipjax.data.pixels.loader import batches
from clipjax.data.readers.karpathy import read_karpathy
from clipjax.data.readers.tfds import read_tfds
from clipjax.errors import DataError
from clipjax.evaluation.data_folder import cards_below
from clipjax.evaluation.data_set import dataset_of
from clipjax.evaluation.request import Request
from clipjax.storage.remote.bucket_files import BucketFiles
from clipjax.storage.remote.buckets import ATTEMPTS, BucketError, as_path
from clipjax.tasks.imagenet_d import load_lists

NAMES = [f"{'cat' if i % 2 else 'dog'}/{i:02d}.png" for i in range(10)]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[FakeBucket]:
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path / "cache"))
    return FakeBucket.made(monkeypatch)


def upload(folder: Path) -> str:
    for path in folder.rglob("*"):
        if path.is_file():
            target = as_path(f"{URL}/{folder.name}") / path.relative_to(folder)
            BucketFiles().create(target, path.read_bytes(), replace=True)
    return f"{URL}/{folder.name}"


def class_folders(folder: Path) -> str:
    write_images(folder, NAMES)
    return ""


def images_alone(folder: Path) -> str:
    write_images(folder, [name.split("/")[1] for name in NAMES])
    return ""


def csv_file(folder: Path) -> str:
    write_images(folder, NAMES)
    (folder / "m.csv").write_text("path,label\n" + "".join(f"{name},{name[:3]}\n" for name in NAMES))
    return "/m.csv"


def jsonl_file(folder: Path) -> str:
    write_images(folder, NAMES)
    lines = [json.dumps({"path": name, "captions": [name, "é"]}) + "\n" for name in NAMES]
    (folder / "m.jsonl").write_text("".join(lines))
    return "/m.jsonl"


def tars(folder: Path) -> str:
    folder.mkdir()
    for k in range(2):
        with tarfile.open(folder / f"{k}.tar", "w") as archive:
            for i in range(5 * k, 5 * k + 5):
                for name, data in ((f"{i}.png", png(i)), (f"{i}.cls", str(i % 2).encode())):
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    archive.addfile(info, io.BytesIO(data))
    return ""


def braces(folder: Path) -> str:
    return tars(folder) + "/{0..1}.tar"


def parquet(folder: Path) -> str:
    (folder / "data").mkdir(parents=True)
    for k in range(2):
        rows = range(5 * k, 5 * k + 5)
        images = [{"bytes": png(i), "path": f"{i}.png"} for i in rows]
        table = pa.table({"image": images, "label": [i % 2 for i in rows]})
        path = folder / "data" / f"test-0000{k}-of-00002.parquet"
        pq.write_table(table, path, row_group_size=3, compression="none", write_statistics=False)
    return ""  # a folder `data` in one of that name


def packed(folder: Path) -> str:
    class_folders(folder.with_name("unpacked"))
    pack(
        dataset_of(Request(root=folder.with_name("unpacked"))).manifest,
        folder,
        "webdataset",
        images_per_shard=4,
    )
    return ""


LAYOUTS = [class_folders, images_alone, csv_file, jsonl_file, tars, braces, parquet, packed]


def pixels(manifest: Manifest) -> np.ndarray:
    with batches(manifest, RECIPE, batch_size=4) as source:
        return np.concatenate([batch["pixels"] for batch in source])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_data_on_a_bucket_is_the_same_data(bucket: type[FakeBucket], tmp_path: Path, layout):
    tail = layout(tmp_path / "data")
    expected = dataset_of(Request(root=f"{tmp_path / 'data'}{tail}")).manifest
    url = upload(tmp_path / "data")
    found = dataset_of(Request(root=f"{url}{tail}")).manifest
    assert (found.ids, found.columns, found.label_names) == (
        expected.ids,
        expected.columns,
        expected.label_names,
    )
    assert (found.labels is None) == (expected.labels is None)
    np.testing.assert_array_equal(found.labels, expected.labels)
    assert (found.digest, found.images_digest) == (expected.digest, expected.images_digest)
    np.testing.assert_array_equal(pixels(found), pixels(expected))
    part = pickle.loads(pickle.dumps(found.select([7, 2]).opener))
    assert [part.open(0), part.open(1)] == [expected.open(7), expected.open(2)]
    assert part.where(0).startswith(url)


@pytest.mark.parametrize("layout", [class_folders, tars, parquet])
def test_digests_are_remembered_until_an_object_changes(bucket: type[FakeBucket], tmp_path: Path, layout):
    layout(tmp_path / "data")
    url = upload(tmp_path / "data")
    first = dataset_of(Request(root=url)).manifest.digest
    again = dataset_of(Request(root=url)).manifest
    bucket.requests.clear()
    assert again.digest == first
    assert bucket.asked("cat") == 0
    [name] = [
        name for name in bucket.names() if name.endswith(("dog/00.png", "0.tar", "00000-of-00002.parquet"))
    ]
    data = bucket.text(name)
    changed = data.replace(png(0), png(1)) if len(png(0)) == len(png(1)) else data
    assert changed != data
    BucketFiles().create(as_path(f"fake:/{name}"), changed, replace=True)
    assert dataset_of(Request(root=url)).manifest.digest != first


def test_what_may_pass_does(bucket: type[FakeBucket], tmp_path: Path):
    tars(tmp_path / "data")
    expected = dataset_of(Request(root=tmp_path / "data")).manifest
    url = upload(tmp_path / "data")
    bucket.fail("0.tar", ConnectionResetError("gone"), ATTEMPTS - 1)
    bucket.fail("1.tar", TimeoutError("slow"), ATTEMPTS - 1)
    assert dataset_of(Request(root=url)).manifest.digest == expected.digest


def test_an_outage_is_no_unreadable_image(bucket: type[FakeBucket], tmp_path: Path):
    class_folders(tmp_path / "data")
    manifest = dataset_of(Request(root=upload(tmp_path / "data"))).manifest
    del bucket.store["/bucket/data/dog/02.png"]
    with batches(manifest, RECIPE, batch_size=10, on_error="skip") as source:
        list(source)
        [skipped] = source.skipped
    assert "fake://bucket/data/dog/02.png: cannot be read (No such file" in skipped.reason
    for error in (TimeoutError("slow"), PermissionError("no")):
        bucket.fail("dog/04.png", error, ATTEMPTS)
        with (
            pytest.raises(BucketError, match=r"dog/04\.png"),
            batches(manifest, RECIPE, batch_size=10, on_error="skip") as source,
        ):
            list(source)
        bucket.failures.clear()


def test_mistakes_are_named(bucket: type[FakeBucket], tmp_path: Path):
    with pytest.raises(DataError, match="fake://bucket/nowhere does not exist"):
        dataset_of(Request(root=f"{URL}/nowhere"))
    with pytest.raises(DataError, match="fake://bucket/nowhere does not exist"):
        dataset_of(Request(root=f"{URL}/nowhere", dataset="folder"))
    csv_file(tmp_path / "data")
    url = upload(tmp_path / "data")
    del bucket.store["/bucket/data/dog/02.png"]
    with pytest.raises(DataError, match=r"m\.csv:4: the image dog/02\.png does not exist in fake://"):
        dataset_of(Request(root=f"{url}/m.csv"))
    pack(dataset_of(Request(root=tmp_path / "data")).manifest, tmp_path / "records", "array_record")
    with pytest.raises(DataError, match="ArrayRecord files are read on a disk"):
        dataset_of(Request(root=upload(tmp_path / "records")))
    with pytest.raises(DataError, match="a prepared TFDS folder is read on a disk"):
        read_tfds(epath.Path(as_path(f"{URL}/tfds")), split="test")


def test_annotations_on_a_bucket(bucket: type[FakeBucket], tmp_path: Path):
    url = upload(write_factors(tmp_path / "factors"))
    assert load_factors(as_path(url)).digest == load_factors(tmp_path / "factors").digest
    table = pa.table({"id": ["a"], "failures": [["x", "y"]]})
    pq.write_table(table, tmp_path / "images.parquet")
    path = as_path(f"{URL}/run/images.parquet")
    BucketFiles().create(path, (tmp_path / "images.parquet").read_bytes())
    assert load_lists(path.parent).wrong == {"a": ["x", "y"]}


def test_captions_beside_their_images(bucket: type[FakeBucket], tmp_path: Path):
    class_folders(tmp_path / "data")
    records = [{"filename": name, "split": "test", "sentences": [{"raw": f"a {name}"}]} for name in NAMES]
    (tmp_path / "data" / "k.json").write_text(json.dumps({"images": records}))
    url = upload(tmp_path / "data")
    expected, found = (
        read_karpathy(epath.Path(as_path(root)), file="k.json") for root in (tmp_path / "data", url)
    )
    assert (found.digest, found.columns) == (expected.digest, expected.columns)
    del bucket.store["/bucket/data/dog/02.png"]
    with pytest.raises(DataError, match=r"1 of the 10 images .* the first is dog/02\.png"):
        read_karpathy(epath.Path(as_path(url)), file="k.json")


def test_a_folder_of_data_sets_may_be_a_url(bucket: type[FakeBucket], tmp_path: Path):
    class_folders(tmp_path / "all" / "pets")
    (tmp_path / "all" / "pets.toml").write_text(
        'name = "pets"\ntitle = "Pets"\nreader = "folder"\nimages = 10\n'
    )
    upload(tmp_path / "all")
    [pets] = [located for located in cards_below(f"{URL}/all") if located.card.name == "pets"]
    assert str(pets.root) == f"{URL}/all/pets"
    assert check_dataset(pets.root, pets.card) == []
    del bucket.store["/bucket/all/pets/dog/02.png"]
    assert "holds 9 images" in check_dataset(pets.root, pets.card)[0]


def test_label_and_prompt_files(bucket: type[FakeBucket], tmp_path: Path):
    folder = tmp_path / "words"
    folder.mkdir()
    (folder / "pets.csv").write_text("id,name\nc,cat\nd,dog\n")
    (folder / "one.txt").write_text("a photo of a {}.\n")
    url = upload(folder)
    labels = load_labels(f"{url}/pets.csv")
    assert (labels.name, labels.classes, labels.ids) == ("pets", ("cat", "dog"), ("c", "d"))
    assert load_prompts(f"{url}/one.txt").templates == ("a photo of a {}.",)
    with pytest.raises(DataError, match=rf"^{url}/absent\.csv does not exist$"):
        load_labels(f"{url}/absent.csv")

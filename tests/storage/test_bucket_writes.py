"""What clipjax writes to a bucket: folders whose last file makes them what they are, uploads that fail."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from _bucket import PLAIN, URL, FakeBucket
from _narrow import narrow_pair
from etils import epath
from fsspec.implementations.memory import MemoryFileSystem
from typer.testing import CliRunner

from clipjax.checkpoints.card import CARD
from clipjax.checkpoints.export import export_model
from clipjax.checkpoints.load import convert_model, load_model
from clipjax.checkpoints.model import Model
from clipjax.cli import app
from clipjax.data.manifest import Manifest
from clipjax.data.pack import pack
from clipjax.data.readers.folder import read_folder
from clipjax.data.readers.packed import is_packed, read_packed
from clipjax.errors import DataError, UsageError
from clipjax.storage.remote.bucket_files import BucketFiles
from clipjax.storage.remote.buckets import ATTEMPTS, as_path
from tests.data._images import write_images


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    return narrow_pair(folder)[1].save(folder / "model")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[FakeBucket]:
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path / "cache"))
    return FakeBucket.made(monkeypatch)


def same(found: Model, expected: Model) -> None:
    assert found.card.fingerprint == expected.card.fingerprint is not None
    jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("url", [URL, PLAIN])
@pytest.mark.parametrize("block", [100, 2**30])
def test_a_model_on_a_bucket_is_the_one_on_the_disk(
    bucket: type[FakeBucket], own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, block: int
):
    """Large files and small ones; card.json comes last, and nothing else is left."""
    monkeypatch.setattr("clipjax.storage.remote.bucket_files.BLOCK", block)
    bucket.fail("model.safetensors", ConnectionResetError("gone"), ATTEMPTS - 1, "pipe")
    folder, _ = convert_model(own, f"{url}/b/model")
    assert str(folder) == f"{url}/b/model"
    written = [path for kind, path in bucket.requests if kind in ("pipe", "put")]
    assert CARD in written[-1]
    assert {name: bucket.text(f"/bucket/b/model/{name}") for name in files(own)} == files(own)
    assert len(bucket.names()) == len(files(own))
    same(load_model(folder), load_model(own))
    assert not list((tmp_path / "cache" / "working").rglob("*model*")), "the working copy is gone"
    same(load_model(load_model(own).save(f"{url}/b/model")), load_model(own))


def test_an_export_on_a_bucket_is_the_one_on_the_disk(bucket: type[FakeBucket], own: Path, tmp_path: Path):
    model = load_model(own)
    there = export_model(model, f"{URL}/back.safetensors")
    assert str(there) == f"{URL}/back.safetensors"
    assert bucket.names() == ["/bucket/back.safetensors"]
    assert bucket.text("/bucket/back.safetensors") == export_model(model, tmp_path / "w").read_bytes()
    assert not [path for path in (tmp_path / "cache" / "working").rglob("*") if path.is_file()]


@pytest.mark.parametrize(("part", "kind"), [("model.safetensors", "pipe"), (CARD, "pipe"), ("", "info")])
def test_a_bucket_that_refuses_is_one_sentence_and_the_copy_is_kept(
    bucket: type[FakeBucket], own: Path, tmp_path: Path, part: str, kind: str
):
    model, copy = load_model(own), tmp_path / "cache/working/fake/bucket/b/model"
    bucket.fail(f"b/model/{part}" if part else "b/model", PermissionError("403"), 1, kind)
    with pytest.raises(DataError, match=r"^fake://bucket/b/model\S*: the bucket does not let you") as caught:
        model.save(f"{URL}/b/model")
    assert "\n" not in str(caught.value)
    assert CARD not in {name.rsplit("/", 1)[-1] for name in bucket.names()}, "it is no model"
    if kind == "pipe":
        assert str(caught.value).endswith(f"; the copy on this disk is kept: {copy}")
        same(load_model(copy), model)
        with pytest.raises(DataError, match=r"^fake://bucket/b/model (is not whole|does not exist|holds no)"):
            load_model(f"{URL}/b/model")
    same(load_model(model.save(f"{URL}/b/model")), model)
    assert {name.rsplit("/", 1)[-1] for name in bucket.names()} == set(files(own)), "nothing is left of it"


def test_an_older_model_is_replaced_whole_and_others_are_left_alone(bucket: type[FakeBucket], own: Path):
    older = load_model(own)
    newer = older.with_params(jax.tree.map(lambda leaf: leaf + 1, older.params))
    newer = newer.with_card(dataclasses.replace(newer.card, id="newer"))
    older.save(f"{URL}/model")
    bucket.fail("model.safetensors", PermissionError("403"), 1, "pipe")
    with pytest.raises(DataError, match="does not let you write it"):
        newer.save(f"{URL}/model")
    with pytest.raises(DataError, match="fake://bucket/model"):  # card.json went first
        load_model(f"{URL}/model")
    BucketFiles().create(as_path(f"{URL}/model/of_the_older.csv"), b"")
    newer.save(f"{URL}/model")
    assert load_model(f"{URL}/model").card.id == "newer"
    assert {name.rsplit("/", 1)[-1] for name in bucket.names()} == set(files(own))
    BucketFiles().create(as_path(f"{URL}/photos/cat.png"), b"")
    with pytest.raises(DataError, match=r"^fake://bucket/photos exists and is not a clipjax checkpoint"):
        newer.save(f"{URL}/photos")


def test_of_two_at_once_one_is_told(bucket: type[FakeBucket], own: Path, monkeypatch: pytest.MonkeyPatch):
    """The other's card.json arrives while ours is on its way: its files are not taken for ours."""
    real, card = BucketFiles.upload, as_path(f"{URL}/model") / CARD

    def upload(self: BucketFiles, file: Path, path: Path) -> None:
        real(self, file, path)
        card.ask(lambda fs, name: MemoryFileSystem.pipe_file(fs, name, b"{}"))  # type: ignore[attr-defined]

    monkeypatch.setattr(BucketFiles, "upload", upload)
    with pytest.raises(DataError, match=r"^fake://bucket/model was written by another run at the same time"):
        load_model(own).save(f"{URL}/model")


def test_errors_of_fetched_weights_name_the_url(bucket: type[FakeBucket], own: Path):
    load_model(own).save(f"{URL}/model")
    for name, data in (("model.safetensors", b"?" * 100), (CARD, b"{")):
        BucketFiles().create(as_path(f"{URL}/model/{name}"), data, replace=True)
        for read in (load_model, convert_model):
            with pytest.raises(DataError, match=r"fake://bucket/model/") as caught:
                read(f"{URL}/model")
            assert "fetched" not in str(caught.value)


def test_a_url_that_leaves_its_folder_is_refused(bucket: type[FakeBucket], own: Path):
    with pytest.raises(UsageError, match=r"^fake://bucket/../out: write the address without '\.\.'"):
        load_model(own).save(f"{URL}/../out")


@pytest.fixture
def photos(tmp_path: Path) -> Manifest:
    names = [f"{'cat' if i % 2 else 'dog'}/{i:02d}.png" for i in range(10)]
    return read_folder(epath.Path(write_images(tmp_path / "photos", names)))


def test_a_packed_data_set_on_a_bucket_is_the_one_on_the_disk(
    bucket: type[FakeBucket], photos: Manifest, tmp_path: Path
):
    """A refusal in the middle keeps the shards that are there, which the next call does not upload again."""
    pack(photos, tmp_path / "here", "webdataset", images_per_shard=4)
    bucket.fail("00001.tar", ConnectionResetError("gone"), ATTEMPTS - 1, "pipe")
    bucket.fail("00002.tar", PermissionError("403"), 1, "pipe")
    with pytest.raises(DataError, match=r"^fake://bucket/p/00002\.tar: the bucket does not let you write it"):
        pack(photos, f"{URL}/p", "webdataset", images_per_shard=4)
    assert not is_packed(f"{URL}/p")
    bucket.requests.clear()
    done = pack(photos, f"{URL}/p", "webdataset", images_per_shard=4)
    assert (done.kept, done.digest) == (2, photos.digest)
    assert not bucket.asked("pipe", "00001.tar")
    assert "manifest.json" in [name for kind, name in bucket.requests if kind == "pipe"][-1]
    here = files(tmp_path / "here")
    assert {name: bucket.text(f"/bucket/p/{name}") for name in here} == here
    assert len(bucket.names()) == len(here)
    assert read_packed(epath.Path(as_path(f"{URL}/p"))).digest == photos.digest
    assert not [path for path in (tmp_path / "cache" / "working").rglob("*") if path.is_file()]


def test_a_damaged_packed_data_set_on_a_bucket_is_mended(bucket: type[FakeBucket], photos: Manifest):
    pack(photos, f"{URL}/p", "webdataset", images_per_shard=4)
    shard = "/bucket/p/00001.tar"
    whole = bucket.text(shard)
    bucket.store[shard].truncate(len(whole) // 2)
    assert pack(photos, f"{URL}/p", "webdataset", images_per_shard=4).kept == 2
    assert bucket.text(shard) == whole
    with pytest.raises(UsageError, match=r"^fake://bucket/r: ArrayRecord files are read on a disk"):
        pack(photos, f"{URL}/r", "array_record")


def test_commands_write_to_urls(bucket: type[FakeBucket], own: Path, photos: Manifest, tmp_path: Path):
    """A URL that has become a path of pathlib on its way is a URL again, and shown as one."""
    for arguments in (
        ["convert", f"{own}", "--out", f"{URL}/model"],
        ["export", f"{URL}/model", "--out", f"{URL}/back.safetensors"],
        ["datasets", "pack", f"{tmp_path}/photos", f"{URL}/packed"],
    ):
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.exception
        assert f"{arguments[-1]}" in done.stdout
    kept = {name.removeprefix("/bucket/") for name in bucket.names()}
    assert {"model/card.json", "back.safetensors", "packed/manifest.json"} <= kept
    assert is_packed(f"{URL}/packed")

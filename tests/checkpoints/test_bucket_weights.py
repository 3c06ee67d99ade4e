"""Models whose weights lie on a bucket."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest
from _bucket import URL, FakeBucket
from _narrow import narrow_pair

from clipjax.checkpoints.export import export_model
from clipjax.checkpoints.fetch import on_this_disk
from clipjax.checkpoints.load import convert_model, load_model
from clipjax.checkpoints.model import Model
from clipjax.errors import DataError
from clipjax.storage.remote.bucket_files import BucketFiles
from clipjax.storage.remote.buckets import ATTEMPTS, as_path


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    return narrow_pair(folder)[1].save(folder / "model")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own: Path) -> type[FakeBucket]:
    """With a checkpoint of ours, and a folder in it."""
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path / "cache"))
    made = FakeBucket.made(monkeypatch)
    for path in own.iterdir():
        BucketFiles().create(as_path(f"{URL}/models/own") / path.name, path.read_bytes())
    BucketFiles().create(as_path(f"{URL}/models/own/logs/events"), b"not fetched")
    return made


def same(found: Model, expected: Model) -> None:
    assert found.card.fingerprint == expected.card.fingerprint is not None
    jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)


def test_weights_are_fetched_once(bucket: type[FakeBucket], own: Path, tmp_path: Path):
    bucket.fail("model.safetensors", ConnectionResetError("gone"), ATTEMPTS - 1)
    found = load_model(f"{URL}/models/own")
    same(found, load_model(own))
    assert found.location is not None
    assert found.location.source == f"{URL}/models/own"
    bucket.requests.clear()
    same(load_model(as_path(f"{URL}/models/own")), found)
    assert bucket.asked("cat") == 0
    [copy] = (tmp_path / "cache" / "fetched").iterdir()
    assert {path.name for path in copy.iterdir()} == {path.name for path in own.iterdir()}
    card = as_path(f"{URL}/models/own/card.json")
    BucketFiles().create(card, card.read_bytes() + b"\n", replace=True)
    same(load_model(f"{URL}/models/own"), found)
    assert bucket.asked("cat") > 0
    assert len(list((tmp_path / "cache" / "fetched").iterdir())) == 2


def test_a_single_file_and_a_conversion(bucket: type[FakeBucket], own: Path, tmp_path: Path):
    model = load_model(own)
    file = export_model(model, tmp_path / "w.safetensors")
    BucketFiles().create(as_path(f"{URL}/w.safetensors"), file.read_bytes())
    found = load_model(f"{URL}/w.safetensors", card=model.card)
    jax.tree.map(np.testing.assert_array_equal, found.params, model.params)
    folder, _ = convert_model(f"{URL}/models/own", tmp_path / "converted")
    same(load_model(folder), model)


def test_half_a_copy_is_none(bucket: type[FakeBucket], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    bucket.fail("model.safetensors", PermissionError("no"), 1, "cat")
    with pytest.raises(
        DataError, match=r"^fake://bucket/models/own/model\.safetensors: the bucket does not let you read it"
    ):
        load_model(f"{URL}/models/own")
    assert list((tmp_path / "cache" / "fetched").iterdir()) == []
    real = FakeBucket.cat_file

    def replaced(self: FakeBucket, path: str, *args: object, **kwargs: object) -> bytes:
        data = real(self, path)
        BucketFiles().create(as_path(f"{URL}/models/own/card.json"), b"{}", replace=True)
        return data

    monkeypatch.setattr(FakeBucket, "cat_file", replaced)
    with pytest.raises(DataError, match=r"card\.json has changed while it was fetched"):
        load_model(f"{URL}/models/own")
    assert list((tmp_path / "cache" / "fetched").iterdir()) == []


def test_mistakes(bucket: type[FakeBucket], own: Path, tmp_path: Path):
    with pytest.raises(DataError, match="fake://bucket/nowhere does not exist"):
        on_this_disk(f"{URL}/nowhere")
    with pytest.raises(DataError, match="fake://bucket/models holds no files"):
        load_model(f"{URL}/models")
    for elsewhere in ("vit_b_32-openai", "https://example.org/w.pt"):
        assert on_this_disk(elsewhere) == elsewhere

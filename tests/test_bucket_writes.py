"""What clipjax writes to a bucket: folders whose last file makes them what they are, uploads that fail."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest
from _bucket import PLAIN, URL, FakeBucket
from _narrow import narrow_pair

from clipjax.buckets import ATTEMPTS
from clipjax.checkpoint import CARD, export_model
from clipjax.load import convert_model, load_model
from clipjax.model import Model


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
    monkeypatch.setattr("clipjax.bucket_files.BLOCK", block)
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

"""`clipjax embed` and `clipjax store export`: files of embeddings that other programs read."""

from __future__ import annotations

import json
import resource
import signal
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import PIL.Image
import polars
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import clipjax
from clipjax.cli import app
from clipjax.embeddings.exported_files import NamedRows, write_embeddings
from clipjax.errors import DataError, UsageError
from clipjax.storage.store import Store
from tests.results.test_same_rows import checkpoint

COLOURS = {"red": (220, 30, 20), "green": (20, 190, 60), "blue": (20, 40, 230)}
TEXTS = ["a photo of a red.", "=1+1", "green  pets"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model `tiny`, and class folders `pets` with an image that cannot be read."""
    folder = tmp_path_factory.mktemp("embed")
    for k, (name, colour) in enumerate(COLOURS.items()):
        (folder / "pets" / name).mkdir(parents=True)
        for j in range(3):
            image = np.full((40, 30 + j, 3), colour, np.uint8)
            image[: 10 + 5 * k + j] //= 2
            PIL.Image.fromarray(image).save(folder / "pets" / name / f"{j}.png")
    (folder / "pets" / "green" / "1.png").write_bytes(b"no image")
    (folder / "texts.txt").write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    command("convert", checkpoint(folder / "open_clip"), "--out", folder / "tiny")
    return folder


def command(*words: object) -> Any:
    done = CliRunner().invoke(app, [str(each) for each in words])
    assert done.exit_code == 0, done.output
    return done


def refused(*words: object) -> str:
    return str(CliRunner().invoke(app, [str(each) for each in words]).exception)


def embed(world: Path, out: Path, *more: object) -> Any:
    places = ["--store", world / "store", "--out", out]
    return command("embed", "--model", world / "tiny", *places, "--on-error", "skip", *more)


def test_the_values_are_those_of_the_model(world: Path, tmp_path: Path, one_device: None) -> None:
    done = embed(world, tmp_path / "out", "--data", world / "pets", "--texts", world / "texts.txt")
    assert done.stdout.splitlines() == [
        f"{tmp_path / 'out'}: 8 images, 24 numbers each",
        f"{tmp_path / 'out'}: 3 texts, 24 numbers each",
    ]
    ids = json.loads((tmp_path / "out" / "images.json").read_text())
    assert sorted(ids) == ids
    assert len(ids) == 8
    model = clipjax.load_model(world / "tiny")
    images = [model.preprocess(PIL.Image.open(world / "pets" / name)) for name in ids]
    found = np.load(tmp_path / "out" / "images.npy")
    np.testing.assert_allclose(found, model.encode_image(np.stack(images)), atol=2e-6)
    assert np.ptp(found, axis=0).max() > 1e-3  # images differ, so that swapped rows would be seen
    texts = np.load(tmp_path / "out" / "texts.npy")
    np.testing.assert_allclose(texts, model.encode_text(TEXTS), atol=2e-6)
    assert json.loads((tmp_path / "out" / "texts.json").read_text()) == TEXTS
    record = json.loads((tmp_path / "out" / "embeddings.json").read_text())
    assert record["skipped"] == ["green/1.png"]
    assert [record["classes"][k] for k in np.load(tmp_path / "out" / "labels.npy")] == [
        name.split("/")[0] for name in ids
    ]
    assert record["fingerprint"] == model.card.fingerprint


def test_embeddings_are_shared_with_evaluations(world: Path, tmp_path: Path, one_device: None) -> None:
    places = ["--store", tmp_path / "store", "--results", tmp_path / "results", "--on-error", "skip"]
    command(
        "eval", "zeroshot", "--model", world / "tiny", "--data", world / "pets", "--prompts", "a {}.", *places
    )
    images = [each for each in Store(tmp_path / "store").ls() if each.about.get("data") == "pets"]
    more = ["--model", world / "tiny", "--data", world / "pets", "--on-error", "skip"]
    command("embed", *more, "--store", tmp_path / "store", "--out", tmp_path / "out")
    assert [each.name for each in Store(tmp_path / "store").ls() if each.about.get("data") == "pets"] == [
        each.name for each in images
    ]
    for form in ("npy", "parquet"):
        out = tmp_path / f"stored_{form}"
        words = ["--store", tmp_path / "store", "--out", out, "--format", form]
        command("store", "export", images[0].name[:12], *words)
    stored, written = (np.load(tmp_path / name) for name in ("stored_npy/rows.npy", "out/images.npy"))
    assert stored.tobytes() == written.tobytes()
    ids = json.loads((tmp_path / "out" / "images.json").read_text())
    assert json.loads((tmp_path / "stored_npy" / "rows.json").read_text()) == ids
    table = pq.ParquetFile(tmp_path / "stored_parquet" / "rows.parquet").read()
    assert table["id"].to_pylist() == ids
    np.testing.assert_array_equal(np.array(table["embedding"].to_pylist(), np.float32), written)
    assert json.loads((tmp_path / "stored_npy" / "embeddings.json").read_text())["key"] == dict(images[0].key)


def test_parquet_is_read_by_other_programs(tmp_path: Path) -> None:
    array = np.arange(12, dtype=np.float32).reshape(4, 3)
    rows = NamedRows(["a", "b\n", "é", "=1"], array, np.array([0, 1, 0, 2]))
    write_embeddings(tmp_path / "out", {"images": rows}, {}, "parquet")
    file = tmp_path / "out" / "images.parquet"
    frame = polars.read_parquet(file)
    np.testing.assert_array_equal(frame["embedding"].to_numpy(), array)
    assert frame["id"].to_list() == ["a", "b\n", "é", "=1"]
    query = f"select label, list_inner_product(embedding::float[], embedding::float[]) from '{file}' limit 1"
    answer: Any = duckdb.sql(query)
    assert answer.fetchall() == [(0, 5.0)]


def test_an_entry_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    ids = [f"{k}.png" for k in range(5)]
    entry = store.entry({"k": 1}, ids=ids, rows_per_shard=2, per_device_batch=2)
    for k in (0, 1):
        entry.write_shard(k, ids[2 * k : 2 * k + 2], np.full((2, 3), k, np.float32))
    words = ["store", "export", entry.key_hash[:8], "--store", store.root, "--out", tmp_path / "out"]
    assert "00002-of-00003.safetensors is missing: run the embedding again, to its end" in refused(*words)
    assert not (tmp_path / "out").exists()
    entry.write_shard(2, ids[4:], np.full((1, 3), 2, np.float32))
    command(*words)
    assert np.load(tmp_path / "out" / "rows.npy")[:, 0].tolist() == [0, 0, 1, 1, 2]
    data = bytearray(Path(entry.shard_path(1)).read_bytes())
    data[-1] ^= 1
    Path(entry.shard_path(1)).write_bytes(data)
    assert "00001-of-00003.safetensors is damaged" in refused(*words)
    assert "no entry begins with 'zz'" in refused("store", "export", "zz", *words[3:])


def test_what_cannot_be_written_is_refused_first(world: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    start = ["embed", "--model", world / "tiny"]
    for words, said in (
        (
            ["--data", world / "pets", "--out", tmp_path / "mine"],
            "mine has files, but no embeddings.json of clipjax: give another folder",
        ),
        (["--data", world / "pets", "--out", world / "texts.txt"], "is a file: give another folder"),
        (["--data", world / "pets", "--out", "gs://b/c"], "give a folder of this disk"),
        (["--data", world / "pets", "--out", tmp_path / "x", "--format", "csv"], "unknown format 'csv'"),
        (["--out", tmp_path / "x"], "say what to embed: images (--data FOLDER), texts (--texts FILE)"),
        (["--texts", world / "texts.txt", "--limit", 3, "--out", tmp_path / "x"], "--limit has no effect"),
        (
            ["--texts", "x", "--on-error", "skip", "--decode", "full", "--out", tmp_path / "x"],
            "--decode, --on-error have no effect without --data",
        ),
        (["--dataset", "imagenet_r", "--out", tmp_path / "x"], "is: --data FOLDER (root=FOLDER in Python)"),
        (["--data", tmp_path / "none", "--out", tmp_path / "x"], "does not exist"),
    ):
        assert said in refused(*start, *words)
    assert "say which model embeds" in refused("embed", "--data", world / "pets", "--out", tmp_path / "x")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    maps = NamedRows(["a"], np.zeros((1, 2, 2), np.uint8))
    with pytest.raises(DataError, match=r"rows of the shape \[2, 2\] are not vectors"):
        write_embeddings(tmp_path / "x", {"rows": maps}, {}, "parquet")
    with pytest.raises(UsageError, match="unknown format"):
        write_embeddings(tmp_path / "x", {}, {}, "csv")


def test_arrays_of_the_user_are_not_replaced(tmp_path: Path) -> None:
    out, rows = tmp_path / "out", NamedRows(["a"], np.ones((1, 3), np.float32))
    out.mkdir()
    np.save(out / "labels.npy", np.arange(5))
    (out / "embeddings.json").write_text('{"mine": 1}')
    with pytest.raises(DataError, match=r"embeddings\.json lists no files that clipjax wrote: give another"):
        write_embeddings(out, {"images": rows}, {})
    assert np.load(out / "labels.npy").size == 5
    out = tmp_path / "ours"
    write_embeddings(out, {"images": rows}, {})
    write_embeddings(out, {"texts": rows}, {})
    assert sorted(path.name for path in out.iterdir()) == ["embeddings.json", "texts.json", "texts.npy"]
    np.save(out / "labels.npy", np.arange(5))
    with pytest.raises(DataError, match=r"labels\.npy was not written by this command: give another folder"):
        write_embeddings(out, {"images": rows}, {})
    (out / "labels.npy").unlink()
    np.save(out / "texts.npy", np.arange(5))
    with pytest.raises(DataError, match=r"texts\.npy was changed after it was written: move it, or give"):
        write_embeddings(out, {"images": rows}, {})
    assert np.load(out / "texts.npy").size == 5


@pytest.mark.parametrize("form", ["npy", "parquet"])
def test_a_full_disk_leaves_the_earlier_files(tmp_path: Path, form: str) -> None:
    """The limit of a file's size stands for the disk: the write itself fails."""
    rows = NamedRows(["a", "b"], np.ones((2, 3), np.float32))
    write_embeddings(tmp_path / "out", {"images": rows}, {}, form)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    large = NamedRows([str(k) for k in range(2000)], np.random.default_rng(0).random((2000, 64)))
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    kept = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(
            DataError, match=r"out cannot be written \(.*File too large\); nothing was left of it"
        ):
            write_embeddings(tmp_path / "out", {"images": large}, {}, form)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        signal.signal(signal.SIGXFSZ, kept)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]

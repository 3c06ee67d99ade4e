"""Stores, results and data on a bucket that fails in every way that buckets do."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _bucket import PLAIN, URL, FakeBucket
from _colours import ColourModel, paint
from _embed_tools import TinyModel, manifest_of, write_images
from _records import embed_images
from _rows import row
from typer.testing import CliRunner

import clipjax
from clipjax import cli
from clipjax.data.pixels.pixel_store import PixelStore
from clipjax.errors import DataError, UsageError
from clipjax.evaluation.comparison.compare import compare_runs
from clipjax.evaluation.predictions.scoring import evaluate_predictions
from clipjax.results.runs.merge import merge_results
from clipjax.results.store import ResultStore
from clipjax.storage.entry import Entry
from clipjax.storage.remote import bucket_files, buckets
from clipjax.storage.remote.bucket_files import BucketFiles
from clipjax.storage.remote.buckets import BucketPath, as_path
from clipjax.storage.store import Store


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> type[FakeBucket]:
    return FakeBucket.made(monkeypatch)


def one_sentence(error: BaseException | None) -> str:
    text = str(error)
    assert "\n" not in text
    assert ". " not in text
    assert not text.endswith(".")
    return text


# Paths.


def test_a_url_is_a_path_on_a_bucket():
    path = as_path("gs://bucket/folder/a.txt")
    assert isinstance(path, BucketPath)
    assert (str(path), path.name, path.suffix) == ("gs://bucket/folder/a.txt", "a.txt", ".txt")
    assert str(path.parent / "b" / "c") == "gs://bucket/folder/b/c"
    assert as_path(Path("gs://bucket/folder/a.txt")) == path  # which pathlib writes gs:/
    assert str(as_path("a/gs")) == "a/gs"
    assert as_path("file:///tmp/x") == Path("/tmp/x")
    with pytest.raises(UsageError, match="names no bucket"):
        as_path("s3://")
    with pytest.raises(UsageError, match="https:// names no server; write https://HOST/PATH"):
        as_path("https://")
    for part in ("hf://datasets/a", "hf://a/b/c", "hf://"):
        with pytest.raises(UsageError, match=f"^{part} names no data set of the hub; write hf://datasets/"):
            as_path(part)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("gs://bucket/x", r'not installed: pip install "clipjax\[gcs\]"'),
        ("s3://bucket/x", r'not installed: pip install "clipjax\[s3\]"'),
        ("nothing://bucket/x", "not a kind of place"),
    ],
)
def test_what_cannot_be_spoken_to(url: str, message: str, monkeypatch: pytest.MonkeyPatch):
    for name in ("gcsfs", "s3fs"):  # whether or not they are installed here
        monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(UsageError, match=message) as caught:
        as_path(url).exists()
    one_sentence(caught.value)


def test_objects_are_found_by_name(bucket: type[FakeBucket]):
    bucket.lag = True
    path = as_path(f"{URL}/folder/a.txt")
    assert not path.exists()
    assert BucketFiles().create(path, b"text")
    assert list(path.parent.iterdir()) == []  # not listed yet
    assert path.is_file()
    assert not path.is_dir()
    assert path.read_bytes() == b"text"
    assert path.read_text() == "text"
    assert list(as_path(URL).glob("folder/a.txt")) == [path]
    bucket.unlisted.clear()
    assert list(as_path(URL).glob("[!.]*/*.txt")) == [path]


# Writing.


@pytest.mark.parametrize("url", [URL, PLAIN])
def test_create_if_absent(bucket: type[FakeBucket], url: str):
    files, path = BucketFiles(), as_path(f"{url}/a/b")
    assert files.read(path) is None
    assert files.create(path, b"first")
    assert not files.create(path, b"second")
    assert files.read(path) == b"first"
    assert files.create(path, b"third", replace=True)
    assert files.read(path) == b"third"
    assert bucket.names() == ["/bucket/a/b"]


def test_of_many_writers_one_creates(bucket: type[FakeBucket]):
    created, start = [], threading.Barrier(8)

    def write(i: int) -> None:
        start.wait()
        if BucketFiles().create(as_path(f"{URL}/a"), str(i).encode()):
            created.append(i)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(created) == 1
    assert BucketFiles().read(as_path(f"{URL}/a")) == str(created[0]).encode()


@pytest.mark.parametrize("url", [URL, PLAIN])
@pytest.mark.parametrize("replace", [False, True])
def test_half_an_upload_is_nothing(bucket: type[FakeBucket], url: str, replace: bool):
    bucket.fail("folder/", OSError(errno.EIO, "cut off"), 99, "pipe")
    with pytest.raises(DataError, match=rf"could not write it {buckets.ATTEMPTS} times in a row"):
        BucketFiles().create(as_path(f"{url}/folder/a"), b"whole", replace=replace)
    assert bucket.names() == []
    assert bucket.asked("pipe") == buckets.ATTEMPTS


class ServerError(Exception):
    code = 503


@pytest.mark.parametrize(
    "error",
    [TimeoutError("slow"), ConnectionResetError("gone"), ServerError("busy"), OSError(errno.EBUSY, "")],
)
def test_what_may_pass_is_tried_again(bucket: type[FakeBucket], error: Exception):
    bucket.fail("a", error, buckets.ATTEMPTS - 1)
    assert BucketFiles().create(as_path(f"{URL}/a"), b"1")
    bucket.fail("a", error, buckets.ATTEMPTS - 1)
    assert as_path(f"{URL}/a").read_bytes() == b"1"
    bucket.fail("a", error, buckets.ATTEMPTS)
    with pytest.raises(DataError, match="times in a row") as caught:
        as_path(f"{URL}/a").exists()
    one_sentence(caught.value)


@pytest.mark.parametrize("error", [PermissionError("Access Denied"), OSError("Forbidden: /b/o\n403")])
def test_no_permission_is_said_at_once(bucket: type[FakeBucket], error: Exception):
    bucket.fail("a/b", error, 99)
    with pytest.raises(
        DataError, match=r"bucket/a/b: the bucket does not let you read it .*credentials"
    ) as caught:
        as_path(f"{URL}/a/b").read_bytes()
    one_sentence(caught.value)
    with pytest.raises(DataError, match="bucket/a/b: the bucket does not let you write it"):
        BucketFiles().create(as_path(f"{URL}/a/b"), b"")
    assert len(bucket.requests) == 2
    monkey = buckets.BucketPath("gs://bucket/a")._failure(error, "read")
    assert "gcloud auth application-default login" in one_sentence(monkey)


def test_the_answer_was_lost_but_not_the_object(bucket: type[FakeBucket], monkeypatch: pytest.MonkeyPatch):
    real = FakeBucket.pipe_file

    def lost(self: FakeBucket, path: str, value: bytes, mode: str = "overwrite") -> None:
        real(self, path, value, mode)
        raise TimeoutError

    monkeypatch.setattr(FakeBucket, "pipe_file", lost)
    monkeypatch.setattr(bucket_files, "_knows_create", lambda fs: True)
    assert BucketFiles().create(as_path(f"{URL}/a"), b"mine")
    assert not BucketFiles().create(as_path(f"{URL}/a"), b"another's")


# The store.


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_images(tmp_path / "images", 12)
    return tmp_path / "images"


def embed(images: Path, store: Store, **settings):
    settings = {"per_device_batch": 1, "rows_per_shard": 4, "progress": False} | settings
    return embed_images(TinyModel(), manifest_of(images, 12), store=store, **settings)


def shards(bucket: type[FakeBucket]) -> list[str]:
    return [name for name in bucket.names() if name.endswith(".safetensors")]


@pytest.mark.parametrize("lag", [False, True])
def test_embedding_goes_on_after_failures_to_the_same_bits(
    bucket: type[FakeBucket], images: Path, tmp_path: Path, lag: bool
):
    bucket.lag = lag
    expected = embed(images, Store(tmp_path / "local"))
    bucket.fail("00001-of", OSError(errno.EIO, "cut off"), 99, "pipe")
    with pytest.raises(DataError, match=r"00001-of-00003.*what is finished is kept"):
        embed(images, Store(f"{URL}/store"))
    assert [name[-26:-12] for name in shards(bucket)] == ["00000-of-00003"]
    bucket.failures.clear()
    bucket.fail("", ConnectionResetError("gone"), 3)
    resumed = embed(images, Store(f"{URL}/store"))
    assert resumed.ids == expected.ids
    np.testing.assert_array_equal(resumed.array, expected.array)
    assert (expected.stats.images, resumed.stats.images) == (12, 8)
    assert embed(images, Store(f"{URL}/store")).stats.forward_passes == 0
    local = next((tmp_path / "local").iterdir())
    for name in shards(bucket):  # the very files
        assert bucket.text(name) == (local / name.rsplit("/", 1)[1]).read_bytes()


def test_a_damaged_object_is_made_again(bucket: type[FakeBucket], images: Path):
    expected = embed(images, Store(f"{URL}/store"))
    name = shards(bucket)[1]
    BucketFiles().create(as_path(f"fake:/{name}"), bucket.text(name)[:-1] + b"?", replace=True)
    again = embed(images, Store(f"{URL}/store"))
    assert again.stats.images == 4
    np.testing.assert_array_equal(again.array, expected.array)


def entry_of(store: Store) -> Entry:
    ids = [str(i) for i in range(4)]
    return store.entry({"a": 1}, ids=ids, rows_per_shard=2, per_device_batch=1, row_shape=(1,))


def test_two_runs_fill_one_entry(bucket: type[FakeBucket]):
    bucket.lag = True
    first, second = entry_of(Store(f"{URL}/s")), entry_of(Store(f"{URL}/s"))
    assert first.manifest == second.manifest
    rows = np.ones((2, 1), np.float32)
    assert first.write_shard(0, ["0", "1"], rows)
    assert not second.write_shard(0, ["0", "1"], rows)
    assert second.write_shard(1, ["2", "3"], rows)
    assert first.complete
    assert second.read()[0] == ["0", "1", "2", "3"]


def test_nothing_of_a_bucket_is_removed(bucket: type[FakeBucket]):
    store = Store(f"{URL}/s")
    entry_of(store).write_shard(0, ["0", "1"], np.ones((2, 1), np.float32))
    [info] = store.ls()
    assert (info.rows, info.shards_present, info.bytes) == (
        4,
        1,
        sum(map(len, map(bucket.text, bucket.names()))),
    )
    assert info.last_used > 1.7e9
    with entry_of(store).hold():
        assert not store.remove(info.name)
    assert [each.name for each in store.gc(0, dry_run=True)] == [info.name]
    with pytest.raises(UsageError, match="which entries are in use") as caught:
        store.gc(0)
    one_sentence(caught.value)
    assert len(bucket.names()) == 2
    with pytest.raises(FileNotFoundError):
        store.files.hold(store.root / "nowhere")


def test_pixels_on_a_bucket(bucket: type[FakeBucket], images: Path, tmp_path: Path):
    expected = embed(images, Store(tmp_path / "local"))
    for store in ("one", "two"):
        found = embed(images, Store(tmp_path / store), pixel_store=PixelStore(f"{URL}/pixels"))
        np.testing.assert_array_equal(found.array, expected.array)
        assert bucket.asked("pipe", ".safetensors") == len(shards(bucket)) > 0  # decoded once


# Results.

A, B = "20260101T000000.000000Z-0000000a", "20260101T000000.000000Z-0000000b"


def test_results_of_two_writers_are_both_there(bucket: type[FakeBucket]):
    store = ResultStore(f"{URL}/results")
    store.check_root()
    start = threading.Barrier(2)

    def add(run_id: str) -> None:
        start.wait()
        row_ = row(run_id, recipe_hash=run_id[-1] * 64)
        ResultStore(f"{URL}/results").add([row_], {"id": [run_id, "x"]})

    threads = [threading.Thread(target=add, args=(name,)) for name in (A, B)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.run_ids() == [A, B]
    assert [each["run_id"] for each in store.rows()] == [A, B]
    assert store.images(B).to_pydict() == {"id": [B, "x"]}
    with pytest.raises(DataError, match="exists already"):
        store.add([row(A)])


def test_a_run_is_there_when_it_is_whole(bucket: type[FakeBucket]):
    store = ResultStore(f"{URL}/results")
    bucket.fail("run.json", PermissionError("no"), 1, "pipe")
    with pytest.raises(DataError, match=r"results/.*0a/run\.json: the bucket does not let you write it"):
        store.add([row(A)], {"id": ["x"]})
    assert bucket.names() == []
    bucket.requests.clear()
    store.add([row(A)], {"id": ["x"]})
    written = [name.rsplit("/", 1)[1] for kind, name in bucket.requests if kind == "pipe"]
    assert written == ["images.parquet", "rows.jsonl", "run.json"]
    assert store.run_ids() == [A]
    assert store.left_out() == []
    del bucket.store[f"/bucket/results/{A}/run.json"]
    assert (store.run_ids(), store.left_out()) == ([], [A])


@pytest.mark.parametrize("there", [f"{URL}/there", "local"])
def test_results_are_merged_from_and_to_a_bucket(bucket: type[FakeBucket], tmp_path: Path, there: str):
    source, target = f"{URL}/here", there if "://" in there else tmp_path / there
    ResultStore(source).add([row(A)], {"id": ["x"]})
    assert merge_results([source], target) == 1
    assert merge_results([source], target) == 0
    assert ResultStore(target).rows() == ResultStore(source).rows()
    assert ResultStore(target).images(A) == ResultStore(source).images(A)
    with pytest.raises(DataError, match="nowhere does not exist"):
        ResultStore(f"{URL}/nowhere").check_root(exists=True)


def test_a_whole_run_on_a_bucket(bucket: type[FakeBucket], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The same rows as on a disk; again, from the same stored embeddings; and two models compared."""
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path / "cache"))
    for i, colour in enumerate(["red", "blue", "red", "green"]):
        file = paint(tmp_path / "data" / colour / f"{i}.png", "red" if i == 3 else colour)
        BucketFiles().create(as_path(f"{URL}/data/{colour}") / file.name, file.read_bytes())
    names = ("metric", "value", "interval", "n", "recipe_hash")

    def run(home: str, fingerprint: str) -> tuple[list[tuple], int]:
        model = ColourModel(fingerprint=fingerprint, id=fingerprint)
        places: dict[str, Any] = {
            "root": f"{home}/data",
            "store": f"{home}/store",
            "results": f"{home}/results",
        }
        result = clipjax.evaluate(model, dataset="folder", prompts="single", progress=False, **places)
        return [tuple(each[name] for name in names) for each in result.rows], model.calls

    expected, calls = run(str(tmp_path), "a")
    assert (expected[0][:2], calls) == (("top1", 0.75), 1)
    assert run(URL, "a") == (expected, 1)
    assert run(URL, "a") == (expected, 0)
    run(URL, "b")
    store = ResultStore(f"{URL}/results")
    assert len(store.run_ids()) == 3
    assert len({each["recipe_hash"] for each in store.rows()}) == 2
    assert compare_runs("a", "b", f"{URL}/results")
    table = f"{URL}/results/{store.run_ids()[0]}/images.parquet"
    (tmp_path / "c.csv").write_text("id,name\nblue,blue\ngreen,green\nred,red\n")
    again = evaluate_predictions("zeroshot", table, labels=tmp_path / "c.csv")
    assert again.value("top1") == 0.75


def test_the_command_line_takes_urls(bucket: type[FakeBucket]):
    entry_of(Store(f"{URL}/s"))
    ResultStore(f"{URL}/results").add([row(A)])
    for arguments in (["store", "list", "--store", f"{URL}/s"], ["results", "list", f"{URL}/results"]):
        assert CliRunner().invoke(cli.app, arguments).exit_code == 0
    missing = CliRunner().invoke(cli.app, ["store", "list", "--store", f"{URL}/nowhere"])
    assert "nowhere does not exist" in one_sentence(missing.exception)


def test_a_path_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(UsageError, match=r"the path b'photos\\xff' is not UTF-8: rename it"):
        as_path(os.fsdecode(b"photos\xff"))
    assert as_path("fotos/größe") == Path("fotos/größe")

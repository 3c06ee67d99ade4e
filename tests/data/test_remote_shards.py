"""Data sets that are read from where they are: shards on a web server and on a hub on 127.0.0.1."""

from __future__ import annotations

import contextlib
import copy
import errno
import io
import json
import queue
import shutil
import tarfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from _file_server import Content, FileServer
from _images import RECIPE, png
from huggingface_hub import constants

from clipjax.data.cards import DatasetCard, load_dataset
from clipjax.data.manifest import Manifest
from clipjax.data.pixels.loader import batches
from clipjax.errors import DataError, UsageError
from clipjax.evaluation.data_set import dataset_of
from clipjax.evaluation.request import Request
from clipjax.storage.remote import buckets, local_copies
from clipjax.storage.remote.buckets import as_path
from clipjax.storage.writing import whole_file

SECRET = "planted"
REPOSITORY = "/datasets/org/name"


def tar(first: int, count: int = 4) -> bytes:
    """Images first .. first+count-1 with their labels."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for i in range(first, first + count):
            for name, member in ((f"{i}.png", png(i)), (f"{i}.cls", str(i % 2).encode())):
                info = tarfile.TarInfo(name)
                info.size = len(member)
                archive.addfile(info, io.BytesIO(member))
    return data.getvalue()


TARS = {f"{k}.tar": tar(4 * k) for k in range(3)}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(buckets, "FIRST_PAUSE", 0.0)
    return tmp_path / "cache"


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer({f"/set/{name}": Content(data) for name, data in TARS.items()}) as server:
        yield server


@pytest.fixture
def expected(tmp_path: Path) -> Manifest:
    """The same shards on this disk."""
    (tmp_path / "set").mkdir()
    for name, data in TARS.items():
        (tmp_path / "set" / name).write_bytes(data)
    return manifest_at(tmp_path / "set")


def manifest_at(root: object) -> Manifest:
    return dataset_of(Request(root=str(root))).manifest


def assert_same(found: Manifest, expected: Manifest) -> None:
    assert (found.ids, found.digest) == (expected.ids, expected.digest)
    np.testing.assert_array_equal(found.labels, expected.labels)
    with batches(found, RECIPE, batch_size=4) as ours, batches(expected, RECIPE, batch_size=4) as theirs:
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one["pixels"], other["pixels"])


def whole(server: FileServer) -> list[str]:
    """The files that were asked for as a whole."""
    return sorted(each.path for each in server.requests if each.headers["Range"] is None)


@pytest.mark.parametrize("ranges", [True, False])
def test_each_shard_comes_once(server: FileServer, expected: Manifest, ranges: bool) -> None:
    for content in server.files.values():
        content.ranges = ranges
    url = f"{server.url}/set/{{0..2}}.tar"
    assert_same(manifest_at(url), expected)
    assert whole(server) == ["/set/0.tar", "/set/1.tar", "/set/2.tar"]
    parts = [each for each in server.requests if each.headers["Range"] not in (None, "bytes=0-0")]
    assert all("manifest.json" in each.path for each in parts)
    server.requests.clear()
    assert_same(manifest_at(url), expected)
    assert whole(server) == []  # a later run has the copies


def test_several_braces(server: FileServer, expected: Manifest) -> None:
    server.files |= {
        f"/{part}/x-00{k}.tar": Content(tar(2 * k + i, 1)) for i, part in enumerate("ab") for k in (8, 9)
    }
    found = manifest_at(f"{server.url}/{{a,b}}/x-{{008..009}}.tar")
    assert found.ids == ("16.png", "18.png", "17.png", "19.png")
    del server.files["/b/x-008.tar"]
    with pytest.raises(
        DataError, match=r"1 of its 4 shards do not exist, the first is http://.*/b/x-008\.tar"
    ):
        manifest_at(f"{server.url}/{{a,b}}/x-{{008..009}}.tar")


def test_parquet_is_read_in_parts(server: FileServer, tmp_path: Path) -> None:
    for k in range(2):
        images = [{"bytes": png(i), "path": f"{i}.png"} for i in range(3 * k, 3 * k + 3)]
        path = tmp_path / "files" / f"test-0000{k}-of-00002.parquet"
        path.parent.mkdir(exist_ok=True)
        pq.write_table(pa.table({"image": images, "label": [0, 1, 0]}), path)
        server.files[f"/{path.name}"] = Content(path.read_bytes())
    found = manifest_at(f"{server.url}/test-{{00000..00001}}-of-00002.parquet")
    assert_same(found, manifest_at(tmp_path / "files"))
    assert whole(server) == []


def test_shards_above_the_budget_are_read_in_parts(
    server: FileServer, expected: Manifest, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    monkeypatch.setattr(local_copies, "BUDGET", 2 * len(TARS["0.tar"]))
    url = f"{server.url}/set/{{0..2}}.tar"
    assert_same(manifest_at(url), expected)
    assert whole(server) == []
    for content in server.files.values():
        content.ranges, content.etag = False, '"other"'
    with pytest.raises(DataError, match=r"/set/0\.tar: its server sends no parts of a file: download it"):
        manifest_at(url).opener.open(3)


def test_copies_used_longest_ago_make_room(
    server: FileServer, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    monkeypatch.setattr(local_copies, "BUDGET", 2 * len(TARS["0.tar"]))
    for k in (0, 1, 0, 2, 0, 1):
        manifest_at(f"{server.url}/set/{k}.tar")
    assert whole(server) == ["/set/0.tar", "/set/1.tar", "/set/1.tar", "/set/2.tar"]
    assert len(list((cache / "copies").iterdir())) == 2


def test_one_of_many_readers_fetches(server: FileServer) -> None:
    for content in server.files.values():
        content.rate = 10 * len(content.data)
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(manifest_at, [f"{server.url}/set/0.tar"] * 6))
    assert len({each.ids for each in found}) == 1
    assert whole(server) == ["/set/0.tar"]


@pytest.mark.parametrize(
    "how",
    [
        {"drops": [700, 0]},
        {"statuses": [503, 503]},
        {"statuses": [429], "headers": {"Retry-After": "1"}},
        {"etag": None},
        {"chunked": True, "ranges": False},
    ],
    ids=["drops", "503", "429", "no version", "no length"],
)
def test_a_bad_day_of_the_server(server: FileServer, expected: Manifest, how: dict[str, Any]) -> None:
    for name, data in TARS.items():
        server.files[f"/set/{name}"] = Content(data, **copy.deepcopy(how))
    assert_same(manifest_at(f"{server.url}/set/{{0..2}}.tar"), expected)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Content(statuses=[503] * 99), r"1\.tar: could not read it 5 times in a row \(HTTP 503"),
        (Content(statuses=[403] * 99), r"1\.tar: the server does not let you read it \(HTTP 403"),
        (Content(TARS["1.tar"][:-2000]), r"1\.tar: not a whole tar file"),
        (Content(b"<html>Sign in</html>"), r"1\.tar is a web page, not a tar file: give the address of"),
        (
            Content(TARS["1.tar"], location="/set/1.tar"),
            r"1\.tar: could not read it \(it redirects more than",
        ),
    ],
    ids=["outage", "refusal", "cut off", "a page", "a circle"],
)
def test_a_shard_that_cannot_be_read(server: FileServer, content: Content, message: str) -> None:
    server.files["/set/1.tar"] = content
    with pytest.raises(DataError, match=message):
        manifest_at(f"{server.url}/set/{{0..2}}.tar")


def test_a_shard_that_changes_meanwhile(server: FileServer) -> None:
    first = server.files["/set/0.tar"]
    first.later = Content(TARS["1.tar"], etag='"second"')
    asked = as_path(f"{server.url}/set/0.tar")
    with pytest.raises(DataError, match=r"0\.tar changes while it is read"):
        local_copies.opened_copy(asked, local_copies.version_of(asked))
    assert not [each for each in (local_copies.cache_dir() / "copies").iterdir() if "." not in each.name]


def test_a_shard_that_is_gone_meanwhile(server: FileServer) -> None:
    asked = as_path(f"{server.url}/set/0.tar")
    version = local_copies.version_of(asked)
    del server.files["/set/0.tar"]
    with pytest.raises(DataError, match=r"0\.tar does not exist any more: run again"):
        local_copies.opened_copy(asked, version)


def test_a_copy_can_be_read_after_it_made_room(server: FileServer, cache: Path) -> None:
    shards = [as_path(f"{server.url}/set/{k}.tar") for k in range(3)]
    versions = [local_copies.version_of(shard) for shard in shards]
    found = []
    for file in local_copies.nearby(shards, versions):
        for path in (cache / "copies").iterdir():
            if "." not in path.name:
                path.unlink()
        found.append(file.read())
    assert found == list(TARS.values())


def test_a_fetch_that_fails_leaves_no_lock(server: FileServer, cache: Path) -> None:
    asked = as_path(f"{server.url}/set/0.tar")
    version = local_copies.version_of(asked)
    server.files["/set/0.tar"] = Content(statuses=[403] * 99)
    with pytest.raises(DataError, match="HTTP 403"):
        local_copies.opened_copy(asked, version)
    assert list((cache / "copies").iterdir()) == []


def test_who_waited_for_a_removed_lock_takes_another(tmp_path: Path) -> None:
    inside, most, lock = [0], [0], tmp_path / "x.lock"

    def work(_: int) -> None:
        with local_copies._locked(lock):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(0.002)
            inside[0] -= 1

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(60)))
    assert most == [1]
    assert not lock.exists()


def test_copies_of_unstated_sizes_keep_to_the_budget(
    server: FileServer, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    for content in server.files.values():
        content.chunked, content.ranges = True, False
    monkeypatch.setattr(local_copies, "BUDGET", 2 * len(TARS["0.tar"]))
    manifest_at(f"{server.url}/set/{{0..2}}.tar")
    assert len([each for each in (cache / "copies").iterdir() if "." not in each.name]) == 2
    monkeypatch.setattr(local_copies, "BUDGET", len(TARS["0.tar"]) - 1)
    shutil.rmtree(cache / "copies")
    with pytest.raises(DataError, match=r"0\.tar has 10,240 bytes, more than all copies may take"):
        manifest_at(f"{server.url}/set/0.tar")


def test_copies_that_end_at_once_keep_to_the_budget(
    server: FileServer, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    """Both were fetched before either counts as taken room."""
    for content in server.files.values():
        content.chunked, content.ranges = True, False
    both, first = threading.Barrier(2), queue.SimpleQueue[int]()
    for k in range(2):
        first.put(k)

    @contextlib.contextmanager
    def together(path: Path) -> Iterator[Path]:
        with whole_file(path) as draft:
            yield draft
            with contextlib.suppress(queue.Empty):  # one may be removed, and comes again
                first.get_nowait()
                both.wait(20)

    monkeypatch.setattr(local_copies, "whole_file", together)
    monkeypatch.setattr(local_copies, "BUDGET", len(TARS["0.tar"]))
    manifest_at(f"{server.url}/set/{{0..1}}.tar")
    assert len([each for each in (cache / "copies").iterdir() if "." not in each.name]) <= 1


def test_a_full_disk_is_said(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from clipjax.storage.remote.web_files import WebFiles

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(WebFiles, "get_file", full)
    with pytest.raises(
        DataError, match=r"0\.tar: there is no room for it in .*/copies: make some, or set CLIPJAX"
    ):
        manifest_at(f"{server.url}/set/0.tar")


def test_a_copy_that_another_process_removes_comes_again(server: FileServer, cache: Path) -> None:
    url = f"{server.url}/set/{{0..2}}.tar"
    found = manifest_at(url)
    for path in (cache / "copies").iterdir():
        path.unlink()
    assert found.opener.open(5) == png(5)
    assert whole(server) == ["/set/0.tar", "/set/1.tar", "/set/1.tar", "/set/2.tar"]


def test_a_folder_of_a_web_server_is_not_listed(server: FileServer) -> None:
    for index in ({}, {"/set": Content(b"<html>an index</html>")}):
        server.files |= index
        with pytest.raises(DataError, match="/set: a web server has no folders to list: name the shards"):
            dataset_of(Request(root=f"{server.url}/set", dataset="folder"))


def test_the_number_of_a_listing_names_the_address(server: FileServer) -> None:
    url = f"{server.url}/set/0.tar"
    card = DatasetCard(name="few", title="few", reader="webdataset", images=9)
    with pytest.raises(DataError, match=f"^{url} holds 4 images, not the 9 of the card"):
        load_dataset(card, Path(url))


def test_nothing_secret_is_in_an_error(server: FileServer) -> None:
    signed = f"/signed?key={SECRET}"
    server.files["/set/0.tar"] = Content(location=signed)
    server.files["/signed"] = Content(statuses=[500] * 99)
    with pytest.raises(DataError, match="HTTP 500") as caught:
        manifest_at(f"{server.url}/set/0.tar")
    assert SECRET not in str(caught.value)
    for address in (
        f"https://me:{SECRET}@host/0.tar",
        f"https://host/0.tar?key={SECRET}",
        f"s3://me:{SECRET}@b/x",
    ):
        with pytest.raises(UsageError, match="in result rows") as refused:
            as_path(address)
        assert SECRET not in str(refused.value)


# The hub.


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A hub with the shards of a repository, as CLIP_benchmark keeps them."""
    with FileServer({}) as server:
        server.files = Repository()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        huggingface_hub.HfFileSystem.clear_instance_cache()
        fill(server, {f"test/{name}": data for name, data in TARS.items()})
        yield server
        huggingface_hub.HfFileSystem.clear_instance_cache()


class Repository(dict[str, Content]):
    """Files by path; others are answered as the hub does."""

    def get(self, path: str, default: object = None) -> Content:  # type: ignore[override]
        missing = Content(statuses=[404], headers={"X-Error-Code": "EntryNotFound"})
        return dict.get(self, path, missing)


def fill(server: FileServer, files: dict[str, bytes], listed: int | None = None) -> None:
    """Put files below the repository's folder test; only the first `listed` are listed."""
    for revision in ("main", "v1"):
        for name, data in files.items():
            server.files[f"{REPOSITORY}/resolve/{revision}/{name}"] = Content(data)
        entries = [
            {"type": "file", "path": name, "size": len(data), "oid": f"{len(data):040x}"}
            for name, data in list(files.items())[:listed]
        ]
        api = f"/api{REPOSITORY}"
        folder = {"type": "directory", "path": "test", "oid": "0" * 40}
        for about in (api, f"{api}/revision/{revision}"):
            server.files[about] = Content(b'{"id": "org/name", "siblings": []}')
        server.files[f"{api}/tree/{revision}"] = Content(json.dumps([folder]).encode())
        server.files[f"{api}/tree/{revision}/test"] = Content(json.dumps(entries).encode())


@pytest.mark.parametrize("root", ["name/test", "name@v1/test", "name/test/{0..2}.tar"])
def test_a_repository_of_the_hub(hub: FileServer, expected: Manifest, root: str) -> None:
    assert_same(manifest_at(f"hf://datasets/org/{root}"), expected)
    came = [each.path for each in hub.requests if "/resolve/" in each.path and each.method == "GET"]
    assert sorted(path.rpartition("/")[2] for path in came) == ["0.tar", "1.tar", "2.tar"]


def test_half_a_listing_is_refused(hub: FileServer) -> None:
    files = {"test/nshards.txt": b"3\n"} | {f"test/{name}": data for name, data in TARS.items()}
    fill(hub, files, listed=3)
    with pytest.raises(DataError, match=r"test holds 2 shards, nshards\.txt says 3"):
        manifest_at("hf://datasets/org/name/test")


def test_fewer_images_than_the_card_says_are_refused(hub: FileServer, tmp_path: Path) -> None:
    card = DatasetCard(name="mine", title="Mine", reader="webdataset", images=12)
    root = "hf://datasets/org/name/test"
    assert len(load_dataset(card, root).manifest) == 12
    fill(hub, {f"test/{name}": data for name, data in TARS.items()}, listed=2)
    huggingface_hub.HfFileSystem.clear_instance_cache()
    with pytest.raises(DataError, match=r"org/name/test holds 8 images, not the 12 of the card of mine"):
        load_dataset(card, root)

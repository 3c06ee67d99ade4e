"""The store: keys, atomic shards, damage, full disks, two writers."""

from __future__ import annotations

import errno
import fcntl
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from clipjax.errors import DataError
from clipjax.storage import shard
from clipjax.storage.entry import Entry, key_hash
from clipjax.storage.formats.safetensors import tensors_in
from clipjax.storage.shard import pack
from clipjax.storage.store import Store

KEY = {"weights": "abc", "output": "embedding", "pixels": {"size": 224, "rgb": "first"}, "forward": 1}
IDS = [f"n01/{i}.jpg" for i in range(10)]


def rows(ids: list[str], shape: tuple[int, ...] = (3,)) -> np.ndarray:
    """Values that follow from the id, so that a swapped row shows."""
    return np.stack([np.full(shape, int(name.split("/")[1][:-4]) + 0.5, np.float32) for name in ids])


def open_entry(store: Store, **changes) -> Entry:
    arguments = {"key": KEY, "ids": IDS, "rows_per_shard": 4, "per_device_batch": 2, "row_shape": (3,)}
    return store.entry(**(arguments | changes))


def fill(entry: Entry, shards: list[int] | None = None) -> None:
    for k in range(entry.shards) if shards is None else shards:
        ids = [entry.ids[row] for row in entry.shard_rows(k)]
        entry.write_shard(k, ids, rows(ids, entry.manifest.row_shape or (3,)))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the shards that are read and verified, from now on."""
    load, reads = Entry.load_shard, []

    def counted(self: Entry, k: int) -> tuple[list[str], np.ndarray] | None:
        reads.append(k)
        return load(self, k)

    monkeypatch.setattr(Entry, "load_shard", counted)
    return reads


def test_a_stored_entry_is_read_and_verified_once(store: Store, monkeypatch: pytest.MonkeyPatch):
    fill(open_entry(store))
    entry, reads = open_entry(store), count_reads(monkeypatch)
    assert entry.missing_shards(keep=True) == []
    ids, array = entry.read()
    assert reads == [0, 1, 2]
    assert ids == IDS
    np.testing.assert_array_equal(array, rows(IDS))
    array[:] = 0  # the caller's own
    np.testing.assert_array_equal(entry.read()[1], rows(IDS))
    assert reads == [0, 1, 2] * 2


@pytest.mark.parametrize("stored", [[1], [0, 2], [2], []])
def test_shards_that_were_missing_are_read_after_the_others(
    store: Store, stored: list[int], monkeypatch: pytest.MonkeyPatch
):
    fill(open_entry(store), stored)
    entry = open_entry(store)
    missing = entry.missing_shards(keep=True)
    assert missing == [k for k in range(3) if k not in stored]
    fill(entry, missing)
    reads = count_reads(monkeypatch)
    ids, array = entry.read()
    assert reads == missing
    assert ids == IDS
    np.testing.assert_array_equal(array, rows(IDS))


def test_shards_name_the_versions_that_made_them(store: Store, monkeypatch: pytest.MonkeyPatch):
    fill(open_entry(store), [0])
    monkeypatch.setattr(shard, "making", lambda: {"jax": "0.9.1", "jaxlib": "0.9.0"})
    fill(open_entry(store), [1])
    monkeypatch.setattr(shard, "making", dict)  # as before they were recorded
    fill(open_entry(store), [2])
    entry = open_entry(store)
    assert entry.made_with == {}
    assert entry.read()[0] == IDS
    own = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib")}
    assert entry.made_with == {"jax": {own["jax"], "0.9.1"}, "jaxlib": {own["jaxlib"], "0.9.0"}}


@pytest.mark.parametrize("k", [0, 1, 2])
def test_a_shard_with_skipped_rows_is_read_again(store: Store, k: int):
    """Another run may have replaced it with a fuller one; the rows after it move to the front."""
    entry = open_entry(store)
    fill(entry, [i for i in range(3) if i != k])
    part = [IDS[row] for row in entry.shard_rows(k)][1:]
    first = IDS[entry.shard_rows(k).start]
    entry.write_shard(k, part, rows(part) if part else np.empty((0, 3), np.float32), skipped=[first])
    for fuller in (False, True):
        again = open_entry(store)
        assert again.missing_shards(allow_skipped=True, keep=True) == []
        if fuller:
            fill(again, [k])
        ids, array = again.read()
        assert ids == (IDS if fuller else [name for name in IDS if name != first])
        np.testing.assert_array_equal(array, rows(ids))


def test_round_trip(store: Store):
    entry = open_entry(store)
    assert entry.shards == 3
    assert entry.missing_shards() == [0, 1, 2]
    assert not entry.complete
    fill(entry, [1])
    assert open_entry(store).missing_shards() == [0, 2]
    with pytest.raises(DataError, match=r"00000-of-00003\.safetensors is missing"):
        entry.read()
    fill(entry)
    ids, array = open_entry(store).read()
    assert ids == IDS
    np.testing.assert_array_equal(array, rows(IDS))
    assert open_entry(store).complete


@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (2, 3, 4)])
@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8", "int32"])
def test_any_rank_and_dtype(store: Store, shape: tuple[int, ...], dtype: str):
    entry = open_entry(store, row_shape=shape, dtype=dtype)
    array = np.arange(10 * int(np.prod(shape))).reshape(10, *shape).astype(dtype)
    for k in range(entry.shards):
        span = entry.shard_rows(k)
        entry.write_shard(k, [IDS[row] for row in span], array[span.start : span.stop])
    found = open_entry(store, row_shape=shape, dtype=dtype).read()[1]
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, array)


def test_no_rows(store: Store):
    entry = open_entry(store, ids=[])
    assert entry.complete
    assert entry.read()[1].shape == (0, 3)


@pytest.mark.parametrize(
    "change",
    [
        {"weights": "abd"},
        {"output": "features"},
        {"pixels": {"size": 224, "rgb": "last"}},
        {"forward": 2},
        {"tokenizer": None},
    ],
)
def test_any_change_of_the_key_misses(store: Store, change: dict):
    fill(open_entry(store))
    assert key_hash(KEY | change) != key_hash(KEY)
    assert open_entry(store, key=KEY | change).missing_shards() == [0, 1, 2]
    assert open_entry(store).complete


def test_key_ignores_the_order_of_its_fields():
    assert key_hash(dict(reversed(KEY.items()))) == key_hash(KEY)


def test_schema_is_part_of_the_key(monkeypatch: pytest.MonkeyPatch):
    before = key_hash(KEY)
    monkeypatch.setattr("clipjax.storage.entry.SCHEMA", 3)
    assert key_hash(KEY) != before


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.uint8])
def test_a_shard_has_the_bytes_that_the_library_of_its_format_writes(dtype: type):
    data = pack(["a", "\u00e9"], np.arange(6).reshape(2, 3).astype(dtype), 64, "owner")
    tensors, metadata = tensors_in(data)
    assert isinstance(metadata, dict)
    assert safetensors.numpy.save(tensors, metadata) == data


def test_a_shard_of_another_entry_is_made_again(store: Store, caplog: pytest.LogCaptureFixture):
    """Two models have the same ids, shapes and batch: nothing but the checksum tells their shards apart."""
    one, other = (open_entry(store, key=KEY | {"model": name}) for name in ("one", "other"))
    for entry in (one, other):
        fill(entry)
    first, second = (Path(entry.shard_path(0)) for entry in (one, other))
    ours, theirs = first.read_bytes(), second.read_bytes()
    assert ours != theirs
    first.write_bytes(theirs)
    second.write_bytes(ours)
    for name in ("one", "other"):
        assert open_entry(store, key=KEY | {"model": name}).missing_shards() == [0]
    assert "changed, or another entry's" in caplog.text


def test_an_entry_of_another_version_is_named_and_not_read(store: Store, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        patch.setattr("clipjax.storage.entry.SCHEMA", 1)
        old = open_entry(store)
        fill(old)
    assert open_entry(store).missing_shards() == [0, 1, 2]
    says = rf"written by another version of clipjax \(schema 1, this one has 2\); delete {old.path}"
    with pytest.raises(DataError, match=says):
        store.ls()
    shutil.rmtree(old.path)
    assert [info.shards_present for info in store.ls()] == [0]


def test_the_entrys_own_batch_holds(store: Store):
    open_entry(store)
    again = open_entry(store, rows_per_shard=10, per_device_batch=5)
    assert (again.manifest.rows_per_shard, again.manifest.per_device_batch) == (4, 2)
    with pytest.raises(ValueError, match="not a multiple"):
        open_entry(store, rows_per_shard=10, per_device_batch=4)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"ids": IDS[::-1]}, "ids_sha256"),
        ({"ids": IDS[:9]}, "rows"),
        ({"row_shape": (4,)}, "row_shape"),
        ({"dtype": "float16"}, "dtype"),
    ],
)
def test_same_key_with_other_rows_is_refused(store: Store, change: dict, field: str):
    open_entry(store)
    with pytest.raises(DataError, match=f"key.json: {field} is"):
        open_entry(store, **change)


def test_damaged_key_is_refused(store: Store):
    path = open_entry(store).path / "key.json"
    good = path.read_text()
    for bad in ("", good[:100], good.replace('"abc"', '"abd"')):
        path.write_text(bad)
        with pytest.raises(DataError, match=r"key\.json is .*delete"):
            open_entry(store)


def test_every_damaged_key_is_named_at_once(store: Store):
    damaged, bad, whole = (open_entry(store, key={"n": n}) for n in range(3))
    for entry in (damaged, bad):
        (entry.path / "key.json").write_text("{")
    also = rf"delete \S*{damaged.key_hash}; these cannot be read either, delete them too: \S*{bad.key_hash}$"
    for read in (lambda: store.find({"n": 0}), lambda: open_entry(store, key={"n": 0})):
        with pytest.raises(DataError, match=also):
            read()
    with pytest.raises(DataError, match=r"delete them too: \S*[0-9a-f]{64}$"):
        store.ls()
    (bad.path / "key.json").unlink()
    with pytest.raises(DataError, match=rf"delete \S*{damaged.key_hash}$"):
        store.ls()
    assert open_entry(store, key={"n": 2}).path == whole.path


def test_a_folder_in_place_of_a_shard_is_refused_before_it_is_made(store: Store):
    entry = open_entry(store)
    Path(entry.shard_path(1)).mkdir()
    with pytest.raises(DataError, match=r"00001-of-00003\.safetensors is a folder.*: remove it"):
        entry.missing_shards()


def test_write_refuses_wrong_rows(store: Store):
    entry = open_entry(store)
    good = rows(IDS[:4])
    with pytest.raises(ValueError, match="ids are not"):
        entry.write_shard(0, IDS[3::-1], good)
    with pytest.raises(ValueError, match="ids are not"):
        entry.write_shard(1, IDS[:4], good)
    with pytest.raises(ValueError, match="ids are not"):
        entry.write_shard(0, IDS[:3], good[:3])
    with pytest.raises(ValueError, match=r"float32\[4, 2\] is not float32\[4, 3\]"):
        entry.write_shard(0, IDS[:4], good[:, :2])
    with pytest.raises(ValueError, match="float64"):
        entry.write_shard(0, IDS[:4], good.astype(np.float64))
    good[2, 1] = np.nan
    with pytest.raises(DataError, match=r"n01/2\.jpg: values not finite"):
        entry.write_shard(0, IDS[:4], good)
    assert files_of(entry) == ["key.json"]
    with pytest.raises(DataError, match="unique: 1 are repeated"):
        open_entry(store, ids=["a", "b", "a"])


def files_of(entry: Entry) -> list[str]:
    return sorted(path.name for path in entry.path.iterdir())


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage", ["truncated", "empty", "first byte", "middle", "last byte", "foreign", "other shard"]
)
def test_damaged_shard_is_found_and_rebuilt(store: Store, damage: str, caplog: pytest.LogCaptureFixture):
    fill(entry := open_entry(store))
    path = Path(entry.shard_path(1))
    size = path.stat().st_size
    {
        "truncated": lambda: os.truncate(path, size - 7),
        "empty": lambda: os.truncate(path, 0),
        "first byte": lambda: flip(path, 0),
        "middle": lambda: flip(path, size // 2),
        "last byte": lambda: flip(path, size - 1),
        "foreign": lambda: path.write_bytes(b"not a shard"),
        "other shard": lambda: path.write_bytes(entry.shard_path(0).read_bytes()),
    }[damage]()
    again = open_entry(store)
    with pytest.raises(DataError, match="00001-of-00003"):
        again.read()
    assert again.missing_shards() == [1]
    assert "00001-of-00003.safetensors is damaged" in caplog.text
    fill(again, [1])
    np.testing.assert_array_equal(open_entry(store).read()[1], rows(IDS))


def test_every_single_flipped_bit_is_found(store: Store):
    """No byte of a shard is outside the checksum's or the format's care, padding of the header excepted."""
    fill(entry := open_entry(store), [2])
    path = Path(entry.shard_path(2))
    whole, ids = path.read_bytes(), IDS[8:]
    silent = []
    for offset in range(len(whole)):
        flip(path, offset)
        found = open_entry(store).load_shard(2)
        if found is not None:
            assert found[0] == ids
            np.testing.assert_array_equal(found[1], rows(ids))
            silent.append(offset)
        path.write_bytes(whole)
    assert len(silent) < 60  # the free-text metadata of the header, which carries no data


def test_a_valid_shard_is_never_overwritten(store: Store):
    fill(entry := open_entry(store))
    before = {name: os.stat(entry.path / name).st_ino for name in files_of(entry)}
    ids = IDS[:4]
    assert not entry.write_shard(0, ids, rows(ids) + 1)
    assert {name: os.stat(entry.path / name).st_ino for name in files_of(entry)} == before
    np.testing.assert_array_equal(entry.read()[1], rows(IDS))


def test_skipped_rows(store: Store):
    fill(entry := open_entry(store), [0, 2])
    kept = [IDS[4], IDS[6], IDS[7]]
    entry.write_shard(1, kept, rows(kept), skipped=[IDS[5]])
    again = open_entry(store)
    assert again.missing_shards(allow_skipped=True) == []
    assert again.missing_shards() == [1]
    ids, array = again.read()
    assert ids == [name for name in IDS if name != IDS[5]]
    np.testing.assert_array_equal(array, rows(ids))
    # The image could be read after all: the fuller shard takes the place, and never the other way round.
    fill(again, [1])
    assert not again.write_shard(1, kept, rows(kept), skipped=[IDS[5]])
    assert open_entry(store).read()[0] == IDS


def test_full_disk(store: Store, monkeypatch: pytest.MonkeyPatch):
    entry = open_entry(store)
    fill(entry, [0])

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DataError, match=r"00001-of-00003.*no space left.*finished shards are kept"):
            fill(entry, [1])
        with pytest.raises(DataError, match=r"key\.json: no space left"):
            open_entry(store, key=KEY | {"weights": "other"})
    assert files_of(entry) == ["00000-of-00003.safetensors", "key.json"]
    fill(entry)
    assert open_entry(store).complete


def test_full_disk_for_real(tmp_path: Path):
    """A file system of 64 kB: a shard too large leaves nothing behind, and fits once there is room."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        ballast = tmp_path / "ballast"
        ballast.write_bytes(bytes(48 * 1024))
        entry = open_entry(Store(tmp_path / "store"), row_shape=(1500,))
        with pytest.raises(DataError, match="no space left"):
            fill(entry, [0])
        assert files_of(entry) == ["key.json"]
        ballast.unlink()
        fill(entry, [0])
        assert entry.missing_shards() == [1, 2]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_unwritable_store(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot be written"):
        open_entry(Store(tmp_path / "file"))


WRITER = """
import contextlib, sys, time, numpy as np
from clipjax.storage import local_files
from clipjax.storage.store import Store
entry = Store(sys.argv[1]).entry({key!r}, ids={ids!r}, rows_per_shard=4, per_device_batch=2, row_shape=(3,))
real = local_files.draft_file
@contextlib.contextmanager
def slow(path, **_):
    with real(path) as draft:
        draft.write_bytes(b"half")
        print("writing", flush=True)
        time.sleep(60)
        yield draft
local_files.draft_file = slow
entry.write_shard(0, {ids!r}[:4], np.zeros((4, 3), np.float32))
"""


def test_killed_writer_leaves_no_shard_and_its_file_is_swept(store: Store):
    code = WRITER.format(key=KEY, ids=IDS)
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(store.root)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    entry = open_entry(store)
    assert len(files_of(entry)) == 2  # a live writer's file is left alone
    process.kill()
    process.wait()
    process.stdout.close()
    assert any(name.endswith(".tmp") for name in files_of(entry))
    again = open_entry(store)
    assert files_of(again) == ["key.json"]
    assert again.missing_shards() == [0, 1, 2]


def test_sweep_between_open_and_lock(store: Store, monkeypatch: pytest.MonkeyPatch):
    """Another run sweeps the new file before its writer holds the lock: the writer takes another one."""
    entry = open_entry(store)
    real, swept = fcntl.flock, []

    def flock(file, operation):
        drafts = list(Path(entry.path).glob(".*.tmp"))
        if drafts and not swept and not operation & fcntl.LOCK_NB:
            swept.extend(drafts)
            entry._files.clean(entry.path)
            assert not drafts[0].exists()
        real(file, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    fill(entry)
    assert swept
    assert open_entry(store).complete
    assert not [name for name in files_of(entry) if name.endswith(".tmp")]


def test_many_writers_at_once(store: Store):
    barrier, errors = threading.Barrier(8), []

    def write(seed: int) -> None:
        try:
            barrier.wait()
            entry = open_entry(store, rows_per_shard=2 * (1 + seed % 3))
            fill(entry, sorted(range(entry.shards), key=lambda k: (k + seed) % entry.shards))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    entry = open_entry(store)
    assert files_of(entry) == sorted([entry.shard_path(k).name for k in range(entry.shards)] + ["key.json"])
    np.testing.assert_array_equal(entry.read()[1], rows(IDS))


def test_ls_and_gc(store: Store):
    assert store.ls() == []
    for age, name in enumerate(["new", "middle", "old"]):
        entry = open_entry(store, key=KEY | {"weights": name})
        fill(entry, [0] if name == "old" else None)
        moment = time.time() - 1000 * age
        os.utime(entry.path / "key.json", (moment, moment))
    infos = store.ls()
    assert [info.key["weights"] for info in infos] == ["new", "middle", "old"]
    assert [(info.shards_present, info.shards) for info in infos] == [(3, 3), (3, 3), (1, 3)]
    sizes = [sum(p.stat().st_size for p in Path(store.root / info.name).iterdir()) for info in infos]
    assert [info.bytes for info in infos] == sizes

    assert store.gc(sum(sizes)) == []
    assert [info.key["weights"] for info in store.gc(sizes[0], dry_run=True)] == ["old", "middle"]
    assert len(store.ls()) == 3
    # Opening is use: the oldest entry is now the newest.
    open_entry(store, key=KEY | {"weights": "old"})
    assert [info.key["weights"] for info in store.gc(sizes[0] + sizes[2])] == ["middle"]
    assert {info.key["weights"] for info in store.ls()} == {"old", "new"}
    assert sorted(path.name for path in store.root.iterdir()) == sorted(info.name for info in store.ls())


def test_what_a_run_holds_is_not_removed(store: Store, monkeypatch: pytest.MonkeyPatch):
    entry = open_entry(store)
    fill(entry)
    with entry.hold(), entry.hold():
        assert store.gc(0, dry_run=True) == store.gc(0) == []
        assert not store.remove(entry.key_hash)
        assert entry.complete
    with monkeypatch.context() as patch:  # somebody else's

        def refuse(*_: object) -> None:
            raise PermissionError

        patch.setattr(os, "rename", refuse)
        assert store.gc(0) == []
        assert entry.complete
    assert [info.name for info in store.gc(0, dry_run=True)] == [entry.key_hash]
    assert store.remove(entry.key_hash)
    assert (list(store.root.iterdir()), store.remove(entry.key_hash)) == ([], False)
    with pytest.raises(FileNotFoundError):
        entry.hold()


def test_a_folder_of_something_else_is_no_store(tmp_path: Path):
    (tmp_path / "photos" / "bear").mkdir(parents=True)
    (tmp_path / "afile").touch()
    for ask in (Store.ls, lambda store: store.gc(0)):
        with pytest.raises(
            DataError, match=r"photos is not a clipjax store \(bear has no key.json"
        ) as caught:
            ask(Store(tmp_path / "photos"))
        assert "delete" not in str(caught.value)
        with pytest.raises(DataError, match="afile is a file"):
            ask(Store(tmp_path / "afile"))
    assert (tmp_path / "photos" / "bear").is_dir()


def test_an_entry_that_is_only_being_created_is_not_listed(store: Store):
    (store.root / key_hash(KEY)).mkdir(parents=True)
    assert store.ls() == []


@pytest.mark.parametrize("change", [{"per_device_batch": -2}, {"per_device_batch": 0}, {"rows_per_shard": 0}])
def test_sizes_below_one_are_refused(store: Store, change: dict):
    with pytest.raises(ValueError, match="both are >= 1"):
        open_entry(store, **change)
    assert not store.root.exists()


def _values_of_other_types(header: dict) -> list[dict]:
    """Headers of which one value, at any depth, is something else."""
    found: list[dict] = []
    for name, value in header.items():
        for other in (None, 1.5, "x", [], {}, [[]], -1, 2**70):
            found.append({**header, name: other})
            if isinstance(value, dict):
                found += [{**header, name: {**value, key: other}} for key in value]
    return found


def test_headers_of_other_types_are_damage_and_never_more(store: Store):
    fill(entry := open_entry(store), [2])
    path = Path(entry.shard_path(2))
    whole = path.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    headers = [json.dumps(each) for each in _values_of_other_types(json.loads(whole[8:start]))]
    headers += ["[" * 100_000, "null", "7", "[]", '"x"', "{}", "\xff", '{"ids": NaN}']
    refused = 0
    for header in headers:
        data = header.encode("latin-1")
        path.write_bytes(len(data).to_bytes(8, "little") + data + whole[start:])
        if (found := open_entry(store).load_shard(2)) is None:
            refused += 1
        else:  # its metadata, or another way to write one row of numbers
            assert found[0] == IDS[8:]
            np.testing.assert_array_equal(found[1], rows(IDS[8:]))
    assert refused > 120


def test_ids_of_other_types_are_damage(store: Store):
    fill(entry := open_entry(store), [2])
    path = Path(entry.shard_path(2))
    array, batch = rows(IDS[8:]), entry.manifest.per_device_batch
    for ids in ([8, 9], [None, None], [["a"], ["b"]], [{}, {}]):
        path.write_bytes(pack(ids, array, batch, entry._owner(2)))  # type: ignore[arg-type]
        assert 2 in open_entry(store).missing_shards()
    path.write_bytes(pack(IDS[8:], np.array(1, np.float32), batch, entry._owner(2)))
    assert 2 in open_entry(store).missing_shards()


def test_keys_of_other_types_are_refused(store: Store):
    path = open_entry(store).path / "key.json"
    good = json.loads(path.read_text())
    refused = 0
    for record in [*_values_of_other_types(good), {**good, "about": {"data": 1}}]:
        path.write_text(json.dumps(record))
        for read in (store.ls, lambda: open_entry(store).missing_shards()):
            try:
                read()
            except DataError as error:
                refused += "key.json" in str(error)
    assert refused > 150
    for text in ("[" * 100_000, "null", "[]", "7", '{"schema": NaN}'):
        path.write_text(text)
        with pytest.raises(DataError, match=r"key\.json is damaged"):
            store.ls()


def test_a_fifo_in_a_store_never_hangs(store: Store):
    fill(entry := open_entry(store), [2])
    for path in (Path(entry.shard_path(2)), Path(entry.path / "key.json")):
        path.unlink()
        os.mkfifo(path)
    assert 2 in entry.missing_shards()
    with pytest.raises(DataError, match=r"key\.json is not a regular file"):
        store.ls()

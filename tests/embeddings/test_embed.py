"""The embedding runner: the same bits on any number of devices and processes, killed and resumed or not."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shutil
import socket
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import jax
import numpy as np
import PIL.Image
import pytest
from _embed_tools import SIZE, TinyModel, manifest_of, write_images
from _records import embed_images
from _xla_flags import flags_of

from clipjax.data.pixels.loader import batches
from clipjax.data.pixels.normalize import normalize_host
from clipjax.data.pixels.preprocess import PixelRecipe
from clipjax.embeddings import forward, stored_rows
from clipjax.embeddings.answers import answer_key
from clipjax.embeddings.forward import text_encoder
from clipjax.embeddings.keys import image_key
from clipjax.embeddings.pair_maps import maps_key
from clipjax.embeddings.sets import Embeddings, default_shard
from clipjax.errors import DataError, UsageError
from clipjax.evaluation.own_model import OwnModel
from clipjax.models import version
from clipjax.models.dense import DenseRecipe
from clipjax.storage.store import Store
from tests import _forks
from tests._forks import Running

COUNT = 100
BATCH, SHARD = 4, 16
SHARDS = -(-COUNT // SHARD)
SCRIPT = Path(__file__).parents[1] / "_embed_tools.py"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    write_images(folder / "images", COUNT)
    return folder


@pytest.fixture(scope="module")
def model() -> TinyModel:
    return TinyModel()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def run(model: Any, manifest: Any, store: Store | None = None, **options: Any) -> Embeddings:
    options = {"per_device_batch": BATCH, "rows_per_shard": SHARD, "progress": False} | options
    return embed_images(model, manifest, store=store, **options)


def start(work: Path, counts: str, devices: int, *arguments: str) -> Running:
    """The script of _embed_tools.py in a forked process."""
    root = str(SCRIPT.parent.parent)
    # A compile cache of the test's own: what another run has left there must not matter.
    environment = os.environ | {
        "XLA_FLAGS": flags_of(devices),
        "PYTHONPATH": root,
        "CLIPJAX_CACHE": str(work / "cache"),
    }
    asked = [str(work), counts, *arguments]
    return _forks.start(SCRIPT, asked, environment, stderr=subprocess.PIPE, warnings=["error"])


def finish(*processes: Running) -> None:
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors


def sizes(work: Path) -> tuple[str, str, str, str]:
    return "--batch", str(BATCH), "--shard", str(SHARD)


@pytest.fixture(scope="module")
def reference(work: Path, model: TinyModel) -> dict[str, Any]:
    """Embeddings of the first 1, 7, 8, 9 and all images on one device, made by this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forward, "local_mesh", lambda: embed_mesh(1))
        sets = {n: manifest_of(work / "images", n) for n in (1, 7, 8, 9, COUNT)}
        return {f"array{n}": run(model, images).array for n, images in sets.items()}


def test_against_the_plain_forward(model: TinyModel, work: Path):
    """The runner's numbers are the network's: decode, normalise, encode, divide by the norm, in order."""
    manifest = manifest_of(work / "images", 9)
    embeddings = run(model, manifest)
    card = model.card.preprocess
    pixels = next(batches(manifest, card.recipe(rgb="first"), batch_size=9))["pixels"]
    images = normalize_host(pixels, card.mean, card.std)
    encode = jax.jit(functools.partial(model.network.encode_image, precision="parity"))
    features = np.asarray(encode(model.params, images))
    expected = features / np.linalg.norm(features, axis=1, keepdims=True)
    assert embeddings.ids == list(manifest.ids)
    assert embeddings.array.dtype == np.float32
    np.testing.assert_allclose(embeddings.array, expected, atol=1e-6)
    np.testing.assert_allclose(run(model, manifest, output="features").array, features, atol=3e-6)
    # The comparison sees a wrong order and a wrong mean.
    assert np.abs(embeddings.array[::-1] - expected).max() > 1e-3
    shifted = dataclasses.replace(card, mean=(0.5, 0.5, 0.5))
    other = TinyModel()
    other.card = dataclasses.replace(model.card, preprocess=shifted)
    assert np.abs(run(other, manifest).array - expected).max() > 1e-3


def test_a_classifiers_features_are_never_normalised(model: TinyModel, work: Path, store: Store):
    manifest = manifest_of(work / "images", 3)
    classifier = TinyModel(kind="classifier")
    raw = run(model, manifest, output="features")
    embeddings = run(classifier, manifest, store)
    np.testing.assert_array_equal(embeddings.array, raw.array)
    assert np.abs(np.linalg.norm(embeddings.array, axis=1) - 1).max() > 1e-2
    assert run(classifier, manifest, store, output="features").stats.forward_passes == 0


@pytest.mark.long("embeddings/test_embed_many.py::test_small_data_sets_fill_the_steps_and_keep_their_bits")
@pytest.mark.parametrize("devices", [2, 4, 8])
def test_bit_equal_on_any_number_of_devices(devices: int, work: Path, reference: dict[str, Any]):
    out = work / f"devices{devices}.npz"
    finish(start(work, f"1,7,8,9,{COUNT}", devices, *sizes(work), "--out", str(out)))
    arrays = dict(np.load(out))
    for n in (1, 7, 8, 9, COUNT):
        assert arrays[f"array{n}"].shape == (n, 24)
        np.testing.assert_array_equal(arrays[f"array{n}"], reference[f"array{n}"])
        np.testing.assert_array_equal(arrays[f"ids{n}"], [f"{i:04d}.png" for i in range(n)])
        # A data set's embeddings do not depend on what comes after them either.
        np.testing.assert_array_equal(arrays[f"array{n}"], reference[f"array{COUNT}"][:n])
    stats = [json.loads(str(arrays[f"stats{n}"])) for n in (1, 7, 8, 9, COUNT)]
    assert [s["compiles"] for s in stats] == [1, 0, 0, 0, 0]
    assert [s["images"] for s in stats] == [1, 7, 8, 9, COUNT]
    assert {s["devices"] for s in stats} == {devices}


def test_another_batch_is_not_the_same_computation(work: Path, reference: dict[str, Any], model: TinyModel):
    """Why an entry fixes the per-device batch: with another one, values are only equal to rounding."""
    embeddings = run(model, manifest_of(work / "images", COUNT), per_device_batch=1, rows_per_shard=SHARD)
    np.testing.assert_allclose(embeddings.array, reference[f"array{COUNT}"], atol=1e-6)


def test_second_run_reads(model: TinyModel, work: Path, store: Store):
    manifest = manifest_of(work / "images", 50)
    first = run(model, manifest, store)
    assert (first.stats.images, first.stats.forward_passes) == (50, 2)  # 8 devices of 4: 32 and 20 padded
    again = run(TinyModel(), manifest, store)
    assert (again.stats.images, again.stats.forward_passes, again.stats.compiles) == (0, 0, 0)
    assert again.key_hash == first.key_hash
    np.testing.assert_array_equal(again.array, first.array)
    # An entry keeps its batch, whatever a later run asks for.
    kept = run(model, manifest, store, per_device_batch=8, rows_per_shard=8)
    assert kept.stats.forward_passes == 0
    [info] = store.ls()
    assert info.about["model"] == "tiny"
    assert (info.rows, info.shards, info.shards_present) == (50, 4, 4)


def test_one_compilation_for_several_data_sets(work: Path):
    forward._image_step.cache_clear()
    model = TinyModel()
    counts = [run(model, manifest_of(work / "images", n)).stats.compiles for n in (1, 33, 64, 100)]
    assert counts == [1, 0, 0, 0]
    # Other weights of the same architecture need none either: params are an argument.
    other = TinyModel(seed=1)
    assert run(other, manifest_of(work / "images", 1)).stats.compiles == 0


def test_any_change_misses(model: TinyModel, work: Path, store: Store, tmp_path: Path):
    manifest = manifest_of(work / "images", 5)
    hashes = {run(model, manifest, store).key_hash}
    card = model.card.preprocess
    changes: list[tuple[Any, Any, dict[str, Any]]] = [
        (TinyModel(fingerprint="tiny-2"), manifest, {}),
        (model, manifest_of(work / "images", 6), {}),
        (model, manifest, {"output": "features"}),
        (model, manifest, {"precision": "fast"}),
        (model, manifest, {"recipe": card.recipe(rgb="last")}),
        (model, manifest, {"recipe": card.recipe(rgb="first", pre_crop=2)}),
        (model, manifest, {"recipe": PixelRecipe(SIZE, SIZE, "squash", "bicubic", "first")}),
        (model, manifest, {"recipe": PixelRecipe(SIZE, SIZE, "shortest", "bilinear", "first")}),
        (model, manifest, {"recipe": PixelRecipe(SIZE, SIZE + 1, "shortest", "bicubic", "first")}),
    ]
    write_images(tmp_path / "images", 5)
    (tmp_path / "images" / "0003.png").write_bytes((work / "images" / "0004.png").read_bytes())
    changes.append((model, manifest_of(tmp_path / "images", 5), {}))
    for changed, data, options in changes:
        result = run(changed, data, store, **options)
        assert result.stats.forward_passes == 1, options
        hashes.add(result.key_hash)
    assert len(hashes) == len(changes) + 1


@pytest.mark.usefixtures("settled")
def test_other_images_of_the_same_size_and_time_are_embedded(model: TinyModel, store: Store, tmp_path: Path):
    def pixels(folder: Path, shade: int) -> Path:
        folder.mkdir()
        for i in range(2):
            image = np.full((SIZE, SIZE, 3), (shade, i * shade, 0), np.uint8)
            PIL.Image.fromarray(image).save(folder / f"{i:04d}.png", "BMP")
            os.utime(folder / f"{i:04d}.png", ns=(10**18, 10**18))
        return folder

    def embedded() -> tuple[str, np.ndarray]:
        manifest = manifest_of(folder, 2)
        return manifest.images_digest, np.asarray(run(model, manifest, store).array)

    folder, others = pixels(tmp_path / "images", 50), pixels(tmp_path / "others", 200)
    (before, old), expected = embedded(), manifest_of(others, 2).images_digest
    for file in others.iterdir():
        os.replace(file, folder / file.name)
    after, new = embedded()
    assert after == expected != before
    assert np.abs(new - old).max() > 0.01


def test_what_is_said_of_the_images_changes_no_embedding(model: TinyModel, work: Path, store: Store):
    """Labels and columns are a task's business: ImageNet-X's factors share ImageNet's embeddings."""
    manifest = manifest_of(work / "images", 5)
    first = run(model, manifest, store)
    said = dataclasses.replace(manifest, labels=np.zeros(5, np.int32), columns={"factor": list("abcde")})
    again = run(model, said, store)
    assert (again.stats.forward_passes, again.key_hash) == (0, first.key_hash)
    assert said.digest != manifest.digest


def test_the_batch_reported_is_the_one_used(model: TinyModel, work: Path, store: Store):
    run(model, manifest_of(work / "images", 9), store)
    again = run(model, manifest_of(work / "images", 9), store, per_device_batch=8)
    assert again.stats.per_device_batch == BATCH


def test_forward_version_is_part_of_the_key(model: TinyModel, work: Path, monkeypatch: pytest.MonkeyPatch):
    manifest, recipe = manifest_of(work / "images", 2), model.card.preprocess.recipe(rgb="first")
    parity, fast = before = [
        image_key(model.card, manifest, recipe, p, "embedding") for p in ("parity", "fast")
    ]
    assert (parity["forward"], fast["forward"]) == (3, "3.4")  # what only fast changes leaves parity's rows
    monkeypatch.setattr(version, "FORWARD_VERSION", 4)
    after = [image_key(model.card, manifest, recipe, p, "embedding") for p in ("parity", "fast")]
    assert after[0] != before[0]
    assert after[1] != before[1]


def test_what_only_fast_changes_leaves_the_keys_of_parity(model: TinyModel, monkeypatch: pytest.MonkeyPatch):
    manifest: Any = SimpleNamespace(images_digest="images", pairs=SimpleNamespace(digest="pairs"))
    recipe, prompts = model.card.preprocess.recipe(rgb="first"), SimpleNamespace(digest="prompts")

    def keys(precision: str) -> list[dict[str, Any]]:
        return [
            image_key(model.card, manifest, recipe, precision, "embedding"),
            maps_key(model.card, manifest, DenseRecipe("last", "tokens", "library"), precision),
            answer_key(model.card, manifest, recipe, cast(Any, prompts), 1, precision),
        ]

    parity, fast = keys("parity"), keys("fast")
    monkeypatch.setattr(version, "_FAST", version._FAST + 1)
    assert keys("parity") == parity
    assert all(new != old for new, old in zip(keys("fast"), fast, strict=True))


def test_a_small_data_set_has_several_shards(model: TinyModel, work: Path, store: Store):
    """The default shard: whole batches, eight shards if there are batches for it, 512 rows at most."""
    embeddings = run(model, manifest_of(work / "images", COUNT), store, rows_per_shard=None)
    assert embeddings.stats.per_device_batch == BATCH
    [info] = store.ls()
    assert info.shards >= 8
    for n, batch in ((500, 64), (513, 64), (1000, 64), (50_000, 64), (50_000, 1000), (3, 4)):
        rows = default_shard(n, batch)
        assert rows % batch == 0
        assert rows <= max(512, batch)
        assert -(-n // rows) >= min(8, -(-n // batch))
    assert default_shard(50_000, 64) == 512
    large = [default_shard(n, 64) for n in (131_072, 262_143, 262_144, 1_281_167, 10**9)]
    assert large == [512, 512, 1024, 4608, 16_384]
    assert default_shard(1_281_167, 1024) == 4096
    assert all(n % 512 == 0 for n in large)  # shards of pixels divide them


def test_damaged_shard_is_embedded_again(model: TinyModel, work: Path, store: Store, caplog: Any):
    manifest = manifest_of(work / "images", 50)
    first = run(model, manifest, store)
    assert first.key_hash is not None
    shards = sorted((Path(store.root) / first.key_hash).glob("*.safetensors"))
    os.truncate(shards[2], 100)
    data = bytearray(shards[0].read_bytes())
    data[-5] ^= 4
    shards[0].write_bytes(data)
    again = run(model, manifest, store)
    assert again.stats.images == 2 * SHARD
    np.testing.assert_array_equal(again.array, first.array)
    assert {"00000-of", "00002-of"} <= {message.split("/")[-1][:8] for message in caplog.messages}
    assert run(model, manifest, store).stats.images == 0


# ------------------------------------------------------------------------------------ killed runs


def check_resumed(work: Path, reference: dict[str, Any], name: str, kill_at: int, devices: tuple[int, int]):
    """Kill a run while it writes shard `kill_at`, resume it on another number of devices."""
    store, out = work / name, work / f"{name}.npz"
    killed = start(
        work, str(COUNT), devices[0], *sizes(work), "--store", str(store), "--kill-at", str(kill_at)
    )
    killed.communicate(timeout=120)
    assert killed.returncode == -9
    [entry] = store.iterdir()
    left = {path.name: path.stat().st_ino for path in entry.iterdir() if path.suffix == ".safetensors"}
    assert len(left) == kill_at
    assert [path for path in entry.iterdir() if path.suffix == ".tmp"]
    # The resumed run asks for other sizes: the entry's own count.
    finish(start(work, str(COUNT), devices[1], "--batch", "8", "--store", str(store), "--out", str(out)))
    arrays = dict(np.load(out))
    np.testing.assert_array_equal(arrays[f"array{COUNT}"], reference[f"array{COUNT}"])
    np.testing.assert_array_equal(arrays[f"ids{COUNT}"], [f"{i:04d}.png" for i in range(COUNT)])
    # Exactly the rows without a shard were embedded, no finished shard was touched, nothing else is left.
    assert json.loads(str(arrays[f"stats{COUNT}"]))["images"] == COUNT - kill_at * SHARD
    names = {path.name: path.stat().st_ino for path in entry.iterdir()}
    assert len(names) == SHARDS + 1
    assert left.items() <= names.items()


@pytest.mark.long("embeddings/test_embed.py::test_damaged_shard_is_embedded_again")
@pytest.mark.parametrize(("kill_at", "devices"), [(0, (2, 4)), (3, (4, 1)), (6, (1, 8))])
def test_killed_and_resumed(work: Path, reference: dict[str, Any], kill_at: int, devices: tuple[int, int]):
    check_resumed(work, reference, f"killed{kill_at}", kill_at, devices)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_killed_and_resumed_at_twenty_points(work: Path, reference: dict[str, Any], seed: int):
    rng = np.random.default_rng(seed)
    first, second = rng.permutation([1, 2, 4, 8])[:2].tolist()
    check_resumed(work, reference, f"slow{seed}", int(rng.integers(SHARDS)), (first, second))


@pytest.mark.long("storage/test_store.py::test_many_writers_at_once")
def test_two_runs_into_one_store(work: Path, reference: dict[str, Any]):
    store = str(work / "shared")
    outs = [work / f"run{i}.npz" for i in range(2)]
    finish(
        *[
            start(work, str(COUNT), devices, *sizes(work), "--store", store, "--out", str(out))
            for out, devices in zip(outs, (1, 4))
        ]
    )
    for out in outs:
        np.testing.assert_array_equal(np.load(out)[f"array{COUNT}"], reference[f"array{COUNT}"])
    [entry] = Path(store).iterdir()
    assert len(list(entry.iterdir())) == SHARDS + 1


# ------------------------------------------------------------------------------------ processes


SECOND = "embeddings/test_embed.py::test_the_second_of_two_processes_does_its_part_and_tells_the_other"


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def two_processes(
    work: Path, stores: tuple[str, str], *arguments: str, counts: str = str(COUNT)
) -> list[Running]:
    port = free_port()
    return [
        start(
            work,
            counts,
            2,
            *sizes(work),
            *("--store", store, "--out", f"{store}-{i}.npz", "--process", str(i), "2", port),
            *arguments,
        )
        for i, store in enumerate(stores)
    ]


def test_the_second_of_two_processes_does_its_part_and_tells_the_other(
    model: TinyModel, work: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """In this process; the first one then fails, and the second time this one does."""
    compared, told = dict[str, str](), list[Exception | None]()

    def failed(failure: Exception | None) -> int:
        told.append(failure)
        return 0 if failure is None else 1

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(stored_rows, "assert_same_everywhere", compared.__setitem__)
    monkeypatch.setattr(stored_rows, "failed_process", failed)
    monkeypatch.setattr(stored_rows, "first_decides", lambda decide, _: decide())
    with pytest.raises(DataError, match=r"^embedding failed on process 0: see its message"):
        run(model, manifest_of(work / "images", 50), store)
    [entry] = store.ls()
    assert sorted(path.name[:5] for path in store.root.glob("*/*.safetensors")) == ["00001", "00003"]
    assert f"the store {store.root} (one directory that all hosts see)" in compared
    assert entry.shards == 4
    write_images(tmp_path / "images", 50)
    (tmp_path / "images" / "0020.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"0020\.png: not an image"):
        run(model, manifest_of(tmp_path / "images", 50), Store(tmp_path / "other"))
    nothing, own = told
    assert (nothing, "0020.png" in str(own)) == (None, True)


@pytest.mark.long(SECOND)
def test_two_processes_share_the_work(work: Path, reference: dict[str, Any]):
    store, pixels = str(work / "distributed"), work / "pixels"
    finish(*two_processes(work, (store, store), "--pixels", str(pixels)))
    results = [dict(np.load(f"{store}-{i}.npz")) for i in range(2)]
    for result in results:
        np.testing.assert_array_equal(result[f"array{COUNT}"], reference[f"array{COUNT}"])
    images = [json.loads(str(result[f"stats{COUNT}"]))["images"] for result in results]
    assert images == [52, 48]  # shards 0, 2, 4, 6 (the last one of 4 rows) and 1, 3, 5
    [entry] = Store(pixels).ls()  # decoded by both
    assert (entry.rows, entry.shards_present, entry.shards) == (COUNT, 13, 13)


@pytest.mark.long("embeddings/test_embed.py::test_processes_halve_the_batch_together")
def test_two_processes_share_small_data_sets(work: Path, reference: dict[str, Any]):
    """Of data sets with one shard each, every process takes every other one."""
    store, counts = str(work / "small"), (13, 14, 15, 16)
    finish(*two_processes(work, (store, store), "--together", counts=",".join(map(str, counts))))
    for i, expected in enumerate([[13, 0, 15, 0], [0, 14, 0, 16]]):
        arrays = dict(np.load(f"{store}-{i}.npz"))
        for n in counts:
            np.testing.assert_array_equal(arrays[f"array{n}"], reference[f"array{COUNT}"][:n])
        stats = [json.loads(str(arrays[f"stats{n}"])) for n in counts]
        assert [each["images"] for each in stats] == expected
        assert sum(each["forward_passes"] for each in stats) == 4  # 8 batches of 4 on 2 devices


@pytest.mark.long(SECOND)
def test_hosts_that_do_not_share_the_store_are_told(work: Path):
    processes = two_processes(work, (str(work / "here"), str(work / "there")))
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode != 0
        assert "one directory that all hosts see" in errors
    assert not list(work.glob("here/*/*.safetensors"))


@pytest.mark.long(SECOND)
def test_one_process_fails(work: Path, tmp_path: Path):
    """An unreadable image of process 0: it is named, both end, and process 1 has stored its shards."""
    shutil.copytree(work / "images", tmp_path / "images")
    (tmp_path / "images" / "0003.png").write_bytes(b"no image")
    store = str(tmp_path / "store")
    processes = two_processes(tmp_path, (store, store))
    errors = [process.communicate(timeout=60)[1] for process in processes]
    assert all(process.returncode for process in processes)
    assert f"{tmp_path / 'images' / '0003.png'}: not an image" in errors[0]
    assert "embedding failed on process 0" in errors[1]
    assert len(list(tmp_path.glob("store/*/*.safetensors"))) == 3


def test_processes_halve_the_batch_together(work: Path, reference: dict[str, Any]):
    """Where one is short of memory, all begin anew with the data sets that are not stored by then."""
    store, counts = str(work / "short"), (13, 14, 15, 16)
    finish(*two_processes(work, (store, store), "--together", "--holds", "2", counts="13,14,15,16"))
    for i, images in enumerate([[13, 0, 15, 0], [0, 14, 0, 16]]):
        arrays = dict(np.load(f"{store}-{i}.npz"))
        for n in counts:
            np.testing.assert_allclose(arrays[f"array{n}"], reference[f"array{COUNT}"][:n], atol=1e-6)
        stats = [json.loads(str(arrays[f"stats{n}"])) for n in counts]
        assert [each["images"] for each in stats] == images
        assert [each["per_device_batch"] for each in stats] == [4, 2, 4, 2]


# ------------------------------------------------------------------------------------ bad input


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Twenty images, of which number 5 cannot be read."""
    write_images(tmp_path / "images", 20)
    (tmp_path / "images" / "0005.png").write_bytes(b"no image")
    return tmp_path / "images"


def test_unreadable_image_is_named(model: TinyModel, broken: Path, store: Store):
    for kept in (None, store):
        with pytest.raises(DataError, match=r"0005\.png"):
            run(model, manifest_of(broken, 20), kept)


@pytest.mark.parametrize("stored", [False, True])
def test_unreadable_image_is_skipped(model: TinyModel, broken: Path, work: Path, store: Store, stored: bool):
    manifest = manifest_of(broken, 20)
    embeddings = run(model, manifest, store if stored else None, on_error="skip")
    kept = [i for i in range(20) if i != 5]
    assert embeddings.ids == [f"{i:04d}.png" for i in kept]
    assert embeddings.stats.skipped == ("0005.png",)
    assert embeddings.stats.images == 19
    np.testing.assert_array_equal(embeddings.array, run(model, manifest_of(work / "images", 20)).array[kept])
    if stored:
        again = run(model, manifest, store, on_error="skip")
        assert (again.stats.forward_passes, again.stats.skipped) == (0, ("0005.png",))
        with pytest.raises(DataError, match=r"0005\.png"):
            run(model, manifest, store)


@pytest.mark.parametrize("stored", [False, True])
def test_only_unreadable_images(model: TinyModel, tmp_path: Path, store: Store, stored: bool):
    write_images(tmp_path / "images", 3)
    for path in (tmp_path / "images").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match="tiny images: no image could be read"):
        run(model, manifest_of(tmp_path / "images", 3), store if stored else None, on_error="skip")


def test_features_that_are_not_finite(work: Path, store: Store):
    model = TinyModel()
    model.params["vision"]["proj"] = model.params["vision"]["proj"] * np.float32("inf")
    for kept in (None, store):
        with pytest.raises(DataError, match=r"0000\.png: values not finite"):
            run(model, manifest_of(work / "images", 3), kept)


def test_bad_options(model: TinyModel, work: Path, store: Store):
    manifest = manifest_of(work / "images", 3)
    with pytest.raises(UsageError, match="unknown precision 'fats'; did you mean fast"):
        run(model, manifest, precision="fats")
    with pytest.raises(UsageError, match="unknown output 'feature'"):
        run(model, manifest, output="feature")
    with pytest.raises(UsageError, match="6 rows per shard is not a multiple of the batch of 4"):
        run(model, manifest, store, rows_per_shard=6)
    with pytest.raises(DataError, match="has no images"):
        run(model, manifest_of(work / "images", 0))
    bad: list[dict[str, Any]] = [
        {"per_device_batch": -3},
        {"per_device_batch": 0},
        {"workers": -1},
        {"on_error": "ignore"},
        {"rows_per_shard": 0},
    ]
    for options in bad:
        with pytest.raises(UsageError, match=r"at least|on_error must be|0 rows per shard"):
            run(model, manifest, store, **options)
    assert not store.root.exists()


# ------------------------------------------------------------------------------------ other models, texts


class OfImages(OwnModel):
    """A user's own model, of images alone."""

    def __init__(self, card: Any):
        super().__init__(card, None, None)
        self.shapes: list[tuple[int, ...]] = []

    def encode_image(self, images: np.ndarray) -> np.ndarray:
        assert images.dtype == np.float32
        self.shapes.append(images.shape)
        return images.mean(axis=(1, 2))


def test_a_users_own_model(model: TinyModel, work: Path, store: Store):
    manifest = manifest_of(work / "images", 9)
    own = OfImages(dataclasses.replace(model.card, fingerprint=None))
    embeddings = run(own, manifest, store)
    card = model.card.preprocess
    pixels = next(batches(manifest, card.recipe(rgb="first"), batch_size=9))["pixels"]
    expected = normalize_host(pixels, card.mean, card.std).mean(axis=(1, 2))
    np.testing.assert_allclose(embeddings.array, expected, atol=1e-6)
    assert set(own.shapes) == {(BATCH, SIZE, SIZE, 3)}
    assert (embeddings.key_hash, store.ls()) == (None, [])
    with pytest.raises(UsageError, match="leave out precision"):
        run(own, manifest, precision="fast")


@pytest.mark.parametrize("wrong", [lambda x: x[:-1], lambda x: x[:, None], lambda x: x[:, 0]])
def test_an_own_model_of_a_wrong_shape(model: TinyModel, work: Path, wrong: Any, monkeypatch: Any):
    own = OfImages(dataclasses.replace(model.card, fingerprint=None))
    right = own.encode_image
    monkeypatch.setattr(own, "encode_image", lambda images: wrong(right(images)))
    with pytest.raises(DataError, match=r"encode_image of tiny made an array .*: it must return \[4, D\]"):
        run(own, manifest_of(work / "images", 3))


def test_text_encoder(model: TinyModel):
    rng = np.random.default_rng(0)
    ids = rng.integers(1, 48, (70, 12), dtype=np.int32)
    ids[np.arange(70), rng.integers(2, 8, 70)] = 49  # end of text
    encode = text_encoder(model)
    embeddings = encode(ids)
    plain = jax.jit(functools.partial(model.network.encode_text, precision="parity"))
    features = np.asarray(plain(model.params, ids))
    expected = features / np.linalg.norm(features, axis=1, keepdims=True)
    assert (embeddings.shape, embeddings.dtype) == ((70, 24), np.float32)
    np.testing.assert_allclose(embeddings, expected, atol=1e-6)
    np.testing.assert_allclose(encode(ids[:, :8]), expected, atol=1e-6)  # cut behind the end of text
    assert encode(ids[:0]).shape == (0, 24)
    before = forward.compiled.total()
    for count in (1, 31, 300):
        encode(np.resize(ids, (count, 12)))
    assert forward.compiled.total() == before


def test_texts_are_bit_equal_on_any_number_of_devices(model: TinyModel, monkeypatch: pytest.MonkeyPatch):
    ids = np.random.default_rng(0).integers(0, 50, (70, 12), dtype=np.int32)
    embeddings = []
    for devices in (1, 2, 8):
        monkeypatch.setattr(forward, "local_mesh", lambda n=devices: embed_mesh(n))
        embeddings.append(text_encoder(model)(ids))
    np.testing.assert_array_equal(embeddings[1], embeddings[0])
    np.testing.assert_array_equal(embeddings[2], embeddings[0])


def embed_mesh(devices: int) -> jax.sharding.Mesh:
    from clipjax.devices.sharding import make_mesh

    return make_mesh(jax.devices()[:devices])

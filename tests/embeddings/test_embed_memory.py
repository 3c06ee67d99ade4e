"""Memory of the devices: batches that do not fit are halved, the batch is measured, params are cut."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _drawn import drawn
from _embed_tools import ARCH, SIZE, TinyModel, manifest_of, write_images
from _long import mostly_long
from _records import embed_images, embed_many
from jax.sharding import PartitionSpec as P

from clipjax.checkpoints.card import Preprocess
from clipjax.devices.sharding import make_mesh
from clipjax.embeddings import batch_size, forward, placements, stored_rows
from clipjax.embeddings import images as embed
from clipjax.embeddings.compute import share_waiting
from clipjax.embeddings.forward import Forward, OutOfMemoryError, image_forward, image_step, memory_of
from clipjax.embeddings.keys import image_key
from clipjax.embeddings.placements import REPLICATED, SHARDED
from clipjax.errors import DataError, UsageError
from clipjax.evaluation.own_model import OwnModel
from clipjax.models.arch import arch_from_dict, load_arch, narrow_arch
from clipjax.models.network import Network
from clipjax.storage.store import Store

COUNT = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("memory") / "images"
    write_images(path, COUNT)
    return path


@pytest.fixture(scope="module")
def model() -> TinyModel:
    return TinyModel()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def run(model: Any, manifest: Any, store: Store | None = None, **settings: Any) -> embed.Embeddings:
    return embed_images(model, manifest, store=store, progress=False, **settings)


# --- out of memory ---

MESSAGE = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 17179869184 bytes."


class Late:
    """An array whose computation fails when it is looked at."""

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise jax.errors.JaxRuntimeError(MESSAGE)


@pytest.fixture
def holds(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function: from now on a device holds so many images, and XLA says so at once or when it has run."""
    tried: list[int] = []

    def limit(most: int, late: bool = False, message: str = MESSAGE) -> list[int]:
        def made(model: Any, precision: Any, output: str, batch: int, params: str) -> Forward:
            real = image_forward(model, precision, output, batch, params)

            def run(pixels: np.ndarray) -> Any:
                tried.append(batch)
                if batch <= most:
                    return real.run(pixels)
                if late:
                    return Late()
                raise jax.errors.JaxRuntimeError(message)

            return dataclasses.replace(real, run=run)

        monkeypatch.setattr(embed, "image_forward", made)
        return tried

    return limit


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("stored", [False, True])
def test_a_batch_that_does_not_fit_is_halved(
    model: TinyModel, folder: Path, store: Store, holds: Any, late: bool, stored: bool, caplog: Any
):
    manifest = manifest_of(folder, COUNT)
    expected = run(model, manifest, per_device_batch=4).array
    tried = holds(4, late)
    result = run(model, manifest, store if stored else None, per_device_batch=16)
    assert list(dict.fromkeys(tried)) == [16, 8, 4]
    np.testing.assert_array_equal(result.array, expected)
    assert result.ids == list(manifest.ids)
    assert (result.stats.per_device_batch, result.stats.batch_choice) == (
        4,
        "a device's memory holds no more",
    )
    assert caplog.messages == [
        "tiny images: 16 images do not fit a device's memory, or the host's: going on with 8",
        "tiny images: 8 images do not fit a device's memory, or the host's: going on with 4",
    ]
    if stored:
        [info] = store.ls()
        assert (info.shards_present, info.rows) == (info.shards, COUNT)
        again = run(model, manifest, store, per_device_batch=16)
        assert (again.stats.forward_passes, again.stats.per_device_batch) == (0, 4)
        np.testing.assert_array_equal(again.array, expected)


def test_a_batch_that_does_not_fit_the_host_is_halved(
    model: TinyModel, folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
):
    taken, tried = embed._taken, list[int]()

    def limited(source: Any) -> Any:
        for batch in taken(source):
            tried.append(len(batch.read) // jax.local_device_count())
            if tried[-1] > 4:
                raise MemoryError("Unable to allocate 9.19 GiB")
            yield batch

    monkeypatch.setattr(embed, "_taken", limited)
    result = run(model, manifest_of(folder, 10), store, per_device_batch=16)
    assert list(dict.fromkeys(tried)) == [16, 8, 4]
    assert (len(result.array), result.stats.per_device_batch) == (10, 4)


def test_an_odd_batch_is_halved_too(model: TinyModel, folder: Path, store: Store, holds: Any):
    holds(3)
    result = run(model, manifest_of(folder, COUNT), store, per_device_batch=7, rows_per_shard=14)
    assert result.stats.per_device_batch == 3
    assert len(result.ids) == COUNT
    [info] = store.ls()
    assert info.shards == -(-COUNT // 12)


def test_what_is_stored_keeps_its_batch(model: TinyModel, folder: Path, store: Store, holds: Any):
    manifest = manifest_of(folder, COUNT)
    first = run(model, manifest, store, per_device_batch=8, rows_per_shard=8)
    shards = sorted((Path(store.root) / str(first.key_hash)).glob("*.safetensors"))
    shards[1].unlink()
    holds(4)
    with pytest.raises(
        DataError, match=r"4 of its 5 shards are stored in such batches.*--batch-size 4 in an"
    ):
        run(model, manifest, store)
    holds(8)
    np.testing.assert_array_equal(run(model, manifest, store).array, first.array)


def test_only_data_sets_that_do_not_fit_are_halved(model: TinyModel, folder: Path, store: Store, holds: Any):
    """One that is done, or has a smaller batch of its own, stays as it is."""
    whole, part = manifest_of(folder, COUNT), manifest_of(folder, 3)
    run(model, whole, store, per_device_batch=16)
    other = dataclasses.replace(whole.select(range(20, 40)), name="others")
    holds(8)
    results = embed_many(model, [whole, part, other], store=store, progress=False)
    assert [each.stats.per_device_batch for each in results] == [16, 4, 8]


def test_the_first_process_says_what_is_halved(
    model: TinyModel, folder: Path, store: Store, holds: Any, monkeypatch: pytest.MonkeyPatch
):
    """Another run may fill the store just then: what a process sees by itself does not count."""
    seen: list[str] = []
    first = iter(["[0]", "[1]"])

    def first_decides(decide: Any, what: str) -> str:
        if what == "how to embed":
            return decide()
        seen.append(decide())
        return next(first)

    monkeypatch.setattr(stored_rows, "first_decides", first_decides)
    holds(4)
    whole = manifest_of(folder, COUNT)
    other = dataclasses.replace(whole.select(range(20, 40)), name="others")
    results = embed_many(model, [whole, other], store=store, per_device_batch=8, progress=False)
    assert seen == ["[0, 1]", "[1]"]
    assert [each.stats.per_device_batch for each in results] == [4, 4]


def test_nothing_fits(model: TinyModel, folder: Path, store: Store, holds: Any):
    holds(0)
    for kept in (None, store):
        with pytest.raises(DataError, match=r"not even one image fits a device's memory.*--params sharded"):
            run(model, manifest_of(folder, 5), kept, per_device_batch=2)


def test_other_failures_are_not_taken_for_it(model: TinyModel, folder: Path, holds: Any):
    tried = holds(4, message="INTERNAL: the device has gone")
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        run(model, manifest_of(folder, 20), per_device_batch=8)
    assert tried == [8]


def test_a_shard_of_another_batch_is_not_taken(model: TinyModel, folder: Path, store: Store, caplog: Any):
    """A run that began an entry before it was laid out anew writes what its batch made; nobody reads it."""
    manifest = manifest_of(folder, 8)
    key = image_key(model.card, manifest, model.card.preprocess.recipe(), "parity", "embedding")
    entry = store.entry(key, ids=manifest.ids, rows_per_shard=4, per_device_batch=4)
    store.lay_out_again(entry, rows_per_shard=4, per_device_batch=2)
    entry.write_shard(0, list(manifest.ids[:4]), np.ones((4, 3), np.float32))
    seen = store.reopen(entry)
    assert seen.missing_shards() == [0, 1]
    assert "made in batches of 4, not of 2" in caplog.text
    assert seen.write_shard(0, list(manifest.ids[:4]), np.zeros((4, 3), np.float32))
    assert seen.missing_shards() == [1]
    with pytest.raises(DataError, match="holds rows already, made in batches of 2"):
        store.lay_out_again(seen, rows_per_shard=4, per_device_batch=1)


# --- the batch, measured ---


def rates_of(best: int, most: int = 4096) -> Any:
    """Images a second that grow up to a batch, of devices that hold `most`; which were asked for."""
    asked: list[int] = []

    def rate(batch: int) -> float:
        asked.append(batch)
        if batch > most:
            raise OutOfMemoryError(batch)
        return float(min(batch, best))

    return rate, asked


def choose(model: Any, rate: Any, images: int = 5000, **others: Any) -> batch_size.BatchChoice:
    settings: dict[str, Any] = {
        "precision": "parity",
        "output": "embedding",
        "placement": REPLICATED,
    } | others
    return batch_size.choose(model, images=images, rate=rate, **settings)


@pytest.mark.parametrize(("best", "most", "expected"), [(32, 4096, 32), (512, 64, 64), (4096, 4096, 4096)])
def test_the_batch_is_doubled_as_long_as_that_helps(
    model: TinyModel, cache: Path, best: int, most: int, expected: int
):
    rate, asked = rates_of(best, most)
    choice = choose(model, rate)
    assert choice.batch == expected
    assert asked[-1] == min(2 * expected, 4096)
    [path] = (cache / "batch_sizes").iterdir()
    assert choice.why == f"the fastest here; remembered in {path}"
    # Remembered, for this model on this kind of device, and for no other.
    again = choose(model, rates_of(8)[0])
    assert again == (expected, f"the fastest here, as measured before: {path}")
    assert choose(model, rates_of(8)[0], images=3).batch == expected
    other, asked = rates_of(16)
    assert choose(model, other, precision="fast").batch == 16
    assert asked == [8, 16, 32]
    record = json.loads(path.read_text())
    assert record["device"] == jax.devices()[0].device_kind
    assert sorted(each["batch"] for each in record["batches"].values()) == sorted([16, expected])
    path.write_text(path.read_text()[:-20])  # a damaged memory only costs time
    assert choose(model, rates_of(8)[0]).batch == 8


def test_few_images_are_not_worth_a_measurement(model: TinyModel, cache: Path):
    rate, asked = rates_of(32)
    assert choose(model, rate, images=100) == (64, "")
    assert asked == []
    assert not cache.exists()
    with pytest.raises(DataError, match="not even 8 images fit a device's memory"):
        choose(model, rates_of(32, most=4)[0])


def test_memory_that_is_known_is_not_exceeded(model: TinyModel, monkeypatch: pytest.MonkeyPatch):
    """Without running into it: the compiled program says what it takes."""
    made = image_forward(model, "parity", "embedding", 8)
    needed = made.memory()
    assert needed is not None
    monkeypatch.setattr(batch_size, "_SECONDS", 0.0)
    monkeypatch.setattr(batch_size, "device_memory", lambda: needed)
    assert batch_size.images_per_second(made, 8, SIZE) > 0
    monkeypatch.setattr(batch_size, "device_memory", lambda: needed - 1)
    with pytest.raises(OutOfMemoryError):
        batch_size.images_per_second(made, 8, SIZE)


def test_auto_measures_and_an_entry_keeps_its_batch(
    model: TinyModel, folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(batch_size, "WORTH", 10)
    monkeypatch.setattr(batch_size, "SIZES", (8, 16))
    monkeypatch.setattr(batch_size, "_SECONDS", 0.0)
    manifest = manifest_of(folder, COUNT)
    result = run(model, manifest, store, per_device_batch="auto")
    assert result.stats.per_device_batch in (8, 16)
    assert result.stats.batch_choice.startswith("the fastest here; remembered in ")
    monkeypatch.setattr(batch_size, "_measure", None)
    again = run(model, manifest, store, per_device_batch="auto")
    assert (again.stats.forward_passes, again.stats.per_device_batch) == (0, result.stats.per_device_batch)
    small = run(model, manifest_of(folder, 3), store, per_device_batch="auto")
    assert small.stats.per_device_batch == 4
    with pytest.raises(UsageError, match="at least 1 and at most 65536, or 'auto', not 'many'"):
        run(model, manifest, per_device_batch="many")


# --- params, cut over the devices ---

ARCHS = ("ViT-B-32", "EVA02-B-16", "convnext_base_w", "tf_efficientnet_lite0")


class AnyModel:
    """Random weights of an architecture."""

    def __init__(self, arch: Any):
        side, third = arch.vision.image_size, (0.4, 0.5, 0.6)
        preprocess = Preprocess(side, side, "shortest", "bicubic", third, third)
        self.card = dataclasses.replace(TinyModel().card, preprocess=preprocess, fingerprint=arch.name)
        self.network = Network(arch)
        self.params = drawn(self.network.abstract_params())


def features(model: Any, precision: Any, placement: str, batch: int = 2) -> np.ndarray:
    made = image_forward(model, precision, "embedding", batch, placement)
    side = model.network.arch.vision.image_size
    rng = np.random.default_rng(0)
    return np.asarray(made.run(rng.integers(0, 256, (made.batch_size, side, side, 3), dtype=np.uint8)))


@pytest.mark.parametrize("name", mostly_long(ARCHS, keep=["ViT-B-32"]))
def test_cut_params_give_the_same_bits(name: str):
    arch: Any = narrow_arch(load_arch(name))
    vision = arch.vision
    if name == "tf_efficientnet_lite0":  # both kinds of blocks and strides; all sixteen compile for a minute
        vision = dataclasses.replace(vision, stages=vision.stages[:2])
    model = AnyModel(dataclasses.replace(arch, vision=vision))
    whole, cut = (features(model, "parity", placement) for placement in (REPLICATED, SHARDED))
    assert np.isfinite(whole).all()
    np.testing.assert_array_equal(cut, whole)


@pytest.mark.parametrize("stack", ["blocks", "rest"])
def test_a_stack_is_put_together_by_its_scan(stack: str):
    seen = placements.seen_whole(
        {stack: {"kernel": jnp.ones((2, 4))}}, {stack: {"kernel": P(None, "data")}}, 8
    )
    assert seen[stack]["kernel"].shape == (2, 32)  # cut still


def deep(layers: int = 8) -> TinyModel:
    """Wide and deep enough for its blocks to be most of it."""
    vision = ARCH["vision"] | {"width": 128, "mlp_width": 512, "layers": layers}
    model: Any = TinyModel()
    model.network = Network(arch_from_dict(ARCH | {"vision": vision}, "tests"))
    model.params = drawn(model.network.abstract_params(), 1)
    return model


@pytest.mark.long("embeddings/test_embed_memory.py::test_cut_params_give_the_same_bits")
@pytest.mark.parametrize("precision", ["parity", "fast"])
def test_bits_on_any_number_of_devices(precision: str, monkeypatch: pytest.MonkeyPatch):
    model = deep(2)
    whole = features(model, precision, REPLICATED)
    for devices in (1, 2, 8):
        mesh = make_mesh(jax.devices()[:devices])
        monkeypatch.setattr(forward, "local_mesh", lambda mesh=mesh: mesh)
        result = features(model, precision, SHARDED)
        np.testing.assert_array_equal(result, whole[: len(result)])


def test_memory_of_a_device(monkeypatch: pytest.MonkeyPatch):
    """An eighth of the params and one block; what replicated params take grows with the depth as they do."""
    mesh, taken = make_mesh(jax.devices()), {}
    for layers in (4, 8):
        model = deep(layers)
        tower = {"vision": model.network.abstract_params()["vision"]}
        size = placements.bytes_of(tower)
        pixels = jax.ShapeDtypeStruct((8, SIZE, SIZE, 3), np.uint8)
        for placement in (REPLICATED, SHARDED):
            compiled = image_step(model, "parity", "embedding", mesh, placement).compiled(tower, pixels)
            taken[layers, placement] = memory_of(compiled)
        assert taken[layers, REPLICATED] > size
        text = str(compiled.as_text())
        assert "all-gather" in text
        assert "all-reduce" not in text
    added = size - placements.bytes_of({"vision": deep(4).network.abstract_params()["vision"]})
    assert taken[8, SHARDED] < 0.5 * taken[8, REPLICATED]
    assert taken[8, REPLICATED] - taken[4, REPLICATED] > 0.99 * added
    assert taken[8, SHARDED] - taken[4, SHARDED] < 0.2 * added


def test_entries_are_kept_apart_and_found_again(model: TinyModel, folder: Path, store: Store):
    manifest = manifest_of(folder, COUNT)
    cut = run(model, manifest, store, params="sharded")
    assert cut.stats.placement == "sharded"
    # With "auto" what is there is taken, whatever the memory says.
    again = run(model, manifest, store)
    assert (again.stats.forward_passes, again.stats.placement) == (0, "sharded")
    whole = run(model, manifest, store, params="replicated")
    assert (whole.stats.placement, whole.stats.images) == ("replicated", COUNT)
    assert whole.key_hash != cut.key_hash
    np.testing.assert_array_equal(whole.array, cut.array)


def test_the_memory_chooses(model: TinyModel, folder: Path, monkeypatch: pytest.MonkeyPatch):
    manifest, tower = manifest_of(folder, COUNT), {"vision": model.params["vision"]}
    needed = image_forward(model, "parity", "embedding", 4).memory()
    assert needed is not None
    expected = run(model, manifest, per_device_batch=4).array
    for memory, placement in (
        (None, "replicated"),
        (needed, "replicated"),
        (needed - 1, "sharded"),
        (placements.bytes_of(tower) - 1, "sharded"),
    ):
        monkeypatch.setattr(placements, "device_memory", lambda memory=memory: memory)
        result = run(model, manifest, per_device_batch=4)
        assert result.stats.placement == placement
        np.testing.assert_array_equal(result.array, expected)


def test_where_params_are_read_to(model: TinyModel, monkeypatch: pytest.MonkeyPatch):
    tree = model.network.abstract_params()
    both = placements.bytes_of(model.params)
    for memory, asked, cut in (
        (None, "auto", False),
        (2 * both, "auto", False),
        (2 * both - 1, "auto", True),
        (None, "sharded", True),
        (1, "replicated", False),
    ):
        monkeypatch.setattr(placements, "device_memory", lambda memory=memory: memory)
        assert (placements.mesh_to_load(asked)(tree) is not None) == cut
    with pytest.raises(UsageError, match="unknown placement of params 'shard'; did you mean sharded"):
        placements.mesh_to_load("shard")


def test_params_that_no_device_holds(model: TinyModel, monkeypatch: pytest.MonkeyPatch):
    def full(*_: Any) -> Any:
        raise jax.errors.JaxRuntimeError(MESSAGE)

    monkeypatch.setattr(forward.jax, "device_put", full)
    with pytest.raises(DataError, match="the params of tiny do not fit the memory of a device: cut them"):
        image_forward(model, "parity", "embedding", 4)


def test_an_own_model_places_its_own(model: TinyModel, folder: Path):
    def own() -> OwnModel:
        card = dataclasses.replace(model.card, fingerprint=None)
        return OwnModel(card, lambda images: images.mean(axis=(1, 2)), None)

    manifest = manifest_of(folder, 4)
    assert run(own(), manifest, per_device_batch="auto").stats.per_device_batch == 4
    with pytest.raises(
        UsageError, match="tiny is not one of clipjax's networks: it places its params itself"
    ):
        run(own(), manifest, params="sharded")


# --- waiting for data ---


def test_the_share_of_waiting_is_a_number(model: TinyModel, folder: Path, store: Store):
    manifest = manifest_of(folder, COUNT)
    first = run(model, manifest, store).stats
    share = share_waiting([first])
    assert share is not None
    assert share == first.decode_seconds / (first.decode_seconds + first.compute_seconds)
    assert 0 < share < 1
    stored = run(model, manifest, store).stats
    assert share_waiting([stored]) is None
    assert share_waiting([first, stored]) == share
    assert share_waiting([]) is None

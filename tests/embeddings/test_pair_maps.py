"""Maps of pairs that are kept: another matching reads them, to the same bits, and runs no model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from _embed_tools import TinyModel
from _pair_tools import GEOMETRIC, MemoryPairs, manifest_of

from clipjax.commands.runs.sweep_options import SweepOptions
from clipjax.commands.shared.stores import StoreOptions
from clipjax.devices.sharding import make_mesh
from clipjax.embeddings import pair_maps
from clipjax.embeddings.compute import Compute
from clipjax.embeddings.pair_maps import maps_key
from clipjax.embeddings.pairs import match_pairs
from clipjax.embeddings.sets import Embeddings
from clipjax.errors import DataError, UsageError
from clipjax.evaluation.evaluate import evaluate
from clipjax.models.dense import PROBE3D, dense_map
from clipjax.storage.entry import Entry, key_hash
from clipjax.storage.store import Store
from clipjax.tasks.correspondence import PairMatcher

FEW = MemoryPairs(tuple(range(5)))
OTHER = dataclasses.replace(GEOMETRIC, keep=7, features="bilinear")


@pytest.fixture(scope="module")
def model() -> Any:
    return TinyModel()


def run(
    model: Any, some: MemoryPairs = FEW, store: Store | None = None, matching: Any = GEOMETRIC, **options: Any
) -> Embeddings:
    how = Compute(store=store, progress=False, keep_maps=store is not None, **options)
    return match_pairs(model, manifest_of(some), PairMatcher(matching), PROBE3D, how)


@pytest.fixture(scope="module")
def plain(model: Any) -> dict[Any, np.ndarray]:
    return {matching: run(model, matching=matching).array for matching in (GEOMETRIC, OTHER)}


def kept(model: Any, store: Store) -> dict[str, np.ndarray]:
    """Pair -> its maps."""
    key = maps_key(model.card, manifest_of(FEW), PROBE3D, "parity")
    manifest = store.find(key)
    assert manifest is not None
    entry = Entry(store.root / key_hash(key), manifest, list(FEW.ids), store.files)
    shards = [entry.load_shard(k) for k in range(entry.shards)]
    return {ids[0]: maps[0] for ids, maps in filter(None, shards) if ids}


def test_another_matching_runs_no_model(model: Any, plain: dict[Any, np.ndarray], tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = run(model, store=store)
    np.testing.assert_array_equal(first.array, plain[GEOMETRIC])
    assert first.stats.images == 10
    other = run(model, store=store, matching=OTHER)
    np.testing.assert_array_equal(other.array, plain[OTHER])
    assert (other.stats.images, other.stats.forward_passes) == (0, 0)
    maps = kept(model, store)
    assert list(maps) == list(FEW.ids)
    function = jax.jit(lambda images: dense_map(model.network, model.params, images, PROBE3D, "parity"))
    np.testing.assert_allclose(maps["pair4"], function(FEW.load(4).images), atol=1e-5)


def test_without_the_request_no_maps_are_kept(model: Any, tmp_path: Path) -> None:
    store = Store(tmp_path)
    match_pairs(
        model, manifest_of(FEW), PairMatcher(GEOMETRIC), PROBE3D, Compute(store=store, progress=False)
    )
    assert [info.key["output"] for info in store.ls()] == ["matches"]
    later = run(model, store=store)  # the matches are there
    assert later.stats.images == 10
    assert len(kept(model, store)) == 5


def test_stopped_and_resumed_on_other_devices(
    model: Any, plain: dict[Any, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    monkeypatch.setattr(pair_maps, "local_mesh", lambda: make_mesh(jax.local_devices()[:2]))
    with pytest.raises(DataError, match=r"depth/3.png: pair pair3: cannot be read"):
        run(model, dataclasses.replace(FEW, broken=(3,)), store)
    assert list(kept(model, store)) == ["pair0", "pair1", "pair2"]
    monkeypatch.undo()
    resumed = run(model, store=store)
    np.testing.assert_array_equal(resumed.array, plain[GEOMETRIC])
    assert resumed.stats.images == 4


def test_damaged_maps_are_made_again(model: Any, plain: dict[Any, np.ndarray], tmp_path: Path) -> None:
    store = Store(tmp_path)
    run(model, store=store)
    before = kept(model, store)
    folder = store.root / key_hash(maps_key(model.card, manifest_of(FEW), PROBE3D, "parity"))
    (file,) = folder.glob("00001-*")
    file.write_bytes(file.read_bytes()[:-1])
    again = run(model, store=store, matching=OTHER)
    assert again.stats.images == 2
    np.testing.assert_array_equal(again.array, plain[OTHER])
    assert all((maps == before[name]).all() for name, maps in kept(model, store).items())


@pytest.mark.parametrize("devices", [1, 8])
def test_skipped_pairs_have_no_maps_until_they_are_asked_for(
    model: Any, plain: dict[Any, np.ndarray], tmp_path: Path, devices: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On one device nothing of a step can be read."""
    monkeypatch.setattr(pair_maps, "local_mesh", lambda: make_mesh(jax.local_devices()[:devices]))
    store, broken = Store(tmp_path), dataclasses.replace(FEW, broken=(1,), empty=(3,))
    found = run(model, broken, store, on_error="skip")
    assert found.ids == ["pair0", "pair2", "pair4"]
    assert list(kept(model, store)) == ["pair0", "pair2", "pair3", "pair4"], "pair 3 has images, but no match"
    mended = run(model, FEW, store, matching=OTHER, on_error="skip")
    assert mended.stats.skipped == ("pair1",)
    whole = run(model, FEW, store, matching=OTHER)
    np.testing.assert_array_equal(whole.array, plain[OTHER])
    assert whole.stats.images == 2


def test_maps_that_vanish_meanwhile_are_named(model: Any, tmp_path: Path) -> None:
    store = Store(tmp_path)
    run(model, store=store)
    key = maps_key(model.card, manifest_of(FEW), PROBE3D, "parity")
    entry = store.entry(key, ids=FEW.ids, rows_per_shard=1, per_device_batch=1)
    stored = pair_maps.StoredMaps("views", FEW, entry)
    entry.shard_path(2).unlink()
    with pytest.raises(DataError, match=r"00002-of-00005.* is missing or damaged; run the task again"):
        stored.load(2)
    entry.write_shard(2, [], np.empty(0, np.float32), skipped=["pair2"])
    with pytest.raises(DataError, match="views: pair pair2 could not be read when the maps were kept"):
        stored.load(2)


def test_every_choice_but_the_matching_is_part_of_the_key(model: Any) -> None:
    def key(**changes: Any) -> str:
        parts = {"manifest": manifest_of(FEW), "recipe": PROBE3D, "precision": "parity"} | changes
        return str(maps_key(model.card, **parts))

    others = [
        key(manifest=manifest_of(MemoryPairs((0, 1)))),
        key(recipe=dataclasses.replace(PROBE3D, attention="reference_batch")),
        key(precision="fast"),
        key(placement="sharded"),
    ]
    assert len({key(), *others}) == 5


def test_maps_have_a_place(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="keep_maps keeps maps in the store of embeddings: give one"):
        Compute(keep_maps=True)
    own: Any = TinyModel()
    own.card = dataclasses.replace(own.card, fingerprint=None)
    with pytest.raises(UsageError, match="tiny has no fingerprint, under which its maps could be kept"):
        run(own, store=Store(tmp_path))
    with pytest.raises(UsageError, match=r"the task 'zeroshot' reads no maps of features: leave keep_maps"):
        evaluate("x", "zeroshot", root="nowhere", store=tmp_path, keep_maps=True)
    given: Any = {"context": None, "suite": "x", "stores": StoreOptions(store=tmp_path)}
    assert SweepOptions(**given, how={"keep_maps": True}).compute().keep_maps
    assert not SweepOptions(**given, how={}).compute().keep_maps

"""Matching pairs: the same bits on any number of devices and processes, stopped and resumed or not."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from _embed_tools import TinyModel
from _pair_tools import GEOMETRIC, KEYPOINTS, MemoryPairs, manifest_of
from _xla_flags import flags_of

from clipjax.data.pairs.pair import Pair
from clipjax.devices.sharding import make_mesh
from clipjax.embeddings import pair_maps
from clipjax.embeddings.compute import Compute
from clipjax.embeddings.pairs import match_pairs, pair_key
from clipjax.embeddings.sets import Embeddings
from clipjax.errors import DataError, UsageError
from clipjax.models.dense import PROBE3D, dense_map
from clipjax.storage.remote.buckets import BucketError
from clipjax.storage.store import Store
from clipjax.tasks import correspondence
from clipjax.tasks.correspondence import PairMatcher
from tests import _forks

MATCHER = PairMatcher(GEOMETRIC)
ALL = MemoryPairs(tuple(range(12)))
FEW = MemoryPairs(tuple(range(5)))


class KeypointPairs(MemoryPairs):
    def load(self, i: int) -> Pair:
        keypoints, extent = np.ones((2, 3, 2), np.float32), np.array(1, np.float32)
        geometry = {"keypoints": keypoints, "visible": np.ones(3, bool), "extent": extent}
        return Pair(super().load(i).images, geometry)


@pytest.fixture(scope="module")
def model() -> Any:
    return TinyModel()


@pytest.fixture(scope="module")
def reference(model: Any) -> Embeddings:
    return run(model, ALL)


def run(model: Any, some: MemoryPairs, store: Store | None = None, **options: Any) -> Embeddings:
    how = Compute(store=store, progress=False, **options)
    return match_pairs(model, manifest_of(some), MATCHER, PROBE3D, how)


def test_against_the_plain_forward(model: Any, reference: Embeddings) -> None:
    assert reference.ids == list(ALL.ids)
    assert reference.array.shape == (12, *MATCHER.shape)

    @jax.jit
    def plain(pair: Any) -> jax.Array:
        map0, map1 = dense_map(model.network, model.params, pair.images, PROBE3D, "parity")
        return MATCHER(map0, map1, pair.geometry)

    for i in (0, 11):
        np.testing.assert_allclose(reference.array[i], plain(ALL.load(i)), atol=1e-4)
    assert (reference.array[..., 0] >= 0).all()  # 48 points are known in image 0, of which 20 are kept
    assert len(np.unique(reference.array[:, 0, 0])) == 12


@pytest.mark.parametrize("devices", [1, 3])
def test_bit_equal_on_any_number_of_devices(
    devices: int, model: Any, reference: Embeddings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert jax.local_device_count() == 8
    monkeypatch.setattr(pair_maps, "local_mesh", lambda: make_mesh(jax.local_devices()[:devices]))
    found = run(model, ALL)
    np.testing.assert_array_equal(found.array, reference.array)
    assert found.stats.forward_passes == -(-12 // devices)


def test_stopped_and_resumed(model: Any, reference: Embeddings, tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(DataError, match=r"depth/9.png: pair pair9: cannot be read"):
        run(model, dataclasses.replace(ALL, broken=(9,)), store)
    resumed = run(model, ALL, store)
    np.testing.assert_array_equal(resumed.array, reference.array)
    assert resumed.stats.images == 2 * 3, "pair 8 was in the step of the broken one"
    again = run(model, ALL, store)
    assert (again.stats.images, again.stats.forward_passes) == (0, 0)
    assert dict(again.stats.made_with)["jax"] == jax.__version__
    np.testing.assert_array_equal(again.array, reference.array)


@pytest.mark.parametrize("stored", [True, False])
def test_pairs_that_cannot_be_used_are_skipped_and_named(
    stored: bool, model: Any, reference: Embeddings, tmp_path: Path
) -> None:
    store = Store(tmp_path) if stored else None
    some = dataclasses.replace(FEW, broken=(1,), empty=(3,))
    found = run(model, some, store, on_error="skip")
    assert found.ids == ["pair0", "pair2", "pair4"]
    assert found.stats.skipped == ("pair1", "pair3")
    np.testing.assert_array_equal(found.array, reference.array[[0, 2, 4]])
    if stored:  # mended, they are matched
        np.testing.assert_array_equal(run(model, FEW, store, on_error="raise").array, reference.array[:5])


class NoBucket(MemoryPairs):
    def load(self, i: int) -> Pair:
        if i == 1:
            raise BucketError("the bucket does not answer")
        return super().load(i)


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_bucket_that_does_not_answer_costs_no_pair(on_error: str, model: Any, tmp_path: Path) -> None:
    with pytest.raises(BucketError):
        run(model, NoBucket(FEW.numbers), Store(tmp_path), on_error=on_error)
    assert Store(tmp_path).ls()[0].shards_present == 0


def test_a_pair_without_a_match_is_named(model: Any) -> None:
    message = r"views: pair pair3 \(3-0.png, 3-1.png\) has no match: no point is known in both images"
    with pytest.raises(DataError, match=message):
        run(model, dataclasses.replace(FEW, empty=(3,)))
    with pytest.raises(DataError, match="views: no pair could be used, all were skipped"):
        run(model, dataclasses.replace(FEW, broken=FEW.numbers), on_error="skip")


@pytest.mark.parametrize("stored", [True, False])
def test_maps_that_are_not_finite_are_refused_even_if_pairs_are_skipped(stored: bool, tmp_path: Path) -> None:
    broken: Any = TinyModel()
    broken.params = jax.tree.map(lambda leaf: leaf * np.float32(np.nan), broken.params)
    how = Compute(store=Store(tmp_path) if stored else None, progress=False, on_error="skip")
    for some, matching in ((FEW, GEOMETRIC), (KeypointPairs(FEW.numbers), KEYPOINTS)):
        with pytest.raises(DataError, match="pair0: values not finite"):
            match_pairs(broken, manifest_of(some), PairMatcher(matching), PROBE3D, how)


def test_every_choice_is_part_of_the_key(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, shifted = manifest_of(FEW), dataclasses.replace(GEOMETRIC, keep=19)

    def key(**changes: Any) -> str:
        parts = {"manifest": manifest, "matcher": MATCHER, "recipe": PROBE3D, "precision": "parity"} | changes
        return str(pair_key(model.card, **parts))

    others = [
        key(manifest=manifest_of(ALL)),
        key(matcher=PairMatcher(shifted)),
        key(recipe=dataclasses.replace(PROBE3D, attention="reference_batch")),
        key(precision="fast"),
        key(placement="sharded"),
    ]
    first = key()
    monkeypatch.setattr(correspondence, "VERSION", correspondence.VERSION + 1)
    assert len({first, key(), *others}) == 7


def test_what_has_no_maps_or_no_pairs_is_refused(model: Any) -> None:
    with pytest.raises(UsageError, match="views has no pairs of images"):
        match_pairs(model, dataclasses.replace(manifest_of(FEW), pairs=None), MATCHER, PROBE3D)
    own: Any = TinyModel()
    own.network = None
    with pytest.raises(UsageError, match="tiny is not one of clipjax's networks: it has no maps of features"):
        match_pairs(own, manifest_of(FEW), MATCHER, PROBE3D)


@pytest.mark.long(
    "embeddings/test_embed.py::test_the_second_of_two_processes_does_its_part_and_tells_the_other"
)
def test_two_processes_share_the_work(reference: Embeddings, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    script = Path(__file__).parents[1] / "_pair_tools.py"
    environment = os.environ | {"XLA_FLAGS": flags_of(2)}
    started = [
        _forks.start(
            script,
            [tmp_path / "store", tmp_path / f"{i}.npz", i, 2, port],
            environment,
            stderr=subprocess.PIPE,
        )
        for i in range(2)
    ]
    for process in started:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    both = [np.load(tmp_path / f"{i}.npz") for i in range(2)]
    for one in both:
        assert one["ids"].tolist() == reference.ids
        np.testing.assert_array_equal(one["array"], reference.array)
    assert sorted(int(one["images"]) for one in both) == [12, 12]

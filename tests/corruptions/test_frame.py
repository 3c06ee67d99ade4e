"""The frame of corruptions: kinds, constants, keys, and the run over devices."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _long import mostly_long

from clipjax.config import config_dir
from clipjax.corruptions import runner
from clipjax.corruptions.corruption import (
    SEVERITIES,
    Corruption,
    constants_of,
    corruptions,
    find_corruption,
    image_keys,
)
from clipjax.corruptions.filters import UNIT, of_levels
from clipjax.corruptions.runner import Runner
from clipjax.devices.sharding import make_mesh
from clipjax.errors import UsageError
from clipjax.storage.reading import read_toml

FOG = "fog_3d"


def images(count: int, size: int = 16) -> tuple[np.ndarray, list[str], dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, size, size, 3), np.uint8)
    depth = rng.uniform(0.01, 0.5, (count, size, size)).astype(np.float32)
    return pixels, [f"class/{i}.png" for i in range(count)], {"depth": depth}


def test_every_kind_has_constants_and_every_table_a_kind() -> None:
    assert set(read_toml(config_dir() / "corruptions.toml")) == set(corruptions())
    for kind in corruptions():
        assert all(constants_of(kind, severity) for severity in SEVERITIES)


# Kinds whose constants no reference of these tests has for all severities.
CONSTANTS = {
    "near_focus": {"aperture": [3, 4, 5, 6, 7]},
    "far_focus": {"aperture": [1.5, 2.5, 3.5, 4.5, 5.5]},
    "xy_motion_blur": {"frames": [20, 30, 40, 50, 60]},
    "z_motion_blur": {"frames": [20, 25, 30, 35, 38]},
    "h265_crf": {"crf": [27, 33, 39, 45, 51]},
    "h265_abr": {"divisor": [2, 4, 8, 16, 32]},
    "bit_error": {"amount": [100000, 50000, 30000, 20000, 10000]},
}


@pytest.mark.parametrize("kind", CONSTANTS)
def test_constants_of_every_severity(kind: str) -> None:
    for k, severity in enumerate(SEVERITIES):
        assert constants_of(kind, severity) == {name: each[k] for name, each in CONSTANTS[kind].items()}


def test_a_key_depends_on_seed_kind_and_id_alone() -> None:
    keys = image_keys(FOG, ["a", "b"])
    assert keys.shape == (2, 2)
    assert keys.dtype == np.uint32
    np.testing.assert_array_equal(keys[::-1], image_keys(FOG, ["b", "a"]))
    others = [image_keys("flash", ["a"])[0], image_keys(FOG, ["a"], seed=1)[0], keys[1]]
    assert not any((keys[0] == other).all() for other in others)


def test_an_identity_keeps_every_byte() -> None:
    same = Corruption(FOG, lambda images, *_: images, "none")
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8).reshape(16, 16)[None, ..., None], (1, 16, 16, 3))
    np.testing.assert_array_equal(Runner(same, 1)(ramp, ["a"]), ramp)


@pytest.mark.parametrize("on_host", [False, True])
def test_draws_follow_an_image_wherever_it_is(on_host: bool) -> None:
    def apply(images, keys, constants, extra):
        del constants, extra
        draws = jax.vmap(lambda key: jax.random.uniform(key, images.shape[1:]))(keys)
        return np.asarray(draws) if on_host else draws

    pixels, ids, _ = images(11)
    noise = Corruption(FOG, apply, "none", on_host=on_host)
    whole = Runner(noise, 1)(pixels, ids)
    np.testing.assert_array_equal(Runner(noise, 1)(pixels[7:9][::-1], ids[7:9][::-1]), whole[7:9][::-1])


@pytest.mark.parametrize(
    ("kind", "counts", "number"),
    mostly_long([(FOG, (3, 8), 20), ("near_focus", (8,), 20), ("z_motion_blur", (2,), 9)], keep=[FOG]),
)
def test_the_same_bits_on_any_number_of_devices(
    kind: str, counts: tuple[int, ...], number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "z_motion_blur":
        monkeypatch.setattr(runner, "constants_of", lambda *_: {"frames": 3})
    pixels, ids, extra = images(number)
    alone = Runner(find_corruption(kind), 1, make_mesh(jax.devices()[:1]))(pixels, ids, extra)
    assert alone.shape == pixels.shape
    assert alone.dtype == np.uint8
    assert (alone != pixels).any()
    for count in counts:
        mesh = make_mesh(jax.devices()[:count])
        np.testing.assert_array_equal(Runner(find_corruption(kind), 1, mesh)(pixels, ids, extra), alone)


@pytest.mark.parametrize(
    "kind", mostly_long(["far_focus", "elastic_transform", FOG], keep=["elastic_transform", FOG])
)
def test_the_last_bits_are_the_same_on_any_number_of_devices(kind: str) -> None:
    """What a byte would hide becomes the output. XLA divides by a scalar in one way for one device, and in
    another for several.
    """
    record = find_corruption(kind)
    fine = dataclasses.replace(record, apply=lambda *of: jnp.mod(record.apply(*of) * 2**14, 1))
    pixels, ids, extra = images(16, 32)
    one, two = (Runner(fine, 5, make_mesh(jax.devices()[:count]))(pixels, ids, extra) for count in (1, 2))
    np.testing.assert_array_equal(one, two)


def test_levels_are_exact() -> None:
    np.testing.assert_array_equal(jax.jit(of_levels)(np.arange(256, dtype=np.uint8)), UNIT)


def test_what_is_refused() -> None:
    pixels, ids, _ = images(1)
    with pytest.raises(UsageError, match="fog_3d needs depth"):
        Runner(find_corruption(FOG), 1)(pixels, ids)
    with pytest.raises(UsageError, match="a severity is one of 1, 2, 3, 4, 5, not 6"):
        constants_of(FOG, 6)
    with pytest.raises(UsageError, match="unknown corruption 'fog3d'; did you mean fog_3d"):
        find_corruption("fog3d")

"""Matching against torch's interpolation and against a float64 NumPy reading of probe3d's protocol."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from _long import mostly_long
from jax.sharding import PartitionSpec

from clipjax.metrics import correspondence as c

CELLS, POINTS, KEEP = (7, 9), (34, 70), 1000
N = POINTS[0] * POINTS[1]


class Scene(NamedTuple):
    map0: np.ndarray
    map1: np.ndarray
    valid0: np.ndarray
    valid1: np.ndarray


def scene(seed=0):
    """Two similar maps, with a few cells of large norm as in ViTs, and holes in the depth.

    Not too similar: a float32 cosine is off by 1e-7, so weights are off by 1e-7 / d2.
    """
    rng = np.random.default_rng(seed)
    norms = rng.choice([1, 1, 1, 4], (*CELLS, 1))
    map0, noise = rng.normal(size=(2, *CELLS, 24)) * norms
    map1 = np.roll(map0 + noise, 1, axis=1)
    valid0, valid1 = (rng.random(POINTS) < share for share in (0.7, 0.6))
    return Scene(map0.astype(np.float32), map1.astype(np.float32), valid0, valid1)


def matched(scene, kind):
    map0, map1, valid0, valid1 = (jnp.asarray(each) for each in scene)
    sampling = c.interpolation(kind, CELLS, POINTS)
    return jax.tree.map(np.asarray, c.strongest_matches(map0, map1, sampling, valid0, valid1, KEEP))


# ------------------------------------------------------------------------------- the reading, in float64


def cubic(x, a):
    """Keys' kernel."""
    x = abs(x)
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0


def read_axis(cells, points, kind, *, a=-0.75, half=0.5, corners=False):
    """Weights of an axis: [points, cells]."""
    weights = np.zeros((points, cells))
    for point in range(points):
        place = (point + half) * cells / points - half
        place = point * (cells - 1) / (points - 1) if corners else place
        first = int(np.floor(place))
        if kind == "bicubic":
            for tap in (first - 1, first, first + 1, first + 2):
                weights[point, min(max(tap, 0), cells - 1)] += cubic(place - tap, a)
        elif kind == "nearest":
            weights[point, point * cells // points] = 1
        else:
            for tap in (first, first + 1):
                if 0 <= tap < cells:
                    weights[point, tap] += 1 - abs(place - tap)
    return weights


def read_points(features, kind, **wrong):
    rows, columns = (read_axis(n, m, kind, **wrong) for n, m in zip(CELLS, POINTS))
    points = np.einsum("yi,xj,ijc->yxc", rows, columns, features.astype(np.float64)).reshape(N, -1)
    return points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)


class Reading(NamedTuple):
    distance: np.ndarray  # cosine distances of all pairs, float64 [N, N]
    weight: np.ndarray  # float64 [N]; -inf for points that have no match
    best: np.ndarray  # the largest weights in falling order


def read(scene, kind, *, ratio=True, mutual=False, keep=KEEP, both_masks=True, **wrong):
    points0, points1 = (read_points(each, kind, **wrong) for each in scene[:2])
    distance = np.maximum(1 - points0 @ points1.T, 1e-9)
    keys = np.flatnonzero(scene.valid1) if both_masks else np.arange(N)
    ranked = np.sort(distance[:, keys], axis=1)
    weight = 1 - ranked[:, 0] / ranked[:, 1] if ratio else -ranked[:, 0]
    weight = np.where(scene.valid0.reshape(-1), weight, -np.inf)
    if mutual:
        key = keys[distance[:, keys].argmin(axis=1)]
        back = np.where(scene.valid0.reshape(-1, 1), distance, np.inf).argmin(axis=0)
        weight = np.where(back[key] == np.arange(N), weight, -np.inf)
    best = np.sort(weight[weight > -np.inf])[::-1][:keep]
    return Reading(distance, weight, best)


def agree(matches, reading, valid1):
    """Same number, same weights of the same queries, and the keys are the nearest ones."""
    query, key = matches.query[matches.there], matches.key[matches.there]
    if len(query) != len(reading.best) or not np.isfinite(reading.weight[query]).all():
        return False
    keys = np.where(valid1.reshape(-1), reading.distance[query], np.inf)
    return (
        abs(matches.weight[matches.there] - reading.best).max() < 1e-5
        and abs(matches.weight[matches.there] - reading.weight[query]).max() < 1e-5
        and abs(keys[np.arange(len(query)), key] - keys.min(axis=1)).max() < 1e-5
    )


# ------------------------------------------------------------------------------- the tests


@pytest.mark.parametrize(
    ("cells", "points"), [((32, 32), (128, 128)), ((35, 46), (120, 160)), ((5, 3), (7, 9))]
)
def test_interpolation_is_torchs(cells, points):
    features = np.random.default_rng(0).normal(size=(*cells, 2)).astype(np.float32)
    channels = torch.from_numpy(features).double().permute(2, 0, 1)[None]
    y, x = (2 * (torch.arange(n).double() + 0.5) / n - 1 for n in points)
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[None]
    theirs = {
        "bicubic": F.interpolate(channels, points, mode="bicubic", align_corners=False),
        "bilinear": F.grid_sample(channels, grid, mode="bilinear", padding_mode="zeros", align_corners=False),
    }
    for kind, expected in theirs.items():
        ours = np.einsum("yi,xj,ijc->yxc", *c.interpolation(kind, cells, points), features)
        np.testing.assert_allclose(ours, expected[0].permute(1, 2, 0).numpy(), atol=1e-5)


@pytest.mark.parametrize("kind", ["bicubic", "bilinear"])
def test_matches_are_the_readings(kind):
    for views in (scene(), scene(1)):
        assert agree(matched(views, kind), read(views, kind), views.valid1)


@pytest.mark.parametrize(
    "wrong",
    mostly_long(
        [
            {"kind": "bilinear"},
            {"kind": "nearest"},
            {"a": -0.5},
            {"corners": True},
            {"half": 0},
            {"ratio": False},
            {"mutual": True},
            {"keep": 500},
            {"both_masks": False},
        ],
        keep=[{"a": -0.5}, {"mutual": True}],
    ),
)
def test_every_other_protocol_gives_other_matches(wrong):
    views = scene()
    assert not agree(matched(views, "bicubic"), read(views, **({"kind": "bicubic"} | wrong)), views.valid1)


def test_corners_and_offsets_of_bilinear():
    views = scene()
    for wrong in (read(views, "bilinear", corners=True), read(views, "bilinear", half=0)):
        assert not agree(matched(views, "bilinear"), wrong, views.valid1)


@pytest.mark.parametrize("kind", ["bicubic", "bilinear"])
def test_the_fast_form_agrees_with_the_definition(kind):
    """Where the two take different points, these are equally far.

    Many are in a bilinear map: beyond the centres of the outer cells, features differ in length alone.
    """
    views, sampling = scene(2), c.interpolation(kind, CELLS, POINTS)
    fast = c.nearest(*views[:2], sampling, views.valid1)
    direct = c.nearest_direct(*views[:2], sampling, views.valid1)
    np.testing.assert_allclose(fast.first, direct.first, atol=1e-5)
    np.testing.assert_allclose(fast.second, direct.second, atol=1e-5)
    clear = np.asarray(direct.second - direct.first) > 1e-5
    assert clear.mean() > (0.95 if kind == "bicubic" else 0.75)
    np.testing.assert_array_equal(np.asarray(fast.key)[clear], np.asarray(direct.key)[clear])


def test_only_points_with_depth_are_matched():
    views = scene()
    valid0, valid1 = np.zeros(POINTS, bool), np.zeros(POINTS, bool)
    valid0[3:9, 4:20], valid1[20:31, 40:61] = True, True
    matches = matched(views._replace(valid0=valid0, valid1=valid1), "bicubic")
    assert matches.there.sum() == valid0.sum()
    assert valid0.reshape(-1)[matches.query[matches.there]].all()
    assert valid1.reshape(-1)[matches.key[matches.there]].all()
    for rest in (matches.query, matches.key, matches.weight):
        assert not rest[~matches.there].any()


@pytest.mark.parametrize("keys", [0, 1])
def test_fewer_than_two_points_to_match_give_no_match(keys):
    valid1 = np.zeros(POINTS, bool)
    valid1.reshape(-1)[:keys] = True
    assert not matched(scene()._replace(valid1=valid1), "bicubic").there.any()


def test_two_equal_points_have_no_weight_and_the_first_wins():
    """By hand: cells are points, the features are the axes."""
    axes = np.eye(4, dtype=np.float32)
    map0, map1 = axes[None, [0, 1, 3]], axes[None, [1, 1, 0]]
    everywhere = np.ones((1, 3), bool)
    found = c.nearest(map0, map1, c.interpolation("bilinear", (1, 3), (1, 3)), everywhere)
    assert found.key.tolist() == [2, 0, 0]
    np.testing.assert_allclose(found.first, [1e-9, 1e-9, 1])
    np.testing.assert_allclose(found.second, [1, 1e-9, 1])
    matches = c.strongest(found, everywhere, 5)
    assert matches.query.tolist() == [0, 1, 2, 0, 0]
    assert matches.there.tolist() == [True, True, True, False, False]
    np.testing.assert_allclose(matches.weight, [1, 0, 0, 0, 0], atol=1e-6)


def test_memory_is_that_of_a_block():
    """One row of points against all would take 1 kB a point, all against all 256 kB."""
    points = (256, 256)
    arguments = (*scene()[:2], c.interpolation("bicubic", CELLS, points), np.ones(points, bool))
    memory = c.nearest.lower(*arguments).compile().memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < 100 * points[0] * points[1]


def test_one_pair_a_device_has_the_same_bits():
    """On three devices and on one."""
    sampling = c.interpolation("bicubic", CELLS, POINTS)

    def match(views, devices):
        def one_pair(*pair):
            map0, map1, valid0, valid1 = (each[0] for each in pair)
            matches = c.strongest_matches(map0, map1, sampling, valid0, valid1, keep=KEEP)
            return jax.tree.map(lambda x: x[None], matches)

        automatic, split = (jax.sharding.AxisType.Auto,), PartitionSpec("data")
        mesh = jax.make_mesh((devices,), ("data",), automatic, devices=jax.devices()[:devices])
        program = jax.shard_map(one_pair, mesh=mesh, in_specs=split, out_specs=split)
        return jax.jit(program)(*(np.stack(each) for each in zip(*views)))

    views = [scene(seed) for seed in range(3)]
    alone = match(views[1:2], 1)
    for ours, other in zip(match(views, 3), alone):
        np.testing.assert_array_equal(ours[1], other[0])
    assert agree(jax.tree.map(lambda x: np.asarray(x[0]), alone), read(views[1], "bicubic"), views[1].valid1)


def test_another_interpolation_is_refused():
    with pytest.raises(ValueError, match="sampled by bicubic or bilinear, not by 'nearest'"):
        c.interpolation("nearest", CELLS, POINTS)


# ------------------------------------------------------------------------------- keypoints of SPair-71k

SIDE = 800
KEYPOINTS = np.random.default_rng(3).integers(0, SIDE, (40, 2)).astype(np.float32)


def spair_maps():
    rng = np.random.default_rng(4)
    map0 = rng.normal(size=(50, 50, 6)) * rng.choice([1, 5], (50, 50, 1))
    return tuple(each.astype(np.float32) for each in (map0, map0 + 0.3 * rng.normal(size=map0.shape)))


def read_keypoints(map0, map1, *, corners=True, half_cell=0.0, normalise=True):
    if normalise:
        map0, map1 = (each / np.linalg.norm(each, axis=2, keepdims=True) for each in (map0, map1))
    channels = torch.from_numpy(map0).double().permute(2, 0, 1)[None]
    at = torch.from_numpy(2 * KEYPOINTS.astype(np.float64) / SIDE - 1)[None, None]
    wanted = F.grid_sample(channels, at, align_corners=corners)[0, :, 0].numpy().T
    places = []
    for each in wanted:
        row, column = np.unravel_index(np.argmax(map1 @ each), map1.shape[:2])
        places.append(((column + half_cell) / map1.shape[1], (row + half_cell) / map1.shape[1]))
    return np.array(places)


def test_keypoints_are_the_readings():
    maps = spair_maps()
    ours = np.asarray(c.keypoint_matches(*maps, KEYPOINTS, SIDE))
    np.testing.assert_allclose(ours, read_keypoints(*maps), atol=1e-6)
    for wrong in ({"corners": False}, {"half_cell": 0.5}, {"normalise": False}):
        assert abs(ours - read_keypoints(*maps, **wrong)).max() > 1e-3, wrong


def test_equal_cells_the_first_wins():
    same = np.ones((4, 4, 2), np.float32)
    assert c.keypoint_matches(same, same, np.full((1, 2), 7.0), 8).tolist() == [[0, 0]]

"""The device kernel: NumPy's counts to the last image, in shards, with padding, ties and tiny numbers."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from clipjax.metrics import curves as c
from clipjax.metrics import detection as d

MEASURES = {
    "in": {
        "aupr_in": c.average_precision,
        "aupr_in_trapezoid": c.trapezoidal_precision,
        "fpr95_mos": c.fpr_closest,
        "auroc": c.area_under_roc,
    },
    "out": {
        "aupr_out": c.average_precision,
        "aupr_out_trapezoid": c.trapezoidal_precision,
        "fpr95_openood": c.fpr_first,
        "fpr95_imagenet_o": c.fpr_closest,
    },
}


@pytest.fixture(params=["distinct", "tied"])
def pair(request):
    rng = np.random.default_rng(4)
    x, y = rng.normal(1, 1, 203), rng.normal(0, 1, 101)
    return tuple((v if request.param == "distinct" else np.round(v, 1)).astype(np.float32) for v in (x, y))


def loop(scores, others):
    return [sum(o > s for o in others) for s in scores], [sum(o == s for o in others) for s in scores]


def everything(others):
    return np.ones(len(others), bool)


def padded(values, size, filler):
    out = np.full(size, filler, np.float32)
    out[: len(values)] = values
    return out, np.arange(size) < len(values)


def test_tally_against_a_loop(pair):
    above, ties = c.tally(*pair, everything(pair[1]))
    assert (above.tolist(), ties.tolist()) == loop(*pair)
    assert above.dtype == ties.dtype == np.int32


@pytest.mark.parametrize("filler", [0.0, 9.0, -9.0, np.nan, np.inf])
def test_padding_counts_nowhere(pair, filler):
    others, mask = padded(pair[1], 128, filler)
    above, ties = c.tally(pair[0], others, mask)
    assert (above.tolist(), ties.tolist()) == loop(*pair)
    nothing = c.tally(pair[0], others, np.zeros(128, bool))
    assert not np.any(nothing)


def test_signed_zero_and_denormal_numbers():
    values = np.array([0.0, -0.0, 1e-40, -1e-40, 2e-40, 1e-45, 3e38, -3e38], np.float32)
    above, ties = c.tally(values, values, everything(values))
    assert (above.tolist(), ties.tolist()) == loop(values, values)


def test_shards_add_up_and_line_up(pair):
    scores, others = pair
    whole = c.tally(scores, others, everything(others))
    total = np.zeros((2, len(scores)), int)
    for shard in np.array_split(others, 8):
        piece, mask = padded(shard, 16, 0.0)
        rows = [c.tally(part, piece, mask) for part in np.array_split(scores, 7)]
        total += np.stack([np.concatenate([np.asarray(row[i]) for row in rows]) for i in range(2)])
    assert (total == np.stack([np.asarray(part) for part in whole])).all()


def test_sharded_arrays_give_the_same(pair):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    spread = NamedSharding(mesh, PartitionSpec("data"))
    scores, _ = padded(pair[0], 208, 0.0)
    others, mask = padded(pair[1], 104, 0.0)
    got = c.tally(*(jax.device_put(part, spread) for part in (scores, others, mask)))
    expected = c.tally(scores, others, mask)
    assert all((np.asarray(a) == np.asarray(b)).all() for a, b in zip(got, expected))


def from_devices(positive, negative):
    scores, mask = padded(positive, 256, 0.0)
    others, other_mask = padded(negative, 256, 0.0)
    among, against = c.tally(scores, scores, mask), c.tally(scores, others, other_mask)
    return c.tallied(
        (np.asarray(among[0]), np.asarray(among[1])),
        (np.asarray(against[0]), np.asarray(against[1])),
        mask,
        int(other_mask.sum()),
    )


def test_counts_and_measures_are_the_host_paths_to_the_bit(pair):
    id_scores, ood_scores = pair
    host = d.detection(id_scores, ood_scores)
    made = {"in": from_devices(id_scores, ood_scores), "out": from_devices(-ood_scores, -id_scores)}
    below = [np.arange(len(scores) + 1)[None] for scores in pair]
    for side, counts in (("in", d._id_positive), ("out", d._ood_positive)):
        expected = counts(d.rank(*pair), *below)
        for field in ("tp", "before", "fp", "negatives"):
            np.testing.assert_array_equal(getattr(made[side], field), getattr(expected, field))
        for name, measure in MEASURES[side].items():
            assert measure(made[side])[0] == host[name], name

"""Matching points between two views (probe3d, El Banani et al. 2024): the share of matches that are right.

The card's table `[matching]` decides points, thresholds and bins. In a pair with depth the strongest matches
count; in a pair with keypoints, all keypoints that both images show. A pair is right by the share of its
matches with an error below a threshold:

- `recall_3d@T`: T in metres. `recall_2d@T`: T in pixels of the image that the intrinsics describe.
- `pck@T`: T as a share of the larger side of the target's box.
- `recall`: the one of these that the card's `curve` names, over all pairs and in each bin.

With depth a number is the mean over pairs; with keypoints the mean over classes of the share of all
keypoints of a class. Intervals are over clusters (objects, scenes, classes), of ten or more of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from clipjax.data.pairs.matching import Matching
from clipjax.errors import DataError
from clipjax.metrics.correspondence import interpolation, keypoint_matches, strongest_matches
from clipjax.metrics.correspondence_errors import in_bins, keypoint_errors, match_errors, recall_of_pairs
from clipjax.metrics.uncertainty.clusters import FEWEST, mean_over_clusters
from clipjax.results.row import metric_name
from clipjax.tasks.inputs import About, PairInputs
from clipjax.tasks.task import Columns, Measure, Paired, Task, finite_column

# Raise it whenever a change in `clipjax.data.pairs`, in matching or in counting may change a pair's numbers:
# rows and the keys of stored matches contain it. Rows add the version of intervals, which change no match.
VERSION = 2
INTERVALS = 1
CURVE = "recall"
NUMBERS = (CURVE, "recall_3d@", "recall_2d@", "pck@")  # how the columns of shares begin
PLACES = ("x0", "y0", "x1", "y1")  # in pixels of the prepared images; 0 is the centre of the first
ALL = "all"  # this group of a card is not a bin: its pairs count over the whole data set


# Matching a pair, on the device.


@dataclasses.dataclass(frozen=True)
class PairMatcher:
    """Two maps and what is known of the pair -> the numbers of each match, as a card asks for them.

    Attributes:
        places: also where its points are, `PLACES`.
    """

    matching: Matching
    places: bool = False

    @property
    def numbers(self) -> tuple[str, ...]:
        own = ("error",) if self.matching.kind == "keypoints" else ("error_3d", "error_2d", "weight")
        return (*own, *PLACES) if self.places else own

    @property
    def shape(self) -> tuple[int, int]:
        """Matches of a pair, numbers of a match."""
        count = self.matching.keypoints if self.matching.kind == "keypoints" else self.matching.keep
        assert count is not None
        return count, len(self.numbers)

    def key(self) -> dict[str, Any]:
        """The settings that decide the stored matches, as JSON; thresholds and bins only count them later."""
        counted = ("thresholds_3d", "thresholds_2d", "thresholds_pck", "curve", "by", "bins", "groups")
        stated = {name: value for name, value in self._stated().items() if name not in counted}
        return {"version": VERSION, **stated, **({"places": True} if self.places else {})}

    def words(self) -> dict[str, Any]:
        """The settings that are not empty: two results compare only if these are equal."""
        return {name: value for name, value in self._stated().items() if value not in (None, [])}

    def _stated(self) -> dict[str, Any]:
        lists = {name: list(value) for name, value in vars(self.matching).items() if isinstance(value, tuple)}
        return dataclasses.asdict(self.matching) | lists

    def __call__(self, map0: Array, map1: Array, geometry: Mapping[str, Array]) -> Array:
        """Maps [h, w, C] -> float32 `shape`, the strongest first; -1 where no match is."""
        match = self._keypoints if self.matching.kind == "keypoints" else self._points
        numbers = jnp.stack(match(map0, map1, geometry), axis=-1)
        return jnp.where(jnp.isnan(numbers[:, :1]), -1.0, numbers).astype(jnp.float32)

    def _points(self, map0: Array, map1: Array, geometry: Mapping[str, Array]) -> tuple[Array, ...]:
        grid, keep, points = self.matching.grid, self.matching.keep, geometry["points"]
        assert grid is not None
        assert keep is not None
        height, width = map0.shape[:2]
        sampling = interpolation(self.matching.features, (height, width), grid)
        valid = points[..., 2] > 0
        matches = strongest_matches(map0, map1, sampling, valid[0], valid[1], keep)
        errors = match_errors(matches, points, geometry["intrinsics"], geometry["motion"])
        ends = [_middles(each, grid, self.matching.size) for each in (matches.query, matches.key)]
        return (*errors, matches.weight, *(jnp.concatenate(ends) if self.places else ()))

    def _keypoints(self, map0: Array, map1: Array, geometry: Mapping[str, Array]) -> tuple[Array, ...]:
        source, target = geometry["keypoints"]
        side = float(self.matching.size[0])
        places = keypoint_matches(map0, map1, source, side)
        errors = keypoint_errors(places, target, geometry["visible"], side, geometry["extent"])
        return (errors, *source.T, *(side * places.T)) if self.places else (errors,)


def _middles(point: Array, grid: tuple[int, int], size: tuple[int, int]) -> Array:
    """Numbers of points of a grid [K] -> x and y of their middles in an image of `size`, [2, K]."""
    place = jnp.stack([point % grid[1], point // grid[1]]).astype(jnp.float32)
    cells = jnp.array([size[1] / grid[1], size[0] / grid[0]], jnp.float32)
    return (place + 0.5) * cells[:, None] - 0.5


# From a pair's numbers to its row.


def describe(inputs: PairInputs) -> dict[str, Any]:
    """One row per pair, from numbers [N, K, m].

    Columns: those of the pairs (`image_0`, `image_1`, `cluster`, `angle`, ...); `matches`, their number; the
    shares of right ones (`recall`, `recall_3d@0.01`, ...); `counted`, whether the pair counts over the whole
    data set; `bin`, its bins, and `bins`, all there are; `unit`, what a mean is over; the matches' errors
    (m, px, or shares of the box) and weights, the strongest first.
    """
    matching = inputs.matching
    numbers = np.where(inputs.numbers < 0, np.nan, inputs.numbers)
    by_name = {name: numbers[..., k] for k, name in enumerate(PairMatcher(matching).numbers)}
    there = ~np.isnan(numbers[..., 0])
    shares = {
        metric: recall_of_pairs(by_name[name], [threshold])[:, 0]
        for metric, (name, threshold) in limits_of(matching).items()
    }
    bins, members = bins_of(matching, inputs.columns)
    names = list(inputs.ids) if matching.kind == "geometric" else inputs.columns["cluster"]
    return {
        **inputs.columns,
        "matches": there.sum(axis=1).astype(np.int32),
        **shares,
        "counted": counted(matching, inputs.columns),
        "bin": [[bins[k] for k in np.flatnonzero(of_pair)] for of_pair in members.T],
        "bins": [bins] * len(numbers),
        "unit": list(names),
        **{f"{name}s": [row[kept] for row, kept in zip(each, there)] for name, each in by_name.items()},
    }


def limits_of(matching: Matching) -> dict[str, tuple[str, float]]:
    """Metric -> the number of a match that must be below a threshold, and the threshold."""
    kinds = {"3d": ("recall_3d", "error_3d"), "2d": ("recall_2d", "error_2d"), "pck": ("pck", "error")}
    thresholds = {"3d": matching.thresholds_3d, "2d": matching.thresholds_2d, "pck": matching.thresholds_pck}
    curve = matching.curve
    return {CURVE: (kinds[curve.metric][1], curve.threshold)} | {
        f"{kinds[kind][0]}@{threshold:g}": (kinds[kind][1], threshold)
        for kind, some in thresholds.items()
        for threshold in some
    }


def bins_of(matching: Matching, columns: Mapping[str, Any]) -> tuple[list[str], np.ndarray]:
    """Names of the bins ("angle:0-30"), and which pairs each has, bool [bins, N]."""
    values = columns[matching.by]
    if matching.bins:
        names = [f"{matching.by}:{low:g}-{high:g}" for low, high in matching.bins]
        return names, in_bins(np.asarray(values, np.float64), matching.bins)
    groups = [name for name in matching.groups if name != ALL]
    members = np.array([[name in of_pair for of_pair in values] for name in groups], bool)
    return [f"{matching.by}:{name}" for name in groups], members.reshape(len(groups), len(values))


def counted(matching: Matching, columns: Mapping[str, Any]) -> np.ndarray:
    """bool [N]: all pairs, or where the card has a group of that name, the pairs of it."""
    values = columns[matching.by]
    if ALL not in matching.groups:
        return np.ones(len(values), bool)
    return np.array([ALL in of_pair for of_pair in values], bool)


# From rows to numbers.


@dataclasses.dataclass(frozen=True)
class Shares:
    """Shares of right matches of N pairs.

    Attributes:
        of: metric -> each pair's share, float64 [N].
        matches: the number of matches of each pair, float64 [N].
        unit: int [N], the unit of each pair.
        cluster: int [N], the cluster of each pair. All pairs of a unit are of one cluster.
        slices: slice (None: over the whole data set) -> bool [N].
    """

    of: Mapping[str, np.ndarray]
    matches: np.ndarray
    unit: np.ndarray
    cluster: np.ndarray
    slices: Mapping[str | None, np.ndarray]

    def names(self, part: str | None) -> list[str]:
        """The metrics of a slice."""
        return list(self.of) if part is None else [CURVE]

    def means(self, metric: str, mask: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Weights [B, N] -> the mean over the units of the chosen pairs, float64 [B]; NaN without one.

        A unit's number is the share of all its matches; its pairs have one weight.
        """
        of_unit, first = self._of_units(metric, mask)
        drawn = weights[:, np.flatnonzero(mask)[first]].astype(np.float64)
        total = drawn.sum(axis=1)
        return np.divide(drawn @ of_unit, total, out=np.full(len(drawn), np.nan), where=total > 0)

    def of_clusters(self, metric: str, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The mean over each cluster's units, and their number, float64 [C]; of the chosen pairs."""
        of_unit, first = self._of_units(metric, mask)
        clusters = np.unique(self.cluster[mask][first], return_inverse=True)[1]
        sizes = np.bincount(clusters).astype(np.float64)
        return np.bincount(clusters, of_unit) / sizes, sizes

    def _of_units(self, metric: str, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Each unit's share of all its matches, and its first pair among the chosen ones."""
        _, first, of = np.unique(self.unit[mask], return_index=True, return_inverse=True)
        count = self.matches[mask]
        right = np.bincount(of, self.of[metric][mask] * count)
        return right / np.bincount(of, count), first


def shares_of(pairs: Columns) -> Shares:
    """Raises DataError naming a pair without a match, or with a share outside 0..1."""
    matches = finite_column(pairs, "matches")
    metrics = [name for name in pairs if name.startswith(NUMBERS[1:]) or name == CURVE]
    of = {name: finite_column(pairs, name) for name in metrics}
    for name, low, high, values in (
        ("matches", 1, np.inf, matches),
        *((name, 0, 1, values) for name, values in of.items()),
    ):
        bad = np.flatnonzero((values < low) | (values > high))
        if len(bad):
            raise DataError(f"{pairs['id'][int(bad[0])]}: its {name} is {values[bad[0]]:g}")
    slices: dict[str | None, np.ndarray] = {None: np.asarray(pairs["counted"], bool)}
    for part in dict.fromkeys(name for names in pairs["bins"] for name in names):
        slices[part] = np.array([part in of_pair for of_pair in pairs["bin"]], bool)
    unit, cluster = (_codes(pairs[name]) for name in ("unit", "cluster"))
    return Shares(of, matches, unit, cluster, slices)


def _codes(names: Any) -> np.ndarray:
    return np.unique(np.asarray([str(name) for name in names]), return_inverse=True)[1]


def measure(pairs: Columns, about: About) -> list[Measure]:
    """`n` counts pairs. A bin without pairs is a number without a value."""
    shares = shares_of(pairs)
    over = "pairs" if len(set(pairs["unit"])) == len(pairs["unit"]) else "clusters"
    return [each for part in shares.slices for each in _of_slice(shares, part, over, about)]


def _of_slice(shares: Shares, part: str | None, over: str, about: About) -> list[Measure]:
    mask, metrics = shares.slices[part], shares.names(part)
    n = int(mask.sum())
    if not n:
        where = "counts over the whole data set" if part is None else "is in this bin"
        return [Measure(name, None, 0, slice=part, note=f"no pair {where}") for name in metrics]
    values = {name: float(shares.means(name, mask, np.ones((1, len(mask))))[0]) for name in metrics}
    how = {"resamples": about.resamples, "seed": about.seed}
    over_clusters = {name: shares.of_clusters(name, mask) for name in metrics}
    clusters = len(over_clusters[metrics[0]][0])
    note = f"{int(shares.matches[mask].sum()):,} matches of {n:,} pairs in {clusters:,} clusters"
    if clusters < FEWEST:
        note = f"{note}; no interval: there are fewer than {FEWEST} clusters"
    limits = {name: mean_over_clusters(*each, about.dataset, **how) for name, each in over_clusters.items()}
    return [Measure(name, values[name], n, limits[name], part, over, note) for name in metrics]


def paired(pairs: Columns, about: About) -> Paired:
    """Every number is resampled, by clusters; of few of them a bootstrap is too sure, as in `measure`."""
    shares = shares_of(pairs)

    def resampled(weights: np.ndarray) -> dict[str, np.ndarray]:
        return {
            metric_name(name, part): shares.means(name, mask, weights)
            for part, mask in shares.slices.items()
            if mask.any()
            for name in shares.names(part)
        }

    clusters = [str(name) for name in pairs["cluster"]]
    untested = {}
    if (count := len(set(clusters))) < FEWEST:
        why = f"only {count} cluster{'' if count == 1 else 's'}: a comparison needs {FEWEST}"
        untested = dict.fromkeys(resampled(np.ones((1, len(clusters)), int)), why)
    return Paired(resampled=resampled, clusters=clusters, untested=untested)


TASK = Task(
    name="correspondence",
    version=VERSION + INTERVALS,
    section="VIII-A",
    needs=(),
    kinds=("pairs",),
    convention={
        "matches": "from image 0 to image 1, nearest by cosine distance, none refused",
        "weights": "1 - first / second distance; keypoints have none",
        "ties": "first point",
        "resampled": "clusters: objects, scenes or classes",
        "intervals": f"task version 3: bootstrap-t over clusters, on logits; none for fewer than {FEWEST}",
    },
    describe=describe,
    measure=measure,
    matcher=PairMatcher,
    paired=paired,
    proportions=(),
    headlines=((CURVE,),),
)

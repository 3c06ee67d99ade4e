"""Placebos: a claim's statistic between random halves of the same models, which no claim is about.

    splits(families, runs, 9, 200)                   # whether each model is in the group, bool [200, N]
    placebo(part, pool, value).share                 # how often a random split is as far off

Families are split whole, because models of one family are alike: two families differ without any cause that
a claim could name. In configs/claims.toml's words, an offset that such splits often have is ordinary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from clipjax.analysis.claims.ledger import Part
from clipjax.analysis.rows.scales import transform
from clipjax.analysis.trends.correlation import correlation
from clipjax.analysis.trends.group_differences import compare_fits
from clipjax.analysis.trends.regression import COARSE
from clipjax.analysis.trends.resampling import FEWEST
from clipjax.analysis.trends.trends import Fit, TrendPoints, fit_all, unfitted

SPLITS, SEED = 200, 0
FEWEST_SPLITS = 20
"""Different splits: with fewer no offset can be rarer than one of 20."""
ORDINARY = 0.05
"""An offset is ordinary if more than this share of the splits is as far off."""


@dataclass(frozen=True, eq=False)
class Pool:
    """The models of both groups of a part, the group's first.

    Attributes:
        x: in its own units, float64 [N]; NaN where the statistic has none.
        y: in its own units, float64 [N].
        n_x: images of each x, NaN if unknown.
        n_y: images of each y, NaN if unknown.
        runs: the training run of each model.
        families: the architecture family of each model.
        group: number of models of the group.
    """

    x: np.ndarray
    y: np.ndarray
    n_x: np.ndarray
    n_y: np.ndarray
    runs: Sequence[str]
    families: Sequence[str]
    group: int


@dataclass(frozen=True, eq=False)
class Placebo:
    """A claim's offset among those of random splits.

    Attributes:
        share: of the splits (and the claim itself) that are as far from the bound or farther.
        spread: median distance from 0 of the splits' offsets.
        margin: the claim's, in units of `spread`; None where the claim has none.
        splits: number of splits with an offset.
        families: that were split; "family", or "run" where all models are of one family, in `of`.
        few: too few different splits to tell.
    """

    share: float
    spread: float
    margin: float | None
    splits: int
    families: int
    of: str
    few: bool

    @property
    def ordinary(self) -> bool:
        return self.share > ORDINARY


def placebo(part: Part, pool: Pool, value: float) -> Placebo:
    """The placebo of a part whose statistic is `value`."""
    of = "family" if len(set(pool.families)) > 1 else "run"
    names = pool.families if of == "family" else pool.runs
    masks = splits(names, pool.runs, pool.group, SPLITS)
    offsets = STATISTICS[part.statistic](part, pool, masks)
    defined = np.isfinite(offsets)
    few = len(np.unique(masks[defined], axis=0)) < FEWEST_SPLITS
    offsets = np.abs(offsets[defined])
    as_far = int((offsets >= abs(value - part.at)).sum())
    spread = float(np.median(offsets)) if len(offsets) else np.nan
    has_margin = part.side not in ("above", "below")
    margin = part.margin / spread if has_margin and spread > 0 else None
    share = (1 + as_far) / (1 + len(offsets))
    return Placebo(share, spread, margin, len(offsets), len(set(names)), of, few)


def splits(families: Sequence[str], runs: Sequence[str], group: int, count: int) -> np.ndarray:
    """Random splits of whole families, bool [count, N]: whether each model is in the group.

    The group has about as many runs as the first `group` models. Each side has at least one family, so fewer
    than two families have no split: the result is then [0, N].
    """
    names, of = np.unique(np.asarray(families), return_inverse=True)
    if len(names) < 2:
        return np.zeros((0, len(of)), bool)
    # A run counts once, in the family of its first model.
    first = dict(zip(reversed(runs), reversed(of.tolist())))
    sizes = np.bincount(list(first.values()), minlength=len(names))
    wanted = len(set(runs[:group]))
    rng = np.random.default_rng(SEED)
    sides = np.zeros((count, len(names)), bool)
    for each in sides:
        order = rng.permutation(len(names))
        taken = sizes[order].cumsum()[:-1]
        each[order[: 1 + np.abs(taken - wanted).argmin()]] = True
    return sides[:, of]


def _mean_differences(_: Part, pool: Pool, masks: np.ndarray) -> np.ndarray:
    inside = masks.sum(1)
    return masks @ pool.y / inside - ~masks @ pool.y / (len(pool.y) - inside)


def _correlation_differences(_: Part, pool: Pool, masks: np.ndarray) -> np.ndarray:
    def of(which: np.ndarray) -> float:
        return correlation(pool.x[which], pool.y[which], resamples=0).value if which.sum() > 1 else np.nan

    return np.array([of(mask) - of(~mask) for mask in masks])


def _robustness(part: Part, pool: Pool, masks: np.ndarray) -> np.ndarray:
    fits = _fits(part, pool, ~masks)
    return np.array(
        [
            np.nan if fit is None else (pool.y[mask] - fit.predict(pool.x[mask], pool.n_x[mask])).mean()
            for mask, fit in zip(masks, fits)
        ]
    )


def _compared(name: str) -> Callable[[Part, Pool, np.ndarray], np.ndarray]:
    def offsets(part: Part, pool: Pool, masks: np.ndarray) -> np.ndarray:
        fits = zip(_fits(part, pool, masks), _fits(part, pool, ~masks))
        return np.array([_difference(name, *both) for both in fits])

    return offsets


def _slopes(part: Part, pool: Pool, masks: np.ndarray) -> np.ndarray:
    """Each group about its own centre: else its offset would tilt the lines of mixed splits."""
    x, y = (transform(pool.x, part.scale, pool.n_x), transform(pool.y, part.scale, pool.n_y))
    for own in (slice(None, pool.group), slice(pool.group, None)):
        x[own] -= x[own].mean()
        y[own] -= y[own].mean()
    centred = replace(pool, x=x, y=y)
    return _compared("slope")(replace(part, scale="linear"), centred, masks)


def _difference(name: str, one: Fit | None, two: Fit | None) -> float:
    if one is None or two is None:
        return np.nan
    estimate = getattr(compare_fits(one, two), name)
    return np.nan if estimate is None else estimate.value


def _fits(part: Part, pool: Pool, masks: np.ndarray) -> list[Fit | None]:
    """The trend of the models of each mask; None where they are too few, or have one x."""
    trends = [_unfitted(part, pool, mask) for mask in masks]
    fits = iter(fit_all([trend for trend in trends if trend is not None], COARSE))
    return [None if trend is None else next(fits) for trend in trends]


def _unfitted(part: Part, pool: Pool, mask: np.ndarray) -> TrendPoints | None:
    x = pool.x[mask]
    if len(x) < FEWEST or np.ptp(x) == 0:
        return None
    n_x, n_y = pool.n_x[mask], pool.n_y[mask]
    return unfitted(x, pool.y[mask], scale=part.scale, n_x=n_x, n_y=n_y, resamples=0)


STATISTICS: dict[str, Callable[[Part, Pool, np.ndarray], np.ndarray]] = {
    "effective_robustness": _robustness,
    "trend_offset": _compared("offset"),
    "slope_difference": _slopes,
    "slope_growth": _slopes,
    "correlation_difference": _correlation_differences,
    "group_difference": _mean_differences,
}

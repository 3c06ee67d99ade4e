"""How well a share of N images is known from n of them and other models' answers: `difference_estimator`.

    python benchmarks/metrics/fewer_images.py
    python benchmarks/metrics/fewer_images.py --draws 500 --only difference

Models share how hard an image is, and those of one family a part of the rest. A draw makes the answers of the
target and of eight helpers to N images, and a random sample of n. Targets: like the helpers; better than
every helper; accurate; with nothing in common with them; differences of two models, also where the first was
measured on all images.

Coverage is the share of draws whose 95 % interval holds the number of all N images ("all"), and the planted
one ("beyond"). "z": the estimate +- 1.96 standard errors; "plain": Wilson's or MOVER's interval without
helpers; "wider": the share of intervals more than 2 % wider than it; "gain": the median measured variance
ratio; "true gain": the ratio of the mean squared errors.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

import numpy as np
import scipy.special
import typer

from benchmarks import common
from clipjax.metrics.uncertainty.difference_estimator import (
    CorrectedEstimate,
    share_of_all,
)
from clipjax.metrics.uncertainty.intervals import Interval

HELPERS = (0.70, 0.72, 0.74, 0.70, 0.68, 0.75, 0.71, 0.73)
SIZES = ((40, 1000), (200, 2000), (500, 10_000))


class World(NamedTuple):
    """The accuracies of one target or two, and what the models have in common.

    Attributes:
        shared: the share of an answer's variance that is the image's.
        family: the share that every second model has in common.
        alone: the target has nothing in common with the helpers.
        first_helps: the first of two targets was measured on all images.
        copy: the last helper answers as the target, but for this share of its right answers.
    """

    target: tuple[float, ...]
    shared: float = 0.7
    family: float = 0.0
    helpers: tuple[float, ...] = HELPERS
    alone: bool = False
    first_helps: bool = False
    copy: float | None = None


WORLDS = {
    "like the helpers": World((0.72,)),
    "very like them": World((0.72,), 0.9),
    "better than all": World((0.9,)),
    "accurate": World((0.97,)),
    "accurate as the helpers": World((0.97,), helpers=(0.95,) * 8),
    "often wrong": World((0.1,), 0.9, helpers=(0.15,) * 8),
    "a copy helps, 1 % off": World((0.72,), copy=0.01),
    "a copy helps, 5 % off": World((0.72,), copy=0.05),
    "unrelated": World((0.72,), alone=True),
    "difference of alike": World((0.72, 0.74)),
    "difference, first on all": World((0.72, 0.74), first_helps=True),
    "difference of far": World((0.6, 0.9)),
    "difference of families": World((0.72, 0.74), 0.5, 0.4),
}
KEYS = ("all", "beyond", "z", "plain", "plain beyond", "wider", "gain", "true gain")


def main(
    draws: Annotated[int, typer.Option(help="Draws of each world and size.")] = 2000,
    only: Annotated[str, typer.Option(help="Only worlds whose name begins so.")] = "",
    json: common.Json = None,
) -> None:
    """Coverage, widths and gains of estimates from fewer images."""
    print(f"{'':<40}" + "".join(f"{key:>14}" for key in KEYS))
    with common.reported("fewer_images", json) as report:
        for name, world in WORLDS.items():
            for n, of in SIZES if name.startswith(only) else ():
                found = simulated(world, n, of, draws, np.random.default_rng(0))
                report[label := f"{name}, {n} of {of}"] = found
                print(f"{label:<40}" + "".join(f"{value:>14.3f}" for value in found.values()), flush=True)


def simulated(world: World, n: int, of: int, draws: int, rng: np.random.Generator) -> dict[str, float]:
    """The numbers that `KEYS` names."""
    drawn = np.array([_draw(world, n, of, rng) for _ in range(draws)], float)
    *shares, gain, error, without = drawn.T
    true_gain = np.mean(without**2) / np.mean(error**2)
    values = [*map(np.mean, shares), np.median(gain), true_gain]
    return dict(zip(KEYS, map(float, values), strict=True))


def _draw(world: World, n: int, of: int, rng: np.random.Generator) -> tuple[float, ...]:
    """What holds in one draw, its gain, and the errors with and without helpers."""
    right = answers(rng, world, of)
    measured = rng.choice(of, n, replace=False)
    estimate, plain = estimated(right, measured, world, rng)
    two = len(world.target) == 2
    y = right[1].astype(float) - right[0] if two else right[0].astype(float)
    truth, planted = y.mean(), world.target[-1] - (world.target[0] if two else 0)
    error = np.sqrt(y[measured].var(ddof=1) / estimate.gain * (1 / n - 1 / of))
    return (
        _holds(estimate.interval, truth),
        _holds(estimate.interval_beyond, planted),
        abs(estimate.value - truth) <= 1.96 * error,
        _holds(plain.interval, truth),
        _holds(plain.interval_beyond, planted),
        _width(estimate.interval) > 1.02 * _width(plain.interval),
        estimate.gain,
        estimate.value - truth,
        plain.value - truth,
    )


def answers(rng: np.random.Generator, world: World, of: int) -> np.ndarray:
    """Whether each model is right about each image, bool [models, N]; the targets come first."""
    accuracy = np.array([*world.target, *world.helpers])
    targets = len(world.target)
    hard = np.tile(rng.standard_normal(of), (len(accuracy), 1))
    if world.alone:
        hard[:targets] = rng.standard_normal(of)
    family = rng.standard_normal((2, of))[np.arange(len(accuracy)) % 2]
    own = rng.standard_normal((len(accuracy), of))
    parts = ((world.shared, hard), (world.family, family), (1 - world.shared - world.family, own))
    right = sum(np.sqrt(share) * part for share, part in parts) < scipy.special.ndtri(accuracy)[:, None]
    if world.copy is not None:
        right[-1] = right[0] & (rng.random(of) >= world.copy)
    return right


def estimated(
    right: np.ndarray, measured: np.ndarray, world: World, rng: np.random.Generator
) -> tuple[CorrectedEstimate, CorrectedEstimate]:
    targets = len(world.target)
    helpers = right[targets:] if not world.first_helps else right[[0, *range(targets, len(right))]]
    known = helpers[:, measured].T, helpers.mean(axis=1), right.shape[1], rng
    minus = None if targets == 1 else right[0, measured]
    return share_of_all(right[targets - 1, measured], *known, minus=minus)


def _holds(interval: Interval, value: float) -> bool:
    return interval.lo <= value <= interval.hi


def _width(interval: Interval) -> float:
    return interval.hi - interval.lo


if __name__ == "__main__":
    typer.run(main)

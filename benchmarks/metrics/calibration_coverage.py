"""How often the null band and the intervals of ECE and of a difference of two ECEs hold the truth.

    python benchmarks/metrics/calibration_coverage.py

No time is measured. Models are planted: an image of confidence c is right with a known probability, so the
true ECE is known. Confidences are too sharp by a temperature, too high by a constant, or wrong in turns (too
high in one bin, too low in the next). The columns: how often the plug-in lies outside the null band, so that
there is an interval; how many of these intervals hold the true ECE; their width; means of the plug-in and of
the corrected ECE; and how many intervals of the old convention held the true ECE (percentiles of a bootstrap,
shifted to have the plug-in as their mean). Each group of draws has its own images, each draw its own answers.

Pairs of models see the same images, whose difficulty they share in part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
from scipy.special import expit, logit

from benchmarks import common
from clipjax.metrics.confidence.calibration import bin_of, equal_mass_edges, equal_width_edges
from clipjax.metrics.uncertainty import calibration_error as ce
from clipjax.metrics.uncertainty.bootstrap import Resampling, bootstrap, percentile_interval

Chance = Callable[[np.ndarray, float], np.ndarray]
MISTAKES: dict[
    str, tuple[Chance, float, float]
] = {  # chance to be right; its number without a mistake, and most
    "temperature": (lambda c, t: expit(logit(c) / t), 1.0, 6.0),
    "offset": (lambda c, off: np.clip(c - off, 0.001, 0.999), 0.0, 0.5),
    "in turns": (lambda c, size: np.clip(c + size * np.sin(15 * np.pi * c), 0.001, 0.999), 0.0, 0.5),
}
GROUPS = 25
OLD_DRAWS, OLD_RESAMPLES = 100, 200  # of the old convention: enough for two digits
PAIRS: tuple[
    tuple[str, float, str, float], ...
] = (  # mistake and true ECE of the first and of the second model
    ("temperature", 0.0, "temperature", 0.02),
    ("temperature", 0.01, "temperature", 0.03),
    ("temperature", 0.05, "temperature", 0.03),
    ("offset", 0.02, "temperature", 0.04),
    ("temperature", 0.0, "temperature", 0.0),
)


def main(
    draws: Annotated[int, typer.Option(help="Draws of each planted model.")] = 500,
    sizes: Annotated[str, typer.Option(help="Numbers of images.")] = "1000,5000,25000",
    bins: Annotated[int, typer.Option(help="Bins of equal width.")] = 15,
    mass: Annotated[bool, typer.Option(help="Bins of equal mass instead.")] = False,
    pairs: Annotated[int, typer.Option(help="Draws of each pair of models, 5,000 images.")] = 300,
    json: common.Json = None,
) -> None:
    """Coverage of the null band, of ECE's interval and of a difference's."""
    edges = equal_mass_edges if mass else lambda _, count: equal_width_edges(count)
    with common.reported("calibration_coverage", json) as results:
        for n in map(int, sizes.split(",")):
            results[f"{n} images, calibrated, inside the band"] = calibrated_inside(n, draws, bins, edges)
            for name in MISTAKES:
                if mass and name == "in turns":  # its turns are those of bins of equal width
                    continue
                for ece in (0.01, 0.03, 0.10):
                    found = coverage(name, ece, n, draws, bins, edges)
                    results[f"{n} images, {name}, true ECE {ece:.2f}"] = found
                    print(f"{n:6} {name:12} {ece:.2f}  " + in_words(found), flush=True)
        for pair in PAIRS:
            found = of_differences(pair, 5000, pairs, bins)
            results["difference of {} {:.2f} and {} {:.2f}".format(*pair)] = found
            print("{:12} {:.2f} and {:12} {:.2f}  ".format(*pair) + in_words(found), flush=True)


def in_words(found: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.3f}" for name, value in found.items())


def confidences(n: int, rng: np.random.Generator) -> np.ndarray:
    """As a zero-shot model's on ImageNet: many near 1, and a long tail."""
    return np.clip(rng.beta(2.0, 0.9, n), 0.02, 0.999)


def true_ece(confidence: np.ndarray, chance: np.ndarray, bin_: np.ndarray, bins: int) -> float:
    return float(np.abs(np.bincount(bin_, chance - confidence, bins)).sum() / len(chance))


def number_of(name: str, ece: float, bins: int, edges: Any) -> tuple[float, float]:
    """The mistake's number that gives the true ECE in a million images, and the ECE that it gives."""
    chance, low, high = MISTAKES[name]
    confidence = confidences(1_000_000, np.random.default_rng(0))
    bin_ = bin_of(confidence, edges(confidence, bins))
    if ece == 0:
        return low, 0.0
    for _ in range(30):
        middle = (low + high) / 2
        reached = true_ece(confidence, chance(confidence, middle), bin_, bins)
        low, high = (middle, high) if reached < ece else (low, middle)
    return low, true_ece(confidence, chance(confidence, low), bin_, bins)


class Drawn(NamedTuple):
    confidence: np.ndarray
    correct: np.ndarray
    bin_: np.ndarray
    band: ce.NullBand


def models(name: str, number: float, n: int, draws: int, bins: int, edges: Any) -> Iterator[Drawn]:
    """The draws of a group share their images, and so the null band."""
    rng = np.random.default_rng([n, draws])
    draws *= max(1, 5000 // n)  # few images: few intervals
    for group in range(GROUPS):
        confidence = confidences(n, rng)
        bin_ = bin_of(confidence, edges(confidence, bins))
        sums = ce.null_sums(confidence, np.eye(bins)[bin_], f"group {group}")
        band = ce.null_band(np.abs(sums).sum(axis=1) / n)
        chance = MISTAKES[name][0](confidence, number)
        for _ in range(draws // GROUPS):
            yield Drawn(confidence, rng.random(n) < chance, bin_, band)


def calibrated_inside(n: int, draws: int, bins: int, edges: Any) -> float:
    drawn = models("offset", 0.0, n, draws, bins, edges)
    inside = [
        ce.plug_in(ce.gaps_of(each.confidence, each.correct, each.bin_, bins)) <= each.band.hi
        for each in drawn
    ]
    print(f"{n:6} calibrated: {np.mean(inside):.3f} of {len(inside)} draws lie inside the null band")
    return float(np.mean(inside))


def coverage(name: str, ece: float, n: int, draws: int, bins: int, edges: Any) -> dict[str, float]:
    number, truth = number_of(name, ece, bins, edges)
    plain, corrected, held, widths, old = [], [], [], [], []
    for each in models(name, number, n, draws, bins, edges):
        gaps = ce.gaps_of(each.confidence, each.correct, each.bin_, bins)
        plain.append(ce.plug_in(gaps))
        corrected.append(ce.corrected(gaps))
        if (limits := ce.interval(gaps, each.band)) is not None:
            held.append(limits.lo <= truth <= limits.hi)
            widths.append(limits.hi - limits.lo)
        if len(plain) % max(1, draws // OLD_DRAWS) == 0:
            old.append(old_holds(each, plain[-1], truth, bins, len(plain)))
    return {
        "with interval": len(held) / len(plain),
        "of these cover": float(np.mean(held)) if held else float("nan"),
        "width": float(np.mean(widths)) if held else float("nan"),
        "plug-in": float(np.mean(plain)),
        "corrected": float(np.mean(corrected)),
        "old cover": float(np.mean(old)),
    }


def old_holds(each: Drawn, value: float, truth: float, bins: int, seed: int) -> bool:
    """Does the interval of the old convention hold the truth? Its percentiles are shifted to the plug-in."""
    gaps = np.zeros((len(each.correct), bins))
    gaps[np.arange(len(gaps)), each.bin_] = each.correct - each.confidence
    resampling = Resampling("old", len(gaps), resamples=OLD_RESAMPLES, seed=seed)
    drawn = bootstrap(
        lambda w: {"ece": np.abs(w.astype(float) @ gaps).sum(axis=1) / len(gaps)}, resampling, threads=1
    )
    limits = percentile_interval(drawn["ece"] + (value - drawn["ece"].mean()))
    return max(0.0, limits.lo) <= truth <= limits.hi


def chances(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two models' chances to be right, and a number of each image under which both are."""
    difficulty = logit(np.clip(rng.beta(1.6, 0.8, n), 0.02, 0.998))
    own = rng.normal(size=(2, n)) / 2
    return expit(difficulty + own[0]), expit(difficulty + 0.3 + own[1]), rng.random(n)


def confident(chance: np.ndarray, name: str, number: float) -> np.ndarray:
    """Confidences of a model that is right with these chances."""
    if name == "temperature":
        return np.clip(expit(logit(chance) * number), 1e-6, 1 - 1e-6)
    return np.clip(chance + number, 1e-6, 1 - 1e-6)


def sharpness(chance: np.ndarray, name: str, ece: float, bins: int) -> tuple[float, float]:
    """As `number_of`, of a model of a pair."""
    low, high = MISTAKES[name][1:]
    edges = equal_width_edges(bins)
    reached = 0.0
    for _ in range(30 if ece else 0):
        middle = (low + high) / 2
        confidence = confident(chance, name, middle)
        reached = true_ece(confidence, chance, bin_of(confidence, edges), bins)
        low, high = (middle, high) if reached < ece else (low, middle)
    return low, reached


def of_differences(pair: tuple[str, float, str, float], n: int, draws: int, bins: int) -> dict[str, float]:
    rng, edges = np.random.default_rng(n), equal_width_edges(bins)
    first, second, _ = chances(500_000, rng)
    numbers = sharpness(first, pair[0], pair[1], bins), sharpness(second, pair[2], pair[3], bins)
    truth = numbers[1][1] - numbers[0][1]
    changes, held, decided, widths = [], [], [], []
    for _ in range(draws):
        *both, level = chances(n, rng)
        runs = []
        for chance, name, (number, _) in zip(both, (pair[0], pair[2]), numbers):
            confidence, correct = confident(chance, name, number), level < chance
            runs.append(ce.binned(confidence, correct, bin_of(confidence, edges), bins))
        limits, p = ce.difference(*runs)
        changes.append(ce.corrected(runs[1].gaps) - ce.corrected(runs[0].gaps))
        held.append(limits.lo <= truth <= limits.hi)
        decided.append(p <= 0.05)
        widths.append(limits.hi - limits.lo)
        assert (p <= 0.05) == (not limits.lo <= 0 <= limits.hi)
    return {
        "truth": truth,
        "mean": float(np.mean(changes)),
        "cover": float(np.mean(held)),
        "width": float(np.mean(widths)),
        "p below .05": float(np.mean(decided)),
    }


if __name__ == "__main__":
    typer.run(main)

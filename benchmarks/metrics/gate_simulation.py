"""What slips through a gate of checkpoints, and the level of its one-sided test.

    python benchmarks/metrics/gate_simulation.py

No time is measured. Each checkpoint is truly a little worse than the one that it grows from. A gate against
the last accepted one lets nearly all through, and what they lose adds up; a gate against a pinned one does
not. The levels are enumerated: the largest probability over discordances that a model exactly at the margin
passes, divided by alpha.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Annotated

import numpy as np
import scipy.special
import typer

from benchmarks import common
from clipjax.gates.conditions import Spending, read_condition
from clipjax.metrics.uncertainty.intervals import paired_difference
from clipjax.metrics.uncertainty.margins import MarginTest, score

ABOVE = read_condition("not_worse(top1, 0.005)").aim.above
CHECKPOINTS = 20


def main(
    draws: Annotated[int, typer.Option(help="Trainings drawn.")] = 2000,
    images: Annotated[int, typer.Option(help="Images of the data set.")] = 50_000,
    discordance: Annotated[
        float, typer.Option(help="Images that one model alone has right, a share.")
    ] = 0.06,
    step: Annotated[float, typer.Option(help="What a checkpoint truly loses.")] = 0.002,
    json: common.Json = None,
) -> None:
    """Checkpoints that pass, what they lose, and levels."""
    rng = np.random.default_rng(0)
    ways: dict[str, Callable[[int], float]] = {
        "alpha .05 each": lambda _: 0.05,
        "alpha .05 spent as a series": Spending(0.05).share,
        "alpha .05 spent equally": Spending(0.05, CHECKPOINTS).share,
    }
    with common.reported("gate_simulation", json) as report:
        for name, share in ways.items():

            def passes(losses: np.ndarray, share: Callable[[int], float] = share) -> np.ndarray:
                return drawn(rng, losses, images, discordance, share, draws)

            last = passes(np.full(CHECKPOINTS, step)).sum(1)
            report[f"{name}: pass against the last accepted one, of {CHECKPOINTS}"] = last.mean()
            report[f"{name}: points lost by them"] = 100 * step * last.mean()
            report[f"{name}: pass against the pinned one"] = (
                passes(step * np.arange(1, CHECKPOINTS + 1)).sum(1).mean()
            )
            at_margin = passes(np.full(CHECKPOINTS, -ABOVE))
            report[f"{name}: trainings at the margin of which any checkpoint passes"] = at_margin.any(
                1
            ).mean()
        for alpha in (0.05, 0.025, 0.0025):
            report |= dict(levels(alpha))
        common.table([(name, f"{value:.4g}") for name, value in report.items()])


def drawn(
    rng: np.random.Generator,
    losses: np.ndarray,
    n: int,
    discordance: float,
    share: Callable[[int], float],
    draws: int,
) -> np.ndarray:
    """bool [draws, checkpoints]: which pass, each with its true loss against the other model."""
    passed = np.zeros((draws, len(losses)), bool)
    for k, loss in enumerate(losses):
        wide = max(discordance, loss)
        chances = [(wide - loss) / 2, (wide + loss) / 2, 1 - wide]
        gained, lost, _ = rng.multinomial(n, chances, draws).T
        passed[:, k] = MarginTest(n, ABOVE, share(k + 1)).shows(gained, lost)
    return passed


def levels(alpha: float) -> Iterator[tuple[str, float]]:
    """The largest level over discordances, divided by alpha: of simpler tests, and of the gate's."""
    z = -scipy.special.ndtri(alpha)
    for n, margin in ((20, 0.05), (54, 0.05), (200, 0.05)):
        tests = {
            "MOVER": lambda b, c, n=n, margin=margin: mover(b, c, n, alpha) > -margin,
            "score": lambda b, c, n=n, margin=margin: score(b, c, n, -margin) > z,
            "gate": MarginTest(n, -margin, alpha).shows,
        }
        for name, shows in tests.items():
            worst = max(level(n, each, margin, shows) for each in np.geomspace(margin, 0.9, 60))
            yield f"level / alpha, alpha {alpha}, {n} images, margin {margin}: {name}", worst / alpha
    for n, margin in ((5000, 0.01), (50_000, 0.005)):
        test = MarginTest(n, -margin, alpha)
        worst = max(test.chance(each, -margin) for each in np.geomspace(margin, 0.9, 60))
        yield f"level / alpha, alpha {alpha}, {n} images, margin {margin}: gate", worst / alpha


@functools.cache
def _mover(gained: int, lost: int, n: int, alpha: float) -> float:
    return paired_difference(gained, lost, n, 1 - 2 * alpha).lo


def mover(gained: np.ndarray, lost: np.ndarray, n: int, alpha: float) -> np.ndarray:
    return np.array([_mover(b, c, n, alpha) for b, c in zip(gained.tolist(), lost.tolist())])


def level(n: int, discordance: float, margin: float, shows: Callable[..., np.ndarray]) -> float:
    """By all pairs of counts, for few images."""
    gained, lost = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
    inside = gained + lost <= n
    gained, lost = gained[inside], lost[inside]
    gain, loss = max(discordance - margin, 0) / 2, (discordance + margin) / 2
    chances = np.exp(
        scipy.special.gammaln(n + 1)
        - sum(scipy.special.gammaln(each + 1) for each in (gained, lost, n - gained - lost))
        + scipy.special.xlogy(gained, gain)
        + scipy.special.xlogy(lost, loss)
        + scipy.special.xlogy(n - gained - lost, 1 - discordance)
    )
    return float(chances @ shows(gained, lost))


if __name__ == "__main__":
    typer.run(main)

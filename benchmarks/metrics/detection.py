"""AUROC and its bootstrap: clipjax against scikit-learn, 50,000 ID and 10,000 OOD scores.

    python benchmarks/metrics/detection.py

Scikit-learn's bootstrap is a loop: draw images, `roc_auc_score`. A few of its resamples are timed and
extrapolated to a thousand; clipjax makes all of them in every round. Both use the same resamples, and every
value is compared. The jitted kernel that counts on devices is timed too.
"""

from __future__ import annotations

import tracemalloc
from typing import Annotated, Any

import jax
import numpy as np
import typer
from sklearn.metrics import average_precision_score, roc_auc_score

from benchmarks import common
from clipjax.metrics.curves import tally
from clipjax.metrics.detection import MEASURES, Ranking, auroc, measures, rank
from clipjax.metrics.uncertainty.bootstrap import RESAMPLES, Resampling, bootstrap

TOLERANCE = 1e-9


def main(
    id_images: Annotated[int, typer.Option("--id", help="ID scores.")] = 50_000,
    ood_images: Annotated[int, typer.Option("--ood", help="OOD scores.")] = 10_000,
    rounds: Annotated[int, typer.Option(help="Paired rounds.")] = 5,
    loop: Annotated[int, typer.Option(help="Resamples of the loop in a round.")] = 5,
    json: common.Json = None,
) -> None:
    """AUROC and its bootstrap, clipjax against scikit-learn."""
    rng = np.random.default_rng(0)
    scores = tuple(
        rng.normal(shift, 1, size).astype(np.float32) for shift, size in ((1, id_images), (0, ood_images))
    )
    labels = np.repeat([1, 0], [id_images, ood_images])
    difference = abs(auroc(*scores) - roc_auc_score(labels, np.concatenate(scores)))
    single = common.paired(
        {
            "scikit-learn": lambda: roc_auc_score(labels, np.concatenate(scores)),
            "clipjax": lambda: auroc(*scores),
            "kernel": kernel(scores),
        },
        4 * rounds,
    )
    many, worst = measure_bootstrap(scores, labels, rounds, loop)
    if not max(difference, worst) <= TOLERANCE:
        raise SystemExit(f"the values differ by {max(difference, worst):.1e}: there is nothing to compare")
    with common.reported("detection", json) as results:
        results |= {"id": id_images, "ood": ood_images, "single": single, "bootstrap": many}
        results |= {"largest_difference": max(difference, worst), **memory(scores)}
        report(results)


def kernel(scores: tuple[np.ndarray, ...]) -> Any:
    """The compiled count of the OOD scores above each ID score."""
    arrays = [jax.device_put(part) for part in (*scores, np.ones(len(scores[1]), bool))]

    def count() -> None:
        jax.block_until_ready(tally(*arrays))

    count()
    return count


def statistic(ranking: Ranking, names: tuple[str, ...]) -> Any:
    return lambda x, y: measures(ranking, names, x, y)


def resampled(scores: tuple[np.ndarray, ...], resamples: int = RESAMPLES) -> tuple[Resampling, Resampling]:
    return (
        Resampling("id", len(scores[0]), resamples=resamples),
        Resampling("ood", len(scores[1]), resamples=resamples),
    )


def measure_bootstrap(
    scores: tuple[np.ndarray, ...], labels: np.ndarray, rounds: int, loop: int
) -> tuple[dict[str, list[float]], float]:
    """Seconds for a thousand resamples per round (the loop's extrapolated), and the largest difference."""
    made: dict[str, dict[str, np.ndarray]] = {}
    weights = [next(data.blocks(loop)) for data in resampled(scores, loop)]
    # Drawing the resamples is not charged to the loop.
    drawn = [
        np.concatenate([np.repeat(part, row) for part, row in zip(scores, rows)]) for rows in zip(*weights)
    ]

    def area() -> None:
        made["sklearn"] = {"auroc": np.array([roc_auc_score(labels, sample) for sample in drawn])}

    def ours(names: tuple[str, ...]) -> None:
        made["clipjax"] = bootstrap(statistic(rank(*scores), names), *resampled(scores))

    times = common.paired({"scikit-learn": area, "clipjax": lambda: ours(("auroc",))}, rounds)
    times["scikit-learn"] = [RESAMPLES / loop * taken for taken in times["scikit-learn"]]
    worst = np.abs(made["clipjax"]["auroc"][:loop] - made["sklearn"]["auroc"]).max()
    times["clipjax, all measures"] = [common.seconds(lambda: ours(MEASURES))]
    average = [average_precision_score(labels, sample) for sample in drawn]
    return times, max(worst, np.abs(made["clipjax"]["aupr_in"][:loop] - average).max())


def memory(scores: tuple[np.ndarray, ...]) -> dict[str, float]:
    """Peak MB of NumPy's arrays in bootstraps of all measures, with 50 and with 200 resamples."""
    peaks = {}
    for resamples in (50, 200):
        tracemalloc.start()
        bootstrap(statistic(rank(*scores), MEASURES), *resampled(scores, resamples))
        peaks[f"peak_mb_{resamples}"] = tracemalloc.get_traced_memory()[1] / 1e6
        tracemalloc.stop()
    return peaks


def report(results: dict[str, Any]) -> None:
    single, many = results["single"], results["bootstrap"]
    results["speed"] = common.ratio(single["scikit-learn"], single["clipjax"])
    results["bootstrap_speed"] = common.ratio(many["scikit-learn"], many["clipjax"])
    print(f"{results['id']} ID scores, {results['ood']} OOD scores, {RESAMPLES} resamples")
    ratios = {"AUROC": results["speed"], "bootstrap of AUROC": results["bootstrap_speed"]}
    whole = results["id"] + results["ood"]
    common.table(
        [
            *((f"AUROC, {name}, ms", f"{1e3 * common.median(taken):.2f}") for name, taken in single.items()),
            *((f"bootstrap, {name}, s", f"{common.median(taken):.2f}") for name, taken in many.items()),
            *(
                (f"{name}, times faster", f"{r['ratio']:.1f} (rounds {r['lowest']:.1f}-{r['highest']:.1f})")
                for name, r in ratios.items()
            ),
            ("peak, 50 and 200 resamples, MB", f"{results['peak_mb_50']:.0f}, {results['peak_mb_200']:.0f}"),
            (f"weights of {RESAMPLES} resamples held whole, MB", f"{8e-6 * whole * RESAMPLES:.0f}"),
            ("largest difference", f"{results['largest_difference']:.1e}"),
        ]
    )


if __name__ == "__main__":
    typer.run(main)

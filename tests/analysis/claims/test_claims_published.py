"""The statements that published numbers can check, computed anew from the published files by others.

The numbers come from the CSV files themselves and the statistics from statsmodels and scipy; what is taken
from clipjax is which models are in which group. docs/study/claims.md shows the same numbers.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import scipy.stats as typed_stats
import statsmodels.api as sm

from clipjax.analysis.claims.claims import (
    FAILS,
    HOLDS,
    UNKNOWN,
    Finding,
    Verdict,
    check,
    decide,
    doubted,
)
from clipjax.analysis.claims.ledger import ledger
from clipjax.analysis.rows.lineage import family_of, run_of
from clipjax.config import config_dir
from clipjax.results.published.references import sources
from clipjax.storage.reading import read_csv

# Reading what is published and checking every claim takes half of their time.
pytestmark = pytest.mark.long("analysis/claims/test_claims.py::test_holds_does_not_hold_cannot_be_told")

stats: Any = typed_stats  # its stubs do not know all that scipy has
RESAMPLES = 200
SHIFTS = ("v2", "sketch", "r", "a", "objectnet")
# Images of each set, which decide how far from 0 and 1 probit coordinates may be.
IMAGES = {"imagenet": 50000, "v2": 10000, "sketch": 50889, "r": 30000, "a": 7500, "objectnet": 18574}
TESTBED = {
    "imagenet": "val",
    "v2": "imagenetv2-matched-frequency-format-val",
    "sketch": "imagenet-sketch",
    "r": "imagenet-r",
    "a": "imagenet-a",
    "objectnet": "objectnet-1.0-beta",
}
OPEN_CLIP = {
    "imagenet": "ImageNet 1k",
    "v2": "ImageNet v2",
    "sketch": "ImageNet Sketch",
    "r": "ImageNet-R",
    "a": "ImageNet-A",
    "objectnet": "ObjectNet",
    **{f"flickr_{way}s": f"Flickr {way} retr. R@5" for way in ("image", "text")},
    **{f"coco_{way}s": f"MSCOCO {way} retr. R@5" for way in ("image", "text")},
}
TIMM = {
    "imagenet": "results-imagenet.csv",
    "v2": "results-imagenetv2-matched-frequency.csv",
    "sketch": "results-sketch.csv",
    "r": "results-imagenet-r.csv",
    "a": "results-imagenet-a.csv",
}
# Images with each factor (the top one, prototypes left out), and all of ImageNet-X.
FACTORS = {
    "factors": 46110,
    "pose": 15064,
    "background": 14751,
    "color": 6150,
    "smaller": 1450,
    "shape": 679,
    "partial_view": 638,
    "subcategory": 585,
    "texture": 282,
    "larger": 150,
}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The benchmark that prints the document's table."""
    from benchmarks.metrics import claim_placebos

    return claim_placebos


@pytest.fixture(scope="module")
def rows(test_data: Path, script: ModuleType) -> list[Any]:
    """All that is published of the claims' rows."""
    return script.published_of(test_data / "published")


@pytest.fixture(scope="module")
def verdicts(rows: list[Any]) -> dict[str, Verdict]:
    found = check(ledger(), rows, resamples=RESAMPLES)
    return {each.claim.key: each for each in found}


@pytest.fixture(scope="module")
def published(test_data: Path) -> Callable[[str, str], float]:
    """(model, column of the claims) -> what a published file says, a fraction."""
    return Published(test_data / "published")


class Published:
    """The published files, read by themselves."""

    def __init__(self, folder: Path) -> None:
        self.registered = {record["id"]: record for record in read_csv(config_dir() / "models.csv")}
        self.open_clip: dict[tuple[str, str], dict[str, str]] = {}
        for name in ("classification", "retrieval"):
            for line in _lines(folder / "openclip" / f"openclip_{name}_results.csv"):
                self.open_clip.setdefault((line["name"], line["pretrained"]), {}).update(line)
        self.testbed = {line["model"]: line for line in _lines(folder / "testbed" / "robustness_top1s.csv")}
        self.factors = {
            (part, line["model"]): line
            for part in sources()["imagenet_x"]["parts"]
            for line in _lines(folder / "imagenet_x" / f"{part}_top_factor_class.csv")
        }
        self.timm = {
            column: {
                (line["model"], line["img_size"]): line["top1"] for line in _lines(folder / "timm" / name)
            }
            for column, name in TIMM.items()
        }

    def imagenet_x(self, model: str, column: str) -> float:
        """Of the files of ImageNet-X, by their own names."""
        named = {of["id"]: name.split() for name, of in sources()["imagenet_x"]["models"].items()}
        part, name = named[model] if model in named else model.split(":", 2)[1:]
        title = "average" if column == "factors" else column
        return float(self.factors[part, name][title])

    def __call__(self, model: str, column: str) -> float:
        if column in FACTORS:
            return self.imagenet_x(model, column)
        record = self.registered.get(model)
        source, _, name = model.partition(":") if record is None else (record["library"], "", "")
        if source == "open_clip":
            return float(self._of_open_clip(name, record)[OPEN_CLIP[column]])
        if source == "testbed":
            return float(self.testbed[name][TESTBED[column]]) / 100
        if record is None:
            name, size = name.removesuffix("px").rsplit("@", 1)
        else:
            name, size = f"{record['library_arch']}.{record['tag']}", record["crop_size"]
        return float(self.timm[column][name, size]) / 100

    def _of_open_clip(self, name: str, record: dict[str, str] | None) -> dict[str, str]:
        arch, tag = name.split(":") if record is None else (record["library_arch"], record["tag"])
        if (arch, tag) in self.open_clip:
            return self.open_clip[arch, tag]
        return self.open_clip[arch.removesuffix("-quickgelu"), tag]


def _lines(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def parts(verdict: Verdict) -> dict[tuple[str, str], Finding]:
    return {(each.part.y.key, each.part.group.name): each for each in verdict.findings}


def models_of(finding: Finding, group: bool = True) -> list[str]:
    """The models of the group, or those that it was held against, in the order of the rows used."""
    models = list(dict.fromkeys(row["model"] for row in finding.rows))
    return models[: finding.n[0]] if group else models[finding.n[0] :]


def values(published: Callable[[str, str], float], models: list[str], column: str) -> np.ndarray:
    return np.array([published(model, column) for model in models])


def probit(accuracy: np.ndarray, images: int) -> np.ndarray:
    return stats.norm.ppf(np.clip(accuracy, 0.5 / images, 1 - 0.5 / images))


def line(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Intercept and slope of statsmodels' robust regression."""
    found = sm.RLM(y, sm.add_constant(x), M=sm.robust.norms.HuberT()).fit(
        maxiter=1000, tol=1e-12, conv="coefs"
    )
    return np.asarray(found.params)


# ----------------------------------------------------- CLIP lies above the trend of ImageNet models on shifts


@pytest.mark.parametrize("column", SHIFTS)
def test_clip_lies_above_the_trend_of_imagenet_models(
    column: str, verdicts: dict[str, Verdict], published: Callable[[str, str], float]
) -> None:
    finding = parts(verdicts["shifts_robust"])[column, "clip"]
    clips, others = models_of(finding), models_of(finding, group=False)
    x, y = (
        probit(
            values(published, others, name),
            IMAGES[name] if column != "objectnet" or name != column else 18514,
        )
        for name in ("imagenet", column)
    )
    intercept, slope = line(x, y)
    expected = stats.norm.cdf(intercept + slope * probit(values(published, clips, "imagenet"), 50000))
    off = values(published, clips, column) - expected
    assert finding.value == pytest.approx(off.mean(), abs=1e-6)
    assert (finding.word, finding.n) == (HOLDS, (len(off), len(x)))
    assert finding.lo is not None
    assert finding.hi is not None
    families = np.unique([family_of(model) for model in clips], return_inverse=True)[1]
    mean = sm.OLS(off, np.ones_like(off)).fit(cov_type="cluster", cov_kwds={"groups": families})
    count = families.max() + 1
    assert finding.units[0] == count == 25
    lo, hi = stats.t.interval(0.95, count - 1, off.mean(), mean.bse[0])
    assert finding.lo <= lo  # the trend's own error comes on top
    assert hi <= finding.hi
    assert finding.hi - finding.lo < 1.5 * (hi - lo)


# -------------------------------------------------------------------------------------------- visual factors


@pytest.mark.parametrize("claim", ["factors_gained", "factors_lost", "factors_background"])
def test_two_clips_against_the_trend_of_imagenet_models_on_visual_factors(
    claim: str, verdicts: dict[str, Verdict], published: Callable[[str, str], float]
) -> None:
    """Section IV-A, from ImageNet-X's own files."""
    for (column, _), finding in parts(verdicts[claim]).items():
        clips, others = models_of(finding), models_of(finding, group=False)
        assert clips == ["rn50-openai", "vit_b_32-openai"]
        x, y = (probit(values(published, others, name), FACTORS[name]) for name in ("factors", column))
        intercept, slope = line(x, y)
        at = probit(values(published, clips, "factors"), FACTORS["factors"])
        off = values(published, clips, column) - stats.norm.cdf(intercept + slope * at)
        assert finding.value == pytest.approx(off.mean(), abs=2e-6), column
        lo, hi = stats.t.interval(0.95, 1, off.mean(), off.std(ddof=1) / np.sqrt(2))
        assert finding.lo is not None
        assert finding.hi is not None
        assert finding.lo <= lo + 2e-6
        assert hi <= finding.hi + 2e-6
        assert finding.word == decide(finding.lo, finding.hi, finding.part)


# ----------------------------------------------------------------------- the training source separates trends


@pytest.mark.parametrize("claim", ["shifts_source", "retrieval_source"])
def test_wit_and_laion_have_trends_of_their_own(
    claim: str, verdicts: dict[str, Verdict], published: Callable[[str, str], float]
) -> None:
    """Where both have models: in the middle of their common range of accuracy on ImageNet."""
    for (column, _), finding in parts(verdicts[claim]).items():
        images = IMAGES.get(column, 10**9)
        fits, ends = [], []
        for models in (models_of(finding), models_of(finding, group=False)):
            x = probit(values(published, models, "imagenet"), IMAGES["imagenet"])
            fits.append(line(x, probit(values(published, models, column), images)))
            ends.append((x.min(), x.max()))
        middle = (max(low for low, _ in ends) + min(high for _, high in ends)) / 2
        wit, laion = (stats.norm.cdf(intercept + slope * middle) for intercept, slope in fits)
        assert finding.value == pytest.approx(wit - laion, abs=1e-6), column
        assert all("openai" in model for model in models_of(finding))
        assert all("laion" in model for model in models_of(finding, group=False))


def test_intervals_of_trends_are_those_of_another_bootstrap(
    verdicts: dict[str, Verdict], published: Callable[[str, str], float]
) -> None:
    """Drawn by another generator and fitted by statsmodels, on ImageNet-A."""
    finding = parts(verdicts["shifts_source"])["a", "wit"]
    rng = np.random.default_rng(123)
    sets = [
        [probit(values(published, models, name), IMAGES[name]) for name in ("imagenet", "a")]
        for models in (models_of(finding), models_of(finding, group=False))
    ]
    middle = (max(x.min() for x, _ in sets) + min(x.max() for x, _ in sets)) / 2
    draws = []
    for _ in range(100):
        ends = []
        for x, y in sets:
            drawn = rng.integers(0, len(x), len(x))
            intercept, slope = line(x[drawn], y[drawn])
            ends.append(stats.norm.cdf(intercept + slope * middle))
        draws.append(ends[0] - ends[1])
    lo, hi = np.quantile(draws, [0.025, 0.975])
    assert finding.lo == pytest.approx(lo, abs=0.012)
    assert finding.hi == pytest.approx(hi, abs=0.012)
    assert hi - lo > 0.03  # else the tolerance would say nothing


# ----------------------------------------------------------------- classification accuracy predicts retrieval


def test_accuracy_predicts_retrieval(
    verdicts: dict[str, Verdict], published: Callable[[str, str], float]
) -> None:
    rng = np.random.default_rng(5)
    for (column, _), finding in parts(verdicts["retrieval_accuracy"]).items():
        models = models_of(finding)
        x, y = values(published, models, "imagenet"), values(published, models, column)
        assert finding.value == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
        drawn = rng.integers(0, len(x), (300, len(x)))
        limits = np.quantile([stats.spearmanr(x[k], y[k]).statistic for k in drawn], [0.025, 0.975])
        assert [finding.lo, finding.hi] == pytest.approx(limits, abs=0.015)
        assert finding.word == HOLDS


# -------------------------------------------------------------------------- fine-tuned models and their bases


@pytest.mark.parametrize("column", ["imagenet", "r", "a"])
def test_fine_tuned_models_and_their_bases(
    column: str, verdicts: dict[str, Verdict], published: Callable[[str, str], float]
) -> None:
    """On ImageNet-R fine-tuning lowers accuracy, in all pairs that are published."""
    [finding] = [
        each
        for each in verdicts["calibration_fine_tuned"].findings
        if each.part.y.key == column and each.measured
    ]
    registered = {record["id"]: record for record in read_csv(config_dir() / "models.csv")}
    tuned = sorted({row["model"] for row in finding.rows if registered[row["model"]]["group"] == "clip_ft"})
    off = np.array([published(m, column) - published(registered[m]["parent"], column) for m in tuned])
    runs = [run_of(m) for m in tuned]
    each = [float(off[np.array(runs) == run].mean()) for run in sorted(set(runs))]
    assert finding.units[0] == len(each) == 10
    means = [(a + b) / 2 for a, b in itertools.combinations_with_replacement(each, 2)]
    assert finding.value == pytest.approx(float(np.median(means)), abs=1e-9)
    assert finding.n == (len(off),)
    assert finding.word == (FAILS if column == "r" else HOLDS)
    assert (stats.wilcoxon(off, mode="exact").pvalue < 0.05) == (finding.word != UNKNOWN)


def test_what_the_published_numbers_say(verdicts: dict[str, Verdict]) -> None:
    told = {key: each.word for key, each in verdicts.items() if each.word != UNKNOWN}
    assert told == {
        "shifts_robust": HOLDS,
        "calibration_fine_tuned": FAILS,
        "retrieval_accuracy": HOLDS,
        "retrieval_source": FAILS,
    }
    source = {key[0]: each.word for key, each in parts(verdicts["shifts_source"]).items()}
    assert [source[name] for name in ("sketch", "a", "objectnet")] == [HOLDS] * 3


def test_epochs_of_one_run_do_not_decide_a_claim(
    rows: list[Any], verdicts: dict[str, Verdict], script: ModuleType
) -> None:
    """Ten models of LAION-400M hold a claim that its six runs leave open."""
    [by_models] = check(
        script.with_unit(ledger(), "model"), rows, claims=["retrieval_quantity"], resamples=RESAMPLES
    )
    models, runs = (
        parts(verdict)["flickr_texts", "laion_400m"]
        for verdict in (by_models, verdicts["retrieval_quantity"])
    )
    assert (models.word, models.units, runs.word, runs.units) == (HOLDS, (10, 22), UNKNOWN, (6, 17))
    assert models.value == runs.value
    assert [runs.lo, runs.hi] == pytest.approx([-0.0103, 0.0020], abs=0.003)


@pytest.mark.long("analysis/claims/test_placebo.py::test_two_families_of_different_offsets_decide_nothing")
def test_claims_about_nothing_and_about_a_planted_effect(test_data: Path, script: ModuleType) -> None:
    """A small share of the benchmark's draws: random families of timm on ImageNet-A, 3 points on V2."""
    models = script.timm_models(script.published_of(test_data / "published", ["timm"]))
    shares = script.decided_at_random(models, script.ten_families(models, 12), ["a"])["a"]
    assert shares["above"] <= 2 / 12
    assert shares["above, by models"] >= 4 / 12
    power = script.power(models, 8)
    assert power[HOLDS] >= 7 / 8
    assert power["decided without an effect"] <= 1 / 8


def test_an_ordinary_offset_decides_nothing(verdicts: dict[str, Verdict]) -> None:
    """Four ConvNeXts are as far from LAION's trend as random families are."""
    found = parts(verdicts["retrieval_crop"])
    for column in ("flickr_texts", "coco_texts"):
        finding = found[column, "narrow_crop_cnn"]
        assert finding.lo is not None
        assert finding.hi is not None
        assert (decide(finding.lo, finding.hi, finding.part), finding.word) == (FAILS, UNKNOWN)
        assert finding.why is not None
        assert finding.why.endswith("of random splits by family are as far off: an ordinary offset")


@pytest.mark.long("analysis/claims/test_ledger.py::test_the_document_names_the_ledgers_parts")
def test_the_document_shows_what_is_found(verdicts: dict[str, Verdict], script: ModuleType) -> None:
    """Its limits are those of more draws than here; its words follow from its own numbers by the rule."""
    text = (Path(__file__).parents[3] / "docs" / "study" / "claims.md").read_text(encoding="utf-8")
    lines = text.split("<!-- verdicts: begin -->\n")[1].split("\n<!-- verdicts: end -->")[0].splitlines()
    titles, _, *shown = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert titles == script.TITLES
    found = {(key, str(each.part)): each for key, verdict in verdicts.items() for each in verdict.findings}
    expected = [cells for verdict in verdicts.values() for cells in script.cells_of(verdict)]
    assert len(shown) == len(expected) == 41
    for cells, own in zip(shown, expected):
        finding = found[cells[0], cells[2]]
        assert [*cells[:5], *cells[6:9]] == [*own[:5], *own[6:9]]
        lo, hi = map(float, cells[5].strip("[]").split(","))
        assert [finding.lo, finding.hi] == pytest.approx([lo, hi], abs=0.25 * (hi - lo)), cells[:3]
        word = decide(lo, hi, finding.part)
        doubt = finding.placebo is not None and doubted(word, finding.part, finding.placebo)
        assert cells[9] == (UNKNOWN if doubt else word)

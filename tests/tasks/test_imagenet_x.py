"""Visual factors: the reference's numbers for ResNet-50, a small data set by hand, NumPy loops, bad input."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import _factors
import jax.numpy as jnp
import numpy as np
import pytest
from _colours import ColourModel, paint
from _factors import IMAGES, SPACE

import clipjax
from clipjax.data.annotations import FactorAnnotations, load_factors
from clipjax.data.labels import LabelSpace
from clipjax.errors import DataError
from clipjax.evaluation.predictions.scoring import evaluate_predictions
from clipjax.heads.head import Head, identity_head
from clipjax.metrics.confidence import calibration
from clipjax.metrics.uncertainty import intervals
from clipjax.metrics.uncertainty.bootstrap import Resampling, generator, percentile_interval
from clipjax.metrics.worst import second_half, worst_of_halves
from clipjax.tasks import imagenet_x
from clipjax.tasks.inputs import About, ImageInputs
from clipjax.tasks.task import Measure

PREDICTED = [0, 1, 0, 0, 1, 2, 1, 1, 0, 2, 2, 1]  # wrong: 1, 5, 8; the last image has no annotation
CONFIDENCE = np.linspace(0.4, 0.95, 12).astype(np.float32)
IDS = [*(f"some/folder/{name}" for name in IMAGES), "11.png"]


@pytest.fixture(scope="module")
def notes(tmp_path_factory) -> FactorAnnotations:
    return load_factors(_factors.write(tmp_path_factory.mktemp("notes")))


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> FactorAnnotations:
    return load_factors(_factors.write(tmp_path_factory.mktemp("notes"), optional=False))


def inputs(notes: FactorAnnotations, **changes: Any) -> ImageInputs:
    """Logits whose softmax has the planted class and confidence."""
    rest = np.log((1 - CONFIDENCE) / 2)
    logits = np.repeat(rest[:, None], 3, axis=1)
    logits[np.arange(12), PREDICTED] = np.log(CONFIDENCE)
    labels = np.array([*(label for label, _, _ in IMAGES.values()), 1], np.int32)
    given = ImageInputs(
        ids=IDS,
        features=logits,
        labels=labels,
        head=identity_head(SPACE),
        label_space=SPACE,
        dataset="letters",
        annotations=notes,
    )
    return dataclasses.replace(given, **{"resamples": 200, **changes})


def measured(given: ImageInputs) -> dict[tuple[str, str | None], Measure]:
    return {(m.metric, m.slice): m for m in imagenet_x.TASK.run(given).measures}


@pytest.fixture(scope="module")
def found(notes):
    return measured(inputs(notes))


def test_numbers_by_hand(found):
    """Prototypes 0 and 9 are left out: 9 images, of which 1, 5 and 8 are wrong."""
    average = found["average", None]
    assert (average.value, average.n, average.interval) == (6 / 9, 9, intervals.wilson(6, 9))
    assert average.note == "1 images have no annotation; 2 prototypes left out"
    pose = found["accuracy", "top/filtered/factor:pose"]  # images 1, 4, 7, 10
    assert (pose.value, pose.n, pose.interval) == (3 / 4, 4, intervals.wilson(3, 4))
    assert found["error_ratio", "top/filtered/factor:pose"].value == pytest.approx((1 / 4) / (3 / 9))
    assert found["accuracy", "top/kept/factor:pose"].value == 5 / 6  # and 0, 9
    assert found["accuracy", "multi/filtered/factor:pose"].value == 5 / 6  # 1, 2, 4, 6, 7, 10
    assert found["accuracy", "multi/kept/factor:texture"].value == 3 / 4  # 0, 2, 5, 6
    assert found["average", "multi/kept"].value == 8 / 11
    assert found["average", "top/kept"].note == "1 images have no annotation"


def test_worst_factors(found):
    """larger: only image 8, wrong; glow is no factor of the paper's ten, and right."""
    worst = found["worst_factor_of_ten", None]
    assert (worst.value, worst.n, worst.note) == (0, 1, "larger, of 3 factors")
    assert found["worst_factor_of_all", None].note == "larger, of 4 factors"
    assert found["worst_factor_of_ten", "multi/filtered"].value == 1 / 2


def test_other_ways_to_be_right(found):
    """5: c for b is one metaclass, and its ReaL label; 4: right, but without any ReaL label; 1: neither."""
    assert found["average_metaclass", None].value == 7 / 9
    assert found["accuracy_metaclass", "top/filtered/factor:texture"].value == 1
    assert found["average_real", None].value == 1 / 9
    assert found["accuracy_real", "top/kept/factor:texture"].value == 1 / 2


def test_few_classes_have_no_worst_hundred(found):
    assert found["worst_100_classes", None].value is None
    assert found["worst_100_classes", None].note == "not applicable: 3 classes have images"
    held_out = found["worst_100_classes_held_out", None]
    assert held_out.value is None
    assert held_out.note == "not applicable: 100 classes or fewer have images in both halves"


def many_images(classes: int = 150, each: int = 6) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    n = classes * each
    label = np.repeat(np.arange(classes), each)
    named = [["pose"] if p < 0.5 else ["color"] if p < 0.9 else ["glow"] for p in rng.random(n)]
    easy = np.array([{"pose": 0.9, "color": 0.7, "glow": 0.1}[names[0]] for names in named])
    return {
        "id": [f"val/{i}.png" for i in range(n)],
        "confidence": rng.random(n),
        "label": label,
        "correct": rng.random(n) < easy,
        "annotated": np.ones(n, bool),
        "prototype": np.arange(n) % each == 0,
        "top_factors": named,
        "multi_factors": named,
        "second_half": second_half([f"{i}.png" for i in range(n)], label),
    }


def test_the_worst_held_out():
    """The halves of the 750 images without prototypes; the old numbers stay beside the new ones."""
    images = many_images()
    found = {(m.metric, m.slice): m for m in imagenet_x.measure(images, About("x", None, resamples=20))}
    part = ~images["prototype"]
    labels, correct, second = (images[name][part] for name in ("label", "correct", "second_half"))
    expected = worst_of_halves(labels, correct, second, 100)
    assert expected is not None
    classes = found["worst_100_classes_held_out", None]
    assert (classes.value, classes.n, classes.interval) == (expected.value, expected.n, expected.interval)
    assert classes.note == f"both halves choose {len(np.intersect1d(*expected.choices))} of them"
    same = found["worst_100_classes", None].value
    assert same is not None
    assert expected.value > same + 0.05
    for metric, name in (("worst_factor_of_ten", "color"), ("worst_factor_of_all", "glow")):
        held_out, old = found[f"{metric}_held_out", None], found[metric, None]
        assert held_out.note == f"the halves choose {name} and {name}"
        assert held_out.n == old.n
        assert held_out.value == pytest.approx(old.value, abs=0.01)


def test_a_table_without_halves_has_the_old_numbers_alone():
    images = {name: values for name, values in many_images().items() if name != "second_half"}
    found = {m.metric: m for m in imagenet_x.measure(images, About("x", None, resamples=20)) if not m.slice}
    assert found["worst_100_classes"].value is not None
    for metric in ("worst_100_classes", "worst_factor_of_ten", "worst_factor_of_all"):
        lost = found[f"{metric}_held_out"]
        assert lost.value is None
        assert lost.note == (
            "not applicable: the table has no column `second_half`: evaluate the model again"
        )


def test_halves_depend_on_file_names_alone(notes):
    images = imagenet_x.describe(inputs(notes))
    assert (images["second_half"] == second_half([*IMAGES, "11.png"], images["label"])).all()


def test_what_no_file_says_is_not_applicable(bare):
    found = measured(inputs(bare))
    assert found["average_real", None].note == "not applicable: no ReaL labels are known"
    assert found["average_metaclass", None].note == "not applicable: no metaclasses are known"
    assert found["average_real", None].value is found["average_metaclass", None].value is None
    assert found["average", None].value == found["average", "top/kept"].value == 8 / 11
    assert found["average", None].note == (
        "1 images have no annotation; no prototypes are known, none is left out"
    )
    assert ("accuracy_real", "top/filtered/factor:pose") not in found


def test_images_of_the_annotations_may_be_missing(notes):
    part = inputs(notes, labels=None)
    columns = imagenet_x.describe(dataclasses.replace(part, ids=IDS[:7], features=part.features[:7]))
    average = imagenet_x.measure(columns, part.about)[0]
    assert average.n == 6
    assert average.note == "4 annotated images are not there; 1 prototypes left out"


def test_a_factor_of_prototypes_alone(notes):
    images = imagenet_x.describe(inputs(notes))
    images["prototype"] = np.array(["larger" in names for names in images["multi_factors"]])
    found = {
        (m.metric, m.slice): m for m in imagenet_x.measure(images, About("letters", SPACE, resamples=50))
    }
    for metric in ("accuracy", "error_ratio", "ece"):
        lost = found[metric, "top/filtered/factor:larger"]
        assert (lost.value, lost.n, lost.note) == (None, 0, "not applicable: no image has the factor")
    assert found["accuracy", "top/kept/factor:larger"].n == 1


def random_columns(n: int = 300) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    names = np.array(["pose", "color", "style"])
    multi = [names[rng.random(3) < 0.6].tolist() for _ in range(n)]
    return {
        "prediction": rng.integers(0, 5, n),
        "confidence": rng.random(n),
        "label": rng.integers(0, 5, n).astype(np.int32),
        "correct": rng.random(n) < 0.6,
        "annotated": rng.random(n) < 0.9,
        "top_factors": [factors[:1] for factors in multi],
        "multi_factors": multi,
        "prototype": rng.random(n) < 0.1,
    }


def test_intervals_and_ece_are_those_of_a_loop():
    """Every resample by hand: which images count, how often, and the kernels' numbers of them."""
    images, about = random_columns(), About("loop", None, resamples=40)
    found = {(m.metric, m.slice): m for m in imagenet_x.measure(images, about)}
    kept = {name: np.asarray(values, object)[images["annotated"]] for name, values in images.items()}
    correct, proto = kept["correct"].astype(bool), kept["prototype"].astype(bool)
    confidence = kept["confidence"].astype(float)
    edges = calibration.equal_width_edges(15)
    for variant, name in (("top/filtered", "pose"), ("multi/kept", "style")):
        which, keep = variant.split("/")
        part = ~proto if keep == "filtered" else np.ones(len(proto), bool)
        has = part & np.array([name in names for names in kept[f"{which}_factors"]])
        draws: dict[str, list[float]] = {"error_ratio": [], "ece": []}
        for chance in generator("loop: calibrated", 0).random((40, len(proto))):
            bins = calibration.reliability(confidence, chance < confidence, edges, weights=has)
            draws["ece"].append(calibration.ece(bins))
        for block in Resampling("loop", len(proto), resamples=40).blocks(7):
            for weights in block:
                error = [np.sum(weights * mask * ~correct) / np.sum(weights * mask) for mask in (has, part)]
                draws["error_ratio"].append(error[0] / error[1])
        place = f"{variant}/factor:{name}"
        ratio = found["error_ratio", place].interval
        assert ratio is not None
        expected = percentile_interval(np.array(draws["error_ratio"]))
        assert ratio[:2] == pytest.approx(expected[:2], abs=1e-12)
        assert ratio.method == expected.method
        null = found["null_ece", place]
        assert null.interval is not None
        assert null.value == pytest.approx(np.mean(draws["ece"]), abs=1e-12)
        assert null.interval.hi == pytest.approx(np.quantile(draws["ece"], 0.95), abs=1e-12)
        bins = calibration.reliability(confidence, correct, edges, weights=has)
        assert found["ece", f"{variant}/factor:{name}"].value == pytest.approx(
            calibration.ece(bins), abs=1e-12
        )


def calibrated_columns(n: int = 200) -> dict[str, Any]:
    """Right exactly as often as confident: resamples have a larger ECE. Factor "rare": two images."""
    right = np.arange(n) % 2 == 0
    factors = [["pose"] + ["rare"] * (i in (0, 1)) for i in range(n)]
    return {
        "prediction": np.zeros(n, np.int32),
        "confidence": np.full(n, 0.5),
        "label": (~right).astype(np.int32),
        "correct": right,
        "annotated": np.ones(n, bool),
        "top_factors": [names[-1:] for names in factors],
        "multi_factors": factors,
    }


def of_calibrated(metric: str, place: str | None) -> tuple[float, intervals.Interval]:
    measures = imagenet_x.measure(calibrated_columns(), About("x", None, resamples=50))
    [found] = [m for m in measures if (m.metric, m.slice) == (metric, place)]
    assert found.value is not None
    assert found.interval is not None
    return found.value, found.interval


@pytest.mark.parametrize("place", [None, "multi/kept/factor:pose"])
def test_an_ece_of_a_calibrated_model_has_no_interval_and_says_so(place):
    found = {(m.metric, m.slice): m for m in imagenet_x.measure(calibrated_columns(), About("x", None))}
    for metric in ("ece", "ece_corrected"):
        assert found[metric, place].value == pytest.approx(0, abs=1e-12)
        assert found[metric, place].interval is None
        assert (found[metric, place].note or "").startswith("not told from calibrated: ")


def test_an_ece_above_the_null_band_has_an_interval():
    wrong = calibrated_columns() | {"correct": np.arange(200) % 10 == 0}
    found = {(m.metric, m.slice): m for m in imagenet_x.measure(wrong, About("x", None))}
    for place in (None, "top/kept/factor:pose"):  # "rare" is the top factor of two images
        ece, corrected = found["ece", place], found["ece_corrected", place]
        assert ece.value == pytest.approx(0.4, abs=0.005)
        assert corrected.value == pytest.approx(0.4, abs=0.005)
        if ece.n < 200:
            assert (ece.note or "").startswith("no interval: fewer than 200 images; a calibrated model shows")
        else:
            assert ece.interval is not None
            assert ece.interval == corrected.interval
            assert 0.3 < ece.interval.lo < 0.4 < ece.interval.hi < 0.5


def test_a_factor_that_some_resamples_do_not_hold_has_intervals():
    value, interval = of_calibrated("error_ratio", "top/filtered/factor:rare")
    half = intervals.wilson(1, 2)
    assert value == 1
    assert interval[:2] == pytest.approx((half.lo / 0.5, half.hi / 0.5))
    assert interval.method == "wilson_ratio"


def test_every_number_has_an_interval_or_says_why_not():
    """With a single error some resamples hold none: the ratio of a factor has no limits."""
    images = calibrated_columns()
    images["correct"] = np.arange(200) != 0
    measures = imagenet_x.measure(images, About("x", None, resamples=50))
    found = {(m.metric, m.slice): m for m in measures}
    assert found["error_ratio", "multi/kept/factor:rare"].note == (
        "no interval: there are resamples without any error"
    )
    images["top_factors"][0] = ["glow"]  # one image
    for each in [*measures, *imagenet_x.measure(images, About("x", None, resamples=50))]:
        assert each.interval is not None or each.note, each


def test_extremes_have_an_interval():
    """A factor without an error: no resample of it can differ, so its own interval stands for the ratio."""
    images = random_columns()
    images["correct"] = images["correct"] | np.array(["style" in names for names in images["multi_factors"]])
    found = {(m.metric, m.slice): m for m in imagenet_x.measure(images, About("x", None, resamples=20))}
    ratio, average = found["error_ratio", "multi/kept/factor:style"], found["average", "multi/kept"]
    assert ratio.value == 0
    assert ratio.interval is not None
    assert average.value is not None
    assert ratio.interval.lo == 0
    assert ratio.interval.hi == pytest.approx(intervals.wilson(0, ratio.n).hi / (1 - average.value))
    images["correct"] = np.ones(300, bool)
    found = {(m.metric, m.slice): m for m in imagenet_x.measure(images, About("x", None, resamples=20))}
    assert found["error_ratio", "top/kept/factor:pose"].note == "not applicable: there is no error at all"


def test_a_single_image(notes):
    part = inputs(notes, labels=None)
    one = dataclasses.replace(part, ids=IDS[4:5], features=part.features[4:5])
    found = measured(one)
    assert (found["average", None].value, found["average", None].n) == (1, 1)
    assert found["ece", None].value == pytest.approx(1 - CONFIDENCE[4], abs=1e-6)
    assert found["ece", None].interval is None
    assert (found["ece", None].note or "").startswith(
        "not told from calibrated: a calibrated model shows 0.4"
    )


def test_all_numbers_again_from_lists(notes):
    given = inputs(notes)
    outcome = imagenet_x.TASK.run(given)
    again = imagenet_x.measure(
        {name: np.asarray(v, object).tolist() for name, v in outcome.images.items()}, given.about
    )
    for one, other in zip(outcome.measures, again, strict=True):
        assert (one.metric, one.slice, one.n, one.note) == (other.metric, other.slice, other.n, other.note)
        assert one.value == pytest.approx(other.value, abs=1e-7)


def test_paired(notes):
    found = imagenet_x.paired(imagenet_x.describe(inputs(notes)), About("letters", None))
    assert {name: (int(right.sum()), len(right)) for name, right in found.right.items()} == {
        "average": (6, 9), "average_metaclass": (7, 9), "average_real": (1, 9),
        "accuracy top/filtered/factor:pose": (3, 4), "accuracy top/filtered/factor:texture": (1, 2),
        "accuracy top/filtered/factor:larger": (0, 1), "accuracy top/filtered/factor:glow": (1, 1),
    }  # fmt: skip
    pose = found.over["accuracy top/filtered/factor:pose"]
    assert np.flatnonzero(pose).tolist() == [1, 4, 7, 10]
    assert {len(over) for over in found.over.values()} == {12}
    assert np.flatnonzero(~found.over["average"]).tolist() == [0, 9, 11]  # prototypes, and no annotation


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.repeat([0, 1, 2, 1], [4, 3, 4, 1])}, r"7.png is in class 2 \(c\) .* 1 \(b\)"),
        ({"labels": np.array([*[0] * 11, 3], np.int32)}, r"11.png: label 3 is outside the 3 classes"),
        ({"ids": ["0.png", "a/0.png", *IDS[2:]]}, r"0.png and a/0.png have one file name"),
        ({"ids": [f"x{name}" for name in range(12)]}, r"none of the 12 images"),
        ({"features": np.full((12, 3), np.nan, np.float32)}, r"0.png: its logits hold NaN"),
    ],
)  # fmt: skip
def test_bad_input(notes, changes, message):
    with pytest.raises(DataError, match=message):
        imagenet_x.TASK.run(inputs(notes, **changes))


def test_classes_that_do_not_fit(notes, bare):
    two = LabelSpace("two", ("a", "b"), ("a", "b"))
    few = {"head": identity_head(two), "label_space": two, "labels": None}
    features = np.zeros((12, 2), np.float32)
    with pytest.raises(DataError, match="there are 3 metaclasses, but two has 2 classes"):
        imagenet_x.TASK.run(inputs(notes, features=features, **few))
    with pytest.raises(DataError, match=r"8.png: its annotated class 2 is outside the 2 of 'two'"):
        imagenet_x.TASK.run(inputs(bare, features=features, **few))


def test_a_zero_shot_head_and_no_labels(notes):
    """The annotated class is the label where the data set has none."""
    given = inputs(notes, labels=None)
    head = Head(jnp.eye(3), None, 100.0, True, SPACE)
    assert measured(dataclasses.replace(given, head=head))["average", None].n == 9


@pytest.fixture(scope="module")
def resnet50(test_data) -> dict[tuple[str, str | None], Any]:
    result = evaluate_predictions("imagenet_x", test_data / "imagenet_x" / "ResNet50.csv", resamples=20)
    return {(row["metric"], row["slice"]): row for row in result.rows}


RESNET50 = [
    ("average", None, 0.746693), ("average", "multi/filtered", 0.746693),
    ("average", "top/kept", 0.760989),
    ("accuracy", "pose", 0.82402), ("accuracy", "background", 0.71080), ("accuracy", "pattern", 0.80459),
    ("accuracy", "color", 0.69886), ("accuracy", "smaller", 0.62069), ("accuracy", "shape", 0.55817),
    ("accuracy", "partial_view", 0.71317), ("accuracy", "subcategory", 0.46667),
    ("accuracy", "texture", 0.39362), ("accuracy", "larger", 0.66667), ("accuracy", "darker", 0.56557),
    ("accuracy", "multiple_objects", 0.5), ("error_ratio", "pose", 0.6947),
    ("error_ratio", "texture", 2.3939), ("error_ratio", "larger", 1.3159),
    ("accuracy", "multi/filtered/factor:pose", 0.76285),
    ("accuracy", "multi/filtered/factor:texture", 0.43231),
    ("accuracy", "multi/filtered/factor:larger", 0.68462),
    ("accuracy", "multi/filtered/factor:style", 0.74915), ("accuracy", "top/kept/factor:pose", 0.8351),
    ("accuracy", "top/kept/factor:larger", 0.6815),
]  # fmt: skip


@pytest.mark.long("tasks/test_imagenet_x.py::test_numbers_by_hand")
def test_the_references_numbers_of_resnet50(resnet50):
    """imagenetx's own published tables, to the digits in which they are quoted."""
    for metric, part, value in RESNET50:
        name = f"top/filtered/factor:{part}" if part and "/" not in part else part
        digits = len(re.sub(r".*\.", "", str(value)))
        assert round(resnet50[metric, name]["value"], max(digits, 4)) == value, (metric, part)


@pytest.mark.long("tasks/test_imagenet_x.py::test_numbers_by_hand")
def test_counts_of_resnet50(resnet50):
    assert (resnet50["average", None]["n"], resnet50["average", "top/kept"]["n"]) == (46110, 48868)
    assert resnet50["average", None]["note"] == "1132 images have no annotation; 2758 prototypes left out"
    assert resnet50["worst_factor_of_ten", None]["note"] == "texture, of 10 factors"
    assert resnet50["accuracy", "top/filtered/factor:larger"]["n"] == 150
    assert sum(part is not None and "top/filtered/factor" in part for _, part in resnet50) == 16 * 7


def test_the_card_shares_its_images_with_imagenet_val():
    cards = [clipjax.data.cards.read_card(name) for name in ("imagenet_x", "imagenet_val")]
    for key in ("reader", "options", "label_space", "place", "pixels", "images"):
        assert getattr(cards[0], key) == getattr(cards[1], key)
    assert cards[0].tasks == ("imagenet_x",)


def test_from_images_to_numbers(tmp_path):
    """Images of one colour in class folders; the annotations lie in a folder of the user's."""
    card = tmp_path / "colours.toml"
    card.write_text('name = "colours"\ntitle = "c"\nreader = "folder"\nclasses = ["red", "blue", "teal"]\n')
    for i, (label, _, _) in enumerate(IMAGES.values()):
        colour = ("red", "blue", "teal")[label]
        paint(tmp_path / "set" / colour / f"{i}.png", "red" if i in (4, 7) else colour)
    _factors.write(tmp_path / "notes", optional=False)
    result = clipjax.evaluate(
        *(ColourModel(), "imagenet_x"),
        dataset=card,
        root=tmp_path / "set",
        annotations=tmp_path / "notes",
        prompts="single",
        resamples=20,
        results=tmp_path / "results",
        progress=False,
    )
    assert result.value("average") == 9 / 11
    values = {(row["metric"], row["slice"]): row["value"] for row in result.rows}
    assert values["accuracy", "top/filtered/factor:pose"] == 4 / 6
    assert values["error_ratio", "top/filtered/factor:pose"] == pytest.approx((2 / 6) / (2 / 11))
    assert result.path is not None
    again = evaluate_predictions("imagenet_x", result.path / "images.parquet", dataset=card, resamples=20)
    assert [row["interval"] for row in again.rows] == [row["interval"] for row in result.rows]

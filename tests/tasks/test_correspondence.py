"""Correspondence: planted errors and the recalls they must give, by pair, bin and cluster."""

from __future__ import annotations

import dataclasses
from typing import Any

import _pair_tools
import numpy as np
import pytest
from _embed_tools import TinyModel
from _pair_worlds import small_card, write_navi, write_scannet, write_spair

import clipjax
from clipjax.analysis.diff.differences import how
from clipjax.data.cards import load_dataset
from clipjax.data.pairs.matching import Curve
from clipjax.data.pairs.pair import Pair
from clipjax.errors import DataError, UsageError
from clipjax.evaluation.comparison.compare import compare_runs
from clipjax.evaluation.predictions.scoring import evaluate_predictions
from clipjax.metrics.uncertainty.clusters import mean_over_clusters
from clipjax.models.arch import load_arch
from clipjax.models.network import Network
from clipjax.results.image_table import images_table
from clipjax.tasks.correspondence import TASK, PairMatcher, paired
from clipjax.tasks.inputs import About, PairInputs
from clipjax.tasks.task import Measure

pytestmark = pytest.mark.usefixtures("one_device")

GEOMETRIC = dataclasses.replace(
    _pair_tools.GEOMETRIC,
    curve=Curve("3d", 0.02),
    keep=4,
    thresholds_3d=(0.01, 0.02),
    thresholds_2d=(5,),
)
KEYPOINTS = dataclasses.replace(_pair_tools.KEYPOINTS, thresholds_pck=(0.05, 0.1), groups=("0", "1", "all"))
X = -1.0  # no match


def geometric(**changes: Any) -> PairInputs:
    """Three pairs of two objects: errors in metres and pixels, weights; the last has two matches."""
    metres = [[0.005, 0.015, 0.02, 0.5], [0.019, 0.019, 0.019, 0.03], [0.001, 0.4, X, X]]
    pixels = [[1, 5, 4.9, 300], [9, 9, 9, 9], [0, 60, X, X]]
    weights = [[0.9, 0.8, 0.7, 0.6], [0.5, 0.4, 0.3, 0.2], [1, 0, X, X]]
    numbers = np.stack([np.array(each, np.float32) for each in (metres, pixels, weights)], axis=-1)
    planted = {"matching": GEOMETRIC, "numbers": numbers} | changes
    columns: dict[str, Any] = {
        "image_0": ["a", "b", "c"],
        "image_1": ["d", "e", "f"],
        "cluster": ["cup", "cup", "toy"],
        "angle": [29.99, 30.0, 30.5],
    }
    return PairInputs(
        ids=["p", "q", "r"],
        columns=columns,
        dataset="planted",
        resamples=200,
        **planted,
    )


def keypoints() -> PairInputs:
    """Two pairs of class x, one of y, and one of x that does not count over the whole data set."""
    errors = [[0.01, 0.09, 0.1], [0.2, X, 0.04], [0.06, X, X], [0.5, 0.5, 0.5]]
    columns = {"cluster": ["x", "x", "y", "x"], "groups": [["0", "all"], ["1", "all"], ["0", "all"], ["0"]]}
    return PairInputs(
        ids=["p", "q", "r", "s"],
        numbers=np.array(errors, np.float32)[..., None],
        columns=columns,
        dataset="planted",
        matching=KEYPOINTS,
        resamples=200,
    )


def numbers(inputs: PairInputs) -> dict[tuple[str, str | None], Measure]:
    return {(each.metric, each.slice): each for each in TASK.run(inputs).measures}


def test_recalls_are_means_over_pairs_of_the_shares_below_a_threshold() -> None:
    measures = numbers(geometric())
    # An error of the threshold itself is not below it: in the first pair 0.02 m, and 5 px.
    totals = {
        "recall": 0.5 + 0.75 + 0.5,
        "recall_3d@0.01": 0.25 + 0 + 0.5,
        "recall_3d@0.02": 0.5 + 0.75 + 0.5,
        "recall_2d@5": 0.5 + 0 + 0.5,
    }
    assert {name: each.value for (name, part), each in measures.items() if part is None} == pytest.approx(
        {name: total / 3 for name, total in totals.items()}
    )
    recall = measures["recall", None]
    assert (recall.n, recall.aggregates) == (3, "pairs")
    assert recall.note == (
        "10 matches of 3 pairs in 2 clusters; no interval: there are fewer than 10 clusters"
    )
    assert recall.interval is None


def many(clusters: int) -> PairInputs:
    """Pairs of objects: object k has k % 3 + 1 pairs, with k % 5 of 4 matches within 2 cm."""
    objects = [k for k in range(clusters) for _ in range(k % 3 + 1)]
    metres = np.full((len(objects), 4), 0.5, np.float32)
    for row, k in zip(metres, objects):
        row[: k % 5] = 0.001
    numbers = np.stack([metres, 100 * metres, 1 - metres], axis=-1)
    return dataclasses.replace(
        geometric(),
        ids=[f"{i:03d}" for i in range(len(objects))],
        numbers=numbers,
        columns={
            **{name: [str(i) for i in range(len(objects))] for name in ("image_0", "image_1")},
            "cluster": [f"{k:02d}" for k in objects],
            "angle": [15.0] * len(objects),
        },
    )


def test_ten_clusters_have_an_interval_of_their_means() -> None:
    """In a bin as over the whole set; nine have none, which the note says."""
    measures = numbers(many(10))
    recall = measures["recall", None]
    sizes = np.array([k % 3 + 1.0 for k in range(10)])
    means = np.array([k % 5 / 4 for k in range(10)])
    assert recall.value == pytest.approx((sizes * means).sum() / sizes.sum())
    assert recall.interval == mean_over_clusters(means, sizes, "planted", resamples=200)
    assert recall.interval is not None
    assert recall.interval.method == "cluster_bootstrap_t_200"
    assert recall.note == f"{4 * 19} matches of 19 pairs in 10 clusters"
    assert measures["recall", "angle:0-30"].interval == recall.interval
    nine = numbers(many(9))["recall", None]
    assert nine.interval is None
    assert nine.note is not None
    assert nine.note.endswith("in 9 clusters; no interval: there are fewer than 10 clusters")


def test_a_bin_has_its_own_pairs_and_an_empty_one_no_value() -> None:
    measures = numbers(geometric())
    bins = {part: (each.value, each.n) for (_, part), each in measures.items() if part}
    assert bins == {"angle:0-30": (0.5, 1), "angle:30-60": (0.625, 2), "angle:60-90": (None, 0)}
    assert measures["recall", "angle:60-90"].note == "no pair is in this bin"
    assert measures["recall", "angle:60-90"].interval is None
    assert measures["recall", "angle:0-30"].interval is None
    assert {name for name, part in measures if part} == {"recall"}


def test_keypoints_are_counted_by_class() -> None:
    measures = numbers(keypoints())
    # x: 0.01, 0.09, 0.1 and 0.2, 0.04; y: 0.06.
    assert measures["pck@0.1", None].value == pytest.approx((3 / 5 + 1) / 2)
    assert measures["pck@0.05", None].value == pytest.approx((2 / 5 + 0) / 2)
    assert measures["recall", None].value == measures["pck@0.1", None].value
    assert (measures["recall", None].n, measures["recall", None].aggregates) == (3, "clusters")
    # The fourth pair counts in this group alone.
    assert measures["recall", "groups:0"].value == pytest.approx((2 / 6 + 1) / 2)
    assert measures["recall", "groups:1"].value == pytest.approx(1 / 2)
    assert {part for _, part in measures} == {None, "groups:0", "groups:1"}


def test_a_row_has_the_errors_of_its_matches_alone() -> None:
    table = TASK.describe(geometric())
    assert list(table["matches"]) == [4, 4, 2]
    assert [list(map(float, each)) for each in table["error_3ds"]][2] == pytest.approx([0.001, 0.4])
    assert [len(each) for each in table["weights"]] == [4, 4, 2]
    assert table["bin"] == [["angle:0-30"], ["angle:30-60"], ["angle:30-60"]]


@pytest.mark.parametrize("inputs", [geometric(), keypoints()], ids=["geometric", "keypoints"])
def test_a_stored_table_gives_the_same_numbers(inputs: PairInputs) -> None:
    table = {"id": list(inputs.ids), **TASK.describe(inputs)}
    again = images_table(table).to_pydict()
    assert TASK.measure(again, inputs.about) == TASK.measure(table, inputs.about)


def test_runs_are_compared_by_clusters() -> None:
    table = TASK.describe(geometric())
    pairs = paired(table, About("planted", None))
    assert pairs.clusters == ["cup", "cup", "toy"]
    assert pairs.resampled is not None
    drawn = pairs.resampled(np.array([[1, 1, 1], [2, 2, 0], [0, 0, 2]]))
    np.testing.assert_allclose(drawn["recall"], [1.75 / 3, 0.625, 0.5])
    np.testing.assert_allclose(drawn["recall angle:0-30"], [0.5, 0.5, np.nan])
    assert "recall angle:60-90" not in drawn


def test_a_table_from_elsewhere_is_checked(tmp_path: Any) -> None:
    import pyarrow.parquet as pq

    table = {"id": ["p", "q", "r"], **TASK.describe(geometric())}
    pq.write_table(images_table(table), tmp_path / "mine.parquet")
    result = evaluate_predictions("correspondence", tmp_path / "mine.parquet", resamples=200)
    assert result.value("recall") == pytest.approx(1.75 / 3)
    for name, value, message in (
        ("recall", 1.5, "^q: its recall is 1.5"),
        ("matches", 0, "^q: its matches is 0"),
    ):
        wrong = {**table, name: [table[name][0], value, table[name][2]]}
        with pytest.raises(DataError, match=message):
            TASK.measure(wrong, About("planted", None))


def test_what_is_stored_does_not_depend_on_how_it_is_counted() -> None:
    other = dataclasses.replace(GEOMETRIC, thresholds_3d=(0.02, 0.3), bins=((0, 90),))
    assert PairMatcher(other).key() == PairMatcher(GEOMETRIC).key()
    assert PairMatcher(dataclasses.replace(GEOMETRIC, keep=5)).key() != PairMatcher(GEOMETRIC).key()
    assert PairMatcher(other).words() != PairMatcher(GEOMETRIC).words()
    assert (PairMatcher(GEOMETRIC).shape, PairMatcher(KEYPOINTS).shape) == ((4, 3), (3, 1))


# -------------------------------------------------------------------------------- runs on small worlds

LAYOUTS = {"navi": write_navi, "scannet_pairs": write_scannet, "spair71k": write_spair}


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Data set -> what `clipjax.evaluate` takes."""
    root = tmp_path_factory.mktemp("worlds")
    options = {name: {} if name == "spair71k" else {"keep": 50} for name in LAYOUTS}
    return {
        name: {"dataset": small_card(name, root / "cards", None, **options[name]), "root": write(root / name)}
        for name, write in LAYOUTS.items()
    }


@pytest.fixture(scope="module")
def model() -> Any:
    return TinyModel()


def evaluate(model: Any, worlds: Any, name: str, **options: Any) -> Any:
    settings = {"resamples": 100, "progress": False, **worlds[name], **options}
    return clipjax.evaluate(model, "correspondence", **settings)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_run_on_each_layout(name: str, model: Any, worlds: Any) -> None:
    result = evaluate(model, worlds, name)
    [row] = [row for row in result.rows if row["metric"] == "recall" and row["slice"] is None]
    assert 0 <= row["value"] <= 1
    assert row["interval"] is None  # too few objects, scenes or classes
    assert "no interval" in row["note"]
    assert row["n"] == result.images.num_rows
    assert (row["skipped"], row["per_device_batch"], row["sample"]) == (0, 1, None)
    empty = [each for each in result.rows if each["value"] is None]
    assert empty
    assert {each["n"] for each in empty} == {0}
    convention = row["convention"]
    assert (convention["layers"], convention["attention"], convention["positions"]) == (
        "last",
        "tokens",
        "probe3d",
    )
    assert convention["prompts"] == "not applicable: the task reads no text"
    features = {"navi": "bicubic", "scannet_pairs": "bilinear", "spair71k": "corners"}
    assert convention["matching"]["features"] == features[name]
    assert row["recipe"]["pixels"] is None
    metrics = {"navi": "recall_3d@0.05", "scannet_pairs": "recall_2d@20", "spair71k": "pck@0.1"}
    assert result.value(metrics[name]) is not None


def test_a_view_matches_itself(model: Any, worlds: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each point of an image is its own nearest: with a still camera no match is off."""
    real = load_dataset(worlds["navi"]["dataset"], worlds["navi"]["root"])
    kind: Any = type(real.manifest.pairs)
    load = kind.load

    def still(self: Any, i: int) -> Pair:
        pair = load(self, i)
        geometry = pair.geometry | {"motion": np.eye(4, dtype=np.float32)}
        geometry["points"] = np.stack([pair.geometry["points"][1]] * 2)
        return Pair(np.stack([pair.images[1]] * 2), geometry)

    monkeypatch.setattr(kind, "load", still)
    result = clipjax.evaluate(model, "correspondence", dataset=real, progress=False, resamples=100)
    assert result.value("recall_3d@0.01") == 1.0
    assert result.value("recall_2d@5") == 1.0


def test_a_limit_draws_pairs(model: Any, worlds: Any) -> None:
    result = evaluate(model, worlds, "navi", limit=2)
    assert result.images.num_rows == 2
    assert result.rows[0]["sample"] == {"limit": 2, "seed": 0, "of": 4, "unit": "pairs"}


def test_options_of_maps_are_recorded_and_refused_elsewhere(model: Any, worlds: Any) -> None:
    result = evaluate(model, worlds, "navi", attention="reference_batch", limit=2)
    plain = evaluate(model, worlds, "navi", limit=2)
    assert result.rows[0]["convention"]["attention"] == "reference_batch"
    assert how(result.rows[0]) != how(plain.rows[0])
    assert result.rows[0]["recipe_hash"] != plain.rows[0]["recipe_hash"]
    assert result.images["error_3ds"].to_pylist() != plain.images["error_3ds"].to_pylist()
    nowhere = {"root": "nowhere"}  # refused before any data is read
    with pytest.raises(UsageError, match="has 2 layers, and layers='multilayer' needs 4: use 'last'"):
        evaluate(model, worlds, "navi", layers="multilayer", **nowhere)
    net: Any = TinyModel()
    net.network = Network(load_arch("RN50"))
    with pytest.raises(UsageError, match="RN50 is not one of open_clip's own vision transformers"):
        evaluate(net, worlds, "navi", attention="reference_batch", **nowhere)
    for option in ({"prompts": "single"}, {"decode": "jpeg_scaled"}):
        with pytest.raises(
            UsageError, match="reads neither classes nor text, and prepares its images itself"
        ):
            evaluate(model, worlds, "navi", **option)
    with pytest.raises(
        UsageError, match=r"'zeroshot' reads no maps of features: leave layers \(--layers\) out"
    ):
        clipjax.evaluate(model, "zeroshot", **worlds["navi"], layers="last", progress=False)


def test_a_set_without_pairs_and_a_model_without_maps(model: Any, worlds: Any, tmp_path: Any) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
    with pytest.raises(
        UsageError, match="has no pairs of images: the task 'correspondence' is for data sets"
    ):
        clipjax.evaluate(model, "correspondence", root=tmp_path, progress=False)
    own: Any = TinyModel()
    own.network = None
    [row] = evaluate(own, worlds, "navi").rows
    assert (row["value"], row["note"]) == (
        None,
        "not applicable: tiny is not one of clipjax's networks: it has no maps of features",
    )


def test_two_models_are_compared_on_the_same_pairs(
    model: Any, worlds: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    other: Any = TinyModel(seed=1, id="other", fingerprint="other-1")
    runs = [evaluate(each, worlds, "navi", results=tmp_path).path.name for each in (model, other)]
    with pytest.raises(DataError, match="only 2 clusters: a comparison needs 10"):
        compare_runs(runs[0], runs[1], tmp_path, resamples=100)
    monkeypatch.setattr("clipjax.tasks.correspondence.FEWEST", 2)
    compared = {each.metric: each for each in compare_runs(runs[0], runs[1], tmp_path, resamples=100)}
    assert {"recall", "recall_3d@0.01", "recall_2d@50"} <= set(compared)
    assert compared["recall"].test == "paired_bootstrap_100"
    assert compared["recall"].n == 4


def test_a_damaged_pair_is_named_or_skipped_and_counted(model: Any, tmp_path: Any) -> None:
    root = write_navi(tmp_path / "navi")
    damaged = sorted(root.rglob("*wild_set/depth/*.png"))[0]
    damaged.write_bytes(b"no image")
    where = {"navi": {"dataset": small_card("navi", tmp_path, keep=50), "root": root}}
    with pytest.raises(DataError, match=damaged.name):
        evaluate(model, where, "navi")
    result = evaluate(model, where, "navi", on_error="skip")
    assert result.rows[0]["skipped"] == len(result.stats.skipped) > 0
    assert result.images.num_rows == 4 - len(result.stats.skipped)

"""Which images a gallery shows: what belongs to a group, and how a few of it are chosen."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _compared import write
from _pictured import add_run, paint, pets

from clipjax.data.cards import Dataset
from clipjax.errors import ClipjaxError, DataError, UsageError
from clipjax.evaluation.comparison.run_pairs import RunFilter
from clipjax.evaluation.gallery.image_choice import Choosing, ImageGroup, default_shows, groups_of, in_words
from clipjax.evaluation.gallery.model_answers import AnsweredSet, answered_sets

CATS = [f"cat/{i}.png" for i in range(10)]
DOGS = ["dog/0.png", "dog/1.png"]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return pets(paint(tmp_path_factory.mktemp("pets")))


@pytest.fixture
def two(images: Dataset, tmp_path: Path) -> AnsweredSet:
    """`a` has most cats wrong, `b` two dogs and a cat."""
    add_run(tmp_path, images, "a", CATS[:8])
    add_run(tmp_path, images, "b", [*DOGS, CATS[0]], order=np.random.default_rng(0).permutation(30))
    [answered] = answered_sets(tmp_path, ["a", "b"])
    return answered


def ids(answered: AnsweredSet, group: ImageGroup) -> list[str]:
    return [answered.ids[row] for row in group.rows]


def refusal(kind: type[ClipjaxError], *arguments: object, **keywords: object) -> str:
    with pytest.raises(kind) as caught:
        answered_sets(*arguments, **keywords)  # type: ignore[arg-type]
    return str(caught.value)


def test_tables_in_another_order_are_joined_by_image(two: AnsweredSet) -> None:
    assert [each.name for each in two.models] == ["a", "b"]
    a, b = two.right
    assert {name for name, right in zip(two.ids, a) if not right} == {*CATS[:8]}
    assert {name for name, right in zip(two.ids, b) if not right} == {*DOGS, CATS[0]}
    assert two.labels == [name.split("/")[0] for name in two.ids]
    at = two.ids.index("dog/1.png")
    assert [each.texts[at] for each in two.models] == ["dog", "owl"]
    confidences: list[Any] = [each.confidence for each in two.models]
    assert np.array_equal(confidences[0], confidences[1])  # the same for every image, in whatever order


def test_an_absent_value_is_neither_right_nor_wrong(tmp_path: Path) -> None:
    """The model is left out by name, and a run that is named is refused."""
    answers = {"id": ["1.png", "2.png"], "prediction_name": ["cat", "dog"]}
    whole = write(tmp_path, {**answers, "correct": [True, False], "confidence": [0.5, None]}, model="a")
    part = write(tmp_path, {**answers, "correct": [True, None]}, model="b", recipe_hash="b" * 64)
    [answered] = answered_sets(tmp_path)
    assert answered.right.tolist() == [[True, False]]
    assert "does not state of 1 image whether the model is right" in answered.left_out["b"]
    assert f"table of {part} does not state of 1 image" in refusal(DataError, tmp_path, [whole, part])


def test_disagreements_are_of_one_side_each(two: AnsweredSet) -> None:
    only_a, only_b = groups_of("disagree", two, Choosing())
    assert ("a" in only_a.title, "b" in only_b.title) == (True, True)
    assert {*ids(two, only_a)} == {*DOGS}
    assert {*ids(two, only_b)} == {*CATS[1:8]}


def test_changes_are_gains_losses_and_other_mistakes(images: Dataset, tmp_path: Path) -> None:
    add_run(tmp_path, images, "base", ["cat/0.png", "cat/1.png", "dog/0.png"])
    answers = ["dog" if name == "cat/0.png" else name.split("/")[0] for name in images.manifest.ids]
    answers[images.manifest.ids.index("dog/0.png")] = "cat"  # `base` took it for an owl
    add_run(
        tmp_path, images, "tuned", ["cat/0.png", "dog/0.png", "owl/5.png"], table={"prediction_name": answers}
    )
    [answered] = answered_sets(tmp_path, ["base", "tuned"])
    gained, lost, other = groups_of("changed", answered, Choosing())
    assert [ids(answered, each) for each in (gained, lost, other)] == [
        ["cat/1.png"],
        ["owl/5.png"],
        ["dog/0.png"],
    ]
    assert in_words(gained) == "All 1 image that became right from base to tuned."


def test_the_hardest_are_wrong_for_most_models_first(images: Dataset, tmp_path: Path) -> None:
    add_run(tmp_path, images, "a", ["cat/0.png", "cat/1.png", "cat/2.png"])
    add_run(tmp_path, images, "b", ["cat/1.png", "cat/2.png"])
    add_run(tmp_path, images, "c", ["cat/2.png", "dog/0.png"])
    [answered] = answered_sets(tmp_path)
    [group] = groups_of("hardest", answered, Choosing())
    assert ids(answered, group) == ["cat/2.png", "cat/1.png"], "wrong for three, then for two of three"
    [split] = groups_of("disagree", answered, Choosing())
    assert {*ids(answered, split)} == {"cat/0.png", "cat/1.png", "dog/0.png"}, "not what all have wrong"


def test_the_most_confident_mistakes_come_first(images: Dataset, tmp_path: Path) -> None:
    sure = np.full(30, 0.99)
    for name, confidence in {"cat/3.png": 0.3, "dog/4.png": 0.8, "owl/5.png": 0.6}.items():
        sure[images.manifest.ids.index(name)] = confidence
    add_run(tmp_path, images, "a", ["cat/3.png", "dog/4.png", "owl/5.png"], confidence=sure)
    [answered] = answered_sets(tmp_path, ["a"])
    assert default_shows(answered) == ["confident"]
    [group] = groups_of("confident", answered, Choosing())
    assert ids(answered, group) == ["dog/4.png", "owl/5.png", "cat/3.png"]


def test_no_label_fills_the_page(images: Dataset, tmp_path: Path) -> None:
    """Eight cats and two dogs are wrong: four pictures are two of each, whatever the order is."""
    add_run(tmp_path, images, "a", [*CATS[:8], *DOGS])
    add_run(tmp_path, images, "b", [])
    [answered] = answered_sets(tmp_path, ["a", "b"])
    for show, choosing in (
        ("disagree", Choosing(4)),
        ("confident", Choosing(4)),
        ("disagree", Choosing(4, 7)),
    ):
        group = groups_of(show, answered, choosing)[-1 if show == "disagree" else 0]
        assert Counter(answered.labels[row] for row in group.rows) == {"cat": 2, "dog": 2}, show
        assert in_words(group).startswith("4 of 10 images that ")
        assert in_words(group).endswith(f"seed {choosing.seed}, in turn from their 2 labels.")


def test_a_sample_has_a_seed_and_contains_smaller_ones(images: Dataset, tmp_path: Path) -> None:
    add_run(tmp_path, images, "a", CATS)
    add_run(tmp_path, images, "b", [])
    [answered] = answered_sets(tmp_path, ["b", "a"])

    def chosen(number: int, seed: int) -> list[str]:
        group, _ = groups_of("disagree", answered, Choosing(number, seed))
        return ids(answered, group)

    assert chosen(8, 0)[:3] == chosen(3, 0)
    assert chosen(8, 0) == chosen(8, 0) != chosen(8, 1)


def test_groups_by_a_column_of_the_table_or_of_the_data(images: Dataset, tmp_path: Path) -> None:
    factors = [["pose", "color"] if name in CATS[:3] else ["pose"] for name in images.manifest.ids]
    add_run(tmp_path, images, "a", CATS[:2], table={"top_factors": factors})
    [answered] = answered_sets(tmp_path, ["a"])
    color, pose = groups_of("factor", answered, Choosing(by="top_factors"))
    assert (color.title, pose.title) == ("top_factors: color", "top_factors: pose")
    assert {*ids(answered, color)} == {*CATS[:2]} == {*ids(answered, pose)}
    assert "(of 3; accuracy: a 0.333)" in in_words(color)
    where = ["indoors" if name in CATS else "outdoors" for name in answered.ids]
    inside, outside = groups_of("factor", answered, Choosing(by="where"), {"where": where})
    assert (inside.of, outside.of) == (2, 0)
    assert in_words(outside).startswith("No images with where outdoors")
    for by, words in (
        (None, r"^--show factor needs --by COLUMN: columns of zeroshot on pets: prediction, "),
        ("confidence", "unknown column"),
        ("id", "unknown column"),
        ("place", r"^unknown column \(--by\) 'place'"),
    ):
        with pytest.raises(UsageError, match=words):
            groups_of("factor", answered, Choosing(by=by))
    wide = {"photographer": [[f"{k}", f"{k + 30}"] for k in range(30)]}
    with pytest.raises(
        UsageError, match=r"^--by photographer has 60 values, and a page has room for 40 groups"
    ):
        groups_of("factor", answered, Choosing(by="photographer"), wide)


def test_what_a_kind_of_group_needs_is_said(two: AnsweredSet, images: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^unknown --show 'hardst'; did you mean hardest\?$"):
        groups_of("hardst", two, Choosing())
    add_run(tmp_path / "one", images, "a", CATS, confidence=None)
    [one] = answered_sets(tmp_path / "one")
    assert default_shows(one) == []
    for show, words in (
        ("disagree", r"^--show disagree needs at least 2 models; pets has 1 model here$"),
        ("hardest", r"^--show hardest needs at least 2 models"),
        ("changed", r"^--show changed compares two models, before and after; pets has 1 model here$"),
    ):
        with pytest.raises(UsageError, match=words):
            groups_of(show, one, Choosing())
    with pytest.raises(
        DataError, match=r"^the run \S+ \(zeroshot\) has no column of confidences: leave --show confident"
    ):
        groups_of("confident", one, Choosing())


# Which runs.


def test_models_that_were_measured_otherwise_are_left_out(images: Dataset, tmp_path: Path) -> None:
    """`d` saw other images under the name of a registered data set."""
    of_card = {"dataset": "imagenet_r", "folder": None}
    for model in "abcd":
        recipe = {"images": "others" if model == "d" else "digest", "dataset": "imagenet_r"}
        prompts = "openai_80" if model == "c" else "single"
        run = {**of_card, "recipe": recipe, "convention": {"prompts": prompts}}
        add_run(tmp_path, images, model, CATS, **run)
    [answered] = answered_sets(tmp_path, choice=RunFilter(prompts="single"))
    assert [each.name for each in answered.models] == ["a", "b"]
    assert answered.left_out["c"] == "measured with prompts openai_80, not single"
    assert "other contents or labels" in answered.left_out["d"]


def test_runs_of_one_model_are_told_apart(images: Dataset, tmp_path: Path) -> None:
    """What prompts change: both runs are named, and their names say what differs."""
    runs = [
        add_run(tmp_path, images, "a", CATS[:k], convention={"prompts": name})
        for k, name in ((2, "x"), (4, "y"))
    ]
    [answered] = answered_sets(tmp_path, runs)
    assert [each.name for each in answered.models] == ["a (prompts x)", "a (prompts y)"]
    _, lost, _ = groups_of("changed", answered, Choosing())
    assert {*ids(answered, lost)} == {*CATS[2:4]}


def test_runs_that_do_not_go_together_are_refused(images: Dataset, tmp_path: Path) -> None:
    one = add_run(tmp_path, images, "a", CATS)
    fewer = dataclasses.replace(images, manifest=images.manifest.select(range(12)))
    recipe = {"images": images.manifest.digest, "dataset": "pets"}
    part = add_run(tmp_path, fewer, "b", CATS, recipe=recipe)
    words = f"{part}: measured on other images than {one} (12 and 30, 12 in common)"
    assert words in refusal(DataError, tmp_path, [one, part])
    without = dict.fromkeys(("prediction", "prediction_name", "correct"))
    bare = add_run(tmp_path, images, "c", CATS, table=without)
    words = refusal(DataError, tmp_path, [bare])
    assert "has no column correct or prediction_name: give another --task" in words
    (tmp_path / one / "images.parquet").unlink()
    assert "images.parquet" in refusal(DataError, tmp_path, [one])
    elsewhere = add_run(tmp_path, images, "a", CATS, dataset="birds")
    words = refusal(DataError, tmp_path, [part, elsewhere])
    assert "is of zeroshot on pets" in words
    assert words.endswith("name runs of the same task on the same data set")
    assert "are models and runs: name models alone" in refusal(UsageError, tmp_path, ["b", part])
    assert refusal(UsageError, tmp_path, [part], datasets=["pets"]).startswith("a run has one task")
    assert refusal(UsageError, tmp_path, ["nobody"]).startswith("unknown run or model 'nobody'")


def test_a_data_set_is_chosen_where_there_are_several(images: Dataset, tmp_path: Path) -> None:
    for dataset in ("pets", "birds"):
        add_run(tmp_path, images, "a", CATS, dataset=dataset, recipe={"dataset": dataset})
    words = "the models share 2 data sets (birds, pets): choose with --dataset"
    assert refusal(UsageError, tmp_path) == words
    [answered] = answered_sets(tmp_path, datasets=["birds"])
    assert answered.dataset == "birds"
    assert refusal(UsageError, tmp_path, datasets=["bird"]).endswith("did you mean birds?")
    assert refusal(UsageError, tmp_path, datasets=["pets"], tasks=["ood"]).startswith("unknown task")


# Answers and labels in words.


def test_classes_without_names_get_those_of_the_data_set(images: Dataset, tmp_path: Path) -> None:
    add_run(tmp_path, images, "a", ["cat/0.png"], table={"prediction_name": None})
    [answered] = answered_sets(tmp_path, ["a"])
    assert (answered.labels[0], answered.models[0].texts[:2]) == ("class 0", ["class 1", "class 0"])
    named = answered.named_by(["cat", "dog", "owl"])
    assert (named.labels[0], named.models[0].texts[:2]) == ("cat", ["dog", "cat"])
    add_run(tmp_path / "named", images, "a", ["cat/0.png"])
    [answered] = answered_sets(tmp_path / "named", ["a"])
    other = answered.named_by(["dog", "cat", "owl"])
    assert other.labels == answered.labels, "the runs are over another label space"


def test_options_that_a_model_chose_are_its_answers(images: Dataset, tmp_path: Path) -> None:
    """Of `multiple_choice`; an answer that cannot be read is none."""
    ids = images.manifest.ids
    table = {
        "truth": [f"a {name.split('/')[0]}" for name in ids],
        "answer": [None, "a dog", *["an owl"] * 28],
        **dict.fromkeys(("label", "prediction", "prediction_name", "confidence")),
    }
    add_run(tmp_path, images, "a", CATS, table=table)
    [answered] = answered_sets(tmp_path, ["a"])
    assert answered.models[0].texts[:3] == ["", "a dog", "an owl"]
    assert answered.labels[:1] == ["a cat"]
    assert answered.models[0].confidence is None

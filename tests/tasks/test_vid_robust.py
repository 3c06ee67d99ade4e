"""Accuracy over sets of video frames: planted answers, and the real metadata of ImageNet-Vid-Robust."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter

import numpy as np
import pytest
from _colours import COLOURS, ColourModel, paint
from etils import epath

import clipjax
from clipjax.data.cards import load_dataset
from clipjax.data.labels import LabelSpace, load_labels
from clipjax.data.manifest import Manifest
from clipjax.errors import DataError, UsageError
from clipjax.heads.head import identity_head
from clipjax.metrics.uncertainty import intervals
from clipjax.results.image_table import images_table
from clipjax.tasks import vid_robust
from clipjax.tasks.inputs import ImageInputs

SPACE = load_labels("imagenet_vid")
FOLDER = "imagenet_vid_robust"
# How many anchors carry each class, in the order of the classes.
ANCHORS = [84, 17, 40, 38, 121, 32, 88, 32, 117, 83, 38, 16, 14, 28, 50]
ANCHORS += [13, 25, 36, 34, 20, 7, 15, 19, 28, 18, 87, 38, 30, 9, 14]


def inputs_of(predicted, accepted, anchor, offset, size) -> ImageInputs:
    logits = np.eye(len(SPACE), dtype=np.float32)[np.asarray(predicted)]
    labels = np.array([each[0] for each in accepted], np.int32)
    ids = [f"{a}+{o}" for a, o in zip(anchor, offset)]
    columns = {"accepted": accepted, "anchor": anchor, "offset": offset, "set_size": size}
    head = identity_head(SPACE)
    return ImageInputs(
        ids=ids,
        features=logits,
        labels=labels,
        head=head,
        label_space=SPACE,
        projection=None,
        columns=columns,
        dataset="vid",
        resamples=200,
    )


def planted(**changes) -> ImageInputs:
    """Sets: a is wrong 2 before its anchor, b at its anchor; c is one frame and right, d right throughout."""
    given = {
        "predicted": [9, 1, 1, 3, 2, 2, 5, 6, 7],
        "accepted": [[1], [1, 3], [1], [2, 3], [2], [2], [5], [7, 6], [7]],
        "anchor": ["a", "a", "a", "b", "b", "b", "c", "d", "d"],
        "offset": [-2, 0, 10, -1, 1, 0, 0, 0, 3],
        "size": [3, 3, 3, 3, 3, 3, 1, 2, 2],
    }
    given["predicted"][5] = 4
    return inputs_of(**given | changes)


def values(inputs: ImageInputs) -> dict[str, float]:
    return {m.metric: m.value for m in vid_robust.TASK.run(inputs).measures if m.value is not None}


def test_planted_answers():
    got = values(planted())
    assert got["benign"] == got["pm0"] == got["pm1"] == 3 / 4
    assert got["pm2"] == got["pm9"] == got["pm10"] == 2 / 4
    assert got["pm0_to_pm10_drop"] == 1 / 4
    assert got["top1_all_frames"] == 5 / 9  # b's first frame and d's anchor are right by another class


def test_a_wrong_frame_counts_from_its_own_distance_on():
    for distance in range(1, 11):
        got = values(inputs_of([1, 2], [[1], [1]], ["a", "a"], [0, -distance], [2, 2]))
        assert [got[f"pm{k}"] for k in range(11)] == [1.0] * distance + [0.0] * (11 - distance)


def test_intervals_are_over_sets():
    measures = {m.metric: m for m in vid_robust.TASK.run(planted()).measures}
    assert measures["pm10"].n == 4
    assert measures["pm10"].interval == intervals.wilson(2, 4)
    frames = measures["top1_all_frames"]
    assert frames.n == 9
    assert frames.interval is not None
    assert frames.interval.method == "cluster_bootstrap_200"
    assert frames.interval.lo < 5 / 9 < frames.interval.hi
    right = planted(predicted=[each[0] for each in [[1], [1], [1], [2], [2], [2], [5], [7], [7]]])
    [perfect] = [m for m in vid_robust.TASK.run(right).measures if m.metric == "top1_all_frames"]
    assert perfect.interval == intervals.wilson_of_mean(1.0, 4, "sets")  # four sets, whatever they hold
    alone = inputs_of([1, 1, 2], [[1]] * 3, ["a"] * 3, [0, 1, 2], [3] * 3)
    [single] = [m for m in vid_robust.TASK.run(alone).measures if m.metric == "top1_all_frames"]
    assert single.interval == intervals.wilson(2 / 3, 1)._replace(method="wilson_sets")


def test_numbers_from_a_stored_table():
    outcome = vid_robust.TASK.run(planted())
    lists = images_table({"id": planted().ids, **outcome.images}).to_pydict()
    assert vid_robust.TASK.measure(lists, planted().about) == outcome.measures


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": [3, 3, 3, 4, 4, 4, 1, 2, 2]}, r"the set of b has 3 of its 4 frames"),
        ({"offset": [-2, -1, 10, -1, 1, 0, 0, 0, 3]}, r"the set of a has 3 of its 3 frames.* whole sets"),
        (
            {"predicted": [0] * 9, "accepted": [[30]] + [[0]] * 8},
            r"a\+-2: label 30 is outside the 30 classes",
        ),
    ],
)
def test_broken_sets_are_named(changes, message):
    with pytest.raises(DataError, match=message):
        vid_robust.TASK.run(planted(**changes))


def test_other_data_sets_are_refused():
    inputs = planted()
    with pytest.raises(DataError, match=r"vid has no anchor: .* card imagenet_vid_robust"):
        vid_robust.TASK.run(dataclasses.replace(inputs, columns={}))
    with pytest.raises(DataError, match=r"vid has no labels: .* card imagenet_vid_robust"):
        vid_robust.TASK.run(dataclasses.replace(inputs, labels=None))


@pytest.fixture(scope="module")
def real(test_data) -> tuple[Manifest, dict, dict]:
    """The real metadata, without the 22,179 images."""
    labels, sets = (json.loads((test_data / FOLDER / f).read_text()) for f in ("labels.json", "pmsets.json"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clipjax.data.readers.vid_robust.LABELS", "labels.json")
        patch.setattr("clipjax.data.readers.vid_robust.SETS", "pmsets.json")
        patch.setattr(type(epath.Path(test_data)), "is_file", lambda path: path.name != "corruption.json")
        return load_dataset("imagenet_vid_robust", test_data / FOLDER).manifest, labels, sets


def test_counts_of_the_real_metadata(real):
    manifest, labels, _ = real
    columns = manifest.columns
    anchors = [frame for frame, offset in zip(manifest.ids, columns["offset"]) if offset == 0]
    assert (len(manifest), len(anchors)) == (22_179, 1_109)
    assert set(columns["anchor"]) == set(anchors)
    assert Counter(map(len, columns["accepted"])) == {1: 20_665, 2: 1_463, 3: 51}
    assert {abs(offset) for offset in columns["offset"]} == set(range(11))
    sizes = Counter(size for size, offset in zip(columns["set_size"], columns["offset"]) if offset == 0)
    assert (sizes[21], sizes[1]) == (889, 1)
    carried = Counter(label for frame in anchors for label in labels[frame])
    assert [carried[k] for k in range(len(SPACE))] == ANCHORS


def test_the_real_sets_by_a_loop(real):
    """As modestyachts/imagenet-testbed counts: an anchor and all its neighbours, each by its own labels."""
    manifest, labels, sets = real
    rng = np.random.default_rng(0)
    missed = rng.random(len(manifest)) < 0.03
    predicted = [rng.integers(30) if m else rng.choice(labels[f]) for f, m in zip(manifest.ids, missed)]
    columns = manifest.columns
    lists = (columns[name] for name in ("accepted", "anchor", "offset", "set_size"))
    got = values(inputs_of(predicted, *lists))
    right = {frame: p in labels[frame] for frame, p in zip(manifest.ids, predicted)}

    def number(frame: str) -> int:
        return int(frame[-11:-5])

    for k in (0, 1, 5, 10):
        lasting = [
            right[anchor] and all(right[f] for f in near if abs(number(f) - number(anchor)) <= k)
            for anchor, near in sets.items()
        ]
        assert got[f"pm{k}"] == np.mean(lasting)
    assert 0.3 < got["pm10"] < got["pm5"] < got["pm1"] < got["pm0"] < 1
    first = [p == labels[frame][0] for frame, p in zip(manifest.ids, predicted)]
    assert got["top1_all_frames"] == pytest.approx(np.mean(first))


@pytest.fixture
def video(tmp_path):
    """Frames of one colour each: a set of three, one green among red ones, and a blue anchor alone."""
    frames = {"a/000003": ("red", [4]), "a/000004": ("red", [4, 2]), "a/000009": ("green", [4])}
    frames["b/000000"] = ("blue", [2, 1])
    labels = {f"val/{name}.JPEG": classes for name, (_, classes) in frames.items()}
    for name, (colour, _) in zip(labels, frames.values()):
        paint(tmp_path / name, colour)
    first, anchor, last, alone = labels
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata/labels.json").write_text(json.dumps(labels))
    (tmp_path / "metadata/pmsets.json").write_text(json.dumps({anchor: [first, last], alone: []}))
    return tmp_path


def test_from_images_to_numbers(video):
    """Class k is called by the colour k mod 8; of classes of one colour the first wins."""
    names = tuple(f"{list(COLOURS)[k % 8]} thing" for k in range(len(SPACE)))
    settings = {"root": video, "prompts": "single", "progress": False}
    coloured = LabelSpace("coloured", names, SPACE.ids)
    got = clipjax.evaluate(ColourModel(), "vid_robust", dataset=FOLDER, labels=coloured, **settings)
    assert (got.value("pm0"), got.value("pm4"), got.value("pm5")) == (1.0, 1.0, 0.5)
    assert got.value("top1_all_frames") == 2 / 4
    anchors = {"dataset": "imagenet_vid_robust_anchors", "labels": coloured}
    assert clipjax.evaluate(ColourModel(), **anchors, **settings).value("top1") == 1.0
    with pytest.raises(DataError, match=r"the set of val/a/000004\.JPEG has 1 of its 3 frames"):
        clipjax.evaluate(ColourModel(), "vid_robust", **anchors, **settings)
    turned = LabelSpace("turned", names[::-1], SPACE.ids[::-1])
    with pytest.raises(UsageError, match=r"have several labels each: give labels with the ids that its own"):
        clipjax.evaluate(ColourModel(), "vid_robust", dataset=FOLDER, labels=turned, **settings)

"""Retrieval: CLIP_benchmark's numbers on planted embeddings, intervals, and from images and captions."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import pytest
import torch
from clip_benchmark.metrics import zeroshot_retrieval

import clipjax
from clipjax.checkpoints.card import Preprocess
from clipjax.data.labels import PromptSet, load_labels
from clipjax.embeddings.texts import caption_texts
from clipjax.errors import DataError, UsageError
from clipjax.metrics.uncertainty import intervals
from clipjax.metrics.uncertainty.bootstrap import Resampling, percentile_interval
from clipjax.results.image_table import images_table
from clipjax.tasks.inputs import About, Captions, ImageInputs
from clipjax.tasks.retrieval import TASK

K = (1, 5, 10)


def unit(x):
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def inputs(images=60, most=7, noise=1.5, **more) -> ImageInputs:
    """Images with 1 to `most` captions, all captions in a random order."""
    rng = np.random.default_rng(0)
    owner = rng.permutation(np.repeat(np.arange(images), rng.integers(1, most + 1, images)))
    image = unit(rng.normal(size=(images, 32)))
    text = unit(image[owner] + noise * unit(rng.normal(size=(len(owner), 32))))
    cut = np.arange(len(owner)) < 3
    captions = Captions(text, owner.astype(np.int32), cut)
    return ImageInputs(
        ids=[f"{i}.png" for i in range(images)],
        features=image,
        labels=None,
        head=None,
        label_space=None,
        captions=captions,
        **more,
    )


def clip_benchmark(image: np.ndarray, text: np.ndarray, owner: np.ndarray) -> dict[str, float]:
    """CLIP_benchmark's own `evaluate` on stored embeddings: images and tokens are rows."""
    images, texts = torch.from_numpy(image), torch.from_numpy(text)
    model = SimpleNamespace(encode_image=lambda rows: images[rows], encode_text=lambda rows: texts[rows])
    batch = (torch.arange(len(image)), [np.flatnonzero(owner == i).tolist() for i in range(len(image))])
    return zeroshot_retrieval.evaluate(model, [batch], torch.tensor, "cpu", amp=False, recall_k_list=list(K))


def measured(given: ImageInputs) -> dict[str, Any]:
    return {m.metric: m for m in TASK.run(given).measures}


@pytest.mark.parametrize("noise", [0.7, 1.5, 3.0])
def test_recall_is_clip_benchmarks(noise):
    given = inputs(noise=noise, dataset="d")
    assert given.captions is not None
    got = measured(given)
    theirs = clip_benchmark(given.features, given.captions.features, given.captions.image_of_text)
    assert {name: got[name].value for name in theirs} == pytest.approx(theirs, abs=1e-6)
    mean = (theirs["image_retrieval_recall@5"] + theirs["text_retrieval_recall@5"]) / 2
    assert got["mean_recall@5"].value == pytest.approx(mean, abs=1e-6)
    assert got["mean_recall@5"].aggregates == "directions"


def test_average_precision_is_sklearns():
    from sklearn.metrics import average_precision_score

    given = inputs(dataset="d")
    assert given.captions is not None
    texts, owner = given.captions.features, given.captions.image_of_text
    scores, positive = given.features @ texts.T, np.arange(60)[:, None] == owner
    got = measured(given)
    by_image = np.mean([average_precision_score(p, s) for p, s in zip(positive, scores)])
    by_text = np.mean([average_precision_score(p, s) for p, s in zip(positive.T, scores.T)])
    assert got["text_retrieval_map"].value == pytest.approx(by_image, abs=1e-6)
    assert got["image_retrieval_map"].value == pytest.approx(by_text, abs=1e-6)


def test_a_hand_worked_case():
    """Image 0 is found by its second caption alone; the first caption looks like image 1."""
    image = np.eye(2, dtype=np.float32)
    text = unit(np.array([[0.2, 1.0], [1.0, 0.1], [0.1, 1.0]]))
    captions = Captions(text, np.array([0, 0, 1], np.int32))
    outcome = TASK.run(
        ImageInputs(
            ids=["a", "b"],
            features=image,
            labels=None,
            head=None,
            label_space=None,
            captions=captions,
            dataset="d",
        )
    )
    assert outcome.images["caption_ranks"] == [[0, 1], [0]]
    assert outcome.images["image_ranks"] == [[1, 0], [0]]
    got = {m.metric: m.value for m in outcome.measures}
    assert got["image_retrieval_recall@1"] == pytest.approx(2 / 3)
    assert got["text_retrieval_recall@1"] == 1
    assert got["image_retrieval_recall@5"] == 1
    assert got["image_retrieval_map"] == pytest.approx((1 / 2 + 1 + 1) / 3)
    assert got["text_retrieval_map"] == 1


def test_queries_and_notes():
    given = inputs(dataset="d")
    assert given.captions is not None
    got, texts = measured(given), len(given.captions.features)
    assert (got["image_retrieval_recall@1"].n, got["text_retrieval_recall@1"].n) == (texts, 60)
    note = f"{texts} captions of 60 images; 3 captions were cut to the context"
    assert {m.note for m in got.values()} == {note}


def test_intervals_resample_images_with_their_captions():
    given = inputs(noise=2.0, dataset="d", resamples=200, seed=4)
    outcome = TASK.run(given)
    got: dict[str, Any] = {m.metric: m for m in outcome.measures}
    hits = [np.array(ranks) < 5 for ranks in outcome.images["image_ranks"]]
    draws, both = [], []
    for weights in Resampling("d", 60, resamples=200, seed=4).blocks(200):
        for row in weights:
            drawn = np.concatenate([np.tile(each, k) for each, k in zip(hits, row)])
            draws.append(drawn.mean())
            found = np.array([min(ranks) < 5 for ranks in outcome.images["caption_ranks"]])
            both.append((draws[-1] + np.repeat(found, row).mean()) / 2)
    expected = percentile_interval(np.array(draws), clustered=True)
    assert got["image_retrieval_recall@5"].interval[:2] == pytest.approx(expected[:2], abs=1e-12)
    assert got["image_retrieval_recall@5"].interval.method == "cluster_bootstrap_200"
    assert got["mean_recall@5"].interval[:2] == pytest.approx(percentile_interval(np.array(both))[:2])
    recall = got["text_retrieval_recall@5"]
    assert recall.interval == intervals.wilson(round(recall.value * 60), 60)
    for m in got.values():
        assert m.interval.lo <= m.value <= m.interval.hi


def test_captions_of_one_image_are_one_observation():
    """Five equal captions an image carry no more information than one."""
    one = inputs(images=80, most=1, noise=3.0, dataset="d")
    assert one.captions is not None
    five = Captions(np.repeat(one.captions.features, 5, axis=0), np.repeat(one.captions.image_of_text, 5))
    wide = measured(one)["image_retrieval_recall@1"].interval
    again = measured(
        ImageInputs(
            ids=one.ids,
            features=one.features,
            labels=None,
            head=None,
            label_space=None,
            captions=five,
            dataset="d",
        )
    )
    assert again["image_retrieval_recall@1"].interval[:2] == pytest.approx(wide[:2])


@pytest.mark.parametrize("images", [1, 2, 30])
def test_nothing_missed_leaves_an_interval(images):
    got = measured(inputs(images=images, noise=0.01, dataset="d"))
    for m in got.values():
        assert m.value == 1
        assert m.interval.hi == pytest.approx(1)
        assert m.interval.lo == pytest.approx(intervals.wilson(images, images).lo)


def test_every_number_can_be_made_again_from_parquet(tmp_path):
    outcome = TASK.run(inputs(dataset="d"))
    pq.write_table(images_table(outcome.images), tmp_path / "images.parquet")
    columns = pq.read_table(tmp_path / "images.parquet").to_pydict()
    assert TASK.measure(columns, About("d", None)) == outcome.measures


def test_what_cannot_be_measured_is_said():
    given = inputs(images=5, dataset="d")
    given.features[3] = np.nan
    with pytest.raises(DataError, match="d: row 3: the image's embedding holds NaN"):
        TASK.run(given)
    nothing = Captions(np.zeros((0, 32), np.float32), np.zeros(0, np.int32))
    with pytest.raises(DataError, match="there are no images"):
        TASK.run(
            ImageInputs(
                ids=[],
                features=np.zeros((0, 32), np.float32),
                labels=None,
                head=None,
                label_space=None,
                captions=nothing,
            )
        )


def test_captions_are_laid_out_in_order():
    template = PromptSet("photo", ("a photo of {}",))
    texts, owner = caption_texts(["a", "b"], [["x", "y {} z"], "one"], template)
    assert texts == ["a photo of x", "a photo of y {} z", "a photo of one"]
    assert owner.tolist() == [0, 0, 1]
    for wrong, message in (
        ([["x"], []], "b has no caption"),
        ([["x"], None], "b has no caption"),
        ([["x"], [" "]], "b: its caption ' ' is empty"),
        ([[3], ["x"]], "a: its caption 3 is empty or no text"),
        (["", "x"], "a: its caption '' is empty"),
    ):
        with pytest.raises(DataError, match=message):
            caption_texts(["a", "b"], wrong, template)


# From images and captions on disk.

CAPTIONS = [
    ["a red square", "the first"],
    ["a green square"],
    ["something blue", "the same words", "a third caption"],
    ["the same words"],  # also a caption of image 2
    ["dog " * 100],
    ["a cat, sitting", "no", "yes", "perhaps"],
]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("captions")
    rng = np.random.default_rng(0)
    rows = []
    for i, captions in enumerate(CAPTIONS):
        PIL.Image.fromarray(rng.integers(0, 255, (40, 30, 3), np.uint8)).save(root / f"{i}.png")
        rows.append({"path": f"{i}.png", "captions": captions})
    (root / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    pytest.importorskip("open_clip")
    from _narrow import narrow_pair

    return narrow_pair(tmp_path_factory.mktemp("narrow"))


@pytest.fixture(scope="module", autouse=True)
def few_texts_at_once() -> Iterator[None]:
    """A dozen captions in steps of 32 texts of 77 tokens are mostly padding."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clipjax.embeddings.forward.TEXT_BATCH", 4)
        yield


def run(world: Path, model: Any, **settings: Any):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "1 of")  # the caption that is too long
        return clipjax.evaluate(
            model, "retrieval", dataset=world / "captions.jsonl", progress=False, resamples=20, **settings
        )


def test_end_to_end_equals_clip_benchmark(network, world, tmp_path):
    import open_clip

    theirs, ours = network
    result = run(world, ours, store=tmp_path / "store", results=tmp_path / "results")
    size = ours.card.preprocess.image_size
    transform: Any = open_clip.image_transform(size, is_train=False)
    pixels = torch.stack([transform(PIL.Image.open(world / f"{i}.png")) for i in range(len(CAPTIONS))])
    expected = zeroshot_retrieval.evaluate(
        theirs.eval(),
        [(pixels, CAPTIONS)],
        open_clip.get_tokenizer("ViT-B-32"),
        "cpu",
        amp=False,
        recall_k_list=[1, 5],
    )
    assert 0 < expected["text_retrieval_recall@1"] < 1 or 0 < expected["image_retrieval_recall@1"] < 1
    for name, value in expected.items():
        assert result.value(name) == pytest.approx(value, abs=1e-6)
    assert result.rows[0]["note"] == "12 captions of 6 images; 1 captions were cut to the context"
    assert result.rows[0]["convention"]["prompts"] == "captions as they stand"
    again = run(world, ours, store=tmp_path / "store")
    assert again.stats.forward_passes == 0
    assert [row["value"] for row in again.rows] == [row["value"] for row in result.rows]


def test_a_template_is_recorded(network, world, tmp_path):
    (tmp_path / "photo.txt").write_text("a photo of {}\n")
    plain = run(world, network[1])
    with_prefix = run(world, network[1], prompts=tmp_path / "photo.txt")
    assert with_prefix.rows[0]["convention"]["prompts"] == "photo"
    assert with_prefix.rows[0]["recipe_hash"] != plain.rows[0]["recipe_hash"]
    assert with_prefix.images["image_ranks"] != plain.images["image_ranks"]
    with pytest.raises(UsageError, match="captions go into one template, openai_7 is more"):
        run(world, network[1], prompts="openai_7")


class Known:
    """A user's own model: the embedding of an image or text is looked up by its colour or words."""

    def __init__(self, **card: Any) -> None:
        preprocess = Preprocess(8, 8, "shortest", "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        fields = {"id": "known", "kind": "zero_shot", "fingerprint": None, "facts": {}, "logit_scale": None}
        fields |= {"logit_bias": None, "preprocess": preprocess, "classes": None}
        self.card = SimpleNamespace(**fields | card)

    def encode_image(self, images: Any) -> np.ndarray:
        return unit(np.asarray(images).mean(axis=(1, 2)) + 1.1)

    def encode_text(self, texts: list[str]) -> np.ndarray:
        words = {"red": 3, "green": 2, "blue": 1}
        return unit(np.array([[n * (c in text) for c, n in words.items()] for text in texts]) + 0.05)


@pytest.fixture
def colours(tmp_path) -> Path:
    rows = []
    for name, rgb in (("red", (255, 0, 0)), ("green", (0, 255, 0)), ("blue", (0, 0, 255))):
        PIL.Image.new("RGB", (8, 8), rgb).save(tmp_path / f"{name}.png")
        second = "red, not blue" if name == "blue" else name
        rows.append({"path": f"{name}.png", "captions": [f"it is {name}", second]})
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_a_users_own_model_and_a_skipped_image(colours):
    result = run(colours, Known())
    # "red, not blue" is blue's, and finds red's image first.
    assert result.images["image_ranks"].to_pylist() == [[0, 0], [0, 0], [0, 1]]
    assert result.value("text_retrieval_recall@1") == 1
    assert result.value("image_retrieval_recall@1") == pytest.approx(5 / 6)
    (colours / "red.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"red\.png"):
        run(colours, Known())
    result = run(colours, Known(), on_error="skip")
    assert result.images["id"].to_pylist() == ["green.png", "blue.png"]
    assert result.value("image_retrieval_recall@1") == 1
    assert result.rows[0]["skipped"] == 1
    assert result.rows[0]["note"] == "4 captions of 2 images"
    limited = run(colours, Known(), on_error="skip", limit=2)
    assert limited.rows[0]["sample"] == {"limit": 2, "seed": 0, "of": 3}


def test_not_for_a_classifier_nor_without_captions(colours, world):
    result = run(colours, Known(kind="classifier", label_space=load_labels("imagenet")))
    [row] = result.rows
    assert (row["metric"], row["value"]) == ("retrieval", None)
    assert row["note"] == "not applicable: known is a classifier and has no text tower"
    with pytest.raises(DataError, match="has no captions; retrieval needs a column `captions`"):
        clipjax.evaluate(Known(), "retrieval", dataset=colours, progress=False)

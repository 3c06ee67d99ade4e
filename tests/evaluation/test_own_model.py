"""A model of one's own from two functions."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from _colours import COLOURS, ColourModel, paint

import clipjax
from clipjax.data.labels import LabelSpace
from clipjax.errors import DataError, UsageError
from clipjax.evaluation.own_model import OwnCard
from clipjax.storage.store import Store

PIXELS = {"image_size": 8, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
NAMES = ("blue", "red", "white")


@pytest.fixture
def world(tmp_path: Path) -> Path:
    for name in NAMES:
        paint(tmp_path / "world" / name / "0.png", name)
    paint(tmp_path / "world" / "red" / "1.png", "blue")
    return tmp_path / "world"


def wrapped(**changed: Any) -> Any:
    eyes = ColourModel()
    given = {"encode_image": eyes.encode_image, "encode_text": eyes.encode_text, "name": "mine"}
    return clipjax.wrap(**{**given, **PIXELS, "logit_scale": 20.0, **changed})


def test_a_zero_shot_model(world: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    result = clipjax.evaluate(wrapped(), root=world, prompts="single", store=store, progress=False)
    assert result.value("top1") == 3 / 4
    row = result.rows[0]
    assert row["model"] == "mine"
    assert row["model_facts"] == {
        "arch": None,
        "kind": "zero_shot",
        "image_size": 8,
        "facts_origin": "unknown",
        "facts_of": None,
    }
    assert not store.ls()
    facts = {"train_source": "CC12M"}
    known = wrapped(facts=facts, fingerprint="colours 1")
    stated = clipjax.evaluate(known, root=world, prompts="single", store=store, progress=False)
    assert store.ls()
    assert stated.rows[0]["model_facts"].items() >= {**facts, "facts_origin": "stated"}.items()


def test_features_of_any_norm_are_noted_once(world: Path, caplog: pytest.LogCaptureFixture) -> None:
    def long(images: np.ndarray) -> np.ndarray:
        return 3 * ColourModel().encode_image(images)

    for function, notes in ((None, 0), (long, 1), (long, 1)):
        model = wrapped(name="long", **({} if function is None else {"encode_image": function}))
        assert clipjax.evaluate(model, root=world, prompts="single", progress=False).value("top1") == 3 / 4
        assert caplog.text.count("encode_image of long makes vectors that are not of unit norm") == notes


def test_a_tokenizer_makes_what_encode_text_gets(world: Path) -> None:
    seen = []

    def encode(ids: np.ndarray) -> np.ndarray:
        seen.append(ids)
        return ColourModel.embed(np.array(list(COLOURS.values()))[ids] / 127.5 - 1)

    def tokenizer(texts: list[str]) -> np.ndarray:
        return np.array([next(k for k, name in enumerate(COLOURS) if name in text) for text in texts])

    model = wrapped(encode_text=encode, tokenizer=tokenizer)
    assert clipjax.evaluate(model, root=world, prompts="single", progress=False).value("top1") == 3 / 4
    assert seen


def test_a_classifier_whose_outputs_are_logits(world: Path) -> None:
    target = ColourModel.embed(np.array([COLOURS[name] for name in NAMES]) / 127.5 - 1)
    eyes = ColourModel()
    space = LabelSpace("colours", NAMES, NAMES)
    model = wrapped(
        encode_image=lambda images: eyes.encode_image(images) @ target.T, encode_text=None, classes=space
    )
    result = clipjax.evaluate(model, root=world, progress=False)
    assert result.value("top1") == 3 / 4
    assert result.rows[0]["model_facts"]["kind"] == "classifier"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"encode_image": None}, "encode_image is None, should be a function"),
        ({"encode_text": 3}, "encode_text is 3, should be a function"),
        ({"encode_text": None}, "give encode_text, or for a classifier"),
        ({"classes": "imagenet"}, "give encode_text, or for a classifier"),
        ({"name": "vit_b_32-openai"}, "'vit_b_32-openai' is empty, .* or is a published model's"),
        ({"name": ""}, "the name '' is empty"),
        ({"name": "two\nlines"}, r"'two\\nlines' is empty, has control characters"),
        ({"logit_scale": float("nan")}, "logit_scale is nan, should be a finite number"),
        ({"logit_bias": "low"}, "logit_bias is 'low', should be a finite number"),
        ({"image_size": 0}, "size"),
        ({"interpolation": "nearest"}, "nearest"),
        ({"mean": (0.5, 0.5)}, "mean is .* should be three numbers"),
        ({"std": (0, 1, 1)}, r"std is \(0, 1, 1\), should be three numbers above 0, one per channel"),
        ({"facts": {"grup": "x"}}, "did you mean group"),
    ],
)
def test_what_makes_no_model(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        wrapped(**changed)


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({"id": 3}, "the model's card has id 3, should be the model's name, a text without"),
        ({"kind": "clip"}, "card has kind 'clip', should be 'zero_shot' or 'classifier'"),
        (
            {"preprocess": SimpleNamespace(image_size=8)},
            "card has preprocess .*should be a clipjax.*Preprocess",
        ),
        ({"logit_scale": "100"}, "card has logit_scale '100', should be a number or None"),
        ({"fingerprint": 3}, "card has fingerprint 3, should be a text"),
        ({"kind": "classifier"}, "colours is a classifier: set label_space on its card"),
        (
            {"kind": "classifier", "label_space": NAMES},
            "card has label_space .*should be a clipjax.*LabelSpace",
        ),
    ],
)
def test_a_card_of_ones_own_is_checked_before_anything_runs(
    card: dict[str, Any], message: str, world: Path
) -> None:
    model = ColourModel(**card)
    with pytest.raises(UsageError, match=message):
        clipjax.evaluate(model, root=world, prompts="single", progress=False)
    assert model.calls == 0


@pytest.mark.parametrize("scale", [20, np.float32(20), np.array(20.0), jnp.array(20.0)])
def test_a_scale_may_be_a_number_of_any_library(scale: Any) -> None:
    assert OwnCard.of(ColourModel(logit_scale=scale).card).logit_scale == 20
    assert wrapped(logit_scale=scale).card.logit_scale == 20


@pytest.mark.parametrize(
    ("changed", "other"),
    [
        ({}, "encode_text makes rows of 4"),
        ({"encode_text": None, "classes": LabelSpace("colours", NAMES, NAMES)}, "head takes rows of 3"),
    ],
)
def test_two_functions_make_rows_of_one_width(changed: dict[str, Any], other: str, world: Path) -> None:
    def encode_image(images: np.ndarray) -> np.ndarray:
        return np.ones((len(images), 5), np.float32)

    with pytest.raises(DataError, match=f"encode_image of mine makes rows of 5 numbers, and its .*{other}"):
        clipjax.evaluate(wrapped(encode_image=encode_image, **changed), root=world, progress=False)


def test_a_classifier_of_ones_own_needs_a_card_and_logits(world: Path) -> None:
    target = ColourModel.embed(np.array([COLOURS[name] for name in NAMES]) / 127.5 - 1)
    model = ColourModel(kind="classifier", label_space=LabelSpace("colours", NAMES, NAMES))
    own = SimpleNamespace(card=model.card, encode_image=lambda images: model.encode_image(images) @ target.T)
    assert clipjax.evaluate(own, root=world, progress=False).value("top1") == 3 / 4


def test_an_object_without_a_card_is_refused_with_the_way_to_go(world: Path) -> None:
    with pytest.raises(UsageError, match=r"the model is a object without a card: .* clipjax\.wrap\("):
        clipjax.evaluate(object(), root=world)

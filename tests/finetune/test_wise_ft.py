"""WiSE-FT: endpoints to the bit, the mixture as torch computes it, pairs that do not belong together."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from _narrow import narrow_pair
from _records import embed_images

from clipjax.checkpoints.card import Weights
from clipjax.checkpoints.identity.registry import model_card
from clipjax.checkpoints.load import load_model
from clipjax.checkpoints.model import Model
from clipjax.checkpoints.origin import AdapterParts
from clipjax.data.labels import LabelSpace, PromptSet
from clipjax.data.manifest import Manifest
from clipjax.errors import UsageError
from clipjax.finetune import wise_ft
from clipjax.finetune.data.splits import TestSplit, TrainSplit, ValidationSplit
from clipjax.finetune.training.trees import flatten, is_statistic, nest
from clipjax.heads import build
from clipjax.heads import head as heads
from clipjax.models.arch import narrow_arch
from clipjax.models.network import Network

pytestmark = pytest.mark.usefixtures("one_device")

# Two classes of one name: their logits are equal to the bit, too.
SPACE = LabelSpace("things", ("dog", "van", "crane", "hat", "crane"), ("n1", "n2", "n3", "n4", "n5"))
PROMPTS = PromptSet("two", ("a photo of a {}.", "a drawing of a {}."))
LINEAGE: dict[str, Any] = {"method": "cross_entropy", "base": "narrow", "base_sha256": None}


def moved(params: Any, seed: int = 0) -> Any:
    """As after fine-tuning: every leaf but one elsewhere."""
    rng = np.random.default_rng(seed)
    leaves = flatten(params)
    for path, leaf in leaves.items():
        if path != "vision/class_embedding":
            noise = rng.normal(scale=1e-2, size=np.shape(leaf))
            leaves[path] = (np.asarray(leaf) + noise).astype(np.float32)
    return nest(leaves)


def same_bits(one: Any, other: Any) -> bool:
    return jax.tree.all(jax.tree.map(lambda x, y: np.array_equal(np.asarray(x), np.asarray(y)), one, other))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return narrow_pair(tmp_path_factory.mktemp("narrow"))[1]


@pytest.fixture(scope="module")
def start(base: Model) -> Model:
    """The zero-shot endpoint of a classifier."""
    return wise_ft.zero_shot_classifier(base, SPACE, PROMPTS)


@pytest.fixture(scope="module")
def classifier(start: Model) -> Model:
    return Model(dataclasses.replace(start.card, id="narrow-ce", lineage=LINEAGE), moved(start.params))


@pytest.fixture(scope="module")
def flyp(base: Model) -> Model:
    """Both towers fine-tuned."""
    lineage = {**LINEAGE, "method": "flyp"}
    card = dataclasses.replace(base.card, id="narrow-flyp", lineage=lineage)
    return base.with_card(card).with_params(moved(base.params))


def test_alpha_0_of_a_classifier_gives_the_zero_shot_numbers(
    base: Model, start: Model, classifier: Model, manifest: Manifest
) -> None:
    """From pixels to logits: embeddings, predictions and confidences, to the bit."""
    model = wise_ft.interpolate(start, classifier, 0.0)
    zero_shot = build.zeroshot_head(base, SPACE, PROMPTS)
    assert zero_shot.scale > 1, "or the scale might as well be forgotten"
    embeddings = [embed_images(each, manifest, progress=False).array for each in (base, model)]
    np.testing.assert_array_equal(embeddings[1], embeddings[0])
    logits = [
        np.asarray(heads.logits(head, features))
        for head, features in zip((zero_shot, build.classifier_head(model)), embeddings)
    ]
    np.testing.assert_array_equal(logits[1], logits[0])
    assert np.ptp(logits[0]) > 1
    other = wise_ft.interpolate(start, classifier, 0.1)
    assert not np.array_equal(embed_images(other, manifest, progress=False).array, embeddings[0])


def test_alpha_0_of_two_towers_gives_the_zero_shot_numbers(base: Model, flyp: Model) -> None:
    """The card's scale is the base's own, and not exp(log(scale)) in float32."""
    round_scale = with_card(base, logit_scale=100.0)
    model = wise_ft.interpolate(round_scale, flyp, 0)
    assert model.card.logit_scale == 100.0
    one, other = (build.zeroshot_head(each, SPACE, PROMPTS) for each in (round_scale, model))
    assert one.scale == other.scale
    np.testing.assert_array_equal(one.kernel, other.kernel)


@pytest.mark.parametrize("kind", ["classifier", "flyp"])
def test_endpoints_are_the_models_own_arrays(
    kind: str, base: Model, start: Model, request: pytest.FixtureRequest
) -> None:
    tuned = request.getfixturevalue(kind)
    first = start if kind == "classifier" else base
    for alpha, end in ((0, first), (0.0, first), (1, tuned), (1.0, tuned)):
        model = wise_ft.interpolate(first, tuned, alpha)
        pairs = zip(jax.tree.leaves(model.params), jax.tree.leaves(end.params), strict=True)
        assert all(ours is theirs for ours, theirs in pairs)
        assert model.card.logit_scale == end.card.logit_scale
        assert model.card.arch == end.card.arch


def test_endpoints_keep_the_fingerprint(base: Model, flyp: Model) -> None:
    """Embeddings of the base that are stored are those of alpha 0."""
    assert base.card.fingerprint is not None
    assert wise_ft.interpolate(base, flyp, 0).card.fingerprint == base.card.fingerprint
    assert wise_ft.interpolate(base, flyp, 0.5).card.fingerprint is None


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.7])
def test_the_mixture_is_torchs(base: Model, flyp: Model, alpha: float) -> None:
    """As wise-ft mixes state dicts, to the bit; the other way round is another model."""
    torch = pytest.importorskip("torch")
    mixed: Any = flatten(wise_ft.interpolate(base, flyp, alpha).params)
    one, other = flatten(base.params), flatten(flyp.params)
    assert mixed.keys() == one.keys()
    for path in mixed:
        x, y = (torch.tensor(np.asarray(each[path])) for each in (one, other))
        if path == "vision/class_embedding":
            assert np.array_equal(mixed[path], x), "what has not moved stays"
            continue
        np.testing.assert_array_equal(mixed[path], ((1 - alpha) * x + alpha * y).numpy())
        if alpha != 0.5:
            assert not np.allclose(mixed[path], (alpha * x + (1 - alpha) * y).numpy(), atol=1e-5)


def test_the_logit_scale_of_a_mixture_is_on_its_card(base: Model, flyp: Model) -> None:
    card = wise_ft.interpolate(base, flyp, 0.5).card
    logs = [float(model.params["logit_scale"]) for model in (base, flyp)]
    assert card.logit_scale == pytest.approx(math.exp(sum(logs) / 2), rel=1e-6)


def test_batch_norm_statistics_are_mixed() -> None:
    """Of a ResNet, whose running mean and variance a fine-tuning has moved, like any other leaf."""
    known = model_card("rn50-openai")
    card = dataclasses.replace(known, arch=narrow_arch(known.arch), tokenizer=None).without_weights()
    rng = np.random.default_rng(0)

    def drawn() -> Model:
        leaves = flatten(Network(card.arch).abstract_params())
        return Model(card, nest({path: rng.random(x.shape, np.float32) for path, x in leaves.items()}))

    base, tuned = drawn(), drawn()
    mixed = flatten(wise_ft.interpolate(base, tuned, 0.25).params)
    statistics = [path for path in mixed if is_statistic(path)]
    assert {path.rsplit("/", 1)[-1] for path in statistics} == {"mean", "var"}
    for path in statistics:
        wanted = 0.75 * flatten(base.params)[path] + 0.25 * flatten(tuned.params)[path]
        np.testing.assert_allclose(mixed[path], wanted, rtol=1e-6, err_msg=path)


def test_a_sweep_says_on_each_card_what_it_is(start: Model, classifier: Model) -> None:
    models = list(wise_ft.sweep(start, classifier))
    assert [model.card.lineage["alpha"] for model in models if model.card.lineage] == list(wise_ft.ALPHAS)
    assert wise_ft.ALPHAS == (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)
    card = models[3].card
    assert card.id == "narrow-ce-alpha0.3"
    assert card.lineage is not None
    assert (card.lineage["base"], card.lineage["tuned"]["method"]) == ("narrow", "cross_entropy")
    assert len({model.card.id for model in models}) == 11


def with_card(model: Model, **changes: Any) -> Model:
    return Model(dataclasses.replace(model.card, **changes), model.params, weights=model.card.weights)


def test_a_saved_mixture_keeps_the_name_of_its_classes(
    start: Model, classifier: Model, tmp_path: Path
) -> None:
    """Which configs/labels does not have: they lie in labels.csv, beside the weights."""
    tuned = with_card(classifier, lineage={**LINEAGE, "train": {"classes": SPACE.name}})
    for alpha in (0.0, 0.5):
        mixed = wise_ft.interpolate(start, tuned, alpha)
        again = load_model(mixed.save(tmp_path / f"{alpha}"))
        assert build.classifier_head(again).label_space == SPACE


def test_pairs_that_do_not_belong_together(base: Model, start: Model, classifier: Model, flyp: Model) -> None:
    def refused(one: Model, other: Model, why: str, alpha: float = 0.5) -> None:
        with pytest.raises(UsageError, match=why):
            wise_ft.interpolate(one, other, alpha)

    refused(base, flyp, "alpha is 1.5: give a number from 0", alpha=1.5)
    refused(base, classifier, "is a classifier; give the first one's zero_shot_classifier")
    refused(start, flyp, "the first is a classifier model, the second a zero_shot one")
    refused(base, with_card(flyp, lineage={"base": "rn50-openai"}), "was fine-tuned from rn50-openai")
    foreign = {**LINEAGE, "base_sha256": "0" * 64}
    refused(base, with_card(flyp, lineage=foreign), "fine-tuned from other weights of narrow")
    refused(start, with_card(classifier, lineage=foreign), "fine-tuned from other weights of narrow")

    arch = base.card.arch
    other = dataclasses.replace(arch, vision=dataclasses.replace(arch.vision, ln_eps=1e-6))
    refused(base, with_card(flyp, arch=other), "their architectures, .* differ")
    pixels = dataclasses.replace(base.card.preprocess, mean=(0.5, 0.5, 0.5))
    refused(base, with_card(flyp, preprocess=pixels), "do not read pixels")
    space = dataclasses.replace(SPACE, name="others", ids=tuple("abcde"))
    others = Model(classifier.card.with_classes(space), classifier.params)
    refused(start, others, "one has the classes of things, one those of others")
    less = Model(flyp.card, {name: leaf for name, leaf in flyp.params.items() if name != "logit_scale"})
    refused(base, less, "only one of them has logit_scale")

    adapted = flyp.with_adapter(AdapterParts("coop", {}, {}), flyp.card)
    refused(base, adapted, "has an adapter")


def test_a_zero_shot_classifier_knows_its_weights(base: Model, start: Model) -> None:
    assert isinstance(base.card.weights, Weights)
    assert start.card.lineage == {
        "method": "zeroshot",
        "base": "narrow",
        "base_sha256": base.card.weights.identity,
        "prompts": "two",
    }
    assert start.params["vision"] is base.params["vision"]
    np.testing.assert_array_equal(start.params["head"]["bias"], np.zeros(5))
    norms = np.linalg.norm(start.params["head"]["kernel"], axis=0)
    np.testing.assert_allclose(norms, base.card.logit_scale or 0, rtol=1e-6)


def test_alpha_is_chosen_on_a_validation_split_only(
    start: Model, classifier: Model, manifest: Manifest
) -> None:
    """Labels are the tuned model's own answers: alpha 1 is right on every image."""
    features = embed_images(classifier, manifest, progress=False).array
    labels = np.argmax(heads.logits(build.classifier_head(classifier), features), axis=1).astype(np.int32)
    split = ValidationSplit("held-out", manifest, labels, SPACE)
    choice = wise_ft.choose_alpha(start, classifier, split, alphas=(0.0, 0.5, 1.0))
    assert (choice.best, choice.accuracy) == (1.0, 1.0)
    assert choice.tried[0] < 1
    for kind in (TrainSplit, TestSplit):
        with pytest.raises(UsageError, match="alpha cannot be chosen on the"):
            wise_ft.choose_alpha(start, classifier, kind("test", manifest, labels, SPACE))
    other = dataclasses.replace(split, label_space=dataclasses.replace(SPACE, ids=tuple("abcde")))
    with pytest.raises(UsageError, match="has the classes of things"):
        wise_ft.choose_alpha(start, classifier, other)


def test_two_towers_need_prompts(base: Model, flyp: Model, manifest: Manifest) -> None:
    split = ValidationSplit("held-out", manifest, np.zeros(len(manifest), np.int32), SPACE)
    with pytest.raises(UsageError, match="name the prompts"):
        wise_ft.choose_alpha(base, flyp, split, alphas=(0.5,))
    choice = wise_ft.choose_alpha(base, flyp, split, prompts=PROMPTS, alphas=(0.5,))
    assert 0 <= choice.accuracy <= 1

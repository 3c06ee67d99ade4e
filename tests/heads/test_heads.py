"""Heads against open_clip, class by class, and what makes them fast: nothing of it may change a vector."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _long import mostly_long

from clipjax.checkpoints.card import Preprocess
from clipjax.data.labels import LabelSpace, PromptSet, load_labels, load_prompts
from clipjax.embeddings import beginnings, forward, texts
from clipjax.errors import DataError, UsageError
from clipjax.evaluation.own_model import OwnCard, OwnModel
from clipjax.heads import build
from clipjax.heads import head as heads
from clipjax.heads.build import classifier_head, zeroshot_head
from clipjax.heads.head import CacheModel, Head, cosine_head, logits, score_blocks
from clipjax.models.network import Network
from clipjax.results.provenance import count_compiles
from clipjax.storage.store import Store

pytestmark = [
    pytest.mark.filterwarnings("ignore:.* texts were cut to"),  # one of CAPTIONS is too long
    pytest.mark.usefixtures("one_device"),
]

CAPTIONS = PromptSet(
    "ragged",
    sentences={
        "crane": (" A crane is a bird.", "A bird."),
        "missile": ("It flies.", "It flies.", "A very long sentence " * 20, "a"),
        "cup": ("A cup.",),
    },
)


def space(*names: str) -> LabelSpace:
    return LabelSpace("some", names, tuple(f"id{i}" for i in range(len(names))))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A narrow open_clip model with the real tokenizer, and ours from its weights."""
    pytest.importorskip("open_clip")
    from _narrow import narrow_pair

    return narrow_pair(tmp_path_factory.mktemp("narrow"))


def class_by_class(theirs, labels: LabelSpace, prompts: PromptSet) -> np.ndarray:
    """The reference: every class on its own, every prompt at full length. [K, D]"""
    import open_clip
    import torch

    rows = []
    with torch.no_grad():
        for name in labels.classes:
            ids = open_clip.get_tokenizer("ViT-B-32")(list(prompts.of_class(name)))
            mean = theirs.encode_text(ids, normalize=True).mean(dim=0)
            rows.append((mean / mean.norm()).numpy())
    return np.stack(rows)


@pytest.mark.parametrize(
    "prompts",
    mostly_long(
        list(map(load_prompts, ("openai_80", "openai_7", "single"))),
        keep=list(map(load_prompts, ("openai_7", "single"))),
    ),
)
def test_templates_equal_open_clip(pair, prompts):
    labels = space("tench", "black-and-white Colobus", "missile", "CRT monitor", "missile")
    head = zeroshot_head(pair[1], labels, prompts)
    np.testing.assert_allclose(head.kernel.T, class_by_class(pair[0], labels, prompts), atol=2e-6)
    assert head.scale == pytest.approx(pair[0].logit_scale.exp().item(), rel=1e-6)
    assert (head.normalize, head.bias) == (True, None)


def test_prompts_that_share_beginnings_equal_open_clip(pair, monkeypatch):
    """As with 1,000 classes: here sharing is worthwhile however few tokens it saves."""
    monkeypatch.setattr(beginnings, "PROGRAM", 10)
    before = forward.compiled.copy()
    labels, prompts = space("tench", "black-and-white Colobus", "missile"), load_prompts("openai_80")
    head = zeroshot_head(pair[1], labels, prompts)
    assert {program.tower for program in forward.compiled - before} == {"beginnings", "rests"}
    np.testing.assert_allclose(head.kernel.T, class_by_class(pair[0], labels, prompts), atol=2e-6)


def test_it_is_open_clips_own_classifier(pair):
    import open_clip

    labels = load_labels("imagenet")
    labels = LabelSpace("few", labels.classes[:6], labels.ids[:6])
    templates = open_clip.OPENAI_IMAGENET_TEMPLATES[:9]
    theirs = open_clip.build_zero_shot_classifier(
        pair[0], open_clip.get_tokenizer("ViT-B-32"), labels.classes, templates, num_classes_per_batch=None
    )
    head = zeroshot_head(pair[1], labels, PromptSet("nine", tuple(template("{}") for template in templates)))
    np.testing.assert_allclose(head.kernel, theirs.numpy(), atol=2e-6)


def test_ragged_sentences_equal_the_reference(pair):
    labels = space("missile", "crane", "cup")
    head = zeroshot_head(pair[1], labels, CAPTIONS)
    np.testing.assert_allclose(head.kernel.T, class_by_class(pair[0], labels, CAPTIONS), atol=2e-6)


def test_averaging_unnormalised_embeddings_would_be_seen(pair):
    """The testbed's variant (mean of raw features): the tolerance above tells it apart."""
    import open_clip
    import torch

    labels = space("missile", "crane")
    with torch.no_grad():
        ids = open_clip.get_tokenizer("ViT-B-32")(list(CAPTIONS.of_class("missile")))
        mean = pair[0].encode_text(ids).mean(dim=0)
    head = zeroshot_head(pair[1], labels, CAPTIONS)
    assert np.abs(np.asarray(head.kernel)[:, 0] - (mean / mean.norm()).numpy()).max() > 1e-4


def test_chunks_do_not_change_the_head(pair):
    labels = space("crane", "missile", "cup")
    prompts = load_prompts("openai_7")
    whole = zeroshot_head(pair[1], labels, prompts)
    chunked = zeroshot_head(pair[1], labels, prompts, chunk=4)
    np.testing.assert_allclose(whole.kernel, chunked.kernel, atol=5e-7)


PREPROCESS = Preprocess(8, 8, "shortest", "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class Words(OwnModel):
    """Stands in for a model with a text tower: counts what it is asked for."""

    def __init__(self, dim: int = 16, **card: Any):
        fields: dict[str, Any] = {
            "kind": "zero_shot",
            "id": "fake",
            "preprocess": PREPROCESS,
            "logit_scale": 7.0,
        }
        super().__init__(OwnCard(**fields | card), None, None)
        self.dim = dim
        self.calls: list[list[str]] = []

    def encode_text(self, texts):
        self.calls.append(list(texts))
        vectors = [np.random.default_rng(list(text.encode())).normal(size=self.dim) for text in texts]
        return np.stack([vector / np.linalg.norm(vector) for vector in vectors]).astype(np.float32)


def test_a_users_own_model_is_given_strings():
    model = Words(logit_bias=-10.0)
    head = zeroshot_head(model, space("missile", "crane"), CAPTIONS)
    for k, name in enumerate(("missile", "crane")):
        mean = np.mean(
            [model.encode_text([text])[0].astype(np.float64) for text in CAPTIONS.of_class(name)], axis=0
        )
        np.testing.assert_allclose(np.asarray(head.kernel)[:, k], mean / np.linalg.norm(mean), atol=1e-7)
    assert np.asarray(head.bias).tolist() == [-10.0, -10.0]


class Twisted(Words):
    """An encoder whose output goes through `twist` first."""

    def __init__(self, twist):
        super().__init__()
        self.twist = twist

    def encode_text(self, texts):
        return self.twist(super().encode_text(texts))


@pytest.mark.parametrize(
    ("twist", "message"),
    [
        (lambda x: x * np.float32("nan"), r"norm nan of 'It flies\.': norms must be 1"),
        (lambda x: x * 1.01, r"norm 1\.01 of"),
        (lambda x: x[:-1], r"an array \[4, 16\] of 5 strings in batch 1: it must return \[5, D\]"),
        (lambda x: x[0], r"an array \[16\] of 5 strings"),
    ],
)
def test_an_own_text_tower_is_checked(twist, message):
    with pytest.raises(DataError, match=message):
        zeroshot_head(Twisted(twist), space("missile", "crane"), CAPTIONS)


def test_a_class_without_a_direction_is_named():
    """Its prompts cancel: the mean would be the direction of a rounding error."""

    def opposite(x):
        return np.concatenate([x[:1], -x[:1], x[2:]])

    prompts = PromptSet("two", sentences={"up": ("a", "b"), "cup": ("c",)})
    with pytest.raises(DataError, match="class 'up': the sum of its prompts is a vector of norm 0"):
        zeroshot_head(Twisted(opposite), space("up", "cup"), prompts)


def test_a_network_with_broken_text_weights_is_named(pair, tmp_path):
    text = jax.tree.map(lambda leaf: leaf * np.float32("nan"), pair[1].params["text"])
    broken = pair[1].with_params({**pair[1].params, "text": text})
    store = Store(tmp_path)
    with pytest.raises(DataError, match=r"class 'missile': .* norm nan"):
        zeroshot_head(broken, space("missile", "crane"), CAPTIONS, store=store)
    assert all(info.shards_present == 0 for info in store.ls())


def test_a_card_without_a_scale():
    with pytest.raises(UsageError, match="set logit_scale on the card of fake"):
        zeroshot_head(Words(logit_scale=None), space("missile"), CAPTIONS)


def test_no_prompt_is_encoded_twice():
    model = Words()
    prompts = PromptSet("t", ("a {}", "the {}", "one photo", "one photo"))
    zeroshot_head(model, space("a", "b", "a"), prompts)
    asked = [text for call in model.calls for text in call]
    assert sorted(asked) == sorted({"a a", "the a", "a b", "the b", "one photo"})


@pytest.mark.parametrize("classes", [10, 1000])
def test_memory_is_flat_in_the_number_of_prompts(classes):
    """No more than a chunk of embeddings is alive at a time: 100 prompts or 10,000."""
    import gc
    import weakref

    class Counting(Words):
        alive = peak = 0

        def encode_text(self, texts):
            gc.collect(0)
            array = super().encode_text(texts)
            Counting.alive += array.size
            Counting.peak = max(Counting.peak, Counting.alive)
            weakref.finalize(array, self.died, array.size)
            return array

        @staticmethod
        def died(size):
            Counting.alive -= size

    Counting.alive = Counting.peak = 0
    model = Counting()
    prompts = PromptSet("ten", tuple(f"{i} {{}}" for i in range(10)))
    zeroshot_head(model, space(*(f"c{i}" for i in range(classes))), prompts, chunk=50)
    assert {len(call) for call in model.calls} == {50}
    assert Counting.peak <= 2 * 50 * 16  # the chunk at hand, and the next one as it is made


def test_lengths_are_bucketed_and_sorted(pair, monkeypatch):
    shapes = []
    encoder = texts.text_encoder

    def spying(model, precision):
        encode = encoder(model, precision)

        def spy(ids):
            shapes.append(ids.shape)
            return encode(ids)

        return spy

    monkeypatch.setattr(texts, "text_encoder", spying)
    zeroshot_head(pair[1], space("missile", "crane", "cup"), CAPTIONS, chunk=2)
    # Start and end included, "a" takes 3, the short ones 5, the crane 8; the long one is cut at 77.
    assert shapes == [(2, 8), (2, 8), (2, 77)]


def test_the_store_keeps_the_head(pair, tmp_path, monkeypatch):
    labels, store = space("crane", "cup"), Store(tmp_path)
    first = zeroshot_head(pair[1], labels, CAPTIONS, store=store)
    monkeypatch.setattr(build, "_class_means", lambda *_: pytest.fail("computed again"))
    again = zeroshot_head(pair[1], labels, CAPTIONS, store=store)
    assert (np.asarray(first.kernel) == np.asarray(again.kernel)).all()
    other = {**(CAPTIONS.sentences or {}), "cup": ("A mug.",)}
    for changed in (
        lambda: zeroshot_head(pair[1], labels, PromptSet("ragged", sentences=other), store=store),
        lambda: zeroshot_head(pair[1], space("cup", "crane"), CAPTIONS, store=store),
        lambda: zeroshot_head(pair[1], labels, CAPTIONS, store=store, precision="fast"),
    ):
        with pytest.raises(pytest.fail.Exception, match="computed again"):
            changed()


def test_the_key_has_the_version_of_sharing_where_the_tower_may_share(pair, monkeypatch):
    usage, labels = build._Usage.of([["a", "b"]]), space("crane")
    key = build._key(pair[1], usage, labels, "parity")
    monkeypatch.setattr(Network, "shares_beginnings", False)
    assert key == {**(build._key(pair[1], usage, labels, "parity") or {}), "beginnings": beginnings.VERSION}


def test_a_model_without_a_fingerprint_is_not_stored(tmp_path):
    zeroshot_head(Words(), space("crane"), CAPTIONS, store=Store(tmp_path / "store"))
    assert not (tmp_path / "store").exists()


def test_missing_sentences_fail_before_anything_is_encoded():
    model = Words()
    with pytest.raises(DataError, match="no sentence for the class 'dog'"):
        zeroshot_head(model, space("crane", "dog"), CAPTIONS)
    assert model.calls == []


def test_a_classifier_has_no_prompts():
    with pytest.raises(UsageError, match="prompts are not applicable"):
        zeroshot_head(Words(kind="classifier"), space("crane"), CAPTIONS)


def classifier(kernel, bias, classes, **card: Any):
    model = Words(kind="classifier", classes=classes, **card)
    model.params = {"head": {"kernel": kernel, "bias": bias}}
    return model


def test_classifier_head():
    rng = np.random.default_rng(0)
    kernel, bias = rng.normal(size=(8, 1000)).astype(np.float32), rng.normal(size=1000).astype(np.float32)
    head = classifier_head(classifier(kernel, bias, "imagenet"))
    features = rng.normal(size=(5, 8)).astype(np.float32)
    np.testing.assert_allclose(logits(head, features), features @ kernel + bias, atol=2e-6)
    assert head.label_space.ids[0] == "n01440764"
    with pytest.raises(DataError, match="has 7 outputs, but 'imagenet' has 1000 classes"):
        classifier_head(classifier(kernel[:, :7], bias[:7], "imagenet"))
    with pytest.raises(UsageError, match="no file of it names its classes"):
        classifier_head(classifier(kernel, bias, None))
    with pytest.raises(UsageError, match="is not a classifier"):
        classifier_head(Words())


def test_logits_are_full_precision():
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(64, 10)).astype(np.float32)
    head = Head(jnp.asarray(kernel), None, 100.0, True, space(*"abcdefghij"))
    features = rng.normal(size=(33, 64)).astype(np.float32)
    unit = features.astype(np.float64) / np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)
    np.testing.assert_allclose(logits(head, features), 100 * unit @ kernel.astype(np.float64), atol=2e-4)
    text = heads._logits.lower(
        features, kernel, np.zeros(10, np.float32), head.columns, np.float32(1), normalize=True
    ).as_text()
    assert "precision = [HIGHEST, HIGHEST]" in text


def test_equal_columns_give_equal_logits():
    """With 512 x 1001 and 7 rows XLA's product rounds two equal columns differently on a CPU."""
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(512, 1001)).astype(np.float32)
    kernel[:, 1000] = kernel[:, 3]
    head = Head(jnp.asarray(kernel), None, 100.0, True, space(*map(str, range(1001))))
    assert head.columns.tolist() == [*range(1000), 3]
    features = rng.normal(size=(7, 512)).astype(np.float32)
    scores = np.asarray(logits(head, features))
    assert (scores[:, 1000] == scores[:, 3]).all()
    naive = heads._logits(
        features, kernel, np.zeros(1001, np.float32), np.arange(1001), np.float32(100), normalize=True
    )
    assert (np.asarray(naive)[:, 1000] != scores[:, 3]).any()
    biased = dataclasses.replace(head, bias=jnp.arange(1001, dtype=jnp.float32))
    assert biased.columns[1000] == 1000


def test_wrong_features_are_refused():
    head = Head(jnp.eye(4), None, 1.0, False, space(*"abcd"))
    with pytest.raises(DataError, match="over 4 features got features of shape"):
        logits(head, np.zeros((2, 5), np.float32))


def test_blocks_have_one_shape(monkeypatch):
    monkeypatch.setattr(heads, "SCORE_BLOCK", 4 * 3)
    head = Head(jnp.eye(4), None, 2.0, False, space(*"abcd"))
    features = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    with count_compiles() as compiles:
        blocks = list(score_blocks(head, features))
    assert [(rows.start, rows.stop) for rows, _ in blocks] == [(0, 3), (3, 6), (6, 8)]
    assert np.concatenate([scores.values for _, scores in blocks]) == pytest.approx(2 * features)
    with count_compiles() as again:
        list(score_blocks(head, np.concatenate([features] * 5)[:-1]))
    assert compiles.count > 0 == again.count


def test_scores_that_are_not_finite_name_the_image_of_any_block(monkeypatch):
    monkeypatch.setattr(heads, "SCORE_BLOCK", 4 * 3)
    head = Head(jnp.eye(4), None, 1.0, False, space(*"abcd"))
    features = np.zeros((8, 4), np.float32)
    features[7, 0] = np.nan  # in the last block, which is padded
    with pytest.raises(DataError, match=r"^seven: its logits hold NaN or infinity"):
        list(score_blocks(head, features, ids=["other"] * 7 + ["seven"]))
    assert len(list(score_blocks(head, features))) == 3


def test_the_head_is_the_same_on_one_device_and_on_eight(pair, one_device):
    from clipjax.devices.sharding import make_mesh

    assert len(one_device) == 8
    labels, prompts = space("crane", "missile"), load_prompts("openai_7")
    one = zeroshot_head(pair[1], labels, prompts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clipjax.embeddings.forward.local_mesh", lambda: make_mesh(one_device))
        eight = zeroshot_head(pair[1], labels, prompts)
    assert (np.asarray(eight.kernel) == np.asarray(one.kernel)).all()


def test_prompts_that_are_cut_are_counted(pair):
    labels = space("crane", "missile", "cup")
    with pytest.warns(UserWarning, match="1 of 6 texts were cut to 77 tokens"):
        zeroshot_head(pair[1], labels, CAPTIONS)


def unit(array: np.ndarray, axis: int) -> np.ndarray:
    return (array / np.linalg.norm(array, axis=axis, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(("rows", "dim", "classes"), [(1, 24, 5), (7, 512, 1001), (64, 96, 40), (33, 64, 10)])
def test_a_trained_head_begins_with_the_zero_shot_logits_to_the_bit(rows, dim, classes):
    """Kernel scale * W and bias 0, as a fine-tuning by cross-entropy starts; whatever the shape."""
    rng = np.random.default_rng(0)
    kernel, scale = unit(rng.normal(size=(dim, classes)), axis=0), 98.6437
    features = rng.normal(size=(rows, dim)).astype(np.float32)
    labels = space(*map(str, range(classes)))
    zero_shot = Head(jnp.asarray(kernel), None, scale, True, labels)
    start = jnp.asarray(np.float32(scale) * kernel)
    trained = Head(start, jnp.zeros(classes), 1.0, True, labels, directions=False)
    ours, theirs = logits(zero_shot, features), logits(trained, features)
    assert (np.asarray(ours) == np.asarray(theirs)).all()


def test_a_cache_is_tip_adapters_formula(monkeypatch):
    """100 f W + alpha exp(-beta (1 - f F)) V, V one-hot; keys in blocks that do not divide them."""
    rng = np.random.default_rng(0)
    features, kernel = rng.normal(size=(9, 16)), unit(rng.normal(size=(16, 6)), axis=0)
    keys, values = unit(rng.normal(size=(16, 31)), axis=0), rng.integers(0, 6, 31).astype(np.int32)
    unit_features = features / np.linalg.norm(features, axis=1, keepdims=True)
    affinity = np.exp(-5.5 * (1 - unit_features @ keys.astype(np.float64)))
    expected = 100 * unit_features @ kernel.astype(np.float64) + 1.17 * affinity @ np.eye(6)[values]
    head = Head(jnp.asarray(kernel), None, 100.0, True, space(*"abcdef"), CacheModel(keys, values, 1.17, 5.5))
    np.testing.assert_allclose(logits(head, features), expected, rtol=1e-5, atol=2e-5)
    monkeypatch.setattr(heads, "SCORE_BLOCK", 9 * 4)
    np.testing.assert_allclose(logits(head, features), expected, rtol=1e-5, atol=2e-5)
    none = dataclasses.replace(head, cache=CacheModel(keys, values, 0.0, 5.5))
    plain = dataclasses.replace(head, cache=None)
    assert (np.asarray(logits(none, features)) == np.asarray(logits(plain, features))).all()


def test_classes_of_one_name_differ_by_their_images():
    kernel = jnp.ones((4, 3)) / 2
    values = np.array([1], np.int32)
    head = Head(kernel, None, 1.0, True, space(*"aaa"), CacheModel(np.full((4, 1), 0.5), values, 1.0, 1.0))
    assert head.columns.tolist() == [0, 1, 0]
    assert np.asarray(logits(head, np.ones((1, 4)))).argmax() == 1


def test_a_cache_that_does_not_fit_is_refused():
    keys, values = np.eye(4, dtype=np.float32), np.arange(4, dtype=np.int32)
    with pytest.raises(DataError, match=r"keys \[D, N\] and values \[N\], not \[4, 4\] and \[3\]"):
        CacheModel(keys, values[:3], 1.0, 1.0)
    with pytest.raises(DataError, match="classes 0 to 3, the head has 3"):
        Head(jnp.eye(4)[:, :3], None, 1.0, True, space(*"abc"), CacheModel(keys, values, 1.0, 1.0))
    with pytest.raises(DataError, match="features of 4 numbers, the head reads 5"):
        Head(jnp.eye(5), None, 1.0, True, space(*"abcde"), CacheModel(keys, values, 1.0, 1.0))


def test_which_heads_are_cosines():
    head = Head(jnp.eye(4), jnp.full(4, -10.0), 100.0, True, space(*"abcd"))
    cosine = cosine_head(head)
    assert cosine is not None
    assert (cosine.scale, cosine.bias) == (1.0, None)
    cache = CacheModel(np.eye(4, dtype=np.float32), np.arange(4, dtype=np.int32), 1.0, 1.0)
    for changes in ({"normalize": False}, {"directions": False}, {"cache": cache}):
        assert cosine_head(dataclasses.replace(head, **changes)) is None


def test_a_tuned_head_reads_features_of_unit_norm():
    rng = np.random.default_rng(0)
    kernel, bias = rng.normal(size=(8, 1000)).astype(np.float32), rng.normal(size=1000).astype(np.float32)
    model = classifier(kernel, bias, "imagenet", normalize_features=True)
    head, features = classifier_head(model), rng.normal(size=(5, 8))
    np.testing.assert_allclose(logits(head, features), unit(features, 1) @ kernel + bias, atol=2e-6)
    assert cosine_head(head) is None


def test_a_heads_digest_is_of_all_that_decides_its_logits():
    keys = jnp.eye(4)
    head = Head(jnp.eye(4), None, 2.0, True, space(*"abcd"), CacheModel(keys, jnp.arange(4), 1.0, 1.0))
    assert head.cache is not None
    same = dataclasses.replace(head, label_space=space(*"efgh"))
    others = [
        dataclasses.replace(head, **changes)
        for changes in (
            {"kernel": 2 * jnp.eye(4)},
            {"bias": jnp.ones(4)},
            {"scale": 3.0},
            {"normalize": False},
            {"cache": None},
            {"cache": dataclasses.replace(head.cache, alpha=2.0)},
            {"cache": dataclasses.replace(head.cache, beta=2.0)},
            {"cache": dataclasses.replace(head.cache, values=jnp.zeros(4, jnp.int32))},
            {"cache": dataclasses.replace(head.cache, keys=keys[::-1])},
        )
    ]
    assert same.digest == head.digest
    assert len({head.digest, *(other.digest for other in others)}) == 10

"""Texts that share beginnings: the plan against a loop, and embeddings against those of whole texts."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import _drawn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _long import mostly_long

from clipjax.data.labels import load_labels, load_prompts
from clipjax.data.text.tokenizers import load_tokenizer, tokenizer_spec
from clipjax.devices.sharding import make_mesh
from clipjax.embeddings import beginnings
from clipjax.embeddings.beginnings import SplitTexts, encode_shared, shared
from clipjax.embeddings.forward import TEXT_BATCH
from clipjax.models.arch import load_arch, narrow_arch
from clipjax.models.modules import attention
from clipjax.models.modules.tokens import Lookup
from clipjax.models.network import Network

CONTEXT, LONGEST, REST = 16, 8, 6
END = {"ViT-B-32": 299, "ViT-bigG-14-worldwide": 2}  # at the highest id, or at an id of its own
CLIP, WORLDWIDE = END


def drawn(seed: int, end: int = 299) -> tuple[np.ndarray, np.ndarray]:
    """Ids [N, 16], -1 after each text's end, and lengths: some share beginnings, some of these are nested."""
    rng = np.random.default_rng(seed)

    def words(count: int) -> list[int]:
        return rng.integers(3, 290, count).tolist()

    heads = [words(LONGEST)]
    heads += [[*heads[0][: rng.integers(0, LONGEST)], *words(5)][:LONGEST] for _ in range(6)]
    texts = [[*heads[0], *words(REST - 1), end]]
    for head in heads:
        size = LONGEST if head is heads[0] else int(rng.integers(1, LONGEST + 1))
        count = rng.integers(1, 60) if size < LONGEST else 20
        texts += [[*head[:size], *words(int(rng.integers(0, REST))), end] for _ in range(count)]
    texts += [[*words(int(rng.integers(0, REST))), end] for _ in range(rng.integers(0, 20))]
    texts = [texts[row] for row in rng.permutation(len(texts))]
    ids = np.full((len(texts), CONTEXT), -1, np.int32)
    for row, own in zip(ids, texts):
        row[: len(own)] = own
    return ids, np.array(list(map(len, texts)), np.int32)


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts share whatever that saves, and all rests have one length: every list runs the same programs."""
    monkeypatch.setattr(beginnings, "PROGRAM", -10_000)
    monkeypatch.setattr(beginnings, "RESTS", 32)
    monkeypatch.setattr(beginnings, "TEXT_BATCH", 16)
    monkeypatch.setattr(beginnings, "_padded", lambda length: np.full_like(length, LONGEST + REST))


def planned(ids: np.ndarray, length: np.ndarray) -> SplitTexts:
    texts = shared(ids, length)
    assert texts is not None
    return texts


# --------------------------------------------------------------------------------------------- the plan


@pytest.mark.parametrize("most", [128, 5])
def test_a_text_has_the_longest_beginning_that_enough_share(most: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(beginnings, "PROGRAM", 1)
    monkeypatch.setattr(beginnings, "MOST", most)
    for seed in range(40):
        ids, length = drawn(seed)
        texts = planned(ids, length)
        rows = [tuple(row[:n]) for row, n in zip(ids.tolist(), length)]
        times = Counter(row[:size] for row in rows for size in range(1, len(row)))

        def longest(fewest: int, rows: Any = rows, times: Any = times) -> list[int]:
            return [max((s for s in range(1, len(r)) if times[r[:s]] >= fewest), default=0) for r in rows]

        fewest = 8
        while len({row[:size] for row, size in zip(rows, longest(fewest))}) > most:
            fewest *= 2
        assert texts.beginnings[texts.beginning, 1].tolist() == longest(fewest)
        assert len(texts.beginnings) % TEXT_BATCH == 0


def test_a_beginning_and_a_rest_are_the_text(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(beginnings, "PROGRAM", 30)
    lengths = set()
    for seed in range(40):
        ids, length = drawn(seed)
        texts = planned(ids, length)
        rest = texts.rest(np.arange(len(ids)), int(texts.padded.max()))
        for row in range(len(ids)):
            leader, size = texts.beginnings[rest.beginning[row]]
            whole = [*ids[leader, :size], *rest.ids[row, : rest.length[row]]]
            assert whole == ids[row, : length[row]].tolist()
            assert rest.start[row] == size
            assert rest.length[row] <= texts.padded[row] in rest.length
        lengths.add(len(np.unique(texts.padded)))
    assert len(lengths) > 2


def test_lengths_are_merged_where_a_program_costs_more(monkeypatch: pytest.MonkeyPatch):
    length = np.repeat([3, 4, 5, 9], [100, 10, 50, 2])
    for program, tops in ((1, [3, 4, 5, 9]), (20, [3, 5, 9]), (250, [5, 9]), (10_000, [9])):
        monkeypatch.setattr(beginnings, "PROGRAM", program)
        assert np.unique(beginnings._padded(length)).tolist() == tops


def test_the_tokens_of_imagenets_prompts():
    """100 classes: 53 % of the tokens are saved. 20 classes are not worth the compilations."""
    labels, prompts = load_labels("imagenet"), load_prompts("openai_80")
    tokenizer = load_tokenizer(tokenizer_spec("openai_bpe", 77))
    tokens = tokenizer.encode([each for name in labels.classes[:100] for each in prompts.of_class(name)])
    ids = np.where(np.arange(77) < tokens.lengths[:, None], tokens.ids, -1)
    texts = planned(ids, tokens.lengths)
    start = texts.beginnings[texts.beginning, 1]
    assert ((start > 0).all(), len(ids), int(tokens.lengths.sum())) == (True, 8000, 79_682)
    assert (int(texts.beginnings[:, 1].sum()), int((tokens.lengths - start).sum())) == (431, 36_881)
    assert shared(ids[:1600], tokens.lengths[:1600]) is None


# ---------------------------------------------------------------------------------------- the embeddings


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {name: model(name) for name in END}


def model(name: str) -> Any:
    network = Network(narrow_arch(load_arch(name)))
    params = jax.device_get(_drawn.drawn(network.abstract_params())["text"])
    rng = np.random.default_rng(1)
    # Of a size at which attention tells tokens apart.
    moved = jax.tree.map(
        lambda leaf: leaf + np.float32(0.1) * rng.normal(size=leaf.shape).astype("f4"), params
    )
    return SimpleNamespace(network=network, params={"text": moved})


def unit(features: Any) -> np.ndarray:
    features = np.asarray(features)
    return features / np.linalg.norm(features, axis=1, keepdims=True)


@functools.cache
def encoder(network: Network) -> Any:
    return jax.jit(network.encode_text, static_argnames="precision")


def of_whole_texts(model: Any, ids: np.ndarray, precision: Any) -> np.ndarray:
    rows = np.zeros((512, CONTEXT), np.int32)  # one shape for all lists
    rows[: len(ids)] = np.maximum(ids, 0)
    return unit(encoder(model.network)(model.params, jnp.asarray(rows), precision=precision))[: len(ids)]


def in_parts(model: Any, texts: SplitTexts, precision: str) -> np.ndarray:
    parts = list(encode_shared(model, texts, precision, chunk=100))
    rows = np.concatenate([rows for rows, _ in parts])
    assert sorted(rows) == list(range(len(texts.ids)))
    return np.concatenate([made for _, made in parts])[np.argsort(rows)]


@pytest.mark.parametrize(
    ("name", "precision", "error"),
    mostly_long(
        [(CLIP, "parity", 1e-6), (WORLDWIDE, "parity", 1e-6), (CLIP, "fast", 0.02)],
        keep=[(CLIP, "parity", 1e-6)],
    ),
)
def test_embeddings_are_those_of_whole_texts(
    name: str, precision: str, error: float, models: dict[str, Any], cheap: None
):
    for seed in range(3):
        ids, length = drawn(seed, END[name])
        wanted = of_whole_texts(models[name], ids, precision)
        found = in_parts(models[name], planned(ids, length), precision)
        np.testing.assert_allclose(found, wanted, atol=error)


@pytest.fixture
def difference(models: dict[str, Any], cheap: None) -> Callable[[], float]:
    """The largest difference from whole texts, of steps that are compiled anew."""
    ids, length = drawn(0)
    wanted = of_whole_texts(models[CLIP], ids, "parity")

    def measured() -> float:
        beginnings._begin_step.cache_clear()
        beginnings._finish_step.cache_clear()
        found = in_parts(models[CLIP], planned(ids, length), "parity")
        return float(np.abs(found - wanted).max())

    return measured


def _positions_from_zero(lookup: Any) -> Any:
    def wrong(layer: Any, table: Any, ids: Any) -> Any:
        return lookup(layer, table, ids - ids[:, :1] if table.shape[0] == CONTEXT else ids)

    return wrong


def _rest(**changes: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def wrong(finish: Any) -> Any:
        def wronged(network: Any, params: Any, memory: Any, rest: Any, **options: Any) -> Any:
            made = {name: change(rest) for name, change in changes.items()}
            return finish(network, params, memory, rest._replace(**made), **options)

        return wronged

    return wrong


@pytest.mark.parametrize(
    ("owner", "attribute", "wrong"),
    mostly_long(
        [
            (Lookup, "__call__", _positions_from_zero),
            (Network, "finish_texts", _rest(beginning=lambda rest: (rest.beginning + 1) % 4)),
            (Network, "finish_texts", _rest(length=lambda rest: jnp.maximum(rest.length - 1, 1))),
            (attention, "causal", lambda causal: lambda length: jnp.ones_like(causal(length))),
        ],
        keep=[Lookup],
    ),
    ids=["positions from zero", "another beginning", "read out before the end", "not causal"],
)
def test_a_mistake_is_seen(
    owner: Any,
    attribute: str,
    wrong: Callable[[Any], Any],
    difference: Callable[[], float],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(owner, attribute, wrong(getattr(owner, attribute)))
    assert difference() > 1e-3
    monkeypatch.undo()
    beginnings._begin_step.cache_clear()
    beginnings._finish_step.cache_clear()


def test_embeddings_are_bit_equal_on_any_number_of_devices(
    models: dict[str, Any], cheap: None, monkeypatch: pytest.MonkeyPatch
):
    ids, length = drawn(1)
    texts, found = planned(ids, length), []
    for devices in (8, 1):
        mesh = make_mesh(jax.devices()[:devices])
        monkeypatch.setattr(beginnings, "local_mesh", lambda mesh=mesh: mesh)
        found.append(in_parts(models[CLIP], texts, "parity"))
    np.testing.assert_array_equal(found[1], found[0])


def test_only_causal_towers_share():
    towers = {
        CLIP: True,
        "EVA02-B-16": True,
        "ViT-bigG-14-worldwide": True,
        "ViT-B-16-SigLIP": False,  # not causal
        "coca_ViT-B-32": False,  # reads out after the padding
        "xlm-roberta-base-ViT-B-32": False,
        "tf_efficientnet_lite0": False,  # no text tower
    }
    assert {name: Network(load_arch(name)).shares_beginnings for name in towers} == towers

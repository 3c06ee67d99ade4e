"""CoOp's adapter: prompts id by id, tokens that need not be run, heads over any classes, its parts."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _drawn import drawn
from _long import mostly_long

from clipjax.checkpoints.identity.registry import model_card
from clipjax.checkpoints.model import Model
from clipjax.data.labels import LabelSpace, PromptSet
from clipjax.errors import DataError, UsageError
from clipjax.heads.adapters.base import all_adapters
from clipjax.heads.adapters.coop import ContextPrompts, CoOp, by_length, class_features, class_prompts
from clipjax.heads.build import zeroshot_head
from clipjax.models.arch import family_of, load_arch
from clipjax.models.input_checks import check_takes_vectors
from clipjax.models.network import Network
from clipjax.models.unit_norm import unit_norm
from clipjax.storage.store import Store

pytestmark = pytest.mark.usefixtures("one_device")

WIDTH = 128
SPACE = LabelSpace("things", ("cat", "great white shark", "coffee_mug"), ("c", "s", "m"))


def narrow(name: str, **text: Any) -> Network:
    arch = load_arch(name)
    parts = {part: family_of(getattr(arch, part)).narrow(getattr(arch, part)) for part in ("vision", "text")}
    parts["text"] = dataclasses.replace(parts["text"], **text)
    return Network(dataclasses.replace(arch, **parts))


@pytest.fixture(scope="module")
def model() -> Model:
    """Random weights, the real tokenizer."""
    network = narrow("ViT-B-32", vocab_size=49408, context_length=77)
    params = drawn(network.abstract_params())
    params["text"]["token_embedding"] *= 20  # of the size of the positions, which show then
    card = dataclasses.replace(model_card("vit_b_32-laion2b_s34b_b79k"), id="narrow", arch=network.arch)
    card = dataclasses.replace(card, logit_scale=100.0)
    return Model(card, params)


def vectors(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.02, (*shape, WIDTH)).astype(np.float32)


def adapter(context: np.ndarray, **changes: Any) -> CoOp:
    return dataclasses.replace(CoOp.trained(context, "end", "", SPACE), **changes)


def kernel(found: CoOp, model: Model, labels: LabelSpace = SPACE, store: Store | None = None) -> np.ndarray:
    return np.asarray(found.head(model, labels, store=store).kernel)


@pytest.mark.parametrize(
    ("position", "slots", "shared"),
    [
        ("end", [-1, 0, 1, 2, -1, -1, -1], 4),
        ("middle", [-1, 0, -1, 1, 2, -1, -1], 2),
        ("front", [-1, -1, 0, 1, 2, -1, -1], 1),
    ],
)
def test_prompts(model: Model, position: Any, slots: list[int], shared: int) -> None:
    prompts = class_prompts(model, SPACE.classes, 3, position, csc=False)
    start, cat, stop, end = model.tokenizer(["cat."])[0, :4]
    assert prompts.slots[0, :7].tolist() == slots
    assert [i for i, slot in zip(prompts.ids[0], slots) if slot < 0] == [start, cat, stop, end]
    assert prompts.positions.tolist() == [6, 8, 7]  # one, three and two tokens of a name
    assert prompts.ids.shape == (3, 9)  # nothing behind the longest
    assert prompts.shared == shared
    assert class_prompts(model, SPACE.classes, 3, position, csc=True).shared == 1


def test_punctuation_is_read_with_the_full_stop(model: Model) -> None:
    """The name of "T.V." ends in the token of two stops, as the reference cuts it."""
    ids = model.tokenizer(["t.v..", "t.v."])
    prompts = class_prompts(model, ["T.V."], 2, "front", csc=False)
    body = ids[0, 1 : ids[0].argmax()]
    name = ids[1].argmax() - 1
    found = prompts.ids[0, 1:-1]
    assert found.tolist() == [*body[:name], 0, 0, *body[name:]]


@pytest.mark.parametrize("position", mostly_long(["end", "middle"], keep=["middle"]))
def test_tokens_left_out_change_nothing(model: Model, position: Any) -> None:
    """All 77 tokens of each class give the same features as those up to the end, the shared ones once."""
    prompts, context = class_prompts(model, SPACE.classes, 4, position, csc=False), jnp.asarray(vectors(4))
    ids, slots = np.zeros((3, 77), np.int32), np.full((3, 77), -1, np.int32)
    length = prompts.ids.shape[1]
    ids[:, :length], slots[:, :length] = prompts.ids, prompts.slots
    whole = ContextPrompts(ids, slots, prompts.positions, 0)

    def encode(prompts: ContextPrompts) -> np.ndarray:
        def of(params: Any) -> Any:
            return unit_norm(class_features(model.network, params, prompts, context, precision="parity"))

        return np.asarray(jax.jit(of)(model.params))

    assert prompts.shared > 1
    assert np.abs(encode(prompts) - encode(whole)).max() < 1e-6
    moved = whole._replace(positions=whole.positions - 1)
    assert np.abs(encode(moved) - encode(whole)).max() > 1e-3


def test_groups_of_similar_length(model: Model) -> None:
    words = ["cat", "dog", "red", "big", "fox", "hen", "owl", "ant", "bee", "rat"]
    names = [" ".join(words[:size]) for size in (1, 1, 7, 1, 2, 6, 1)]
    prompts = class_prompts(model, names, 2, "end", csc=False)
    assert [rows.tolist() for rows in by_length(prompts, 100)] == [[0, 1, 2, 3, 4, 5, 6]]
    assert [rows.tolist() for rows in by_length(prompts, 10)] == [[0, 1, 3, 4, 6], [2, 5]]
    assert [rows.tolist() for rows in by_length(prompts, 1)] == [[0, 1, 3, 6], [4], [2, 5]]
    short = prompts.rows(np.array([4, 0]))
    assert short.positions.tolist() == [prompts.positions[4], prompts.positions[0]]
    assert short.ids.tolist() == prompts.ids[[4, 0], : prompts.positions[4] + 1].tolist()


def test_words_for_vectors_give_the_zero_shot_head(model: Model) -> None:
    table = np.asarray(model.params["text"]["token_embedding"])
    context = table[model.tokenizer(["a photo of a"])[0, 1:5]]
    found = adapter(context).head(model, SPACE)
    spoken = LabelSpace("spoken", tuple(name.replace("_", " ") for name in SPACE.classes), SPACE.ids)
    wanted = zeroshot_head(model, spoken, PromptSet("one", ("a photo of a {}.",)))
    assert np.abs(np.asarray(found.kernel) - np.asarray(wanted.kernel)).max() < 1e-6
    assert (found.scale, found.bias, found.normalize) == (wanted.scale, None, True)
    assert found.label_space is SPACE
    one = adapter(np.repeat(context[None], 3, axis=0))  # the same context for each class
    assert np.abs(kernel(one, model) - np.asarray(found.kernel)).max() < 1e-6


def test_any_classes_or_ones_own(model: Model) -> None:
    other = LabelSpace("other", ("dog", "cat"), ("d", "c"))
    context = vectors(4)
    assert adapter(context).labels is None
    assert (
        np.abs(kernel(adapter(context), model, other)[:, 1] - kernel(adapter(context), model)[:, 0]).max()
        < 1e-6
    )
    own = adapter(vectors(3, 4))
    some = LabelSpace("some", ("coffee mug", "cat"), ("m", "c"))
    assert own.labels is not None
    assert own.labels.ids == SPACE.ids
    assert np.abs(kernel(own, model, some) - kernel(own, model)[:, [2, 0]]).max() < 1e-6
    with pytest.raises(UsageError, match=r"'dog' of other is none of the 3 classes .*things.*csc = false"):
        own.head(model, other)
    with pytest.raises(UsageError, match=r"have 64 numbers, and the text tower of narrow takes 128"):
        adapter(vectors(4)[:, :64]).head(model, SPACE)


def test_a_head_is_stored_by_its_context(
    model: Model, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(model.card), "fingerprint", "f" * 64)
    store, context = Store(tmp_path), vectors(4)
    first = kernel(adapter(context), model, store=store)
    monkeypatch.setattr("clipjax.heads.adapters.coop._embed", lambda *_: 1 / 0)
    assert np.array_equal(kernel(adapter(context), model, store=store), first)
    for changed in (adapter(context + 1), adapter(context, position="front")):
        with pytest.raises(ZeroDivisionError):
            kernel(changed, model, store=store)


def test_parts(model: Model) -> None:
    assert all_adapters()["coop"] is CoOp
    for found in (adapter(vectors(4), init="a photo of a"), adapter(vectors(3, 4), position="middle")):
        again = CoOp.from_parts(found.tensors, found.facts)
        assert np.array_equal(again.context, found.context)
        assert (again.facts, again.prompts) == (found.facts, found.prompts)
    assert adapter(vectors(16)).prompts == "CoOp, 16 vectors"
    assert adapter(vectors(3, 4), position="front").prompts == "CoOp, 4 vectors a class, name in the front"


@pytest.mark.parametrize(
    ("tensors", "facts", "message"),
    [
        ({"vectors": vectors(4)}, {}, "is the tensor context and the facts"),
        ({"context": vectors(3, 4)}, {}, r"csc = False has a context of float32 \[3, 4, 128\]"),
        ({"context": vectors(4).astype(np.float64)}, {}, "context of float64"),
        ({"context": vectors(4) * np.float32(np.nan)}, {}, "not finite"),
        ({"context": vectors(4)}, {"position": "back"}, "position 'back'"),
        ({"context": vectors(2, 4)}, {"csc": True}, "2 contexts and 3 classes"),
    ],
)
def test_parts_that_do_not_fit(tensors: Any, facts: dict[str, Any], message: str) -> None:
    space = {"name": "things", "digest": SPACE.digest, "ids": list(SPACE.ids), "names": list(SPACE.classes)}
    whole = {"position": "end", "csc": False, "init": "", "classes": space}
    with pytest.raises(DataError, match=message):
        CoOp.from_parts(tensors, whole | facts)


def test_siglip_reads_its_whole_context() -> None:
    """Vectors for words equal the words, in a tower where every token sees every other."""
    network = narrow("ViT-B-16-SigLIP")
    params = drawn(network.abstract_params())
    tokenizer = SimpleNamespace(start=(), end=(1,), pad_id=1, encode=_siglip_tokens)
    siglip: Any = SimpleNamespace(
        network=network, params=params, tokenizer=tokenizer, card=SimpleNamespace(id="s")
    )
    prompts = class_prompts(siglip, ["ab", "c"], 2, "middle", csc=False)
    assert prompts.ids.tolist() == [[0, 197, 198, 0, *[1] * 12], [0, 199, 0, *[1] * 13]]
    assert (prompts.shared, prompts.positions.tolist()) == (0, [15, 15])
    words = np.array([50, 60], np.int32)
    ids = np.where(prompts.slots >= 0, words[np.maximum(prompts.slots, 0)], prompts.ids)

    def both(params: Any) -> tuple[Any, Any]:
        context = params["text"]["token_embedding"][words]
        found = class_features(network, params, prompts, context, precision="parity")
        return found, network.encode_text(params, jnp.asarray(ids), precision="parity")

    found, wanted = jax.device_get(jax.jit(both)(params))
    assert float(np.abs(found - wanted).max() / np.abs(wanted).max()) < 1e-6


def _siglip_tokens(texts: list[str]) -> Any:
    """A letter is an id; no full stops."""
    rows = [[*(100 + ord(letter) for letter in text if letter != "."), 1] for text in texts]
    ids = np.full((len(rows), 16), 1, np.int32)
    for row, own in zip(ids, rows):
        row[: len(own)] = own
    return SimpleNamespace(
        ids=ids, lengths=np.array(list(map(len, rows))), truncated=np.zeros(len(rows), bool)
    )


def test_vectors_that_do_not_fit_the_tower(model: Model) -> None:
    network, params, ends = model.network, model.params, jnp.zeros(2, jnp.int32)

    def encode(tokens: Any, **beginning: Any) -> None:
        network.encode_embedded(params, tokens, ends, precision="parity", **beginning)

    with pytest.raises(DataError, match=r"vectors of 128 numbers, not .* tokens \[2, 5, 64\]"):
        encode(jnp.zeros((2, 5, 64)))
    with pytest.raises(DataError, match=r"takes 1 to 77 tokens, not a beginning \[70, 128\]"):
        encode(jnp.zeros((2, 8, WIDTH)), beginning=jnp.zeros((70, WIDTH)))
    siglip = narrow("ViT-B-16-SigLIP")
    with pytest.raises(DataError, match="cannot be shared"):
        siglip.encode_embedded(
            params, jnp.zeros((2, 15, WIDTH)), ends, precision="parity", beginning=jnp.zeros((1, WIDTH))
        )
    with pytest.raises(UsageError, match=r"coca_ViT-B-32 \(family 'coca_text'\) takes token ids only"):
        check_takes_vectors(load_arch("coca_ViT-B-32"))

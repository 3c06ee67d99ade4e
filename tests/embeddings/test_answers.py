"""Stored answers: those of single prompts, on any number of devices, resumed, skipped and kept apart."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _embed_tools import manifest_of, write_images
from _tiny_language import TinyVisionLanguage
from scipy.special import log_softmax

from clipjax.data.manifest import Manifest
from clipjax.data.pixels.normalize import normalize
from clipjax.data.pixels.preprocess import open_image, to_pixels
from clipjax.data.questions import Question, Questions, questions_of
from clipjax.devices.sharding import make_mesh
from clipjax.embeddings import answers
from clipjax.embeddings import placements as embed_params
from clipjax.embeddings.answers import Answers, AnswerStream, answer_images, prompts_of
from clipjax.embeddings.compute import Compute
from clipjax.embeddings.sets import Embeddings
from clipjax.errors import DataError, UsageError
from clipjax.models.language.generation import generate
from clipjax.models.language.vision_language import assemble, image_tokens
from clipjax.storage.digests import canonical_json
from clipjax.storage.store import Store

N, STEPS = 8, 5
CARD = Question(
    "Is it {what}?\n{options}", option="{letter}.{option}", columns=("a", "b", "c"), answer="right"
)


@pytest.fixture(scope="module")
def model() -> Any:
    return TinyVisionLanguage()


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("answers") / "images"
    write_images(folder, N)
    return folder


def data_set(images: Path, **columns: Any) -> Manifest:
    what = ["red", "quite blue", "old", "x"] * 2
    third = ["tall", "", "cab", "night"] * 2  # every fourth image has two options
    own = {"what": what, "a": ["cat"] * N, "b": ["dog", "car", "cart", "no"] * 2, "c": third}
    return dataclasses.replace(manifest_of(images, N), columns={**own, "right": ["A"] * N, **columns})


def asked(manifest: Manifest, card: Question = CARD) -> Questions:
    return questions_of(card, manifest, None, None)


def run(
    model: Any,
    manifest: Manifest,
    store: Store | None = None,
    *,
    steps: int = STEPS,
    rotations: int = 3,
    **how: Any,
) -> tuple[Embeddings, Answers]:
    prompts = prompts_of(model, asked(manifest), rotations, steps)
    compute = Compute(store=store, progress=False, **{"per_device_batch": 1, **how})
    return answer_images(model, manifest, prompts, compute, steps=steps)


@pytest.fixture(scope="module")
def reference(model, images) -> tuple[Embeddings, Answers]:
    return run(model, data_set(images))


@pytest.fixture(scope="module")
def passes(model) -> tuple[Any, Any, Any]:
    """Compiled: an image's tokens, a prompt with them, and a whole pass of the decoder."""
    decoder = model.language.decoder
    tokens = functools.partial(image_tokens, model.network, precision="parity")
    forward = functools.partial(decoder.forward, precision="parity")
    return jax.jit(tokens), jax.jit(functools.partial(assemble, decoder)), jax.jit(forward)


def alone(
    model: Any, passes: tuple[Any, Any, Any], manifest: Manifest, row: int, rotation: int
) -> tuple[str, dict[str, float]]:
    """The answer to one prompt without padding; an option's log-probability from a whole forward pass."""
    language, decoder = model.language, model.language.decoder
    params, questions = model.params["decoder"], asked(manifest)
    recipe = model.card.preprocess.recipe(rgb="first")
    pixels = to_pixels(open_image(manifest.open(row), "x"), recipe)[None]
    normal = normalize(jax.device_put(pixels), model.card.preprocess.mean, model.card.preprocess.std)
    tokens_of, together, forward = passes
    tokens = tokens_of(dict(model.params), normal)
    ids, at = language.prompt(questions.ask(row, rotation))

    def embedded(ids: list[int]) -> jax.Array:
        return together(params, np.array([ids], np.int32), np.array([at]), tokens)

    prompt = embedded(ids)
    whole = jax.device_put(np.ones(prompt.shape[:2], bool))
    made = generate(decoder, params, prompt, whole, steps=STEPS, stop=language.stop, precision="parity")
    text = language.tokenizer.decode([int(i) for i in made.ids[0] if i >= 0 and i not in language.stop])
    scores = {}
    for option in questions.options[row]:
        own = language.tokenizer.encode(option)
        both = embedded([*ids, *own])
        logits = np.asarray(forward(params, both, np.ones(both.shape[:2], bool)))
        before = log_softmax(logits[0, prompt.shape[1] - 1 : -1], axis=-1)
        scores[option] = float(before[np.arange(len(own)), np.array(own)].sum())
    first = log_softmax(np.asarray(made.first)[0])
    size = len(questions.options[row])
    scores |= {"ABC"[k]: float(first[language.letters(3)[(k + rotation) % size]]) for k in range(size)}
    return text.strip(), scores


@pytest.mark.parametrize(("row", "rotation"), [(1, 1), (2, 2)])
def test_answers_are_those_of_one_prompt_alone(model, passes, images, reference, row, rotation):
    _, got = reference
    text, scores = alone(model, passes, data_set(images), row, rotation)
    assert got.texts[row][rotation] == text
    options = asked(data_set(images)).options[row]
    for k, option in enumerate(options):
        assert got.totals[row, rotation, k] == pytest.approx(scores[option], abs=2e-3)
        assert got.letters[row, rotation, k] == pytest.approx(scores["ABC"[k]], abs=1e-3)
        assert got.counts[row, k] == len(option)
    assert np.isnan(got.totals[row, rotation, len(options) :]).all()


def test_answers_depend_on_the_image_and_on_the_order(reference):
    _, got = reference
    assert len({texts[0] for texts in got.texts}) > 2
    assert len(set(got.texts[0])) > 1
    assert np.ptp(got.letters[:, 0, 0]) > 0.01


@pytest.mark.long("embeddings/test_embed_many.py::test_small_data_sets_fill_the_steps_and_keep_their_bits")
@pytest.mark.parametrize("devices", [1, 2])
def test_bits_do_not_depend_on_the_number_of_devices(model, images, reference, devices, monkeypatch):
    monkeypatch.setattr(answers, "local_mesh", lambda: make_mesh(jax.devices()[:devices]))
    rows, _ = run(model, data_set(images))
    np.testing.assert_array_equal(rows.array, reference[0].array)


def test_a_cut_decoder_gives_the_same_answers(model, images, reference, tmp_path):
    store = Store(tmp_path)
    rows, got = run(model, data_set(images), store, params="sharded")
    assert got.texts == reference[1].texts
    np.testing.assert_allclose(rows.array, reference[0].array, atol=1e-3)
    assert rows.stats.placement == "sharded"
    assert run(model, data_set(images), store)[0].stats.placement == "sharded"  # as it is stored
    whole, _ = run(model, data_set(images), store, params="replicated")
    assert (whole.stats.forward_passes, whole.stats.placement) == (1, "replicated")


def test_a_second_run_reads_what_is_stored(model, images, reference, tmp_path):
    store = Store(tmp_path)
    first, _ = run(model, data_set(images), store)
    [again, texts] = run(model, data_set(images, right=["B"] * N), store)  # the right answer is no part
    assert (first.stats.forward_passes, again.stats.forward_passes) == (1, 0)
    np.testing.assert_array_equal(again.array, reference[0].array)
    assert texts.texts == reference[1].texts


def test_everything_that_decides_an_answer_is_in_the_key(model, images):
    plain = data_set(images)

    def key(each: Any = model, data: Manifest = plain, rotations: int = 3, **how: Any) -> str:
        recipe = dataclasses.replace(each.card.preprocess.recipe(rgb="first"), **how.get("recipe", {}))
        prompts = prompts_of(each, asked(data), rotations, how.get("steps", STEPS))
        prompts = dataclasses.replace(prompts, **how.get("prompts", {}))
        settings = recipe, prompts, how.get("steps", STEPS), how.get("precision", "parity")
        return canonical_json(answers.answer_key(each.card, data, *settings, how.get("params", "replicated")))

    letterbox = {"resize_mode": "letterbox", "fill": (122, 116, 104)}
    keys = [
        key(),
        key(rotations=1),
        key(steps=STEPS + 1),
        key(precision="fast"),
        key(params="sharded"),
        key(recipe=letterbox),
        key(recipe=letterbox | {"fill": (127, 127, 127)}),
        key(prompts={"stop": (1, 2)}),
        key(prompts={"image_at": prompts_of(model, asked(plain), 3, STEPS).image_at + 1}),
        key(data=data_set(images, what=["new"] * N)),
        key(data=data_set(images, c=["wall"] * N)),
        key(data=dataclasses.replace(plain, opener=plain.opener.select(range(N - 1, -1, -1)))),
        key(TinyVisionLanguage(fingerprint="other")),
    ]
    assert len(set(keys)) == len(keys)
    assert key(data=data_set(images, right=["B"] * N)) == key()  # the right answer is no part


def test_an_unreadable_image_is_one_sentence_and_stored_answers_survive(
    model, reference, tmp_path, monkeypatch
):
    monkeypatch.setattr(answers, "local_mesh", lambda: make_mesh(jax.devices()[:2]))
    broken = tmp_path / "images"
    write_images(broken, N)
    (broken / "0005.png").write_bytes(b"no image")
    store, manifest = Store(tmp_path / "store"), data_set(broken)
    with pytest.raises(DataError, match=r"0005\.png: not an image") as error:
        run(model, manifest, store)
    assert "\n" not in str(error.value)
    kept = store.ls()[0].shards_present
    assert kept == 5  # one image per shard: all before the broken one, with which 4 shares a step
    rows, got = run(model, manifest, store, on_error="skip")
    assert rows.stats.images == N - 1 - kept
    assert rows.stats.skipped == ("0005.png",)
    expected = [i for i in range(N) if i != 5]
    np.testing.assert_array_equal(rows.array, reference[0].array[expected])
    assert got.texts == [reference[1].texts[i] for i in expected]


def test_a_prompt_longer_than_the_context_is_refused_before_anything_runs(model, images):
    manifest = data_set(images, what=["red"] * 7 + ["long " * 40])
    with pytest.raises(
        DataError, match=r"^tiny: the question about 0007\.png has \d+ tokens; with 16 of the "
    ):
        prompts_of(model, asked(manifest), 1, STEPS)
    with pytest.raises(DataError, match="in fewer steps"):
        prompts_of(model, asked(data_set(images)), 1, 190)


def test_without_letters_the_first_token_of_an_option_is_its_mark(model, images):
    card = Question("Is it {what}?", options=("yes", "no"), answer="right")
    manifest = data_set(images, right=["no"] * N)
    prompts = prompts_of(model, asked(manifest, card), 1, STEPS)
    yes, no = (model.language.tokenizer.encode(word)[0] for word in ("yes", "no"))
    assert prompts.letters.tolist() == [[[yes, no]]] * N


def test_the_fast_profile_runs_with_a_decoder_in_bfloat16(model, images, reference):
    """The same bits however the params were loaded. 0.3: bfloat16 keeps 8 bits, logits go up to 20."""
    manifest, prompts = data_set(images), prompts_of(model, asked(data_set(images)), 3, STEPS)
    half = TinyVisionLanguage()
    half.params = model.params | {
        "decoder": model.network.in_precision(dict(model.params), "fast")["decoder"]
    }
    assert {leaf.dtype for leaf in jax.tree.leaves(half.params["decoder"])} == {np.dtype(jnp.bfloat16)}
    how: Any = {"compute": Compute(progress=False, per_device_batch=1), "steps": STEPS, "precision": "fast"}
    [rows, got], [again, _] = (answer_images(each, manifest, prompts, **how) for each in (model, half))
    np.testing.assert_array_equal(rows.array, again.array)
    assert np.isfinite(rows.array).all()
    off = np.nanmax(np.abs(got.letters - reference[1].letters))
    assert 1e-3 < off < 0.3
    with pytest.raises(UsageError, match="tiny was loaded with dtype 'bfloat16', and precision 'parity'"):
        answer_images(half, manifest, prompts, steps=STEPS)


def test_params_are_placed_by_the_bytes_that_devices_hold(model, images, monkeypatch):
    prompts = prompts_of(model, asked(data_set(images)), 1, STEPS)
    recipe = model.card.preprocess.recipe(rgb="first")

    def stream(precision: Any) -> AnswerStream:
        return AnswerStream(model, precision, Compute(), recipe, "answers", prompts, STEPS)

    decoder = sum(leaf.size for leaf in jax.tree.leaves(model.params["decoder"]))
    whole = sum(leaf.size for leaf in jax.tree.leaves(dict(model.params)))
    # In "fast" what is cast, 4 bytes a number, stays beside its copies.
    cases = (("parity", 4 * whole, 6 * whole), ("fast", 4 * whole - 2 * decoder, 3 * whole + 4 * whole))
    for precision, loaded, needed in cases:
        for memory, placement in ((needed, "replicated"), (needed - 1, "sharded")):
            monkeypatch.setattr(embed_params, "device_memory", lambda memory=memory: memory)
            assert stream(precision).placement(1, "auto") == placement
        for memory, cut in ((2 * loaded, False), (2 * loaded - 1, True)):
            monkeypatch.setattr(embed_params, "device_memory", lambda memory=memory: memory)
            read = model.network.abstract_params(precision)
            assert (embed_params.mesh_to_load("auto")(read) is not None) == cut

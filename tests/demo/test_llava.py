"""The demo's vision-language model: its words and examples, and that it learns to read images and letters."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest

from clipjax.checkpoints.vision_language import LanguageSetup
from clipjax.data.manifest import FileOpener, Manifest
from clipjax.data.text.image_prompts import ImagePrompt
from clipjax.data.text.language_tokenizers import load_language_tokenizer
from clipjax.demo.llava.asking import CHANCE, DEBIASED, QuestionResults, by_order
from clipjax.demo.llava.making import arch_of, asked_question
from clipjax.demo.llava.texts import OPTIONS, PROMPT, Examples, examples, write_tokenizer
from clipjax.demo.llava.train import LlavaRecipe, _loss, train
from clipjax.demo.world.scenes import SHAPES
from clipjax.evaluation.rows import NO_STATS, Result
from clipjax.metrics.uncertainty.intervals import wilson
from clipjax.models.arch import Arch, load_arch
from clipjax.models.language.decoder import Decoder
from clipjax.models.language.vision_language import assemble, language_of, projector_of

N = 240
CLASSES = tuple(SHAPES)[:5]


class Small(NamedTuple):
    arch: Arch
    language: LanguageSetup
    data: Manifest

    def examples(self, count: int, seed: int) -> Examples:
        return examples(self.language, asked_question(), self.data, count, np.random.default_rng(seed))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    files = write_tokenizer(tmp_path_factory.mktemp("texts"), asked_question())
    tokenizer = load_language_tokenizer(files[0])
    arch = arch_of(load_arch("demo_base"), tokenizer.vocab_size)
    language = LanguageSetup(tokenizer, ImagePrompt(PROMPT), Decoder(language_of(arch).decoder), 4)
    labels = np.arange(N, dtype=np.int32) % len(CLASSES)
    captions = {"caption": [f"a photo of a {CLASSES[k]}." for k in labels]}
    ids = tuple(map(str, range(N)))
    data = Manifest(ids, FileOpener("", ids), labels, captions, CLASSES, "small")
    return Small(arch, language, data)


def texts_of(small: Small, batch: Examples) -> list[str]:
    core: Any = small.language.tokenizer
    return [core.core.decode(ids.tolist(), skip_special_tokens=False) for ids in batch.ids]


def test_every_word_of_the_world_is_a_token(small: Small) -> None:
    tokenizer = small.language.tokenizer
    ids = tokenizer.encode("an hourglass in front of wood. Which?\nA.star\nB.ring\nAnswer:")
    assert 2 not in ids, "no unknown word"
    assert tokenizer.decode(ids) == ("an hourglass in front of wood Which A.star B.ring Answer")
    assert small.language.stop == (1,)
    assert len(set(small.language.letters(OPTIONS))) == OPTIONS
    assert tokenizer.chat([{"role": "user", "content": "What?"}]) == "What?\nAnswer:"


def test_letters_are_those_of_the_right_options(small: Small) -> None:
    batch = small.examples(2000, seed=0)
    places = []
    for text, row, weights in zip(texts_of(small, batch), batch.image, batch.weights):
        shape = CLASSES[row % len(CLASSES)]
        answer = text.split("Answer ")[1].split(" </s>")[0]
        assert weights.sum() > 0
        if "Which" not in text:
            assert answer in (shape, f"a photo of a {shape}")
            continue
        asked = text.split("Which ")[1].split(" Answer")[0].split()
        letters = {line[2:]: line[0] for line in asked}
        assert len(letters) == OPTIONS
        assert letters[shape] == answer
        after = text.split("</s> ")[1].split()[: 2 * OPTIONS]
        assert dict(zip(after[::2], after[1::2])) == letters
        places.append(answer)
    shares = [places.count(letter) / len(places) for letter in "ABCD"]
    assert shares == pytest.approx([1 / OPTIONS] * OPTIONS, abs=0.05)


def test_it_learns_a_few_answers_by_their_images(small: Small) -> None:
    """The same ten examples in every step: their answers become likely beside their own images alone."""
    patches, few = looked_at(small), small.examples(10, seed=1)
    recipe = LlavaRecipe(steps=FEW_STEPS, warmup=2, batch_size=10)
    repeated = Examples(*(np.tile(part, (FEW_STEPS, *[1] * (part.ndim - 1))) for part in few))
    params = train(small.arch, patches, repeated, recipe, seed=0)
    others = few._replace(image=(few.image + 1) % N)  # the class after each
    of = jax.jit(_loss, static_argnums=1)
    loss, of_others = (float(of(params, small.arch, patches[each.image], each)) for each in (few, others))
    assert loss < 0.1 < 0.4 < of_others


@pytest.mark.long("demo/test_llava.py::test_it_learns_a_few_answers_by_their_images")
def test_it_learns_to_read_images_and_letters(small: Small) -> None:
    """One patch shows the class: right in every order, and at chance when the images are shuffled."""
    rng, patches = np.random.default_rng(1), looked_at(small)
    recipe = LlavaRecipe(steps=STEPS, warmup=20, batch_size=48)
    params = train(small.arch, patches, small.examples(STEPS * 48, seed=1), recipe, seed=0)
    batch = small.examples(600, seed=2)
    asked = np.array(["Which" in text for text in texts_of(small, batch)])
    batch = Examples(*(part[asked] for part in batch))
    right, place = _answers(small, params, patches, batch)
    for letter in range(OPTIONS):
        mine = right[place == letter]
        assert wilson(int(mine.sum()), len(mine)).lo > CHANCE
    other = batch._replace(image=rng.permutation(batch.image))
    wrong, _ = _answers(small, params, patches, other)
    assert wilson(int(wrong.sum()), len(wrong)).lo < CHANCE + 0.05


STEPS, FEW_STEPS = 120, 16


def looked_at(small: Small) -> np.ndarray:
    """Features of the images, float32 [N, 4, width]: one of four patches shows the class."""
    rng = np.random.default_rng(0)
    looks = rng.normal(size=(len(CLASSES), small.arch.vision.width))
    patches = 0.3 * rng.normal(size=(N, 4, small.arch.vision.width))
    patches[np.arange(N), rng.integers(4, size=N)] += looks[small.data.labels]
    return patches.astype(np.float32)


def _answers(
    small: Small, params: Any, patches: np.ndarray, batch: Examples
) -> tuple[np.ndarray, np.ndarray]:
    """Whether the likeliest letter is right; and the place of the right one."""
    decoder, letters = small.language.decoder, small.language.letters(OPTIONS)
    first = int(np.flatnonzero(batch.weights[0])[0])
    ids = jnp.asarray(batch.ids[:, :first])
    projector = projector_of(small.arch, params["projector"])
    tokens = projector(jnp.asarray(patches[batch.image]))
    embedded = assemble(decoder, params["decoder"], ids, jnp.ones(len(ids), jnp.int32), tokens)
    valid = jnp.ones(embedded.shape[:2], bool)
    forward = jax.jit(decoder.forward, static_argnames="precision")
    logits = forward(params["decoder"], embedded, valid, precision="parity")[:, -1]
    place = np.array([letters.index(k) for k in batch.ids[:, first]])
    return np.asarray(logits).argmax(axis=1) == batch.ids[:, first], place


def _result(right: np.ndarray, low: float) -> Result:
    """Choices of 4 options: the right one is the first."""
    images = {"right": [0] * len(right), "choice_parsed": np.where(right, 0, 1).tolist()}
    row: Any = {"metric": DEBIASED, "slice": None, "precision": "parity", "interval": {"lo": low, "hi": 1.0}}
    return Result([row], pa.table(images), None, NO_STATS)


def test_the_checks_tell_chance_from_more() -> None:
    good = np.random.default_rng(0).random((60, 4)) < 0.6
    good[:, 2] = np.arange(60) % 4 == 0
    asked = QuestionResults("d", _result(good, 0.5), _result(good, 0.5), _result(good, 0.2))
    assert [share for share, _ in by_order([asked.llava, asked.llava])] == pytest.approx(good.mean(axis=0))
    assert [low > CHANCE for _, low in by_order([asked.llava])] == [True, True, False, True]
    assert asked.beats_chance
    assert asked.needs_images
    assert not dataclasses.replace(asked, llava=_result(good, 0.25)).beats_chance
    assert not dataclasses.replace(asked, shuffled=_result(good, 0.26)).needs_images

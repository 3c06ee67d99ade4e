"""Texts of the demo's vision-language model. Spaces separate its tokens, so "A.star" is one.

    What shape is it?                      star
    Describe it.                           a red star on wood
    Which? A.star B.ring C.bolt D.cross    A

In training the answer to a question is followed by all options and their letters, in any order ("A </s>
cross D ring B ..."): without these the decoder takes far longer to learn what an option stands for.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from clipjax.checkpoints.vision_language import LanguageSetup
from clipjax.data.manifest import Manifest
from clipjax.data.questions import Question
from clipjax.demo.world.scenes import BACKGROUNDS, CAPTIONS, COLOURS, SHAPES, TEXTURES
from clipjax.metrics.answers import LETTERS

PROMPT = "{question}\nAnswer:"
WHAT, DESCRIBE = "What shape is it?", "Describe it."
OPTIONS = 4
# Shares of the examples; the others are questions with options.
NAMES, DESCRIPTIONS = 0.2, 0.1
# In the loss, where the answer's first token has 1.
END, WORD, LATER_LETTER = 0.1, 0.5, 0.5

_FIRST = " ".join(LETTERS[:OPTIONS])  # stands for the lines of options
_SPECIAL = ("<s>", "</s>", "<unk>")


def write_tokenizer(folder: Path, question: Question) -> tuple[Path, ...]:
    """tokenizer.json and tokenizer_config.json: a token is what spaces separate. -> the files"""
    texts = (
        *CAPTIONS,
        *SHAPES,
        *COLOURS,
        *TEXTURES,
        *BACKGROUNDS,
        "an",
        WHAT,
        DESCRIBE,
        question.text,
        PROMPT,
    )
    words = {word.strip(".?:") for text in texts for word in text.split() if "{" not in word}
    letters = LETTERS[:OPTIONS]
    lines = [_line(question, letter, shape) for letter in letters for shape in SHAPES]
    vocabulary = {word: i for i, word in enumerate((*_SPECIAL, *sorted({*words, *letters, *lines})))}
    core = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token=_SPECIAL[2]))
    ends = tokenizers.Regex(r"[.?:]+(?=\s|$)")
    core.normalizer = normalizers.Replace(ends, "")  # pyright: ignore[reportAttributeAccessIssue]
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    core.add_special_tokens(list(_SPECIAL))
    config = {
        **dict(zip(("bos_token", "eos_token", "unk_token"), _SPECIAL)),
        "add_bos_token": True,
        "chat_template": "{{ messages[0]['content'] }}\nAnswer:",
    }
    folder.mkdir(parents=True, exist_ok=True)
    files = folder / "tokenizer.json", folder / "tokenizer_config.json"
    files[0].write_text(core.to_str())
    files[1].write_text(json.dumps(config))
    return files


class Examples(NamedTuple):
    """Texts about N images.

    Attributes:
        ids: int32 [N, L], prompt and answer, without the image; 0 after the end.
        weights: float32 [N, L], of each id in the loss.
        image: int32 [N], rows of the images.
    """

    ids: np.ndarray
    weights: np.ndarray
    image: np.ndarray


def examples(
    language: LanguageSetup, question: Question, data: Manifest, count: int, rng: np.random.Generator
) -> Examples:
    """Random examples about images with labels and captions; every order of options is equally likely."""
    labels, shapes, captions = data.labels, data.label_names, data.columns["caption"]
    assert labels is not None
    assert shapes is not None
    encode, stop = language.tokenizer.encode, language.stop[0]
    image = rng.integers(len(labels), size=count).astype(np.int32)
    kind = rng.choice(3, size=count, p=(NAMES, DESCRIPTIONS, 1 - NAMES - DESCRIPTIONS))
    words = np.array([encode(shape)[0] for shape in shapes])
    described = [[*encode(caption), stop] for caption in captions]
    prompts = [language.prompt(text)[0] for text in (WHAT, DESCRIBE)]
    asked = _questions(language, question, words, labels[image], rng)
    length = max(asked[0].shape[1], len(prompts[1]) + max(map(len, described)))
    ids, weights = np.zeros((count, length), np.int32), np.zeros((count, length), np.float32)
    for i in range(count):
        if kind[i] == 2:
            continue
        prompt = prompts[kind[i]]
        answer = [words[labels[image[i]]], stop] if kind[i] == 0 else described[image[i]]
        ids[i, : len(prompt) + len(answer)] = [*prompt, *answer]
        weights[i, len(prompt) : len(prompt) + len(answer)] = (1, END) if kind[i] == 0 else WORD
    with_options = kind == 2
    ids[with_options, : asked[0].shape[1]] = asked[0][with_options]
    weights[with_options, : asked[0].shape[1]] = asked[1]
    return Examples(ids, weights, image)


def _questions(
    language: LanguageSetup,
    question: Question,
    words: np.ndarray,
    labels: np.ndarray,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """One about each image: ids int32 [N, l], and the weights of each place float32 [l]."""
    n, k = len(labels), len(words)
    draws = rng.random((n, k))
    draws[np.arange(n), labels] = -1  # first
    options = rng.permuted(np.argsort(draws, axis=1)[:, :OPTIONS], axis=1)
    right = (options == labels[:, None]).argmax(axis=1)
    lines = _lines(language, question, words)
    letters = np.array(language.letters(OPTIONS))
    prompt = np.array(language.prompt(question.text.format(options=_FIRST))[0])
    places = np.flatnonzero(np.isin(prompt, language.tokenizer.encode(_FIRST)))
    ids = np.tile(prompt, (n, 1))
    ids[:, places] = lines[np.arange(OPTIONS), options]
    order = rng.permuted(np.tile(np.arange(OPTIONS), (n, 1)), axis=1)
    later = np.stack([words[np.take_along_axis(options, order, axis=1)], letters[order]], axis=2)
    end = np.full((n, 1), language.stop[0])
    ids = np.concatenate([ids, letters[right][:, None], end, later.reshape(n, -1)], axis=1)
    weights = [0.0] * len(prompt) + [1.0, END] + [0.0, LATER_LETTER] * OPTIONS
    return ids.astype(np.int32), np.array(weights, np.float32)


def _line(question: Question, letter: str, shape: str) -> str:
    return question.option.replace("{letter}", letter).replace("{option}", shape)


def _lines(language: LanguageSetup, question: Question, words: np.ndarray) -> np.ndarray:
    """The token of each letter with each shape, int [OPTIONS, K]."""
    shapes, encode = [language.tokenizer.decode([word]) for word in words], language.tokenizer.encode
    return np.array(
        [[encode(_line(question, letter, shape))[0] for shape in shapes] for letter in LETTERS[:OPTIONS]]
    )

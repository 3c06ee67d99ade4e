"""The language side of a vision-language model: from a question to ids, and from ids to an answer.

model = clipjax.load_model("one-stage+7b", vision="timm/vit_large_patch14_clip_336.openai")
model.answer([image], "What is the main object in this image?")     # ["A teapot."]
"""

from __future__ import annotations

import functools
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from clipjax.checkpoints.card import Card
from clipjax.data.text import vocabularies
from clipjax.data.text.image_prompts import IMAGE_WORD, ImagePrompt
from clipjax.data.text.language_tokenizers import (
    FILES,
    LanguageTokenizer,
    check_vocabulary,
    load_language_tokenizer,
)
from clipjax.errors import DataError, UsageError
from clipjax.models.language.decoder import Decoder
from clipjax.models.language.generation import Generation, generate
from clipjax.models.language.padding import padded_left
from clipjax.models.language.vision_language import assemble, image_positions, image_tokens, language_of
from clipjax.models.network import Network
from clipjax.models.param_tree import Params
from clipjax.models.precision import Precision, known_precision


@dataclass(frozen=True, eq=False)
class LanguageSetup:
    """What a vision-language model needs to answer, beside its image tower.

    Attributes:
        form: how a question and an image become a prompt.
        image_tokens: the number of positions that an image takes.
    """

    tokenizer: LanguageTokenizer
    form: ImagePrompt
    decoder: Decoder
    image_tokens: int

    @property
    def stop(self) -> tuple[int, ...]:
        """Ids that end an answer."""
        return self.tokenizer.eos

    def prompt(self, question: str) -> tuple[list[int], int]:
        """The ids of the finished prompt, and where among them the image's tokens go.

        In Prismatic's order that is 1: [BOS][image][rest].
        """
        before, after = self.form.parts(question)
        if not self.form.names_image:
            ids = self.tokenizer.encode(after, special=True)
            return ids, int(ids[:1] == [self.tokenizer.bos])
        return self._around_image(before, after)

    def _around_image(self, before: str, after: str) -> tuple[list[int], int]:
        """Tokenised as one text where the tokenizer has a token for the image, which is then left out."""
        mark = self.tokenizer.encode(IMAGE_WORD)
        if len(mark) == 1:
            ids = self.tokenizer.encode(before + IMAGE_WORD + after, special=True)
            at = ids.index(mark[0])
            return ids[:at] + ids[at + 1 :], at
        ids = self.tokenizer.encode(before, special=True)
        return ids + self.tokenizer.encode(after), len(ids)

    def letters(self, n: int) -> list[int]:
        """The ids of A, B, ... as an answer begins with them: a word of its own after the prompt.

        Raises:
            UsageError: more than 26.
            DataError: the tokenizer has no single token for one of them.
        """
        if not 0 < n <= len(string.ascii_uppercase):
            raise UsageError(f"{n} options have no letters: give 1 to {len(string.ascii_uppercase)}")
        letters = []
        for letter in string.ascii_uppercase[:n]:
            ids = self.continuation(letter)
            if len(ids) != 1:
                raise DataError(
                    f"{self.tokenizer.where} has no single token for an answer that begins with {letter!r}: "
                    "write the options of the card's question without {letter}"
                )
            letters += ids
        return letters

    def continuation(self, text: str) -> list[int]:
        """The ids of an answer, as they follow the prompt: after a space, unless the prompt ends with one."""
        _, prompt = self.form.parts("A question")
        start = self.tokenizer.encode(prompt)
        ids = self.tokenizer.encode(prompt + ("" if prompt[-1:].isspace() else " ") + text)
        # A tokenizer that joins the prompt's end with the text has no ids for the text alone.
        return ids[len(start) :] if ids[: len(start)] == start else self.tokenizer.encode(text)


def load_language(card: Card, files: Sequence[Path]) -> LanguageSetup:
    """The language side of a vision-language model, by its card and tokenizer files.

    Args:
        files: its tokenizer's.

    Raises:
        DataError: files that are missing, damaged or not the card's, or a tokenizer that does not fit the
            embedding.
    """
    language, chat = language_of(card.arch), card.chat
    if chat is None:
        raise DataError(
            f"the card of {card.id} does not say how the model is asked (chat): convert the model again"
        )
    if not files:
        why = card.unknown.get("chat.sha256", "its folder has none")
        raise DataError(
            f"{card.id} has no tokenizer ({why}): convert it again with --tokenizer FOLDER (tokenizer=), a "
            f"folder with {' or '.join(FILES)}"
        )
    if chat.sha256 is not None and chat.sha256 != vocabularies.digest(files):
        raise DataError(
            f"{files[0]} is not the tokenizer that the model card names (sha256 {chat.sha256[:12]}...): "
            "bring back the one of the card, or convert the checkpoint again"
        )
    tokenizer = load_language_tokenizer(files[0])
    check_vocabulary(tokenizer, language.decoder.vocab_size, files[0])
    return LanguageSetup(
        tokenizer, ImagePrompt(chat.prompt), Decoder(language.decoder), image_positions(card.arch)
    )


def answering(name: str, params: Mapping[str, Any], precision: str | None) -> Precision:
    """The precision of a model's answers; None: "parity", or "fast" of a decoder in bfloat16.

    Raises UsageError for an unknown one, or "parity" from bfloat16.
    """
    embedding = params.get("decoder", {}).get("embedding")
    half = embedding is not None and embedding.dtype == jnp.bfloat16
    own = known_precision(precision or ("fast" if half else "parity"))
    if half and own == "parity":
        raise UsageError(
            f"{name} was loaded with dtype 'bfloat16', and precision 'parity' needs float32: take precision "
            "'fast' (--precision fast), or load it again without dtype"
        )
    return own


@dataclass(frozen=True)
class PaddedPrompts:
    """Prompts of a batch, padded on the left.

    Attributes:
        ids: int32 [B, L].
        image_at: int32 [B], where an image's tokens go.
        valid: bool [B, L + P], False at padding; P positions are an image's.
    """

    ids: np.ndarray
    image_at: np.ndarray
    valid: np.ndarray


def padded(language: LanguageSetup, prompts: Sequence[tuple[list[int], int]], steps: int) -> PaddedPrompts:
    """The ids of `LanguageSetup.prompt`, with room for answers of `steps` ids where the context has it."""
    most = language.decoder.config.context_length - language.image_tokens - steps
    ids, valid = padded_left([own for own, _ in prompts], most)
    image_at = np.array([ids.shape[1] - len(own) + at for own, at in prompts], np.int32)
    image = ((0, 0), (0, language.image_tokens))
    return PaddedPrompts(ids, image_at, np.pad(valid, image, constant_values=True))


@functools.partial(jax.jit, static_argnames=("network", "steps", "stop", "precision"))
def answer_ids(
    network: Network,
    params: Params,
    images: Array,
    ids: Array,
    image_at: Array,
    valid: Array,
    *,
    steps: int,
    stop: tuple[int, ...],
    precision: Precision,
) -> Generation:
    """Greedy answers. images float32 [B, S, S, 3], preprocessed; the rest as in `PaddedPrompts`."""
    decoder = Decoder(language_of(network.arch).decoder)
    tokens = image_tokens(network, params, jnp.asarray(images), precision)
    embedded = assemble(decoder, params["decoder"], ids, image_at, tokens)
    return generate(decoder, params["decoder"], embedded, valid, steps=steps, stop=stop, precision=precision)

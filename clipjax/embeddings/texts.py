"""Texts -> unit-norm embeddings: prompts of a head, captions of a data set.

Sorting texts by length and cutting them after the last id that the tower reads changes no vector.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from clipjax.checkpoints.encoder import Encoder
from clipjax.data.labels import PromptSet
from clipjax.data.text.tokenizers import Tokenizer
from clipjax.embeddings.beginnings import encode_shared, shared
from clipjax.embeddings.forward import OwnCalls, text_encoder
from clipjax.embeddings.keys import entry_key
from clipjax.errors import DataError
from clipjax.progress import progress_bar
from clipjax.storage.digests import sha256_json

CHUNK = 256  # texts encoded at once: enough to fill the matrix units, with little memory
TOKENIZED = 4096  # texts tokenised at once
LENGTH_STEP = 4  # chunks are cut at a multiple of this, which bounds the compilations at context_length / 4


def embed_texts(
    model: Encoder,
    texts: Sequence[str],
    *,
    name: str,
    precision: str = "parity",
    store: Any = None,
    progress: bool = False,
) -> np.ndarray:
    """Embed texts with a zero-shot model: float32 [M, D], unit norm.

    Args:
        name: of the texts in the store's listing.
        store: a `Store`; a card without a fingerprint is never stored.

    Raises:
        DataError: `encode_text` returns a wrong shape or norm, or an embedding is not finite.
    """
    distinct = list(dict.fromkeys(texts))
    row_of = {text: row for row, text in enumerate(distinct)}

    def compute() -> np.ndarray:
        made: np.ndarray | None = None
        with progress_bar(len(distinct), f"texts of {name}", "text", shown=progress) as bar:
            for rows, embeddings in encode_texts(model, distinct, precision):
                made = np.empty((len(distinct), embeddings.shape[1]), np.float32) if made is None else made
                made[rows] = embeddings
                bar.update(len(rows))
        assert made is not None
        return made

    key = text_key(model, "texts", precision, texts=sha256_json(distinct))
    about = {"model": str(model.card.id), "data": f"texts of {name}", "selection": ""}
    ids = [str(row) for row in range(len(distinct))]
    made = stored(store, key, about, ids, compute)
    return made[[row_of[text] for text in texts]]


def caption_texts(
    ids: Sequence[str], captions: Sequence[Any], template: PromptSet
) -> tuple[list[str], np.ndarray]:
    """All captions in a template, M texts, and the row of each one's image, int32 [M].

    Args:
        captions: [N], a list of strings per image, or one string.

    Raises:
        DataError: an image without a caption, or a caption that is empty or not a text.
    """
    texts, image_of_text = [], []
    for row, given in enumerate(captions):
        of_image = [given] if isinstance(given, str) else given
        if not isinstance(of_image, Sequence) or not of_image:
            raise DataError(f"{ids[row]} has no caption; give each image one or more, or leave it out")
        for caption in of_image:
            if not isinstance(caption, str) or not caption.strip():
                raise DataError(f"{ids[row]}: its caption {caption!r} is empty or no text; mend or remove it")
            texts += template.of_class(caption)
            image_of_text.append(row)
    return texts, np.array(image_of_text, np.int32)


def are_cut(model: Encoder, texts: Sequence[str]) -> np.ndarray:
    """bool [M]: which texts exceed the context; False for a user's own text tower, of unknown context."""
    if model.network is None:
        return np.zeros(len(texts), bool)
    steps = range(0, len(texts), TOKENIZED)
    cut = [model.tokenizer.encode(texts[start : start + TOKENIZED]).truncated for start in steps]
    return np.concatenate([np.zeros(0, bool), *cut])


def text_key(model: Encoder, output: str, precision: str, **what: str) -> dict[str, Any] | None:
    """The key of embeddings of texts; None: must not be stored."""
    card = model.card
    if card.fingerprint is None or (model.network is None and model.outside is None):
        return None
    # The fingerprint of a model in another process covers its tokenizer.
    tokenizer = None if model.network is None else dataclasses.asdict(model.tokenizer.spec)
    return entry_key(card, output, precision, tokenizer=tokenizer, **what)


def encode_texts(
    model: Encoder, texts: list[str], precision: str = "parity", chunk: int = CHUNK, *, share: bool = False
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of (positions in `texts`, unit-norm float32 embeddings), a chunk at a time.

    share: run what many texts begin with once, where that saves enough; it may change the last bits.
    """
    if model.network is not None:
        tokens = _Tokens.of(model.tokenizer, model.network.arch.text, texts)
        if share and model.network.shares_beginnings:
            whole = shared(tokens.whole(), tokens.length)
            if whole is not None:
                return encode_shared(model, whole, precision, chunk)
        return _encode_tokens(text_encoder(model, precision), tokens, chunk)
    return _encode_strings(model.encode_text, f"encode_text of {model}", texts, chunk)


def _encode_strings(
    encode: Callable[..., Any], name: str, texts: list[str], chunk: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    call = OwnCalls(encode, name, "strings")
    for start in range(0, len(texts), chunk):
        rows = np.arange(start, min(start + chunk, len(texts)))
        # A user's own text tower may return anything: check shape and norms.
        embeddings = call([texts[row] for row in rows])
        norms = np.linalg.norm(embeddings, axis=1)
        unit = np.abs(norms - 1) <= 1e-3
        if not unit.all():
            k = int(np.argmin(unit))
            raise DataError(
                f"{name} made a vector of norm {norms[k]:.4g} of {texts[rows[k]]!r}: norms must be 1"
            )
        yield rows, embeddings


class _Tokens(NamedTuple):
    """The ids that decide the embeddings; text i has `ids[end[i] - length[i] : end[i]]`."""

    ids: np.ndarray
    end: np.ndarray
    length: np.ndarray
    context: int
    pad_id: int

    @staticmethod
    def of(tokenizer: Tokenizer, tower: Any, texts: list[str], step: int = TOKENIZED) -> _Tokens:
        parts, lengths, cut = [], [], 0
        for start in range(0, len(texts), step):
            tokens = tokenizer.encode(texts[start : start + step])
            ids, length, cut = tokens.ids, tower.reach(tokens.ids), cut + int(tokens.truncated.sum())
            parts.append(ids[np.arange(ids.shape[1]) < length[:, None]])
            lengths.append(length)
        length = np.concatenate(lengths)
        context, pad_id = tokenizer.spec.context_length, tokenizer.pad_id
        if cut:
            warnings.warn(f"{cut} of {len(texts)} texts were cut to {context} tokens", stacklevel=2)
        return _Tokens(np.concatenate(parts), np.cumsum(length), length, context, pad_id)

    def whole(self) -> np.ndarray:
        """int32 [N, L], L the longest length; -1 after each text's end."""
        read = np.arange(self.length.max()) < self.length[:, None]
        ids = np.full(read.shape, -1, np.int32)
        ids[read] = self.ids
        return ids

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """int32 [len(rows), L]; L is the longest of these texts, rounded up to LENGTH_STEP."""
        longest = int(self.length[rows].max())
        length = min(-(-longest // LENGTH_STEP) * LENGTH_STEP, self.context)
        batch = np.full((len(rows), length), self.pad_id, np.int32)
        for line, row in enumerate(rows):
            batch[line, : self.length[row]] = self.ids[self.end[row] - self.length[row] : self.end[row]]
        return batch


def _encode_tokens(
    encode: Callable[[np.ndarray], Any], tokens: _Tokens, chunk: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    # Shortest first: a chunk is as long as its longest text, and cutting after what the tower reads is free.
    order = np.argsort(tokens.length, kind="stable")
    for start in range(0, len(order), chunk):
        rows = order[start : start + chunk]
        yield rows, np.asarray(encode(tokens.rows(rows)), np.float32)


def stored(
    store: Any,
    key: dict[str, Any] | None,
    about: dict[str, str],
    ids: Sequence[str],
    compute: Callable[[], np.ndarray],
) -> np.ndarray:
    """The array [len(ids), D] of this key; computed and kept if missing."""
    if store is None or key is None:
        return compute()
    entry = store.entry(key, ids=ids, rows_per_shard=len(ids), per_device_batch=1, about=about)
    if entry.missing_shards(keep=True):
        entry.write_shard(0, list(ids), compute())
    return entry.read()[1]

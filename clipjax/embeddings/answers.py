"""Questions about images -> stored answers of a vision-language model.

A row holds, for each order of the options, the generated ids, and for each option the log-probability of its
letter as the first id, the summed one of its text, and the text's length. So every rule and metric can be
computed again without a forward pass. Rows go the way of embeddings: the same shards, batches and refusals.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from clipjax.checkpoints.encoder import Encoder, ModelCard
from clipjax.checkpoints.vision_language import answering
from clipjax.data.manifest import Manifest
from clipjax.data.pixels.normalize import normalize
from clipjax.data.pixels.preprocess import PixelRecipe
from clipjax.data.questions import Questions
from clipjax.devices.sharding import batch_sharding, local_mesh, replicated
from clipjax.embeddings.batch_size import BatchChoice
from clipjax.embeddings.compute import Compute
from clipjax.embeddings.forward import Forward, ProgramKey, Step, compiled, on_devices
from clipjax.embeddings.images import ImageStream
from clipjax.embeddings.keys import entry_key
from clipjax.embeddings.placements import AUTO, REPLICATED, SHARDED, bytes_of, cast_bytes, fits
from clipjax.embeddings.sets import Embeddings
from clipjax.embeddings.stored_rows import rows_of
from clipjax.embeddings.stream import Batch
from clipjax.errors import DataError
from clipjax.models.language.decoder import Decoder
from clipjax.models.language.generation import continuation_scores, continued, prefill
from clipjax.models.language.padding import padded_left
from clipjax.models.language.sharding import decoder_mesh, decoder_sharding
from clipjax.models.language.vision_language import assemble, image_tokens
from clipjax.models.network import Network
from clipjax.models.precision import Precision, stated_platform
from clipjax.storage.digests import sha256_bytes

STEPS = 128  # as vlm-evaluation's max_new_tokens
ANSWERS = "answers"  # the kind of what is stored
BATCH = 8  # images on a device in one step


@dataclass(frozen=True, eq=False)
class QuestionPrompts:
    """The finished prompts about N images, in R orders of n options, in arrays for the devices.

    Attributes:
        ids: int32 [N, R, L], padded on the left.
        lengths: int32 [N, R].
        image_at: int32 [N, R], where the image's tokens go, counted in the padded ids.
        letters: int32 [N, R, n], the first id of an answer that chooses option i (of the given order).
        texts: int32 [N, n, T], the options' ids, padded on the right.
        counts: int32 [N, n]; 0 where an image has fewer options.
        stop: ids that end an answer.
    """

    ids: np.ndarray
    lengths: np.ndarray
    image_at: np.ndarray
    letters: np.ndarray
    texts: np.ndarray
    counts: np.ndarray
    stop: tuple[int, ...]

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of everything, without the padding's length."""
        valid = np.arange(self.ids.shape[2]) >= self.ids.shape[2] - self.lengths[..., None]
        start = self.image_at - (self.ids.shape[2] - self.lengths)
        parts = (self.ids[valid], self.lengths, start, self.letters, self.texts, self.counts, self.stop)
        data = b"|".join(
            repr(np.shape(part)).encode() + np.asarray(part, np.int32).tobytes() for part in parts
        )
        return sha256_bytes(data)

    def batch(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The prompts of some rows; padding (-1) takes row 0."""
        rows = np.maximum(rows, 0)
        names = ("ids", "lengths", "image_at", "letters", "texts", "counts")
        return {name: getattr(self, name)[rows] for name in names}


@dataclass(frozen=True, eq=False)
class Answers:
    """A model's answers about N images, in R orders of up to n options.

    Attributes:
        texts: [N][R], the free answers.
        letters: float32 [N, R, n], log-probability of option i's letter as the first id (without letters: of
            the option's own first id). NaN where an image has fewer options.
        totals: float32 [N, R, n], summed log-probability of the option's text after the prompt.
        counts: int32 [N, n], ids of that text.
    """

    texts: list[list[str]]
    letters: np.ndarray
    totals: np.ndarray
    counts: np.ndarray


def prompts_of(model: Encoder, questions: Questions, rotations: int, steps: int) -> QuestionPrompts:
    """Tokenise all prompts.

    Raises DataError if a prompt, the image and the answer are longer than the model's context.
    """
    language = model.language
    assert language is not None
    n, most = len(questions.ids), questions.most
    prompts = [[language.prompt(questions.ask(i, r)) for r in range(rotations)] for i in range(n)]
    texts = [[language.continuation(option) for option in own] for own in questions.options]
    options, counts = _option_ids(texts, most)
    letters = _first_ids(
        texts, language.letters(most) if questions.card.has_letters else None, rotations, most
    )
    rows = [ids for own in prompts for ids, _ in own]
    ids, valid = padded_left(rows, _room(model, questions, prompts, max(steps, options.shape[2])))
    lengths = valid.sum(axis=1, dtype=np.int32).reshape(n, rotations)
    padding = ids.shape[1] - lengths  # on the left, so it moves the image's position
    image_at = padding + np.array([[at for _, at in own] for own in prompts], np.int32)
    ids = ids.reshape(n, rotations, -1)
    return QuestionPrompts(ids, lengths, image_at, letters, options, counts, tuple(language.stop))


def _option_ids(texts: Sequence[Sequence[Sequence[int]]], most: int) -> tuple[np.ndarray, np.ndarray]:
    """The options' ids, padded on the right, int32 [N, most, L], and their numbers, int32 [N, most]."""
    longest = max(len(text) for own in texts for text in own)
    ids, counts = np.zeros((len(texts), most, longest), np.int32), np.zeros((len(texts), most), np.int32)
    for i, own in enumerate(texts):
        for k, text in enumerate(own):
            ids[i, k, : len(text)], counts[i, k] = text, len(text)
    return ids, counts


def _first_ids(
    texts: Sequence[Sequence[Sequence[int]]], letters: Sequence[int] | None, rotations: int, most: int
) -> np.ndarray:
    """Each option's first id in each order, of its letter or else of its text: int32 [N, R, most]."""
    ids = np.zeros((len(texts), rotations, most), np.int32)
    for i, own in enumerate(texts):
        for k, text in enumerate(own):
            for r in range(rotations):
                # Order r shows option k in place (k + r) mod n, so with that place's letter.
                ids[i, r, k] = text[0] if letters is None else letters[(k + r) % len(own)]
    return ids


def _room(model: Encoder, questions: Questions, prompts: Sequence[Sequence[Any]], after: int) -> int:
    """The most ids of a prompt, with the image and `after` ids of an answer or option."""
    language = model.language
    assert language is not None
    needed, i = max((len(ids), i) for i, own in enumerate(prompts) for ids, _ in own)
    context = language.decoder.config.context_length
    if needed + language.image_tokens + after > context:
        raise DataError(
            f"{model.card.id}: the question about {questions.ids[i]} has {needed} tokens; with "
            f"{language.image_tokens} of the image and {after} for an answer that is more than the context "
            f"of {context}: shorten the question, or answer in fewer steps (--steps)"
        )
    return context - language.image_tokens - after


def answer_images(
    model: Encoder,
    manifest: Manifest,
    prompts: QuestionPrompts,
    compute: Compute | None = None,
    *,
    steps: int,
    precision: str = "parity",
    recipe: PixelRecipe | None = None,
) -> tuple[Embeddings, Answers]:
    """Ask about the images of a data set, or read what is stored: the rows, and what they hold.

    Raises:
        DataError, UsageError: as `embed_images`; or "parity" of a model that was loaded in bfloat16.
    """
    how = Compute() if compute is None else compute
    profile = answering(model.card.id, model.params, precision)
    pixels = model.card.preprocess.recipe(rgb="first") if recipe is None else recipe
    stream = AnswerStream(model, profile, how, pixels, ANSWERS, prompts, steps)
    [rows] = rows_of(stream, [manifest])
    return rows, read_answers(model, manifest, prompts, steps, rows)


def answer_key(
    card: ModelCard,
    manifest: Manifest,
    recipe: PixelRecipe,
    prompts: QuestionPrompts,
    steps: int,
    precision: str,
    placement: str = REPLICATED,
) -> dict[str, Any]:
    """The key of answers."""
    return entry_key(
        card,
        ANSWERS,
        precision,
        placement,
        pixels=recipe.key(),
        data=manifest.images_digest,
        prompts=prompts.digest,
        steps=steps,
    )


def read_answers(
    model: Encoder, manifest: Manifest, prompts: QuestionPrompts, steps: int, rows: Embeddings
) -> Answers:
    """The answers in stored rows."""
    language = model.language
    assert language is not None
    counts = prompts.counts[manifest.rows_of(rows.ids)]
    rotations, n = prompts.letters.shape[1:]
    array = rows.array.reshape(len(rows.ids), rotations, steps + 3 * n)
    ids, letters, totals, _ = np.split(array, [steps, steps + n, steps + 2 * n], axis=2)
    absent = np.broadcast_to((counts == 0)[:, None, :], letters.shape)
    texts = [[_text(language, of_order) for of_order in of_image] for of_image in ids.astype(np.int32)]
    nan = np.float32(np.nan)
    return Answers(texts, np.where(absent, nan, letters), np.where(absent, nan, totals), counts)


def _text(language: Any, ids: np.ndarray) -> str:
    kept = [int(each) for each in ids if each >= 0 and each not in language.stop]
    return language.tokenizer.decode(kept).strip()


@dataclass(frozen=True)
class AnswerStream(ImageStream):
    """Images through tower, projector and decoder: float32 [B, R * (steps + 3 n)]."""

    prompts: QuestionPrompts
    steps: int

    verb: ClassVar[str] = "asking about"
    batch: ClassVar[int] = BATCH

    def key(self, manifest: Manifest, placement: str) -> dict[str, Any]:
        how = (self.prompts, self.steps, self.precision, placement)
        return answer_key(self.model.card, manifest, self.recipe, *how)

    def placement(self, per_device_batch: int, placement: str) -> str:
        """Whole params if they fit a device with half again as much for what is computed from them."""
        if placement != AUTO:
            return placement
        network = self.model.network
        assert network is not None
        cast = functools.partial(network.in_precision, precision=self.precision)
        placed = jax.eval_shape(cast, dict(self.model.params))
        needed = bytes_of(placed) * 3 // 2 + cast_bytes(dict(self.model.params), placed)
        return REPLICATED if fits(lambda: needed, placed) else SHARDED

    def fastest(self, placement: str, images: int) -> BatchChoice:
        return BatchChoice(BATCH)

    def forward(self, per_device_batch: int, placement: str) -> Forward:
        language, network = self.model.language, self.model.network
        assert language is not None
        assert network is not None
        preprocess = self.model.card.preprocess
        pixels = tuple(preprocess.mean), tuple(preprocess.std)
        program = _Program(network, language.decoder, self.precision, self.steps, self.prompts.stop, *pixels)
        step = _whole_step(program, local_mesh()) if placement == REPLICATED else _cut_step(program)
        return on_devices(step, self._params(), per_device_batch, self.model)

    def _params(self) -> dict[str, Any]:
        assert self.model.network is not None
        return self.model.network.in_precision(dict(self.model.params), self.precision)

    def inputs(self, batch: Batch, rows: np.ndarray) -> Any:
        return {"pixels": batch.inputs, **self.prompts.batch(rows)}


@dataclass(frozen=True)
class _Program:
    """Everything static of a forward pass."""

    network: Network
    decoder: Decoder
    precision: Precision
    steps: int
    stop: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def on(self, mesh: Mesh) -> _Program:
        return dataclasses.replace(self, decoder=self.decoder.on(mesh))

    def answer(self, params: Any, batch: Any) -> jax.Array:
        """Images and prompts of B rows -> float32 [B, R * (steps + 3 n)]."""
        pixels, name = batch["pixels"], self.network.arch.name
        compiled[ProgramKey(name, ANSWERS, batch["ids"].shape[2], len(pixels), self.precision)] += 1
        images = normalize(pixels, self.mean, self.std)
        platform = stated_platform(self.decoder.platform, self.precision)
        tokens = image_tokens(self.network, params, images, self.precision, platform)
        in_order = functools.partial(self._in_order, params["decoder"], tokens, batch)
        orders = {name: jnp.moveaxis(batch[name], 1, 0) for name in ("ids", "lengths", "image_at", "letters")}
        rows = jnp.moveaxis(jax.lax.map(in_order, orders), 0, 1)
        return rows.reshape(len(pixels), -1)

    def _in_order(self, params: Any, tokens: jax.Array, batch: Any, order: Any) -> jax.Array:
        """One prompt an image -> float32 [B, steps + 3 n]: ids, letters, texts, lengths of texts."""
        how: Any = {"precision": self.precision}
        embedded = assemble(self.decoder, params, order["ids"], order["image_at"], tokens)
        padding = order["ids"].shape[1] - order["lengths"]
        valid = jnp.arange(embedded.shape[1]) >= padding[:, None]
        first, cache = prefill(self.decoder, params, embedded, valid, self.steps, **how)
        ids = continued(self.decoder, params, first, cache, steps=self.steps, stop=self.stop, **how)
        letters = jnp.take_along_axis(jax.nn.log_softmax(first), order["letters"], axis=1)
        counts, texts = batch["counts"], batch["texts"]
        totals = continuation_scores(self.decoder, params, cache, texts, jnp.maximum(counts, 1), first, **how)
        return jnp.concatenate([ids, letters, totals, counts], axis=1, dtype=jnp.float32)


@functools.lru_cache(maxsize=16)
def _whole_step(program: _Program, mesh: Mesh) -> Step:
    """Params whole on each device, which takes its own rows."""
    program = program.on(mesh)
    options = program.network.compiler_options("vision", program.precision)
    return Step(program.answer, mesh, options, replicated(mesh))


@functools.lru_cache(maxsize=16)
def _cut_step(program: _Program) -> CutStep:
    return CutStep(program)


class CutStep:
    """The decoder cut over this process's devices (tensor parallel), as far as its heads divide them."""

    def __init__(self, program: _Program) -> None:
        config, devices = program.decoder.config, jax.local_devices()
        mesh = decoder_mesh(math.gcd(len(devices), config.kv_heads), devices)
        program = program.on(mesh)
        decoder = program.decoder.abstract_params()
        whole = replicated(mesh)
        self.params_shardings = {"decoder": decoder_sharding(config, decoder, mesh)}
        self.params_shardings |= dict.fromkeys(("vision", "projector"), whole)
        self.batch_sharding = batch_sharding(mesh)
        self._run = jax.jit(program.answer, out_shardings=self.batch_sharding)

    def __call__(self, params: Any, batch: Any) -> jax.Array:
        return self._run(params, jax.device_put(batch, self.batch_sharding))

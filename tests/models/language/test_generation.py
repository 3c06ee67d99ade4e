"""Answers of decoders against transformers' own `generate`, alone and in batches padded on the left."""

from __future__ import annotations

import functools
from typing import Any

import _llama
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from _long import mostly_long

from clipjax.errors import DataError
from clipjax.models.language import cache as caches
from clipjax.models.language import generation
from clipjax.models.language.decoder import Decoder
from clipjax.models.language.generation import (
    Generation,
    continuation_scores,
    continued,
    decode_step,
    generate,
    prefill,
)

LENGTH, STEPS = 20, 12
PADDING = (0, 5, 13)  # on the left of each row

torch.set_num_threads(1)


class Case:
    """A decoder of ours and transformers', and prompts of three lengths."""

    def __init__(self, kind: str):
        config = getattr(_llama, kind.removesuffix("-joined"))
        self.theirs = _llama.reference(config)
        self.decoder = _llama.Joined(config) if kind.endswith("-joined") else Decoder(config)
        self.params = jax.device_put(_llama.params_of(self.theirs))
        ids = np.random.default_rng(1).integers(0, config.vocab_size, (len(PADDING), LENGTH))
        self.ids = ids.astype(np.int32)
        self.embedded = self.decoder.embed(self.params, jnp.asarray(self.ids))
        self.valid = jnp.arange(LENGTH) >= jnp.array(PADDING)[:, None]

    def generate(self, rows: slice = slice(None), start: int = 0, **options: Any) -> Generation:
        options = {"steps": STEPS, "stop": (), "precision": "parity", **options}
        prompts = self.embedded[rows, start:], self.valid[rows, start:]
        return generate(self.decoder, self.params, *prompts, **options)

    def prefill(self, room: int = STEPS) -> tuple[Any, Any]:
        return prefill(self.decoder, self.params, self.embedded, self.valid, room, precision="parity")

    @torch.no_grad()
    def their_logits(self, row: int, following: Any) -> np.ndarray:
        """After the prompt of a row, and after each of the ids that follow."""
        ids = np.concatenate([self.ids[row, PADDING[row] :], following])
        logits = self.theirs(input_ids=torch.from_numpy(ids[None]).long()).logits[0].numpy()
        return logits[LENGTH - PADDING[row] - 1 :]


@functools.cache
def case(kind: str) -> Case:
    return Case(kind)


@functools.cache
def answers(kind: str) -> np.ndarray:
    return np.asarray(case(kind).generate().ids)


@functools.cache
def their_answers(kind: str) -> list[list[int]]:
    subject = case(kind)
    rows = (torch.from_numpy(subject.ids[row : row + 1, pad:]).long() for row, pad in enumerate(PADDING))
    options = {"max_new_tokens": STEPS, "do_sample": False}
    return [subject.theirs.generate(row, **options)[0, row.shape[1] :].tolist() for row in rows]


@pytest.mark.parametrize("kind", ["LLAMA", "MISTRAL"])
def test_answers_are_transformers(kind: str) -> None:
    assert answers(kind).tolist() == their_answers(kind)
    assert len(set(answers(kind).flat)) > 10


def test_a_row_answers_alone_as_in_the_batch() -> None:
    """Without its padding: the row that has most. `test_answers_are_transformers` asks for each row alone."""
    subject, together, row = case("MISTRAL"), case("MISTRAL").generate(), int(np.argmax(PADDING))
    alone = subject.generate(slice(row, row + 1), PADDING[row])
    np.testing.assert_array_equal(alone.ids[0], together.ids[row])
    np.testing.assert_allclose(alone.first[0], together.first[row], atol=1e-5)


def forget(program: Any) -> None:
    """What `jax.jit` compiled, because a part of it is another one now."""
    program.clear_cache()


def logits_error(kind: str) -> float:
    """Of prefill and steps along the answers, relative to the largest logit."""
    subject, following = case(kind), answers(kind)
    logits, cache = subject.prefill()
    ours = [logits]
    for step in range(STEPS):
        logits, cache = decode_step(
            subject.decoder, subject.params, jnp.asarray(following[:, step]), cache, precision="parity"
        )
        ours.append(logits)
    theirs = [subject.their_logits(row, following[row]) for row in range(len(PADDING))]
    return float(np.abs(np.stack(ours, axis=1) - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize(
    "kind",
    mostly_long(
        ["LLAMA", "GROUPED", "MISTRAL", "GROUPED-joined"], keep=["LLAMA", "MISTRAL", "GROUPED-joined"]
    ),
)
def test_every_step_is_transformers(kind: str) -> None:
    assert logits_error(kind) <= 1e-5


WRONG_STEPS = [
    (caches.Cache, "positions", property(lambda self: self.valid.sum(axis=1, dtype=jnp.int32) + 1)),
    (caches.Cache, "positions", property(lambda self: jnp.broadcast_to(self.length, len(self.valid)))),
    (generation, "append", lambda at: caches.append(at - 1)),
]


@pytest.mark.parametrize(
    ("owner", "name", "wrong"),
    mostly_long(WRONG_STEPS, keep=[WRONG_STEPS[2]]),
    ids=["offset", "padded", "overwritten"],
)
def test_a_wrong_step_is_seen(owner: Any, name: str, wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Positions one too far, or counted with the padding; the last slot of the prompt overwritten."""
    answers("LLAMA")
    monkeypatch.setattr(owner, name, wrong)
    forget(decode_step)
    try:
        assert logits_error("LLAMA") > 1e-3
    finally:
        monkeypatch.undo()
        forget(decode_step)


def test_a_row_ends_at_its_stop_id() -> None:
    """The others go on, and the loop ends with the last of them."""
    whole = answers("LLAMA")
    stop = (int(whole[0, 2]), int(whole[1, 5]), int(whole[2, 4]))
    ids = np.asarray(case("LLAMA").generate(stop=stop).ids)
    ends = [next(i for i, each in enumerate(row) if each in stop) + 1 for row in whole.tolist()]
    assert max(ends) < STEPS
    assert len(set(ends)) > 1
    for row, end in enumerate(ends):
        np.testing.assert_array_equal(ids[row, :end], whole[row, :end])
        assert (ids[row, end:] == -1).all()


def test_no_step_runs_after_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []

    def counted(*args: Any, **options: Any) -> Any:
        jax.debug.callback(lambda: steps.append(1))
        return decode_step(*args, **options)

    monkeypatch.setattr(generation, "decode_step", counted)
    forget(continued)
    subject, whole = case("LLAMA"), answers("LLAMA")
    logits, cache = subject.prefill()
    stop = tuple(int(row[3]) for row in whole)
    ids = continued(
        subject.decoder, subject.params, logits, cache, steps=STEPS, stop=stop, precision="parity"
    )
    jax.effects_barrier()
    assert len(steps) == (np.asarray(ids) >= 0).sum(axis=1).max() - 1 < STEPS - 1
    forget(continued)


# ---------------------------------------------------------------------------------------------- sampling


def test_draws_are_a_rows_own() -> None:
    """A row's key decides its draws: not its place, its padding or the other rows."""
    subject, keys = case("LLAMA"), jax.random.split(jax.random.key(0), len(PADDING))
    drawn = np.asarray(subject.generate(temperature=1.0, keys=keys).ids)
    again = np.asarray(subject.generate(temperature=1.0, keys=keys).ids)
    np.testing.assert_array_equal(drawn, again)
    assert (drawn != answers("LLAMA")).any()
    alone = subject.generate(slice(1, 2), PADDING[1], temperature=1.0, keys=keys[1:2])
    np.testing.assert_array_equal(alone.ids[0], drawn[1])
    others = np.asarray(subject.generate(temperature=1.0, keys=jax.random.split(jax.random.key(1), 3)).ids)
    assert (others != drawn).any(axis=1).all()


def test_draws_follow_the_probabilities() -> None:
    logits = jnp.log(jnp.array([0.5, 0.3, 0.15, 0.05]))
    keys = jax.random.split(jax.random.key(0), 4000)
    rows = jnp.broadcast_to(logits, (4000, 4))
    for temperature in (1.0, 0.5):
        drawn = generation._picked(rows, jnp.int32(3), temperature, keys)
        wanted = np.asarray(jax.nn.softmax(logits / temperature))
        shares = np.bincount(np.asarray(drawn), minlength=4) / 4000
        assert (np.abs(shares - wanted) < 5 * np.sqrt(wanted * (1 - wanted) / 4000)).all()


# --------------------------------------------------------------------------------------- scores of texts


@pytest.mark.parametrize("kind", ["LLAMA", "MISTRAL", "GROUPED-joined"])
def test_scores_of_texts(kind: str) -> None:
    """Each text is scored as if it alone followed its own prompt."""
    subject, rng = case(kind), np.random.default_rng(2)
    texts = rng.integers(0, subject.decoder.config.vocab_size, (len(PADDING), 4, 5)).astype(np.int32)
    lengths = np.array([[5, 1, 3, 2], [2, 4, 5, 1], [3, 3, 1, 5]], np.int32)
    first, cache = subject.prefill(0)
    scores = continuation_scores(
        subject.decoder, subject.params, cache, texts, lengths, first, precision="parity"
    )
    for row, option in np.ndindex(lengths.shape):
        text = texts[row, option, : lengths[row, option]]
        logits = torch.from_numpy(subject.their_logits(row, text)[:-1])
        wanted = logits.log_softmax(-1)[torch.arange(len(text)), torch.from_numpy(text).long()].sum()
        assert float(scores[row, option]) == pytest.approx(float(wanted), abs=1e-4)


# -------------------------------------------------------------------------------------- shapes and dtypes


def test_one_program_serves_a_bucket() -> None:
    """Other prompts, lengths and weights of the same shapes compile nothing."""
    subject = case("LLAMA")
    answers("LLAMA")
    program: Any = generate
    before = program._cache_size()
    options = {"steps": STEPS, "stop": (), "precision": "parity"}
    for padding in ((1, 2, 3), (19, 0, 7)):
        valid = jnp.arange(LENGTH) >= jnp.array(padding)[:, None]
        generate(subject.decoder, subject.params, 2 * subject.embedded, valid, **options)
    assert program._cache_size() == before


def test_fast_keeps_a_cache_of_bfloat16() -> None:
    subject = case("LLAMA")
    halves = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), subject.params)
    logits, cache = prefill(subject.decoder, halves, subject.embedded, subject.valid, 3, precision="fast")
    assert (logits.dtype, cache.keys.dtype, cache.values.dtype) == (jnp.float32, jnp.bfloat16, jnp.bfloat16)
    assert cache.keys.shape == (3, 3, 4, LENGTH + 3, 16)
    wanted, _ = subject.prefill()
    assert 0 < float(jnp.abs(logits - wanted).max()) < 0.05 * float(jnp.abs(wanted).max())


def test_a_prompt_and_steps_beyond_the_context_are_refused() -> None:
    with pytest.raises(DataError, match="take 65 positions, and the decoder's context has 64"):
        case("LLAMA").generate(steps=65 - LENGTH)

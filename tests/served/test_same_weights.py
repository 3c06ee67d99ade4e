"""One LLaVA of random weights by llama.cpp's server and by clipjax: log-probabilities of the letters.

Largest differences that were measured (xllamacpp 2026.10.11549, three draws of weights, 16 pictures each):

    decoder in float32, attention without flash attention      0.006
    the same with llama.cpp's usual attention                  0.015
    SmolLM2 in four bits: llama.cpp rounds what it multiplies  0.19, on average 0.07
    another GELU in the tower                                  0.05
    other order of patches, other block, other means           1 to 5
    tanh GELU in the projector, as llama.cpp has it            0.002 from the exact one

So a decoder in float32 shows all mistakes but that of the projector's GELU, which is smaller than the noise.
"""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from _asked_world import manifest_of_world, questions_of_world, write_world
from _llama_server import LlamaServer
from _long import mostly_long
from _narrow_own import TOWER, own_model, with_means
from _narrow_vl import draw_tower

from clipjax.checkpoints.language import LanguageModel, load_language_model
from clipjax.checkpoints.model import Model
from clipjax.checkpoints.vision_language import answer_ids, padded
from clipjax.data.pixels.preprocess import open_image
from clipjax.embeddings.answers import answer_images, prompts_of
from clipjax.embeddings.compute import Compute
from clipjax.metrics.answers import LETTERS

N, ORDERS = 8, 4
FAR = 0.2  # log-probability: with such a margin the choice is the same whatever rounding does


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("same") / "world", N)


@pytest.fixture(scope="module")
def decoder(narrow_files: tuple[Path, Path]) -> LanguageModel:
    return load_language_model(narrow_files[0])


def served(server: LlamaServer, world: Path, orders: int = ORDERS) -> np.ndarray:
    """Log-probability of each option's letter, [N, R, 4], asked without clipjax's client."""
    manifest, questions = manifest_of_world(world), questions_of_world(world)
    letters = np.full((len(questions.ids), orders, 4), -np.inf)
    for i in range(len(questions.ids)):
        file = io.BytesIO()
        open_image(manifest.open(i), questions.ids[i]).save(file, "PNG")
        url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
        for r in range(orders):
            top = _top(server, url, questions.ask(i, r))
            letters[i, r] = [top.get(LETTERS[(k + r) % 4], -np.inf) for k in range(4)]
    return letters


def _top(server: LlamaServer, url: str, text: str) -> dict[str, float]:
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]
    how = {"max_tokens": 1, "temperature": 0, "logprobs": True, "top_logprobs": 20, "cache_prompt": False}
    body = {"messages": [{"role": "user", "content": content}], **how}
    [first] = server.post("/v1/chat/completions", body)["choices"][0]["logprobs"]["content"]
    return {each["token"]: each["logprob"] for each in first["top_logprobs"]}


def own(model: Model, world: Path, orders: int = ORDERS) -> np.ndarray:
    prompts = prompts_of(model, questions_of_world(world), orders, 1)
    compute = Compute(progress=False, per_device_batch=8)
    return answer_images(model, manifest_of_world(world), prompts, compute, steps=1)[1].letters


def margin(letters: np.ndarray) -> np.ndarray:
    ordered = np.sort(letters, axis=-1)
    return ordered[..., -1] - ordered[..., -2]


@pytest.fixture(scope="module")
def theirs(narrow_server: LlamaServer, world: Path) -> np.ndarray:
    return served(narrow_server, world)


@pytest.mark.usefixtures("one_device")
def test_letters_are_those_of_llama_cpp(
    theirs: np.ndarray, world: Path, decoder: LanguageModel, tmp_path: Path
) -> None:
    ours = own(own_model(draw_tower(), decoder, tmp_path), world)
    assert np.abs(ours - theirs).max() < 0.015
    far = margin(theirs) > FAR
    assert far.sum() > 20
    np.testing.assert_array_equal(ours.argmax(axis=2)[far], theirs.argmax(axis=2)[far])
    assert len(set(theirs[:, 0].argmax(axis=1).tolist())) > 1  # pictures change the letter


def other_gelu(decoder: LanguageModel, folder: Path) -> Model:
    return own_model(draw_tower(), decoder, folder, tower=dataclasses.replace(TOWER, activation="gelu"))


def other_block(decoder: LanguageModel, folder: Path) -> Model:
    return own_model(draw_tower(), decoder, folder, layer=-1)


def other_order(decoder: LanguageModel, folder: Path) -> Model:
    tensors = draw_tower()
    rows = tensors["v.position_embd.weight"].reshape(4, 4, -1)
    columns_first = {"v.position_embd.weight": rows.swapaxes(0, 1).reshape(16, -1)}
    return own_model(tensors | columns_first, decoder, folder)


def other_mean(decoder: LanguageModel, folder: Path) -> Model:
    return with_means(own_model(draw_tower(), decoder, folder), (0.5, 0.5, 0.5))


MISTAKES = [(other_gelu, 0.02), (other_block, 1.0), (other_order, 1.0), (other_mean, 0.5)]


@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize(("mistake", "least"), mostly_long(MISTAKES, keep=[MISTAKES[3]]))
def test_a_mistake_is_seen(
    theirs: np.ndarray,
    world: Path,
    decoder: LanguageModel,
    tmp_path: Path,
    mistake: Callable[[LanguageModel, Path], Model],
    least: float,
) -> None:
    """`least` is above what the test of equality allows."""
    one = np.abs(own(mistake(decoder, tmp_path), world, orders=1) - theirs[:, :1])
    assert one.max() > least


def given_order(model: Model, world: Path) -> np.ndarray:
    """As `own` in the given order, without the options' likelihoods, which take most of the time: [N, 4]."""
    language, manifest, questions = model.language, manifest_of_world(world), questions_of_world(world)
    assert language is not None
    pixels = [model.preprocess(open_image(manifest.open(i), "picture")) for i in range(len(manifest))]
    rows = padded(language, [language.prompt(questions.ask(i)) for i in range(len(manifest))], 1)
    inputs = (np.stack(pixels), rows.ids, rows.image_at, rows.valid)
    first = answer_ids(model.network, model.params, *inputs, steps=1, stop=(), precision="parity").first
    return np.asarray(jax.nn.log_softmax(first))[:, language.letters(4)]


@pytest.mark.long("served/test_same_weights.py::test_letters_are_those_of_llama_cpp")
def test_smollm2_chooses_as_in_llama_cpp(
    smollm2_server: LlamaServer, smollm2_file: Path, tmp_path: Path
) -> None:
    """In four bits the numbers differ by more than a GELU does, and by less than another order of patches."""
    world = write_world(tmp_path / "world", 3)
    theirs = served(smollm2_server, world, orders=1)[:, 0]
    model = own_model(draw_tower(channels=576), load_language_model(smollm2_file), tmp_path / "own")
    ours = given_order(model, world)
    far = margin(theirs) > FAR
    assert far.all()
    np.testing.assert_array_equal(ours.argmax(axis=1), theirs.argmax(axis=1))
    assert np.abs(ours - theirs).max() < 0.3
    assert np.abs(ours - theirs).mean() < 0.12
    vision = dict(model.params["vision"])
    vision["positional_embedding"] = vision["positional_embedding"][::-1]
    upside_down = given_order(model.with_params({**model.params, "vision": vision}), world)
    assert np.abs(upside_down - theirs).mean() > 0.2

"""`load_language_model` of narrow decoders: transformers' folders and GGUF, on a mesh, and their answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from _ggml import llama_metadata, llama_tensors, write_gguf
from _language import PIECES, gguf_vocabulary, sentencepiece_model, write_tokenizer
from safetensors.numpy import save_file
from transformers import LlamaConfig, LlamaForCausalLM

import clipjax
from clipjax.checkpoints.language import LanguageModel, load_language_model
from clipjax.devices.sharding import make_mesh
from clipjax.errors import DataError, UsageError
from clipjax.models.language.generation import generate
from clipjax.models.language.padding import BUCKET, padded_left
from clipjax.models.language.sharding import decoder_mesh
from converters.engine import flatten

VOCABULARY = sentencepiece_model()
CHAT = [{"role": "user", "content": "a photo of 12"}]


def gguf_file(folder: Path, vocabulary: int = PIECES, **changes: Any) -> Path:
    tensors = llama_tensors(np.random.default_rng(0), vocabulary)
    record = llama_metadata(**changes) | gguf_vocabulary(VOCABULARY)
    return write_gguf(folder / "small.gguf", tensors, record)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gguf_file(tmp_path_factory.mktemp("gguf"))


@pytest.fixture(scope="module")
def model(file: Path) -> LanguageModel:
    return load_language_model(file)


@pytest.fixture(scope="module")
def theirs() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=PIECES,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def folder(theirs: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In several files, as transformers writes them."""
    path = write_tokenizer(tmp_path_factory.mktemp("hf") / "small", VOCABULARY)
    theirs.save_pretrained(path, max_shard_size="100KB")
    assert len(list(path.glob("model-*.safetensors"))) > 1
    return path


# --- loading ---


def test_a_folder_of_transformers(folder: Path, theirs: Any) -> None:
    model = load_language_model(folder)
    assert (model.name, model.precision, model.tokenizer.eos) == ("small", "parity", (2,))
    ids = np.random.default_rng(0).integers(0, PIECES, (2, 17))
    with torch.no_grad():
        expected = theirs(torch.from_numpy(ids)).logits.numpy()
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(model.logits(ids), expected, atol=1e-4)
    (answer,) = model.generate("a photo of a", steps=5)
    prompt = torch.tensor([model.tokenizer.encode("a photo of a", special=True)])
    continued = theirs.generate(prompt, max_new_tokens=5, do_sample=False, pad_token_id=2)
    assert answer == model.tokenizer.decode(continued[0, prompt.shape[1] :].tolist())


def test_bfloat16_takes_half_the_memory(folder: Path) -> None:
    wide, half = load_language_model(folder), load_language_model(folder, dtype="bfloat16")
    assert half.precision == "fast"
    for path, leaf in flatten(half.params).items():
        assert leaf.dtype == jnp.bfloat16, path
        np.testing.assert_array_equal(leaf, flatten(wide.params)[path].astype(jnp.bfloat16))
    assert half.generate("a photo", steps=2)


@pytest.mark.parametrize("parts", [None, 2])
def test_on_a_mesh_devices_have_parts_and_answers_are_the_same(
    parts: int | None, file: Path, model: LanguageModel
) -> None:
    on_mesh = load_language_model(file, mesh=make_mesh() if parts is None else decoder_mesh(parts))
    for path, leaf in flatten(on_mesh.params).items():
        np.testing.assert_array_equal(leaf, flatten(model.params)[path])
    kernel = on_mesh.params["blocks"]["mlp"]["gate"]["kernel"]
    assert kernel.addressable_shards[0].data.size * (parts or 8) == kernel.size
    prompts = ["a photo of a", "12"]
    assert on_mesh.generate(prompts, steps=6) == model.generate(prompts, steps=6)


def test_the_public_names() -> None:
    assert clipjax.load_language_model is load_language_model
    assert clipjax.LanguageModel is LanguageModel


def test_load_model_points_here(file: Path, folder: Path) -> None:
    for source in (file, folder):
        with pytest.raises(DataError, match=r"load it with clipjax\.load_language_model"):
            clipjax.load_model(source)


def test_a_folder_with_one_gguf_file(file: Path, model: LanguageModel, tmp_path: Path) -> None:
    shutil.copy(file, tmp_path / "a.gguf")
    other = load_language_model(tmp_path)
    assert (other.name, model.name) == ("a", "small")
    assert other.weights.sha256 == model.weights.sha256
    shutil.copy(file, tmp_path / "b.gguf")
    with pytest.raises(DataError, match="holds 2 GGUF files: name one"):
        load_language_model(tmp_path)


# --- answers ---


def test_prompts_are_continued_as_if_alone(model: LanguageModel) -> None:
    prompts: list[Any] = ["a photo of a", CHAT, "12 " * 10, "x", "the style of 7"]
    together = model.generate(prompts, steps=7)
    assert together == [model.generate([prompt], steps=7)[0] for prompt in prompts]
    assert model.generate(CHAT, steps=7) == [together[1]]
    assert len(set(together)) == len(prompts)


def test_a_bucket_is_compiled_once(model: LanguageModel) -> None:
    compiled: Any = generate
    before = compiled._cache_size()
    for count in (3, 20, 50):
        model.generate("a " * count, steps=3)
    assert compiled._cache_size() == before + 1
    ids, valid = padded_left([[1, 2, 3], [4]], 128)
    assert ids.shape == valid.shape == (2, BUCKET)
    assert ids[:, -3:].tolist() == [[1, 2, 3], [0, 0, 4]]
    assert valid[:, -4:].tolist() == [[False, True, True, True], [False, False, False, True]]
    assert padded_left([[1] * 70], 75)[0].shape == (1, 75)
    assert padded_left([[1] * 70], 1000)[0].shape == (1, 128)


def test_draws_follow_the_seed_and_not_the_batch(model: LanguageModel) -> None:
    prompts = ["a photo of a", "a photo of a", "12"]
    draws = model.generate(prompts, steps=8, temperature=1.0, seed=1)
    assert draws == model.generate(prompts, steps=8, temperature=1.0, seed=1, batch=2)  # the last is filled
    assert draws != model.generate(prompts, steps=8, temperature=1.0, seed=2)
    assert draws[0] != draws[1]


def test_the_end_of_an_answer(model: LanguageModel) -> None:
    """With a head that says </s> after the first token, answers end there."""
    params = jax.tree.map(lambda leaf: leaf, model.params)
    params["norm"] = {"scale": jnp.zeros_like(params["norm"]["scale"])}  # all logits 0: id 0, <unk>, always
    silent = LanguageModel("silent", model.config, params, model.tokenizer, model.weights)
    assert silent.generate("a", steps=4) == [""]


# --- refusals ---


def test_what_does_not_fit_the_context(model: LanguageModel) -> None:
    length = len(model.tokenizer.encode("a " * 40, special=True))
    assert model.generate("a " * 40, steps=128 - length)  # to the last position
    with pytest.raises(UsageError, match=f"a prompt of {length} tokens and {129 - length} steps do not fit"):
        model.generate("a " * 40, steps=129 - length)
    with pytest.raises(DataError, match="take 129 positions"):
        model.logits(np.zeros((1, 129), np.int32))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "begin at 1"),
        ({"batch": 0}, "begin at 1"),
        ({"temperature": -1.0}, "begin at 1, and temperature at 0"),
        ({"steps": 1, "precision": "half"}, "unknown precision 'half'"),
    ],
)
def test_wrong_options(model: LanguageModel, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        model.generate("a", **options)


def test_ids_that_are_none(model: LanguageModel) -> None:
    for ids, message in (
        (np.zeros(3, int), "whole numbers"),
        (np.zeros((1, 2)), "float64"),
        ([[PIECES]], f"go from 0 to {PIECES - 1}"),
        ([[-1]], "not -1 to -1"),
    ):
        with pytest.raises(UsageError, match=message):
            model.logits(ids)


def test_a_vocabulary_that_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=f"has {PIECES} ids and the embedding 500 rows: they belong to different"
    ):
        load_language_model(gguf_file(tmp_path, vocabulary=500))


def test_files_that_are_no_language_model(file: Path, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown dtype 'float16'"):
        load_language_model(file, dtype="float16")  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"holds neither a config\.json nor a GGUF file"):
        load_language_model(tmp_path)
    with pytest.raises(DataError, match="neither a file or folder here"):
        load_language_model(tmp_path / "x y")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match="is truncated"):
        load_language_model(broken)
    for other, message in (
        (b"GG", r"broken\.gguf is truncated"),
        (b"<html>", r"broken\.gguf is not a GGUF file"),
    ):
        broken.write_bytes(other)
        with pytest.raises(DataError, match=message):
            load_language_model(broken)
    save_file({"x": np.ones(3, "f4")}, tmp_path / "model.safetensors")
    with pytest.raises(DataError, match=r"config\.json is missing: it says what the decoder computes"):
        load_language_model(tmp_path / "model.safetensors")
    copy = shutil.copytree(folder, tmp_path / "copy")
    record = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(record | {"num_hidden_layers": 2}))
    with pytest.raises(DataError, match="in the checkpoint but has no place"):
        load_language_model(copy)
    (copy / "config.json").write_text(json.dumps(record | {"model_type": "gemma"}))
    with pytest.raises(DataError, match="clipjax has decoders of llama, mistral"):
        load_language_model(copy)

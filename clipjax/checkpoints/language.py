"""A language model alone: a decoder with its tokenizer, from transformers' files or a GGUF file.

model = load_language_model("SmolLM2-135M-Instruct.Q4_1.gguf")
model.generate([[{"role": "user", "content": "What is 2 + 2?"}]], steps=32)
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from clipjax.checkpoints.card import Weights
from clipjax.checkpoints.fetch import fetched
from clipjax.checkpoints.identity.naming import default_name
from clipjax.checkpoints.native import load_params
from clipjax.data.text.chat_template import Message
from clipjax.data.text.language_tokenizers import (
    CONFIGS,
    FILES,
    LanguageTokenizer,
    check_vocabulary,
    load_language_tokenizer,
    tokenizer_of_gguf,
)
from clipjax.devices.sharding import params_sharding
from clipjax.errors import DataError, UsageError
from clipjax.models.cut import FSDP
from clipjax.models.language.config import DecoderConfig
from clipjax.models.language.decoder import Decoder
from clipjax.models.language.generation import generate
from clipjax.models.language.padding import padded_left
from clipjax.models.language.sharding import MODEL, decoder_sharding
from clipjax.models.param_tree import Params
from clipjax.models.precision import DTYPE, PRECISION_OF, Dtype, Precision, known_dtype, known_precision
from clipjax.storage.formats.gguf import is_gguf, read_gguf
from clipjax.storage.formats.tensors import Source
from clipjax.storage.reading import exists, is_dir, read_json
from converters.engine import conversion_of
from converters.foreign.llama import decoder_config, gguf_config, refuse_other_head
from converters.gguf_llama import gguf_source
from converters.hub import fetch_beside, resolve_source
from converters.sources import open_source
from converters.table import load_table

Prompt = str | Sequence[Message]
_BATCH = 16


@dataclass(frozen=True)
class LanguageModel:
    """A decoder with its tokenizer.

    Attributes:
        name: of the file or folder.
        params: of `Decoder(config)`, float32 or bfloat16.
        weights: the files that the params came from; `weights.sha256` is their digest.
    """

    name: str
    config: DecoderConfig
    params: Params
    tokenizer: LanguageTokenizer
    weights: Weights

    @property
    def decoder(self) -> Decoder:
        return Decoder(self.config)

    @property
    def precision(self) -> Precision:
        """ "parity" for float32 params, "fast" for bfloat16."""
        return PRECISION_OF[self.params["embedding"].dtype.name]

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        steps: int = 128,
        temperature: float = 0.0,
        seed: int = 0,
        precision: Precision | None = None,
        batch: int = _BATCH,
    ) -> list[str]:
        """Continue prompts, each as if it were alone.

        Args:
            prompts: texts, or conversations (lists of {"role": ..., "content": ...}), written as the
                checkpoint's chat template has it.
            steps: tokens at most; a token that ends an answer ends it earlier.
            temperature: 0: the likeliest token each time; above 0: drawn, the more freely the higher.
            seed: of the draws; prompt i has draws of its own.
            precision: "parity" or "fast"; default: that of the params.
            batch: prompts in one pass.

        Raises:
            UsageError: an empty prompt, or one that leaves no room for `steps` in the context.
            DataError: a chat template that does not take the messages.
        """
        whole = [prompts] if isinstance(prompts, str) or _is_chat(prompts) else list(prompts)
        if steps < 1 or batch < 1 or temperature < 0:
            raise UsageError("steps and batch begin at 1, and temperature at 0")
        ids = [self._ids(prompt, steps) for prompt in whole]  # type: ignore[arg-type]
        options = (steps, temperature, seed, known_precision(precision or self.precision))
        return [
            text for start in range(0, len(ids), batch) for text in self._batch(ids, start, batch, *options)
        ]

    def logits(self, ids: Any, *, precision: Precision | None = None) -> Array:
        """float32 [B, L, V] of ids [B, L], of the whole vocabulary at every position.

        Raises:
            UsageError: ids of another shape, or outside the vocabulary.
            DataError: more positions than the context has.
        """
        ids = np.asarray(ids)
        if ids.ndim != 2 or ids.dtype.kind not in "iu" or not ids.size:
            raise UsageError(f"ids are whole numbers [B, L], not {ids.dtype} {ids.shape}")
        if not 0 <= ids.min() <= ids.max() < self.config.vocab_size:
            raise UsageError(f"ids go from 0 to {self.config.vocab_size - 1}, not {ids.min()} to {ids.max()}")
        return _logits(
            self.decoder, self.params, ids.astype(np.int32), known_precision(precision or self.precision)
        )

    def _ids(self, prompt: Prompt, steps: int) -> list[int]:
        if isinstance(prompt, str):
            ids = self.tokenizer.encode(prompt, special=True)
        else:
            ids = self.tokenizer.encode(self.tokenizer.chat(prompt))
        if not ids:
            raise UsageError("a prompt has no tokens: give it a text")
        if len(ids) + steps > self.config.context_length:
            raise UsageError(
                f"a prompt of {len(ids)} tokens and {steps} steps do not fit the context of {self.name}, "
                f"{self.config.context_length} tokens: shorten the prompt, or take fewer steps"
            )
        return ids

    def _batch(
        self,
        ids: list[list[int]],
        start: int,
        batch: int,
        steps: int,
        temperature: float,
        seed: int,
        precision: Precision,
    ) -> Iterator[str]:
        """The last batch is filled with copies of its last prompt, so that it needs no program of its own."""
        rows = ids[start : start + batch]
        filled = [*rows, *[rows[-1]] * (min(batch, len(ids)) - len(rows))]
        padded, valid = padded_left(filled, self.config.context_length - steps)
        keys = None
        if temperature:
            base = jax.random.key(seed)
            keys = jax.vmap(lambda i: jax.random.fold_in(base, i))(start + np.arange(len(filled)))
        answers = generate(
            self.decoder,
            self.params,
            self.decoder.embed(self.params, jnp.asarray(padded)),
            jnp.asarray(valid),
            steps=steps,
            stop=self.tokenizer.eos,
            precision=precision,
            temperature=temperature,
            keys=keys,
        )
        return (self.tokenizer.decode(row.tolist()) for row in np.asarray(answers.ids)[: len(rows)])


def _is_chat(prompts: Any) -> bool:
    return bool(prompts) and all(isinstance(message, Mapping) for message in prompts)


@functools.partial(jax.jit, static_argnames=("decoder", "precision"))
def _logits(decoder: Decoder, params: Params, ids: Array, precision: Precision) -> Array:
    return decoder.forward(params, decoder.embed(params, ids), jnp.ones(ids.shape, bool), precision=precision)


# --- loading ---


def load_language_model(
    source: str | Path, *, mesh: Mesh | None = None, dtype: Dtype = "float32"
) -> LanguageModel:
    """Load a Llama or Mistral decoder with its tokenizer.

    Args:
        source: a folder with transformers' config.json, weights (one file, or an index of several) and
            tokenizer; a GGUF file; a hub repository `org/name` of such files; or the URL of such a folder or
            file on a bucket.
        mesh: where to place the params; default: the default device. A `decoder_mesh` cuts heads, hidden
            channels and ids over its model axis; another one cuts every large leaf over its devices.
        dtype: of the params: "float32", or "bfloat16" in half the memory.

    Raises:
        UsageError: an unknown dtype.
        DataError: files that are missing, damaged or of another kind, a quantisation that clipjax does not
            read, or a tokenizer that has more ids than the embedding.
    """
    held = DTYPE[PRECISION_OF[known_dtype(dtype)]]
    with fetched(source) as copy:
        opened = _opened(copy)
        config, weights = opened.config, Weights(opened.tensors.files)
        check_vocabulary(opened.tokenizer, config.vocab_size, opened.path)
        conversion = conversion_of(
            opened.tensors, Decoder(config).abstract_params(), load_table(opened.layout)
        )
        shardings = None if mesh is None else _shardings(config, mesh)
        params = load_params(conversion, shardings, held)
        weights.refuse_changed()
    is_file = opened.path.is_file()
    name = default_name(opened.path if is_file else opened.repo or source, is_file=is_file)
    return LanguageModel(name, config, params, opened.tokenizer, weights)


def _shardings(config: DecoderConfig, mesh: Mesh) -> Any:
    params = Decoder(config).abstract_params()
    if MODEL in mesh.axis_names:
        return decoder_sharding(config, params, mesh)
    return params_sharding(params, mesh, FSDP)


@dataclass(frozen=True)
class _Opened:
    path: Path
    config: DecoderConfig
    tensors: Source
    layout: str
    tokenizer: LanguageTokenizer
    repo: str | None = None


def _opened(source: Any) -> _Opened:
    path = Path(source)
    if exists(path) and is_dir(path) and not exists(path / "config.json"):
        path = _only_gguf(path)
    if exists(path) and (is_gguf(path) or (path.suffix == ".gguf" and not is_dir(path))):
        header = read_gguf(path)
        tokenizer = tokenizer_of_gguf(header.metadata, str(path))
        return _Opened(path, gguf_config(header), gguf_source(header), "gguf_llama", tokenizer)
    resolved = resolve_source(source)
    fetch_beside(resolved, (*FILES, *CONFIGS))
    where = resolved.folder / "config.json"
    if not exists(where):
        raise DataError(
            f"{where} is missing: it says what the decoder computes; copy it from the checkpoint, or name a "
            "GGUF file"
        )
    config = decoder_config(read_json(where), str(where))
    tensors = open_source(resolved.path)
    refuse_other_head(tensors, config, str(where))
    tokenizer = load_language_tokenizer(resolved.folder)
    return _Opened(resolved.folder, config, tensors, "llama", tokenizer, resolved.repo)


def _only_gguf(folder: Path) -> Path:
    files = sorted(folder.glob("*.gguf"))
    if len(files) != 1:
        what = f"{len(files)} GGUF files: name one" if files else "neither a config.json nor a GGUF file"
        raise DataError(f"{folder} holds {what}")
    return files[0]

"""A decoder shaped as SmolLM2-135M: clipjax against eager transformers with its cache; float32, same weights.

    python benchmarks/models/decoder.py                 # some minutes
    taskset -c 1 python benchmarks/models/decoder.py --rounds 3 --steps 8     # beside busy neighbours

Each ratio by the clock and by processor time, which neighbours hardly change if both sides run on one core.
Positions read a second after one prompt (prefill), ids made a second after it (decode, batches of 1 and 16);
compile time with 2 and 30 layers, and programs compiled for prompts of two buckets. The weights are random.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import typer
from transformers import LlamaForCausalLM

from benchmarks import common
from benchmarks.gpu_cases import SMOLLM2
from benchmarks.gpu_torch import llama_config
from clipjax.models.language.config import DecoderConfig
from clipjax.models.language.decoder import Decoder
from clipjax.models.language.generation import continued, generate, prefill

SHAPE = DecoderConfig(**SMOLLM2)
PROMPT, LONG = 64, 630  # positions; the long one is a question about an image
TOLERANCE = 1e-3  # of logits, whose standard deviation is about 0.5


def main(
    rounds: Annotated[int, typer.Option(help="Paired rounds.")] = 5,
    steps: Annotated[int, typer.Option(help="Ids decoded in a round.")] = 16,
    json: common.Json = None,
) -> None:
    """A decoder: clipjax against transformers, and its compile time."""
    common.use_all_cores()
    theirs = reference()
    decoder, params = Decoder(SHAPE), params_of(theirs)
    with common.reported("decoder", json) as results:
        for batch in (1, 16):
            sides = decoding(decoder, params, theirs, batch, steps)
            results[f"decode, batch {batch}"] = compare(sides, batch * steps, rounds)
        results["prefill, 630 positions"] = compare(prefilling(decoder, params, theirs), LONG, rounds)
        results["compile"] = {depth: compile_seconds(depth) for depth in (2, SHAPE.layers)}
        results["programs of two buckets"] = programs(decoder, params)
        show(results)


def reference() -> Any:
    torch.manual_seed(0)
    config = llama_config(SMOLLM2)
    config._attn_implementation = "eager"
    return LlamaForCausalLM(config).eval()


def params_of(model: Any) -> Any:
    layers = model.model.layers

    def stacked(name: str) -> jax.Array:
        weights = [layer.get_submodule(name).weight.detach().numpy() for layer in layers]
        return jnp.asarray(np.stack([weight.T for weight in weights]))

    def kernels(part: str, names: dict[str, str]) -> dict[str, Any]:
        return {ours: {"kernel": stacked(f"{part}.{theirs}_proj")} for ours, theirs in names.items()}

    blocks = {
        "attn_norm": {"scale": stacked("input_layernorm")},
        "attn": kernels("self_attn", {"q": "q", "k": "k", "v": "v", "out": "o"}),
        "mlp_norm": {"scale": stacked("post_attention_layernorm")},
        "mlp": kernels("mlp", {"gate": "gate", "up": "up", "down": "down"}),
    }
    table, scale = model.model.embed_tokens.weight, model.model.norm.weight
    return {
        "embedding": jnp.asarray(table.detach().numpy()),
        "blocks": blocks,
        "norm": {"scale": jnp.asarray(scale.detach().numpy())},
    }


# ----------------------------------------------------------------------------------------------- sides

Sides = dict[str, Callable[[], Any]]


def prompts(batch: int, length: int) -> tuple[np.ndarray, jax.Array]:
    ids = np.random.default_rng(0).integers(0, SHAPE.vocab_size, (batch, length))
    return ids, jnp.ones((batch, length), bool)


def prefilling(decoder: Decoder, params: Any, theirs: Any) -> Sides:
    ids, valid = prompts(1, LONG)

    def ours() -> np.ndarray:
        embedded = decoder.embed(params, jnp.asarray(ids, jnp.int32))
        return np.asarray(prefill(decoder, params, embedded, valid, 1, precision="parity")[0])

    @torch.no_grad()
    def reference() -> np.ndarray:
        return theirs(torch.from_numpy(ids), use_cache=True, logits_to_keep=1).logits[:, -1].numpy()

    agree(ours(), reference())
    return {"clipjax": ours, "transformers": reference}


@torch.no_grad()
def decoding(decoder: Decoder, params: Any, theirs: Any, batch: int, steps: int) -> Sides:
    """Both sides continue one cache of a prompt, again in each round."""
    ids, valid = prompts(batch, PROMPT)
    embedded = decoder.embed(params, jnp.asarray(ids, jnp.int32))
    first, cache = prefill(decoder, params, embedded, valid, steps, precision="parity")
    output = theirs(torch.from_numpy(ids), use_cache=True, logits_to_keep=1)
    agree(np.asarray(first), output.logits[:, -1].numpy())
    kept, start = output.cache, output.logits[:, -1].argmax(-1)

    def ours() -> np.ndarray:
        made = continued(decoder, params, first, cache, steps=steps + 1, stop=(), precision="parity")
        return np.asarray(made)

    @torch.no_grad()
    def reference() -> np.ndarray:
        made = [start]
        for _ in range(steps):
            logits = theirs(made[-1][:, None], cache=kept, use_cache=True).logits[:, -1]
            made.append(logits.argmax(-1))
        kept.crop(-steps)
        return torch.stack(made, dim=1).numpy()

    same = (ours() == reference()).mean()
    if same < 0.9:  # random weights make near ties, after which answers part
        raise SystemExit(f"only {same:.0%} of the ids are equal: there is nothing to compare")
    return {"clipjax": ours, "transformers": reference}


def agree(ours: np.ndarray, theirs: np.ndarray) -> None:
    difference = float(np.abs(ours - theirs).max())
    if not difference <= TOLERANCE:
        raise SystemExit(f"the logits differ by {difference:.1e}: there is nothing to compare")


def compare(sides: Sides, work: int, rounds: int) -> dict[str, Any]:
    processor: dict[str, list[float]] = {name: [] for name in sides}

    def clocked(name: str) -> None:
        start = time.process_time()
        sides[name]()
        processor[name].append(time.process_time() - start)

    times = common.paired({name: functools.partial(clocked, name) for name in sides}, rounds)
    return {
        "seconds": times,
        "processor_seconds": processor,
        "a_second": {name: work / common.median(seconds) for name, seconds in times.items()},
        "speed": common.ratio(times["transformers"], times["clipjax"]),
        "processor": common.ratio(processor["transformers"], processor["clipjax"]),
    }


# ----------------------------------------------------------------------------------------- compilation


def compile_seconds(layers: int) -> float:
    """Seconds to compile prefill and generation from shapes, with empty caches."""
    decoder = Decoder(dataclasses.replace(SHAPE, layers=layers))
    embedded = jax.ShapeDtypeStruct((1, PROMPT, SHAPE.width), jnp.float32)
    valid = jax.ShapeDtypeStruct((1, PROMPT), bool)
    options: dict[str, Any] = {"steps": 16, "stop": (2,), "precision": "parity"}
    jax.clear_caches()
    program: Any = generate
    return common.seconds(
        lambda: program.lower(decoder, decoder.abstract_params(), embedded, valid, **options).compile()
    )


def programs(decoder: Decoder, params: Any) -> int:
    """Compiled for four prompts of two bucket lengths."""
    program: Any = generate
    program.clear_cache()
    for length, padding in ((64, 0), (128, 5), (64, 30), (128, 127)):
        valid = jnp.arange(length)[None] >= padding
        embedded = decoder.embed(params, jnp.full((1, length), padding, jnp.int32))
        program(decoder, params, embedded, valid, steps=2, stop=(2,), precision="parity")
    return program._cache_size()


def show(results: dict[str, Any]) -> None:
    rows = []
    for name, result in results.items():
        if isinstance(result, dict) and "speed" in result:
            ours, theirs = (f"{result['a_second'][side]:.1f}" for side in ("clipjax", "transformers"))
            rows.append((name, f"{ours} a second, transformers {theirs}"))
            for clock, label in (("speed", "by the clock"), ("processor", "by processor time")):
                span = f"{result[clock]['lowest']:.2f} to {result[clock]['highest']:.2f}"
                rows.append((f"  {label}", f"{result[clock]['ratio']:.2f}x ({span})"))
    few, many = results["compile"][2], results["compile"][SHAPE.layers]
    rows.append(("compile, 2 and 30 layers", f"{few:.1f} s and {many:.1f} s"))
    rows.append(("programs of two buckets", str(results["programs of two buckets"])))
    common.table(rows)


if __name__ == "__main__":
    typer.run(main)

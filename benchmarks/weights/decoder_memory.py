"""Peak memory of loading a decoder in bfloat16 onto a mesh of eight devices, over the bytes of its weights.

    python benchmarks/weights/decoder_memory.py               # Llama-2-7B: writes 13.5 GB
    python benchmarks/weights/decoder_memory.py --layers 8    # the same widths, a quarter of the layers

The checkpoint has transformers' names and random values: safetensors files of up to 2 GB, and an index. It is
loaded in a fresh process with eight forced host devices, cut over heads, hidden channels and ids. Memory: see
load.py. Linux only.
"""

from __future__ import annotations

import json as json_module
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import common
from benchmarks.weights import load as loading
from benchmarks.weights import memory

DEVICES = 8
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "max_position_embeddings": 4096,
    "num_attention_heads": 32,
    "rms_norm_eps": 1e-5,
    "vocab_size": 32000,
}


def main(
    layers: Annotated[int, typer.Option(help="Llama-2-7B has 32.")] = 32,
    folder: Annotated[Path | None, typer.Option(help="Where to write, with room for the files.")] = None,
    step: Annotated[bool, typer.Option(hidden=True)] = False,
    json: common.Json = None,
) -> None:
    """Peak memory of loading a 7B decoder onto a mesh."""
    if step:
        assert folder is not None
        print(json_module.dumps(measured(folder)))
        return
    with tempfile.TemporaryDirectory(dir=folder) as name, common.reported("decoder_memory", json) as results:
        size = write_checkpoint(layers, Path(name))
        command = [sys.executable, __file__, "--step", "--folder", name]
        flags = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES}"}
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=flags)
        run = json_module.loads(done.stdout)
        results |= {"layers": layers, "file_bytes": size, **run}
        print(f"Llama-2-7B with {layers} layers, {size / 1e6:.0f} MB in bfloat16, on {DEVICES} devices")
        common.table([("peak memory / weights", f"{run['peak_bytes'] / size:.2f}  ({run['seconds']:.0f} s)")])


def measured(folder: Path) -> dict[str, float]:
    import jax

    from clipjax.checkpoints.language import load_language_model
    from clipjax.models.language.sharding import decoder_mesh

    jax.block_until_ready([jax.device_put(1.0, device) for device in jax.devices()])
    mesh = decoder_mesh(DEVICES)
    return loading.measured(
        lambda: jax.block_until_ready(load_language_model(folder, mesh=mesh, dtype="bfloat16").params)
    )


def write_checkpoint(layers: int, folder: Path) -> int:
    from tokenizers import Tokenizer, models, pre_tokenizers

    from clipjax.models.language.decoder import Decoder
    from converters.engine import flatten
    from converters.foreign.llama import decoder_config
    from converters.table import load_table

    record = CONFIG | {"num_hidden_layers": layers}
    (folder / "config.json").write_text(json_module.dumps(record))
    letters = {letter: i for i, letter in enumerate(pre_tokenizers.ByteLevel.alphabet())}
    tokenizer = Tokenizer(models.BPE(vocab=letters, merges=[]))
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "a"}')
    shapes: dict[str, tuple[int, ...]] = {}
    leaves = flatten(Decoder(decoder_config(record, "config.json")).abstract_params())
    for row in load_table("llama").rows:
        shape, stacked = leaves[row.target].shape, "{i}" in row.source
        shape = shape[1:] if stacked else shape
        for layer in range(layers if stacked else 1):
            shapes[row.source.format(i=layer)] = shape[::-1] if row.op == "linear" else shape
    return memory.write_shards(shapes, "bfloat16", folder, "model")


if __name__ == "__main__":
    typer.run(main)

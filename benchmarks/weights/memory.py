"""Peak memory of converting and loading a large checkpoint, as a multiple of its files.

    python benchmarks/weights/memory.py                                    # ViT-bigG-14: writes 10 GB twice
    python benchmarks/weights/memory.py --arch ViT-L-14 --dtype float16

The checkpoint has the reference's tensors (from open_clip's model on the meta device) with random values, in
safetensors files of up to 2 GB with an index, written tensor by tensor. Each step runs in a fresh process:
`convert_model` from file to file, `load_model` onto the default device, and `load_model` onto a mesh of eight
forced host devices with every large leaf sharded. Memory is the peak resident set above what the process held
before, as in load.py. Linux only.
"""

from __future__ import annotations

import json as json_module
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import common
from benchmarks.weights import load as loading

SHARD_BYTES = 2 * 10**9
STEPS = ("convert", "load", "mesh")


def main(
    arch: Annotated[
        str, typer.Option(help="open_clip's name of a model that is registered.")
    ] = "ViT-bigG-14",
    dtype: Annotated[str, typer.Option(help="What the files hold: float32 or float16.")] = "float32",
    folder: Annotated[
        Path | None, typer.Option(help="Where to write, with room for twice the files.")
    ] = None,
    step: Annotated[str, typer.Option(hidden=True)] = "",
    json: common.Json = None,
) -> None:
    """Peak memory of converting and of loading, over the size of the files."""
    if step:
        assert folder is not None
        print(json_module.dumps(measured(step, arch, folder)))
        return
    with tempfile.TemporaryDirectory(dir=folder) as name, common.reported("memory", json) as results:
        size = write_checkpoint(arch, dtype, Path(name))
        steps = {step: in_a_process(step, arch, Path(name)) for step in STEPS}
        results |= {"arch": arch, "dtype": dtype, "file_bytes": size, "steps": steps}
        print(f"{arch}, {size / 1e6:.0f} MB of safetensors, {dtype}")
        common.table(
            [
                (f"{step}: peak memory / files", f"{of['peak_bytes'] / size:.2f}  ({of['seconds']:.0f} s)")
                for step, of in steps.items()
            ]
        )


def in_a_process(step: str, arch: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--step", step, "--arch", arch, "--folder", str(folder)]
    devices = 8 if step == "mesh" else 1
    environment = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json_module.loads(done.stdout)


def measured(step: str, arch: str, folder: Path) -> dict[str, float]:
    import jax

    import clipjax.checkpoints.load

    # The first call's imports are not part of loading.
    import clipjax.checkpoints.native
    import converters.engine
    import converters.sources  # noqa: F401
    from clipjax.checkpoints.identity.registry import model_card
    from clipjax.checkpoints.identity.registry_rows import registry
    from clipjax.devices.sharding import make_mesh

    card = model_card(next(row["id"] for row in registry().values() if row["library_arch"] == arch))
    jax.block_until_ready([jax.device_put(1.0, device) for device in jax.devices()])

    def load(**placed: Any) -> Any:
        return jax.block_until_ready(clipjax.checkpoints.load.load_model(folder, card=card, **placed).params)

    calls: dict[str, Callable[[], Any]] = {
        "convert": lambda: clipjax.checkpoints.load.convert_model(folder, folder / "converted", card=card),
        "load": load,
        "mesh": lambda: load(mesh=make_mesh()),
    }
    Path("/proc/self/clear_refs").write_text("5")
    before, start = loading.memory("VmRSS"), time.perf_counter()
    kept = calls[step]()
    taken, peak = time.perf_counter() - start, loading.memory("VmHWM") - before
    del kept
    return {"seconds": taken, "peak_bytes": peak}


def write_checkpoint(arch: str, dtype: str, folder: Path) -> int:
    """The reference's tensors; returns the files' bytes."""
    return write_shards(reference_shapes(arch), dtype, folder, "open_clip_model")


def write_shards(shapes: dict[str, tuple[int, ...]], dtype: str, folder: Path, stem: str) -> int:
    """Random values, one tensor in memory at a time, and an index; returns the files' bytes."""
    import ml_dtypes  # noqa: F401  (NumPy's bfloat16)
    import numpy as np

    itemsize = np.dtype(dtype).itemsize
    shards: list[list[str]] = [[]]
    filled = 0
    for key, shape in shapes.items():
        count = int(np.prod(shape)) * itemsize
        if shards[-1] and filled + count > SHARD_BYTES:
            shards.append([])
            filled = 0
        shards[-1].append(key)
        filled += count
    names = [f"{stem}-{i + 1:05d}-of-{len(shards):05d}.safetensors" for i in range(len(shards))]
    for name, keys in zip(names, shards, strict=True):
        write_shard(folder / name, {key: shapes[key] for key in keys}, dtype)
    weight_map = {key: name for name, keys in zip(names, shards, strict=True) for key in keys}
    (folder / f"{stem}.safetensors.index.json").write_text(json_module.dumps({"weight_map": weight_map}))
    return sum((folder / name).stat().st_size for name in names)


def write_shard(path: Path, shapes: dict[str, tuple[int, ...]], dtype: str) -> None:
    """A safetensors file: the header's length, the header, the tensors."""
    import numpy as np

    rng, kind = np.random.default_rng(0), np.dtype(dtype)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for key, shape in shapes.items():
        start, end = end, end + int(np.prod(shape)) * kind.itemsize
        name = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[dtype]
        header[key] = {"dtype": name, "shape": list(shape), "data_offsets": [start, end]}
    raw = json_module.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for shape in shapes.values():
            file.write((0.02 * rng.standard_normal(shape, np.float32)).astype(kind).tobytes())


def reference_shapes(arch: str) -> dict[str, tuple[int, ...]]:
    import open_clip
    import torch
    from open_clip.model import CLIP

    config: Any = open_clip.get_model_config(arch)
    config.pop("custom_text", None)
    with torch.device("meta"):
        model = CLIP(**config)
    return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}


if __name__ == "__main__":
    typer.run(main)

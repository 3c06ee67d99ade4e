"""Loading ViT-L-14 from safetensors: time to ready and peak memory, clipjax against open_clip.

    python benchmarks/weights/load.py

Ready means: all parameters on the device, nothing compiled, no forward pass. Each load runs in a fresh
process, the libraries in turn; importing and starting the backend are not timed. Memory is the peak resident
set (mapped pages included) above what the process held before the load, divided by the file's size. Linux
only: the peak is the kernel's (VmHWM), reset just before the load.
"""

from __future__ import annotations

import json as json_module
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import common

ARCH, CARD = "ViT-L-14", "vit_l_14-laion2b_s32b_b82k"


def main(
    rounds: Annotated[int, typer.Option(help="Loads of each library.")] = 5,
    side: Annotated[str, typer.Option(hidden=True)] = "",
    weights: Annotated[Path | None, typer.Option(help="The weights; made with a seed if not given.")] = None,
    json: common.Json = None,
) -> None:
    """ViT-L-14 from safetensors to ready, clipjax against open_clip."""
    if side:
        print(json_module.dumps(measured(SIDES[side](str(weights)))))
        return
    with tempfile.TemporaryDirectory() as folder, common.reported("load", json) as results:
        path = weights or Path(folder) / "open_clip_model.safetensors"
        if weights is None:
            make = "import sys, pathlib; from benchmarks.common import save_reference; "
            make += "save_reference(sys.argv[1], pathlib.Path(sys.argv[2]))"
            root = Path(__file__).parents[2]
            subprocess.run([sys.executable, "-c", make, ARCH, str(path)], check=True, cwd=root)
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in SIDES}
        for name in SIDES:
            in_a_process(name, path)  # fills the page cache and writes the bytecode
        for _ in range(rounds):
            for name in SIDES:
                runs[name].append(in_a_process(name, path))
        summarise(results, runs, path.stat().st_size)


def in_a_process(side: str, path: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--side", side, "--weights", str(path)]
    return json_module.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def clipjax_load(path: str) -> Any:
    import jax

    import clipjax

    jax.block_until_ready(jax.device_put(1.0))
    load = clipjax.load_model
    # The imports of load_model's first call are not part of loading.
    import clipjax.checkpoints.native
    import converters.engine
    import converters.sources  # noqa: F401

    return lambda: jax.block_until_ready(load(path, card=CARD).params)


def open_clip_load(path: str) -> Any:
    import open_clip

    common.use_all_cores()
    return lambda: open_clip.create_model(ARCH, pretrained=path, device="cpu")


SIDES = {"open_clip": open_clip_load, "clipjax": clipjax_load}


def measured(load: Any) -> dict[str, float]:
    Path("/proc/self/clear_refs").write_text("5")
    before, start = memory("VmRSS"), time.perf_counter()
    kept = load()
    taken = time.perf_counter() - start
    peak = memory("VmHWM") - before
    del kept
    return {"seconds": taken, "peak_bytes": peak}


def memory(field: str) -> int:
    """A field of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def summarise(results: dict[str, Any], runs: dict[str, list[dict[str, float]]], size: int) -> None:
    times = {name: [run["seconds"] for run in of] for name, of in runs.items()}
    peaks = {name: max(run["peak_bytes"] for run in of) / size for name, of in runs.items()}
    relative = common.median(times["clipjax"]) / common.median(times["open_clip"])
    results |= {
        "arch": ARCH,
        "file_bytes": size,
        "seconds": times,
        "peak_over_file": peaks,
        "time_ratio": relative,
    }
    print(f"{ARCH}, {size / 1e6:.0f} MB of safetensors, float32")
    common.table(
        [
            *((f"{name}, s", f"{common.median(times[name]):.2f}") for name in ("clipjax", "open_clip")),
            ("time, clipjax / open_clip", f"{relative:.2f}"),
            *((f"{name}, peak memory / file", f"{peaks[name]:.2f}") for name in ("clipjax", "open_clip")),
        ]
    )


if __name__ == "__main__":
    typer.run(main)

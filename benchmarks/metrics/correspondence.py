"""Matching a pair of NAVI's size against the reference's form in torch: time and peak memory.

    python benchmarks/metrics/correspondence.py

16,384 points interpolated from 32 x 32 cells, D 768, the 1,000 strongest kept, float32, all cores. The other
side interpolates the features (bicubic), normalises them, and takes the two nearest by `cdist` and `topk`, as
probe3d does; its own search (faiss) needs a GPU for the reported times. `definition` is clipjax's direct
form. Each runs in a fresh process, in turn; importing and compiling are not timed. Memory is the peak
resident set above what the process held before. Linux only (see load.py).
"""

from __future__ import annotations

import ctypes
import json as json_module
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks import common

CELLS, POINTS, KEEP = 32, 128, 1000
Found = dict[str, np.ndarray]  # key and distance of each point; query of the kept ones


def main(
    width: Annotated[int, typer.Option(help="Channels of the maps.")] = 768,
    rounds: Annotated[int, typer.Option(help="Runs of each side.")] = 3,
    side: Annotated[str, typer.Option(hidden=True)] = "",
    out: Annotated[Path | None, typer.Option(hidden=True)] = None,
    json: common.Json = None,
) -> None:
    """The two nearest and the strongest matches of a pair, clipjax against torch."""
    if side:
        print(json_module.dumps(measured(SIDES[side], width, out)))
        return
    with common.reported("correspondence", json) as results, tempfile.TemporaryDirectory() as folder:
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in SIDES}
        files = {name: Path(folder, f"{name}.npz") for name in SIDES}
        for round in range(rounds):
            for name in SIDES:
                if round == 0 or name != "definition":
                    runs[name].append(in_a_process(name, width, files[name]))
        summarise(results, runs, {name: dict(np.load(file)) for name, file in files.items()})


def maps(width: int) -> tuple[np.ndarray, np.ndarray]:
    """As a ViT's: cells are like their neighbours and share a mean. Map 1 is map 0 moved by a cell, noisy."""
    content, mean, noise = np.random.default_rng(0).normal(size=(3, CELLS, CELLS, width)).astype(np.float32)
    for axis in (0, 1):
        content = sum(np.roll(content, k, axis) for k in (-1, 0, 1)) / np.float32(3**0.5)
    map0 = content + mean[:1, :1]
    return map0, np.roll(map0, 1, axis=1) + noise / 2


def torch_side(map0: np.ndarray, map1: np.ndarray) -> Callable[[], Found]:
    import torch
    import torch.nn.functional as F

    common.use_all_cores()

    def points(features: np.ndarray) -> torch.Tensor:
        cells = torch.from_numpy(features).permute(2, 0, 1)[None]
        dense = F.interpolate(cells, (POINTS, POINTS), mode="bicubic", align_corners=False)
        return F.normalize(dense[0].flatten(1).T, dim=1)

    def run() -> Found:
        points0, points1 = points(map0), points(map1)
        _, key = torch.cdist(points0, points1).topk(2, dim=1, largest=False)
        near = [(1 - F.cosine_similarity(points0, points1[each])).clamp(min=1e-9) for each in key.T]
        query = torch.topk(1 - near[0] / near[1], KEEP).indices
        return {"key": key[:, 0].numpy(), "distance": near[0].numpy(), "query": query.numpy()}

    return run


def clipjax_side(map0: np.ndarray, map1: np.ndarray, form: str = "nearest") -> Callable[[], Found]:
    import jax

    from clipjax.metrics import correspondence

    sampling = correspondence.interpolation("bicubic", (CELLS, CELLS), (POINTS, POINTS))
    everywhere = np.ones((POINTS, POINTS), bool)

    def match(map0: Any, map1: Any) -> tuple[Any, Any]:
        neighbours = getattr(correspondence, form)(map0, map1, sampling, everywhere)
        return neighbours, correspondence.strongest(neighbours, everywhere, KEEP)

    compiled = jax.jit(match).lower(map0, map1).compile()

    def run() -> Found:
        neighbours, matches = compiled(map0, map1)
        found = {"key": neighbours.key, "distance": neighbours.first, "query": matches.query}
        return {name: np.asarray(values) for name, values in found.items()}

    return run


def definition_side(map0: np.ndarray, map1: np.ndarray) -> Callable[[], Found]:
    return clipjax_side(map0, map1, "nearest_direct")


SIDES = {"torch": torch_side, "clipjax": clipjax_side, "definition": definition_side}


def in_a_process(side: str, width: int, out: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--side", side, "--width", str(width), "--out", str(out)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return json_module.loads(done.stdout)


def measured(side: Any, width: int, out: Path | None) -> dict[str, float]:
    run = side(*maps(width))
    ctypes.CDLL(None).malloc_trim(0)  # what compiling has freed is not there to be used again
    Path("/proc/self/clear_refs").write_text("5")
    before, start = memory("VmRSS"), time.perf_counter()
    found = run()
    taken = time.perf_counter() - start
    peak = memory("VmHWM") - before
    if out is not None:
        np.savez(out, **found)
    return {"seconds": taken, "peak_bytes": peak}


def memory(field: str) -> int:
    """A field of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def summarise(
    results: dict[str, Any], runs: dict[str, list[dict[str, float]]], found: dict[str, Found]
) -> None:
    ours = found["clipjax"]
    off = {name: float(abs(ours["distance"] - found[name]["distance"]).max()) for name in SIDES}
    if not max(off.values()) < 1e-5:
        raise SystemExit(f"distances differ by {max(off.values()):.1e}: there is nothing to compare")
    other = {name: float((ours["key"] != found[name]["key"]).mean()) for name in SIDES}
    kept = {name: len(np.intersect1d(ours["query"], found[name]["query"])) for name in SIDES}
    times = {name: [run["seconds"] for run in of] for name, of in runs.items()}
    peaks = {name: max(run["peak_bytes"] for run in of) for name, of in runs.items()}
    speed = common.ratio(times["torch"], times["clipjax"])
    share = peaks["clipjax"] / peaks["torch"]
    results |= {"seconds": times, "speed": speed, "peak_bytes": peaks, "peak_ratio": share}
    results |= {"largest_difference": off, "other_neighbour": other, "same_kept": kept}
    common.table(
        [
            *((f"{name}, s", f"{common.median(of):.2f}") for name, of in times.items()),
            ("ratio", f"{speed['ratio']:.1f} (rounds {speed['lowest']:.1f}-{speed['highest']:.1f})"),
            *((f"{name}, peak MB", f"{peak / 1e6:.0f}") for name, peak in peaks.items()),
            ("peak, clipjax / torch", f"{share:.3f}"),
            *(
                (
                    f"clipjax and {name}",
                    f"distances {off[name]:.1e}, {100 * other[name]:.3f} % other neighbours, "
                    f"{kept[name]} of {KEEP} kept alike",
                )
                for name in ("definition", "torch")
            ),
        ]
    )


if __name__ == "__main__":
    typer.run(main)

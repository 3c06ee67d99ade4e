"""Retrieval at COCO's size, 5,000 images and 25,000 captions, against CLIP_benchmark: time and peak memory.

    python benchmarks/metrics/retrieval.py

Recall at 1, 5 and 10 both ways (clipjax has mAP as well), D 512, float32, all cores. The other side is the
unchanged `clip_benchmark.metrics.zeroshot_retrieval.evaluate`, in its batches of 64, with a model that looks
embeddings up. Each runs in a fresh process, in turn; importing, and compiling ours on a small problem, are
not timed. Memory is the peak resident set above what the process held before, embeddings included. Linux only
(see load.py).
"""

from __future__ import annotations

import json as json_module
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks import common

K = (1, 5, 10)


def main(
    images: Annotated[int, typer.Option(help="Images, with five captions each.")] = 5000,
    width: Annotated[int, typer.Option(help="Width of the embeddings.")] = 512,
    rounds: Annotated[int, typer.Option(help="Runs of each side.")] = 1,
    side: Annotated[str, typer.Option(hidden=True)] = "",
    json: common.Json = None,
) -> None:
    """Recall of images and captions, clipjax against CLIP_benchmark."""
    if side:
        print(json_module.dumps(measured(SIDES[side], images, width)))
        return
    with common.reported("retrieval", json) as results:
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in SIDES}
        for _ in range(rounds):
            for name in SIDES:
                runs[name].append(in_a_process(name, images, width))
        summarise(results, runs)


def embeddings(images: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors of images and of five captions near each; and the captions' images."""
    rng = np.random.default_rng(0)
    owner = np.repeat(np.arange(images), 5)
    image = rng.normal(size=(images, width)).astype(np.float32)
    text = image[owner] + 5 * rng.normal(size=(len(owner), width)).astype(np.float32)
    return *(x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text)), owner


def clipjax_side(image: np.ndarray, text: np.ndarray, owner: np.ndarray) -> Callable[[], dict[str, float]]:
    from clipjax.metrics import retrieval

    def run(n: int = len(image)) -> dict[str, float]:
        ranks = retrieval.rank_partners(image[:n], text[: 5 * n], owner[: 5 * n])
        return {
            f"{name}_retrieval_recall@{k}": float(retrieval.found_in_top_k(of, k).mean())
            for name, of in (("image", ranks.text_to_image), ("text", ranks.image_to_text))
            for k in K
        }

    run(8)
    return run


def clip_benchmark_side(
    image: np.ndarray, text: np.ndarray, owner: np.ndarray
) -> Callable[[], dict[str, float]]:
    import torch
    from clip_benchmark.metrics import zeroshot_retrieval

    common.use_all_cores()
    # Images and tokens of a batch are row numbers, so encoding is a look-up.
    images, texts = torch.from_numpy(image), torch.from_numpy(text)
    model: Any = type("Stored", (), {"encode_image": images.__getitem__, "encode_text": texts.__getitem__})
    batches = [
        (torch.arange(start, stop), [list(range(5 * row, 5 * row + 5)) for row in range(start, stop)])
        for start in range(0, len(image), 64)
        for stop in [min(start + 64, len(image))]
    ]
    return lambda: zeroshot_retrieval.evaluate(
        model, batches, torch.tensor, "cpu", amp=False, recall_k_list=list(K)
    )


SIDES = {"CLIP_benchmark": clip_benchmark_side, "clipjax": clipjax_side}


def in_a_process(side: str, images: int, width: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--side", side, "--images", str(images), "--width", str(width)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return json_module.loads(done.stdout)


def measured(side: Any, images: int, width: int) -> dict[str, Any]:
    run = side(*embeddings(images, width))
    Path("/proc/self/clear_refs").write_text("5")
    before, start = memory("VmRSS"), time.perf_counter()
    recall = run()
    taken = time.perf_counter() - start
    return {"seconds": taken, "peak_bytes": memory("VmHWM") - before, "recall": recall}


def memory(field: str) -> int:
    """A field of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def summarise(results: dict[str, Any], runs: dict[str, list[dict[str, Any]]]) -> None:
    recall = {name: of[0]["recall"] for name, of in runs.items()}
    off = max(abs(recall["clipjax"][key] - value) for key, value in recall["CLIP_benchmark"].items())
    if not off < 1e-4:
        raise SystemExit(f"recall differs by {off:.1e}: there is nothing to compare")
    times = {name: [run["seconds"] for run in of] for name, of in runs.items()}
    peaks = {name: max(run["peak_bytes"] for run in of) for name, of in runs.items()}
    speed = common.ratio(times["CLIP_benchmark"], times["clipjax"])
    share = peaks["clipjax"] / peaks["CLIP_benchmark"]
    results |= {"seconds": times, "speed": speed, "peak_bytes": peaks, "peak_ratio": share, "recall": recall}
    results |= {"largest_difference": off}
    common.table(
        [
            *((f"{name}, s", f"{common.median(of):.1f}") for name, of in times.items()),
            ("ratio", f"{speed['ratio']:.1f} (rounds {speed['lowest']:.1f}-{speed['highest']:.1f})"),
            *((f"{name}, peak MB", f"{peak / 1e6:.0f}") for name, peak in peaks.items()),
            ("peak, clipjax / CLIP_benchmark", f"{share:.3f}"),
            ("largest difference of a recall", f"{off:.1e}"),
        ]
    )


if __name__ == "__main__":
    typer.run(main)

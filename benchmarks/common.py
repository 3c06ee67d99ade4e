"""Shared by the benchmark scripts: weights and cards, paired rounds, processes, a table, a JSON file.

On a shared machine neighbours halve absolute numbers. So both sides take turns, round after round, in one
process (or in fresh ones), and the claim is the ratio of their medians.
"""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

CARD = "vit_b_32-laion2b_s34b_b79k"  # for the fields that no forward pass reads

Json = Annotated[Path | None, typer.Option("--json", help="Also write the results to this file.")]


def use_all_cores() -> int:
    """torch on every core, as JAX's CPU client is; returns their number."""
    import torch

    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    return cores


def save_reference(arch: str, path: Path, library: str = "open_clip", sizes: Any = None) -> Any:
    """A reference model, also written to `path` as safetensors.

    Seed 0; open_clip's own initialisation, and conditioned weights of timm, whose own vanish in deep nets.
    sizes: our record of a narrow variant.
    """
    import torch
    from safetensors.torch import save_file

    from converters.golden import build_model
    from converters.golden.condition import condition

    torch.manual_seed(0)
    model: Any = build_model(arch, library, sizes)
    if library == "timm":
        condition(model, 0)
    save_file({key: x.contiguous() for key, x in model.state_dict().items()}, path)
    return model


def card_of(record: Any) -> Any:
    """A card for open_clip's random weights of an architecture (`load_arch`); both sides get ids."""
    from clipjax.checkpoints.card import WeightsSource
    from clipjax.checkpoints.identity.registry import model_card

    card, size = model_card(CARD), record.vision.image_size
    preprocess = dataclasses.replace(card.preprocess, image_size=size, resize_size=size)
    source = WeightsSource(library="open_clip", arch=record.name)
    changes: dict[str, Any] = {"id": record.name, "arch": record, "preprocess": preprocess, "source": source}
    return dataclasses.replace(card, **changes, tokenizer=None)


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def paired(sides: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each side in each round. The sides take turns, also in going first."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    order = list(sides)
    for _ in range(rounds):
        for name in order:
            times[name].append(seconds(sides[name]))
        order.reverse()
    return times


class Server:
    """One of our scripts in its own process: a line of request, a line of JSON in answer."""

    def __init__(self, arguments: list[str]):
        self.process = subprocess.Popen(
            [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, request: str) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(request, file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        self.process.communicate()


def serve(answer: Callable[[str], Any]) -> None:
    """The other end of a `Server`. What libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        print(json.dumps(answer(line.strip())), file=answers, flush=True)


def median(values: list[float]) -> float:
    return statistics.median(values)


def ratio(slow: list[float], fast: list[float]) -> dict[str, float]:
    """How many times faster `fast` is: the ratio of medians, and the extremes of the paired rounds."""
    pairs = [a / b for a, b in zip(slow, fast)]
    return {"ratio": median(slow) / median(fast), "lowest": min(pairs), "highest": max(pairs)}


@contextmanager
def reported(name: str, path: Path | None) -> Iterator[dict[str, Any]]:
    """Collects results; at the end writes them, with facts about the machine and the packages."""
    results: dict[str, Any] = {}
    yield results
    if path is not None:
        packages = ("jax", "flax", "torch", "open_clip_torch", "clipjax")
        facts = {"cores": len(os.sched_getaffinity(0)), "machine": platform.machine()}
        record = {"benchmark": name, **facts, **{p: version(p) for p in packages}, **results}
        path.write_text(json.dumps(record, indent=1) + "\n")


def table(rows: list[tuple[str, str]]) -> None:
    """Two columns on stdout."""
    width = max(len(label) for label, _ in rows)
    for label, value in rows:
        print(f"{label:<{width}}  {value}")

"""The commands that are disturbed, and what they leave."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tests.signals._runs import rows_of

RECIPE = """
title = "Short"
method = "linear_probe"
steps = 80
batch_size = 8
seeds = [1]
prompts = "single"
[optimizer]
learning_rate = 1.0
[schedule]
warmup_steps = 2
"""


class Whole(NamedTuple):
    """An undisturbed run: its folder, seconds from its first line to its end, and from its start, seconds
    that its first compilation takes at least, and its results."""

    folder: Path
    seconds: float
    from_start: float
    compiling: float
    results: Any


class Kind(NamedTuple):
    """A command on the world (with the undisturbed runs), and its results in a folder."""

    arguments: Callable[[Path, Mapping[str, Whole]], tuple[str, ...]]
    results: Callable[[Path], Any]
    compiles: bool = True


def _evaluation(world: Path, _: Mapping[str, Whole]) -> tuple[str, ...]:
    data = ("--data", f"{world}/data/many", "--dataset", f"{world}/data/many.toml", "--batch-size", "4")
    return ("eval", "zeroshot", "--model", f"{world}/models/one", *data, *_PLACES)


def _sweep(world: Path, _: Mapping[str, Whole]) -> tuple[str, ...]:
    return ("sweep", f"{world}/suite.toml", "--pixel-store", "pixels", "--no-compile-cache", *_PLACES)


def _training(world: Path, _: Mapping[str, Whole]) -> tuple[str, ...]:
    data = ("--data", f"{world}/colours_train", "--dataset", f"{world}/colours_train.toml")
    model = ("--model", f"{world}/small", "--recipe", f"{world}/short.toml")
    return ("finetune", "linear_probe", *data, *model, "--out", "out", "--store", "store", "--every", "20")


def _conversion(world: Path, _: Mapping[str, Whole]) -> tuple[str, ...]:
    return ("convert", f"{world}/models/large", "--out", "out")


def _merging(_: Path, wholes: Mapping[str, Whole]) -> tuple[str, ...]:
    return ("results", "merge", f"{wholes['eval'].folder}/results", "--out", "results")


def _packing(world: Path, _: Mapping[str, Whole]) -> tuple[str, ...]:
    return ("datasets", "pack", f"{world}/data/many", "out", "--images-per-shard", "2")


def _weights(folder: Path) -> dict[str, bytes]:
    files = [file for file in (folder / "out").rglob("*.safetensors") if "checkpoints" not in file.parts]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def _files(folder: Path) -> dict[str, bytes]:
    files = [file for file in (folder / "out").rglob("*") if file.is_file()]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def _rows(folder: Path) -> Any:
    return rows_of(folder / "results")


_PLACES = ("--results", "results", "--store", "store", "--workers", "0")
KINDS = {
    "eval": Kind(_evaluation, _rows),
    "sweep": Kind(_sweep, _rows),
    "finetune": Kind(_training, _weights),
    "convert": Kind(_conversion, _files, compiles=False),
    "merge": Kind(_merging, _rows, compiles=False),
    "pack": Kind(_packing, _files, compiles=False),
}

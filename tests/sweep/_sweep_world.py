"""A folder of small data sets, three tiny CLIPs of two pixel recipes, and a suite of all of it.

    python tests/sweep/_sweep_world.py LOG ARGUMENT...

is `clipjax ARGUMENT...` in a process of its own, which writes what it does to LOG, a line each: `image MODEL
DIGEST` for an image that is computed, `run` for a run that is kept.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import socket
import subprocess
import sys
from collections.abc import Container
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image

if TYPE_CHECKING:
    from typer.testing import Result

    from tests._forks import Running

CLASSES = ("red", "green", "blue", "black")
IMAGES = 48  # of the data set that has several shards
BATCH = 4
CARD = """
name = "{name}"
title = "{name}"
reader = "folder"
label_space = "colours.csv"
prompts = "single"
id = "many"
tasks = {tasks}
"""
SUITE = """
title = "Small"
models = ["models/one", "models/two", "models/large"]
data_root = "data"

[options]
batch_size = 4
resamples = 100
fit_data = "train"
fit_per_class = 5

[[runs]]
task = "all"

[[runs]]
task = "zeroshot"
datasets = ["many"]
prompts = ["openai_7"]
"""
FITTED = 20  # five of the six training images of each class: for ood alone
EMBEDDED = 3 * (IMAGES + 8 + 6 + FITTED)
RUNS = 3 * 5  # zeroshot on many and few, calibration on many, ood on odd, and the further prompts


def write_world(folder: Path) -> Path:
    """Data sets, models and the suite file, whose path is returned."""
    data = folder / "data"
    for name, count in (("many", IMAGES), ("few", 8)):
        for i in range(count):
            _noise(data / name / CLASSES[i % 4] / f"{name}{i}.png", i + count)
    for i in range(6):
        _noise(data / "odd" / f"{i}.png", 1000 + i)
    for i in range(24):
        _noise(folder / "train" / CLASSES[i % 4] / f"{i}.png", 2000 + i)
    rows = "".join(f"{name},{name}\n" for name in CLASSES)
    (data / "colours.csv").write_text("id,name\n" + rows)
    tasks = {"many": '["zeroshot", "calibration"]', "few": '["zeroshot"]'}
    for name, named in tasks.items():
        (data / f"{name}.toml").write_text(CARD.format(name=name, tasks=named))
    odd = CARD.format(name="odd", tasks='["ood"]').replace("folder", "flat")
    (data / "odd.toml").write_text(odd.replace('label_space = "colours.csv"\n', ""))
    for seed, (name, side) in enumerate((("one", 16), ("two", 16), ("large", 24))):
        _write_model(folder / "models" / name, side, seed)
    (folder / "suite.toml").write_text(SUITE)
    return folder / "suite.toml"


def _noise(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (26, 24 + seed % 3, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(path)


def _write_model(folder: Path, side: int, seed: int) -> None:
    from _drawn import initialised

    from clipjax.checkpoints.card import Card, Preprocess, WeightsSource
    from clipjax.checkpoints.model import Model
    from clipjax.data.text.tokenizers import tokenizer_spec
    from clipjax.models.arch import load_arch

    small: Any = load_arch("demo_small")
    vision = dataclasses.replace(small.vision, image_size=side, width=32, mlp_width=64, embed_dim=16)
    text = dataclasses.replace(small.text, width=16, mlp_width=32, embed_dim=16)
    arch = dataclasses.replace(small, name=f"tiny{side}", vision=vision, text=text)
    card = Card(
        id=folder.name,
        arch=arch,
        source=WeightsSource(library="clipjax", arch=arch.name, tag="random"),
        preprocess=Preprocess(side, side, "shortest", "bicubic", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
        tokenizer=tokenizer_spec("openai_bpe", text.context_length),
        logit_scale=20.0,
        logit_bias=None,
        facts={"group": "demo", "train_source": "none"},
    )
    Model(card, initialised(arch, seed)).save(folder)


def sweep(suite: Path, out: Path, *arguments: str) -> Result:
    """`clipjax sweep` in this process, with everything in `out`."""
    from typer.testing import CliRunner

    from clipjax.cli import app

    kept = "--no-pixel-store" not in arguments
    return CliRunner().invoke(app, [*_places(suite, out, kept), *arguments])


def _places(suite: Path, out: Path, pixels: bool = True) -> list[str]:
    places = ["--results", out / "results", "--store", out / "store", "--workers", "0"]
    places += ["--pixel-store", out / "pixels"] if pixels else []
    return ["sweep", *map(str, [suite, *places])]


def start(
    suite: Path,
    out: Path,
    *arguments: str,
    devices: int,
    process: tuple[int, int, int] = (0, 1, 0),
    fresh: bool = False,
) -> Running:
    """`clipjax sweep` in a process of its own, whose output is in `out`/output and whose log in `out`/log.

    Args:
        process: its number, how many there are, and the number of their job: as Slurm says it.
        fresh: an interpreter that is started for it, which has other hashes than a forked process.
    """
    from _xla_flags import flags_of

    from tests import _forks

    out.mkdir(exist_ok=True)
    number, count, job = process
    environment = {
        **os.environ,
        "XLA_FLAGS": flags_of(devices),
        "SLURM_JOB_ID": str(job),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": str(count),
        "SLURM_PROCID": str(number),
        "SLURM_LOCALID": str(number),
    }
    joined = ["--distributed"] if count > 1 else []
    command = [str(out / "log"), *_places(suite, out), *joined, *arguments]
    with (out / f"output{number}").open("a") as output:
        if not fresh:
            return _forks.start(Path(__file__), command, environment, stdout=output, stderr=output)
        return subprocess.Popen(
            [sys.executable, __file__, *command], env=environment, stdout=output, stderr=output, text=True
        )


def start_all(
    suite: Path, out: Path, *arguments: str, processes: int, devices: int, fresh: Container[int] = ()
) -> list[Running]:
    """`fresh`: the numbers of the processes that are started, not forked."""
    job = free_job()
    return [
        start(
            suite, out, *arguments, devices=devices, process=(number, processes, job), fresh=number in fresh
        )
        for number in range(processes)
    ]


def free_job() -> int:
    """The number of a Slurm job for which JAX takes a port that is free."""
    for job in np.random.default_rng().permutation(4096):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", int(job) + 65536 - 4096))
            return int(job)
    raise AssertionError("no port is free")


def log_of(out: Path) -> list[str]:
    return (out / "log").read_text().splitlines() if (out / "log").exists() else []


def said(out: Path) -> str:
    """What the processes have said."""
    return "\n".join(path.read_text() for path in sorted(out.glob("output*")))


# Who made a row, when and on what.
_MAKER = ("run_id", "wall_time", "device", "xla_flags", "git_revision", "compile_count")


def rows_of(out: Path) -> dict[tuple[str, ...], tuple[Any, Any]]:
    """Each row of the results, but for who made it, with the per-image table of its run."""
    from clipjax.results.store import ResultStore

    store, found = ResultStore(out / "results"), {}
    for run in store.run_ids():
        images = repr(store.images(run).to_pydict())  # in words, since NaN is unlike itself
        for row in store.run(run):
            key = tuple(str(row[name]) for name in ("recipe_hash", "metric", "slice"))
            assert key not in found, f"{key} was run twice"
            found[key] = ({name: row[name] for name in row if name not in _MAKER}, images)
    return found


def main() -> None:
    """`clipjax`, with a log of what it computes."""
    from clipjax.embeddings import images
    from clipjax.embeddings.forward import Forward
    from clipjax.evaluation import rows as run_result
    from clipjax.evaluation import run as evaluation

    file = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    made, finish = images.image_forward, evaluation.finish

    def image_forward(model: Any, *arguments: Any) -> Forward:
        forward = made(model, *arguments)

        def run(pixels: np.ndarray) -> Any:
            seen = [image for image in pixels if image.any()]  # the rest is padding
            names = [hashlib.sha256(image.tobytes()).hexdigest()[:16] for image in seen]
            os.write(file, "".join(f"image {model.card.id} {name}\n" for name in names).encode())
            return forward.run(pixels)

        return dataclasses.replace(forward, run=run)

    def finished(*arguments: Any) -> Any:
        result = finish(*arguments)
        os.write(file, b"run\n")
        return result

    images.image_forward = image_forward  # type: ignore[assignment]
    evaluation.finish = run_result.finish = finished  # of runs, and of models that a task is not defined for
    sys.argv[:2] = ["clipjax"]
    from clipjax.cli import main as clipjax

    clipjax()


if __name__ == "__main__":
    main()

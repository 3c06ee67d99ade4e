"""`clipjax study` of the demo world, from an empty data folder to the report.

    python tests/demo_from_nothing.py demo-out [--limit 100]

A server on 127.0.0.1 has the world's data sets as tars, and the data folder only their cards, which name
these files. Afterwards the rows are compared with those of `clipjax sweep` on the world itself.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from _file_server import Content, FileServer

from clipjax.config import config_dir

CARDS = ("demo_val", "demo_sketch", "demo_3dcc", "demo_cues", "demo_unknown")
MODELS = ("demo-small-diverse", "demo-base-narrow")
SUITE = """
title = "The demo from nothing"
models = {models}
options = {{ resamples = 200 }}

[[runs]]
task = "zeroshot"
datasets = ["demo_val", "demo_sketch", "demo_3dcc"]

[[runs]]
task = "shape_bias"
datasets = ["demo_cues"]

[[runs]]
task = "ood"
datasets = ["demo_unknown"]
"""
FILES = """
[[files]]
name = "{top}.tar"
addresses = ["{url}/{top}.tar"]
bytes = {size}
sha256 = "{sha256}"
kind = "tar"
into = "{top}"
"""


def main(demo: Path, limit: Annotated[int, typer.Option(min=1)] = 100) -> None:
    """Run the study, and compare it with a sweep."""
    folder = Path(tempfile.mkdtemp(prefix="clipjax-study-"))
    models = [str(demo.absolute() / "models" / name) for name in MODELS]
    (suite := folder / "demo.toml").write_text(SUITE.format(models=models))
    (data := folder / "data").mkdir()
    where = ["--store", folder / "store", "--limit", limit]
    figure = config_dir() / "figures_demo" / "corruptions_3d.toml"
    drawn = ["--figure", figure, "--claims", config_dir() / "claims_demo.toml", "--prompts", "demo"]
    with FileServer({}) as server:
        for card in CARDS:
            put(card, demo / "world", data, server)
        start = time.monotonic()
        clipjax("study", suite, "--data-root", data, "--out", folder / "study", *where, *drawn)
        seconds = time.monotonic() - start
    size = sum(len(content.data) for content in server.files.values()) / 1e6
    print(
        f"{size:.1f} MB in {len(server.files)} files, and the report, in {seconds:.0f} s: {folder / 'study'}"
    )
    swept = folder / "swept"
    clipjax("sweep", suite, "--data-root", demo / "world", "--results", swept, *where)
    clipjax("results", "diff", folder / "study" / "results", swept, "--check")


def put(card: str, world: Path, data: Path, server: FileServer) -> None:
    """Put a data set on the server, and its card, which names the file, into the data folder."""
    text = (config_dir() / "datasets" / f"{card}.toml").read_text()
    top = card.replace("_", "-")
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.add(world / top, ".")
    tar = file.getvalue()
    server.files[f"/{top}.tar"] = Content(tar)
    about = {"top": top, "url": server.url, "size": len(tar), "sha256": hashlib.sha256(tar).hexdigest()}
    (data / f"{card}.toml").write_text(text + FILES.format(**about))


def clipjax(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "clipjax.cli", *map(str, arguments)], check=True)


if __name__ == "__main__":
    typer.run(main)

"""`python -m converters.golden run`: a checkpoint and a batch of normalised inputs -> one .npz.

It has inputs, stages, results, and `meta`: JSON with the stages' order, the library versions and the
checkpoint's SHA-256.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from converters.golden._parent import end_with_parent
from converters.golden.build import LIBRARIES, build_model, load_strict, model_config
from converters.golden.crosscheck import crosscheck
from converters.golden.run import run, write_golden
from converters.golden.serve import serve
from converters.golden.sweep import answers

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.command("run")
def run_one(
    checkpoint: Annotated[Path, typer.Option(help="Weights in a format the reference itself reads.")],
    arch: Annotated[str, typer.Option(help="A model name of the library, or a config or record (JSON).")],
    inputs: Annotated[
        Path, typer.Option(help=".npz with images [B,H,W,3] float32 and, for a CLIP, ids [B,L] int32.")
    ],
    out: Annotated[Path, typer.Option(help="Where to write the golden (.npz).")],
    library: Annotated[str, typer.Option(help=f"{', '.join(LIBRARIES)}.")] = "open_clip",
    sizes: Annotated[
        Path | None, typer.Option(help="Arch record (JSON) whose sizes replace those of --arch.")
    ] = None,
) -> None:
    """Run the PyTorch reference on a checkpoint and write every stage."""
    if library not in LIBRARIES:
        raise typer.BadParameter(f"no reference library named {library!r}: give {' or '.join(LIBRARIES)}")
    torch.manual_seed(0)
    model = build_model(arch, library, json.loads(sizes.read_text()) if sizes else None)
    load_strict(model, checkpoint)
    arrays_in = dict(np.load(inputs))
    arrays = run(model, arrays_in["images"], arrays_in.get("ids"))
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    facts = {
        "library": library,
        "version": LIBRARIES[library],
        "arch": Path(arch).name,
        "checkpoint_sha256": digest,
    }
    write_golden(out, arrays, arrays_in, facts)


@app.command()
def sweep(
    questions: Annotated[Path, typer.Option(help="JSON: a list of questions.")],
    folder: Annotated[Path, typer.Option(help="Existing folder for the answers' files.")],
) -> None:
    """Answer a list of questions; print a line of JSON as soon as each is answered."""
    for answer in answers(json.loads(questions.read_text()), folder):
        print(json.dumps(answer), flush=True)


@app.command("crosscheck")
def run_crosscheck(
    job: Annotated[Path, typer.Option(help="JSON: see `converters.golden.crosscheck`.")],
    folder: Annotated[Path, typer.Option(help="Existing folder for the arrays.")],
) -> None:
    """Run images and prompts through the reference; print a line of JSON after each batch."""

    def report(stage: str, done: int, of: int) -> None:
        print(json.dumps({"stage": stage, "done": done, "of": of}), flush=True)

    crosscheck(json.loads(job.read_text()), folder, report)


@app.command("serve")
def run_server() -> None:
    """Run models for a parent process; see `converters.golden.serve`."""
    serve()


@app.command()
def configs(names: Annotated[list[str], typer.Argument(help="Names that open_clip knows.")]) -> None:
    """Print open_clip's model configs as one JSON object."""
    print(json.dumps({name: model_config(name) for name in names}, indent=1))


if __name__ == "__main__":
    end_with_parent()
    app()

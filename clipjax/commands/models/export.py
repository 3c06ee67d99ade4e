"""`clipjax export MODEL`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipjax.commands.shared.output import say


def register(app: typer.Typer) -> None:
    app.command("export")(export)


def export(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A clipjax folder or anything `load_model` takes.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write, or a URL.")] = Path(
        "open_clip_model.safetensors"
    ),
) -> None:
    """Write a model as safetensors of the reference library, bit-identical to its source.

    Weights from other formats (pickles, transformers) are written as that library would write them today. A
    classifier fine-tuned from a CLIP becomes two files: the image tower (open_clip's `model.visual`) and
    OUT.head.safetensors, a linear layer. A model of Prismatic becomes a .pt file without its image tower.
    """
    from clipjax.checkpoints.export import export_model, has_tower_alone, head_file
    from clipjax.checkpoints.load import load_model

    loaded = load_model(model)
    written = export_model(loaded, out)
    if not has_tower_alone(loaded):
        say(str(written))
        return
    say(f"{written}: the image tower, visual.* of open_clip")
    say(f"{head_file(written)}: the linear head, weight and bias, over features of unit norm")

"""`clipjax export MODEL`: a model as the reference library's own file."""

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
    """Write a model as the reference library's own safetensors, bit-identical to what it came from.

    Weights that came in another format, such as pickles or from transformers, are written as the reference
    library would write them today. A classifier that was fine-tuned from a CLIP becomes two files: the image
    tower, as open_clip's `model.visual` has it, and OUT.head.safetensors, a linear layer.
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

"""`clipjax convert SRC`: a foreign checkpoint into clipjax's own format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clipjax.commands.shared.options import (
    FactOption,
    FactsOfOption,
    FactsOption,
    NameOption,
    say_unknown_facts,
    stated_options,
)
from clipjax.commands.shared.output import say


def register(app: typer.Typer) -> None:
    app.command("convert")(convert)


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="A checkpoint file or folder (safetensors, .bin, .pt), a hub repository, or a model id.",
        ),
    ],
    card: Annotated[
        str | None,
        typer.Option(
            "--card", "--model", "-m", metavar="ID", help="Registered model that says how to load SRC."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Folder to write, or a URL; default: ./ID (./ID-N with --image-size)."
        ),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="For images of N x N pixels: resample the position table, and say so."
        ),
    ] = None,
    name: NameOption = None,
    facts_of: FactsOfOption = None,
    fact: FactOption = None,
    facts: FactsOption = None,
) -> None:
    """Convert a checkpoint into clipjax's own format (model.safetensors and card.json), strictly.

    Every tensor of the source is used once and every parameter of the model is filled once, or nothing is
    written. Only a registered model's own weights get its name and facts: those of its hub repository, or of
    a known SHA-256.

    Examples:

        clipjax convert open_clip_model.safetensors --card vit_b_32-laion2b_s34b_b79k --out b32

        clipjax convert w.pt --card vit_b_32-openai --name mine --fact train_source=CC12M
    """
    from clipjax.checkpoints.load import convert_model
    from clipjax.models.network import Network

    stated = stated_options(name, facts_of, fact, facts)
    folder, written = convert_model(source, out, card=card, image_size=image_size, **stated)
    say_unknown_facts(source, written)
    params = _count(Network(written.arch).abstract_params())
    say(f"{folder}: {written.id} ({written.arch.name}), {params:.1f} M parameters")


def _count(params: Any) -> float:
    import jax

    return sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6

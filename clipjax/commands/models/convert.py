"""`clipjax convert SRC`."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipjax.commands.shared.facts import FactOptions, say_unknown_classes, say_unknown_facts
from clipjax.commands.shared.names import check_names
from clipjax.commands.shared.options import CARD_IDS, NameOption
from clipjax.commands.shared.output import say
from clipjax.commands.shared.records import with_options
from clipjax.evaluation.request import LABEL_SPACES

if TYPE_CHECKING:
    from clipjax.checkpoints.card import Card
    from clipjax.models.arch import Arch


def register(app: typer.Typer) -> None:
    app.command("convert")(with_options(ConvertOptions, convert))


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="A checkpoint file or folder (safetensors, .bin, .pt), a hub repository, or a model id.",
        ),
    ]
    card: Annotated[
        str | None,
        typer.Option("--card", "--model", "-m", metavar="ID", help=f"If SRC is bare weights: {CARD_IDS}"),
    ] = None
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Folder to write, or a URL; default: ./ID (./ID-N with --image-size)."
        ),
    ] = None
    image_size: Annotated[
        int | None,
        typer.Option(metavar="N", help="Resample the position table for images of N x N pixels, and say so."),
    ] = None
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="LABELS",
            help="What the outputs of a classifier are, if its files do not name them: a label space "
            f"({LABEL_SPACES}), or a CSV file `id,name` with a line for each output.",
        ),
    ] = None
    vision: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE",
            help="Folder, file or hub repository with the image tower of a Prismatic model; default: the "
            "repository that it was trained with.",
        ),
    ] = None
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE",
            help="Folder, file or hub repository with the tokenizer of a vision-language model; default: "
            "beside the weights, else that of its language model.",
        ),
    ] = None
    name: NameOption = None
    facts: FactOptions


def convert(options: ConvertOptions) -> None:
    r"""Convert a checkpoint into clipjax's format: model.safetensors and card.json.

    Writes nothing unless every tensor is used once and every parameter is filled once. Only a registered
    model's own weights get its name and facts: those of its hub repository, or of a known SHA-256.

    Examples:

        clipjax convert open_clip_model.safetensors \
            --card vit_b_32-laion2b_s34b_b79k --out mine

        clipjax convert w.pt --card vit_b_32-openai --name mine \
            --fact train_source=CC12M

        clipjax convert w.pt --card open_clip:ViT-S-32 --out mine

        clipjax convert timm/resnet26.bt_in1k --classes imagenet \
            --out resnet26

        clipjax convert TRI-ML/prismatic-vlms/one-stage+7b --out llava
    """
    check_names(models=(options.source, options.facts.facts_of), card=options.card)
    from clipjax.checkpoints.load import convert_model

    stated = options.facts.stated(options.name)
    folder, card = convert_model(
        options.source,
        options.out,
        card=options.card,
        image_size=options.image_size,
        classes=options.classes,
        vision=options.vision,
        tokenizer=options.tokenizer,
        **stated,
    )
    say_unknown_facts(options.source, card)
    say_unknown_classes(card)
    say(f"{folder}: {card.id} ({card.arch.name}), {_millions(card.arch):.1f} M parameters")
    say(f"next: {_next(folder, card)}")


def _next(folder: Path, card: Card) -> str:
    """The command that makes the most of such a model: it is evaluated, or first gets a head."""
    model = shlex.quote(str(folder))
    if card.kind == "zero_shot" or card.classes is not None:
        return f"clipjax eval zeroshot --model {model} --data FOLDER --dataset NAME (`clipjax datasets list`)"
    if card.kind == "vision_language":
        page = "docs/reference/vision_language.md"
        return f"clipjax.load_model({str(folder)!r}).answer(images, question) ({page})"
    if card.arch.num_classes:
        return f"clipjax convert {model} --classes LABELS --out ANOTHER_FOLDER, then clipjax eval zeroshot"
    return f"clipjax finetune linear_probe --model {model} --data FOLDER --out TUNED"


def _millions(arch: Arch) -> float:
    import jax

    from clipjax.models.network import Network

    return sum(leaf.size for leaf in jax.tree.leaves(Network(arch).abstract_params())) / 1e6

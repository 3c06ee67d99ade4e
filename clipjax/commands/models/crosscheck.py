"""`clipjax crosscheck DATA`."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from clipjax.commands.shared.names import check_names
from clipjax.commands.shared.options import (
    CardOption,
    JsonOption,
    NeededModelOption,
)
from clipjax.commands.shared.output import print_table, say
from clipjax.commands.shared.records import FieldsOf, with_options
from clipjax.errors import ClipjaxError, counted
from clipjax.evaluation.request import Request

if TYPE_CHECKING:
    from clipjax.verification.crosscheck import Crosscheck

SHOWN = 10  # flips printed; the record has all


def register(app: typer.Typer) -> None:
    app.command("crosscheck")(with_options(CrosscheckOptions, crosscheck))


@dataclass(frozen=True, kw_only=True)
class CrosscheckOptions:
    PANELS: ClassVar = {
        "Both sides": ("model", "card", "against", "checkpoint", "batch_size"),
        "Data": ("prompts", "limit", "seed"),
        "Output": ("out", "as_json"),
    }
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Root folder (or CSV/JSONL manifest) of the images.")
    ]
    model: NeededModelOption
    against: Annotated[
        str | None,
        typer.Option(
            help="Reference library: open_clip, timm or transformers, run in another process (needs the "
            "`reference` extra). Default: the one that the model's card names."
        ),
    ] = None
    request: Annotated[Request, FieldsOf(Request, "dataset", "labels", "prompts")]
    card: CardOption = None
    limit: Annotated[int, typer.Option(min=1, help="Compare a seeded random sample of this many images.")] = (
        512
    )
    seed: Annotated[int, typer.Option(min=0, help="Seed of the --limit sample.")] = 0
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="Weights for the reference to load, in its own format. Default: the safetensors file that "
            "the model was read from, else the model's weights, written back."
        ),
    ] = None
    batch_size: Annotated[int, typer.Option(min=1, help="Images in a batch, on both sides.")] = 32
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of records; each gets its own folder.")] = (
        Path("crosscheck")
    )
    as_json: JsonOption = False


def crosscheck(options: CrosscheckOptions) -> None:
    r"""Compare clipjax with the reference library, from image file to accuracy: what differs first?

    Each side decodes, resizes, normalises, tokenises, embeds, builds the head, scores and counts with its own
    code. Every stage is compared image by image. The first that differs causes the later differences.

    What a stage points to. pixels: resizing or cropping. tensor: mean and std. prompts, token ids: words,
    cleaning, truncation. image embeddings, features: the model. head: the text tower or the averaging.
    logits: scale and bias. top-1: real flips, and ties, which another machine may decide differently.

    Writes record.json (what was compared, a digest to cite) and sheet.png (the worst images). Exit code: 0
    both sides agree, 1 they differ.

    Examples:

        clipjax crosscheck imagenet/val --model vit_b_32-openai \
            --dataset imagenet_val

        clipjax crosscheck photos --model lite0 --against timm --limit 64
    """
    from clipjax.storage.remote.buckets import refuse_url
    from clipjax.verification.references import check_against

    refuse_url(options.out, "a record")
    check_against(options.against, golden=False)
    check_names(
        models=(options.model,),
        card=options.card,
        request=options.request,
        roots=(options.data,),
    )
    found = _both_sides(options)
    path, record = found.write(options.out), found.to_dict()
    if options.as_json:
        say(json.dumps(record, indent=1))
    else:
        _show(found)
    say(f"\nrecord {record['digest'][:12]}: {path}, and sheet.png beside it", err=True)
    if found.passed and not options.as_json:
        stages = counted(len(found.stages), "stage")
        say(f"{record['model']} and {record['against']} agree: {stages}, each image within its tolerance")
    if not found.passed:
        stage, what = _first_difference(found)
        raise ClipjaxError(
            f"{record['model']} differs from {record['against']} first at {stage}: {what}; see {path}"
        )


def _both_sides(options: CrosscheckOptions) -> Crosscheck:
    """Load the model, run clipjax and the reference on the same images, and compare them."""
    from clipjax.checkpoints.load import load_model
    from clipjax.evaluation.data_set import dataset_of
    from clipjax.verification.crosscheck import crosscheck

    request = replace(options.request, root=options.data, limit=options.limit, seed=options.seed)
    request = replace(request, dataset=dataset_of(request))  # may fail: before a model is loaded
    model = load_model(options.model, card=options.card)
    return crosscheck(
        model, request, options.against, checkpoint=options.checkpoint, batch=options.batch_size
    )


def _first_difference(found: Crosscheck) -> tuple[str, str]:
    stage = next(stage for stage in found.stages if not stage.passed)
    what = stage.problem or f"{stage.differing} of {stage.n} {stage.of} are beyond {stage.tolerance:.3g}"
    return stage.name, what


def _show(found: Crosscheck) -> None:
    rows = []
    for stage in found.stages:
        numbers = [
            "" if number is None else f"{number:.3g}"
            for number in (stage.largest, stage.mean, stage.tolerance)
        ]
        rows.append([stage.name, f"{stage.n} {stage.of}", *numbers, stage.problem or str(stage.differing)])
    colours = [None if stage.passed else "red" for stage in found.stages]
    print_table(["stage", "compared", "largest", "mean", "allowed", "beyond"], rows, colours)
    ties = sum(flip.tie for flip in found.flips)
    tied = f", {counted(ties, 'tie')} among them" if ties else ""
    say(f"\n{counted(len(found.flips), 'flip')}{tied}")
    for flip in found.flips[:SHOWN]:
        say(
            f"  {flip.id}: {flip.ours}, the reference {flip.theirs} by {flip.margin:.3g}"
            f"{' (a tie)' if flip.tie else ''}"
        )
    if found.top1 is not None:
        say(f"top-1 {found.top1[0]:.4f}, the reference {found.top1[1]:.4f}")
    else:
        say("no metric: the images have no labels")

"""Commands about models: `models`, `convert`, `export`, `verify`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from clipjax.commands.shared.exclusions import refuse_beside, refuse_without
from clipjax.commands.shared.options import (
    FactOption,
    FactsOfOption,
    FactsOption,
    JsonOption,
    NameOption,
    say_unknown_facts,
    stated_options,
)
from clipjax.commands.shared.output import print_table, say
from clipjax.errors import ClipjaxError, UsageError


def register(app: typer.Typer) -> None:
    app.command("models")(models)
    app.command("convert")(convert)
    app.command("export")(export)
    app.command("verify")(verify)


def models(
    name: Annotated[str | None, typer.Argument(help="Show one model's whole card.")] = None,
    group: Annotated[
        str | None,
        typer.Option(help="Only this group: clip, clip_ft, curated, dense_baseline or example."),
    ] = None,
    by_family: Annotated[
        bool, typer.Option("--by-family", help="One line per pair of tower families, not per model.")
    ] = False,
    as_json: JsonOption = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")] = False,
    aot: Annotated[
        str | None,
        typer.Option(
            metavar="CHIPS",
            help="Compile the forward passes ahead of time for these TPU chips (v5e,v4,v5p,v6e): minutes per "
            "model. Needs the extra `tpu`, but no TPU.",
        ),
    ] = None,
) -> None:
    """List the registered models with what is verified of each, or show one model's card.

    "verified": its full-size tensors match those of the reference library one to one, and a narrow model with
    the same flags gives the same numbers (see `clipjax verify --all`).
    """
    from clipjax.checkpoints.identity.registry import model_card
    from clipjax.verification import coverage

    forms = {"--by-family": by_family, "--markdown": as_markdown}
    if name is not None:
        refuse_beside(f"the model {name}", {"--group": group, **forms})
    if aot is not None:
        refuse_beside("--aot", forms)
    if as_json:
        refuse_beside("--json", forms)
    if aot is not None:
        ids = [name] if name is not None else [row.id for row in coverage.coverage(group)]
        _compile_ahead(ids, aot.split(","), as_json)
        return
    if name is not None:
        say(json.dumps(model_card(name).to_dict(), indent=2))
        return
    rows = coverage.coverage(group)
    if as_json:
        say(json.dumps(coverage.to_dict(rows), indent=2))
        return
    if as_markdown:
        say(coverage.markdown("families" if by_family else "models", rows))
        return
    print_table(*(coverage.family_table if by_family else coverage.table)(rows))
    say(f"\n{coverage.summary(rows)}")


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


def verify(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="A clipjax folder, checkpoint, or model id.")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            help="open_clip, timm, transformers (run as a subprocess; needs the `reference` extra), golden. "
            "Default: the library that the model's card names."
        ),
    ] = None,
    golden: Annotated[Path | None, typer.Option(help="The golden .npz file, with --against golden.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Also write the JSON report to this file.")
    ] = None,
    card: Annotated[
        str | None,
        typer.Option(
            "--card",
            "--model",
            "-m",
            metavar="ID",
            help="Registered model that says how to load MODEL, if that is bare weights.",
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every registered architecture; needs --random-init.")
    ] = False,
    random_init: Annotated[
        bool, typer.Option("--random-init", help="With --all: on random weights, at full and at small size.")
    ] = False,
    record: Annotated[
        Path | None, typer.Option(help="With --all: the parity record; default configs/parity.json.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="With --all: verify at most this many that are not up to date.")
    ] = None,
) -> None:
    """Is this the same model as the reference? Compare stage by stage and print a JSON report.

    The report names the first stage that differs. Exit code 0 if the model passes, 1 if it does not or if
    anything could not be compared.

    --all --random-init needs no weights. For every registered architecture it matches the keys and shapes of
    the reference library's full-size tensors, and compares a small model with the same flags number by
    number. The record is written after each architecture; what is up to date is not done again.
    """
    if everything != random_init or everything == (model is not None):
        raise UsageError("give a model to verify, or --all --random-init for every registered architecture")
    if everything:
        refuse_beside("--all", {"--against": against, "--golden": golden, "--card": card})
        _verify_all(record, limit, out)
        return
    refuse_beside(f"the model {model}", {"--record": record, "--limit": limit})
    if against != "golden":
        refuse_without("--against golden", {"--golden": golden})
    from clipjax.checkpoints.load import load_model
    from clipjax.storage.writing import write_bytes
    from clipjax.verification.verify import verify as run

    report = run(load_model(str(model), card=card) if card else str(model), against=against, golden=golden)
    text = report.to_json()
    say(text)
    if out is not None:
        write_bytes(out, f"{text}\n".encode())
    if not report.passed:
        what = report.problem or f"it differs first at {report.first_difference}"
        raise ClipjaxError(f"{report.model} is not verified against {report.against}: {what}")


def _verify_all(record: Path | None, limit: int | None, out: Path | None) -> None:
    """Verify the whole registry; an architecture unlike its reference is a failure."""
    from clipjax.storage.writing import write_bytes
    from clipjax.verification.parity import sweep

    swept = sweep(record, limit=limit)
    text = swept.to_json()
    say(text)
    if out is not None:
        write_bytes(out, f"{text}\n".encode())
    if swept.problems:
        name, problem = next(iter(swept.problems.items()))
        more = f" and {len(swept.problems) - 1} more" if len(swept.problems) > 1 else ""
        raise ClipjaxError(f"{len(swept.entries)} architectures, not verified: {name} ({problem}){more}")


def _compile_ahead(ids: list[str], chips: list[str], as_json: bool) -> None:
    """Print what each executable reports; as JSON, one line as soon as it is known."""
    from clipjax.progress import progress_through
    from clipjax.verification.aot import aot_table, programs, table_cells, table_titles

    total = len(programs(ids)) * len(chips)
    rows = progress_through(aot_table(ids, chips), total, "compiling", "program")
    if as_json:
        for row in rows:
            say(json.dumps(row.to_dict()))
        return
    print_table(table_titles(), [table_cells(row) for row in rows])


def _count(params: Any) -> float:
    import jax

    return sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6

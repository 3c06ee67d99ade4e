"""`clipjax wise-ft`: mix the weights of a model and its fine-tuned one."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipjax.commands.shared.exclusions import check_suite, refuse_without
from clipjax.commands.shared.options import (
    JsonOption,
    PixelBudgetOption,
    PixelStoreOption,
    StoreOption,
    SuiteOption,
    SuiteRootOption,
    ValidationDatasetOption,
    ValidationOption,
    WorkersOption,
    workers_asked,
)
from clipjax.commands.shared.output import print_table, say
from clipjax.commands.shared.stores import pixels_in, store_root
from clipjax.errors import UsageError

if TYPE_CHECKING:
    from clipjax.embeddings.compute import Compute


def register(app: typer.Typer) -> None:
    app.command("wise-ft")(wise_ft)


def wise_ft(
    base: Annotated[str, typer.Argument(metavar="BASE", help="The pretrained model: id or folder.")],
    tuned: Annotated[str, typer.Argument(metavar="TUNED", help="The model fine-tuned from it, a folder.")],
    out: Annotated[
        Path, typer.Option("--out", help="Folder for the model and the sweep's results, or a URL.")
    ],
    alphas: Annotated[
        list[float] | None,
        typer.Option(
            "--alpha",
            min=0.0,
            max=1.0,
            help="0 is BASE, 1 is TUNED; may be repeated. Default: 0, 0.1, ... 1.",
        ),
    ] = None,
    prompts: Annotated[
        str | None, typer.Option(help="Prompt set of the zero-shot head; default: that of the fine-tuning.")
    ] = None,
    validation: ValidationOption = None,
    validation_dataset: ValidationDatasetOption = "folder",
    evaluate: SuiteOption = None,
    data_root: SuiteRootOption = None,
    reference: Annotated[
        str | None,
        typer.Option(help="Data set for the figure's horizontal axis; default the first one named *_val."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="What to call the model; default: after TUNED.")
    ] = None,
    workers: WorkersOption = "0",
    store: StoreOption = None,
    pixel_store: PixelStoreOption = None,
    pixel_budget: PixelBudgetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Interpolate the weights of a model and its fine-tuned one (WiSE-FT).

    Writes OUT/model at one alpha: the best on --validation, else the one --alpha given, else 0.5. With
    --evaluate, every alpha is evaluated and the curve is drawn.

    Examples:

        clipjax wise-ft vit_b_32-openai flyp/seed1/model --alpha 0.5 --out wise

        clipjax wise-ft b32 ce/seed1/model --out wise --evaluate robustness --data-root /data
    """
    from clipjax.checkpoints.identity.naming import taken_names
    from clipjax.finetune.wise_ft import ALPHAS, choose_alpha
    from clipjax.storage.buckets import place

    out = place(out)
    check_suite(evaluate, data_root)
    if evaluate is None and validation is None:
        refuse_without("--validation or --evaluate", {"--pixel-store": pixel_store})
    if name is not None and name in taken_names():
        raise UsageError(f"--name {name} is a published model: choose another name")
    chosen = tuple(alphas or ALPHAS)
    _refuse_overwriting(out / "model", base, tuned)
    first, second, prompt_set = _pair(base, tuned, prompts)
    seen: dict[str, Any] = {}
    from clipjax.embeddings.compute import Compute
    from clipjax.storage.store import Store

    pixels = pixels_in(pixel_store, pixel_budget)
    compute = Compute(pixel_store=pixels, workers=workers_asked(workers), progress=False)
    if validation is not None:
        split = _validation(validation, validation_dataset, second.card, evaluate, data_root)
        choice = choose_alpha(first, second, split, prompts=prompt_set, alphas=chosen, compute=compute)
        alpha = choice.best
        seen = {"validation": split.name, "validation_digest": split.manifest.digest}
        seen |= {"alphas": list(chosen), "alpha_accuracies": list(choice.tried)}
        say(f"chosen on {split.name}: alpha {alpha:g}, accuracy {choice.accuracy:.4f}", err=True)
    else:
        alpha = chosen[0] if len(chosen) == 1 else 0.5
    rows: list[dict[str, Any]] = []
    if evaluate is not None and data_root is not None:
        stored = dataclasses.replace(compute, store=Store(store_root(store)))
        rows = _sweep(first, second, chosen, evaluate, data_root, out, stored)
    _write(first, second, alpha, seen, out, name)
    drawn = _draw(rows, reference, alpha, out) if rows else []
    if as_json:
        say(json.dumps({"alpha": alpha, "model": str(out / "model"), "rows": rows}, indent=2))
        return
    if rows and evaluate is not None:
        _show(rows, chosen, evaluate)
        say("")
    if drawn:
        say(f"figure: {', '.join(map(str, drawn))}")
    say(f"alpha {alpha:g}: {out / 'model'}")


def _refuse_overwriting(target: Path, base: str, tuned: str) -> None:
    """Raises UsageError if `target` holds a model that is not a mixture, or is one of the two to mix."""
    from clipjax.checkpoints.native import is_checkpoint, read_card_file
    from clipjax.storage.buckets import place

    if not is_checkpoint(target):
        return
    lineage = read_card_file(target).record.get("lineage") or {}
    ends = {place(each).resolve() for each in (base, tuned)}
    if target.resolve() in ends or lineage.get("method") != "wise_ft":
        raise UsageError(f"{target} holds a model that is no mixture: name another --out")


def _pair(base: str, tuned: str, prompts: str | None) -> tuple[Any, Any, Any]:
    """The two models, of one kind: if TUNED is a classifier, a CLIP BASE becomes its zero-shot classifier."""
    from clipjax.checkpoints.load import load_model
    from clipjax.data.labels import load_prompts
    from clipjax.finetune.wise_ft import zero_shot_classifier
    from clipjax.heads.build import classifier_head

    first, second = load_model(base), load_model(tuned)
    recipe = (second.card.lineage or {}).get("recipe", {})
    name = prompts or recipe.get("prompts") or "openai_80"
    found = load_prompts(name)
    if (first.card.kind, second.card.kind) == ("zero_shot", "classifier"):
        first = zero_shot_classifier(first, classifier_head(second).label_space, found, progress=True)
    return first, second, found


def _validation(root: Path, card: str, tuned: Any, suite: str | None, data_root: Path | None) -> Any:
    """The images to choose by.

    Not those trained on, where the fine-tuned model is best whatever it has lost; not those of the suite.
    """
    from clipjax.data.cards import load_dataset
    from clipjax.finetune.before_after import refuse_leaks
    from clipjax.finetune.data.splits import validation_split_of
    from clipjax.finetune.suites import load_suite

    dataset = load_dataset(card, root)
    split = validation_split_of(dataset)
    trained_on = (tuned.lineage or {}).get("train", {}).get("digest")
    if dataset.card.split == "train" or trained_on == split.manifest.digest:
        raise UsageError(
            f"alpha cannot be chosen on {split.name}, images to train on: give others, --validation DIR"
        )
    if suite is not None and data_root is not None:
        refuse_leaks([split], load_suite(suite), data_root)
    return split


def _sweep(
    first: Any,
    second: Any,
    alphas: Sequence[float],
    suite: str,
    data_root: Path,
    out: Path,
    compute: Compute,
) -> list[dict[str, Any]]:
    """The rows of every alpha on the suite."""
    from clipjax.finetune.before_after import evaluate_suite, left_out
    from clipjax.finetune.suites import load_suite
    from clipjax.finetune.wise_ft import sweep

    found = load_suite(suite)
    for line in left_out(found, data_root):
        say(line, err=True)
    rows = []
    for model in sweep(first, second, alphas):
        results = evaluate_suite(
            model,
            found,
            data_root,
            lambda line: say(line, err=True),
            compute=compute,
            results=out / "results",
        )
        rows += [row for result in results for row in found.shown(result.rows)]
    return rows


def _write(first: Any, second: Any, alpha: float, seen: dict[str, Any], out: Path, name: str | None) -> None:
    from clipjax.finetune.wise_ft import interpolate

    model = interpolate(first, second, alpha)
    lineage = {**(model.card.lineage or {}), **({"chosen": seen} if seen else {})}
    card = dataclasses.replace(model.card, id=name or model.card.id, lineage=lineage)
    model.with_card(card).save(out / "model")


def _show(rows: Sequence[dict[str, Any]], alphas: Sequence[float], suite: str) -> None:
    """One line a number of the suite, one column an alpha."""
    from clipjax.finetune.suites import load_suite

    titles = {(each.task, each.metric, each.slice): each.title for each in load_suite(suite).metrics}
    found: dict[tuple[str, str, str], dict[float, str]] = {}
    for row in rows:
        name = row["task"], row["dataset"], titles[row["task"], row["metric"], row["slice"]]
        value = "" if row["value"] is None else f"{row['value']:.4f}"
        found.setdefault(name, {})[row["model_facts"]["lineage"]["alpha"]] = value
    cells = [[*name, *(values.get(alpha, "") for alpha in alphas)] for name, values in found.items()]
    print_table(["task", "data set", "number", *(f"alpha {alpha:g}" for alpha in alphas)], cells)


def _draw(rows: Sequence[dict[str, Any]], reference: str | None, alpha: float, out: Path) -> list[Path]:
    """Draw the curve; on stderr the reason if it cannot be drawn."""
    from clipjax.analysis.figures.tasks.finetuning import alpha_figure
    from clipjax.errors import DataError
    from clipjax.storage.publishing import moved, working_copy

    names = list(dict.fromkeys(row["dataset"] for row in rows if row["task"] == "zeroshot"))
    held_out = [name for name in names if name.endswith("_val")]
    try:
        axis = reference or next(iter([*held_out, *names]), "")
        return moved(alpha_figure(rows, axis, working_copy(out) / "wise_ft", written=alpha), out)
    except DataError as error:
        say(f"no figure: {error}", err=True)
        return []

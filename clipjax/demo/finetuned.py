"""The demo's fine-tuning: one small CLIP by every method, on images whose colours give the shape away.

The base was trained on diverse images; a few narrow ones pull it towards their shortcut. The table shows how
much shape bias, shift accuracy, OOD detection and calibration each method keeps (the study's Table I and Fig.
10).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from clipjax.analysis.figures.tasks.finetuning import Panel, alpha_figure, methods_figure
from clipjax.checkpoints.load import load_model
from clipjax.checkpoints.model import Model
from clipjax.data.cards import load_dataset
from clipjax.data.pixels.pixel_store import PixelStore
from clipjax.devices.sharding import make_mesh
from clipjax.embeddings.compute import Compute
from clipjax.finetune.before_after import evaluate_suite
from clipjax.finetune.method import Settings
from clipjax.finetune.recipe import load_recipe
from clipjax.finetune.run import Data, finetune
from clipjax.finetune.suites import load_suite
from clipjax.finetune.wise_ft import sweep
from clipjax.progress import progress_bar
from clipjax.results.rows import Row
from clipjax.storage.store import Store

BASE = "demo-small-diverse"
RECIPES = (
    *("demo_linear_probe", "demo_ce", "demo_lp_ft", "demo_flyp", "demo_lora"),
    *("demo_coop", "demo_tip_adapter", "demo_tip_adapter_f"),
)
HELD_OUT = 4  # narrow images per class, to choose alpha and beta
ALPHAS = (0.25, 0.5, 0.75)
SUITE = "demo_finetuning"
TITLES = ("accuracy", "on sketches", "shape bias", "AUROC, unknown shapes", "calibration error")
PANELS = tuple(
    Panel(title, *place)
    for title, place in zip(
        TITLES,
        (
            ("zeroshot", "demo_val", "top1"),
            ("zeroshot", "demo_sketch", "top1"),
            ("shape_bias", "demo_cues", "shape_bias"),
            ("ood", "demo_unknown", "auroc", "score:msp"),
            ("calibration", "demo_val", "ece_15_before"),
        ),
    )
)


def fine_tune(out: Path, *, quick: bool = False, progress: bool = True) -> None:
    """Fine-tune the base by every method, in `out/finetuned`.

    Args:
        out: the demo's folder, with world and base.
        quick: hardly any training, on few images.
        progress: a bar on stderr.
    """
    with progress_bar(len(RECIPES), "fine-tune", "method", shown=progress) as bar:
        for name, _ in _tuned(out, quick):
            bar.set_postfix_str(name)
            bar.update()


def finetuned(out: Path, *, quick: bool = False, progress: bool = True) -> list[Row]:
    """Evaluate the base and all that was made of it; returns the rows, the base's first.

    Args:
        out: the demo's folder, as `fine_tune` leaves it.
        quick, progress: as there.
    """
    rows = _evaluate(load_model(out / "models" / BASE), out)
    with progress_bar(len(RECIPES), "evaluate fine-tuned", "method", shown=progress) as bar:
        for name, tuned in _tuned(out, quick):
            bar.set_postfix_str(name)
            rows += _evaluate(tuned, out)
            if load_recipe(name).method == "flyp":
                base = load_model(out / "models" / BASE)
                rows += [row for model in sweep(base, tuned, ALPHAS) for row in _evaluate(model, out)]
            bar.update()
    return rows


def _tuned(out: Path, quick: bool) -> Iterator[tuple[str, Model]]:
    """Each recipe's name and model; what is not there yet is trained."""
    base = load_model(out / "models" / BASE)
    train = load_dataset("demo_train", out / "world" / "narrow.jsonl")
    settings = Settings(make_mesh(), store=Store(out / "store"), progress=False)
    for name in RECIPES:
        recipe = load_recipe(name, _shortened(name) if quick else ())
        data = Data(train, hold_out=2 if quick else HELD_OUT)
        [run] = finetune(base, recipe, data, out / "finetuned" / name, settings)
        yield name, run.model


def _shortened(name: str) -> list[str]:
    recipe = load_recipe(name)
    short = ["shots=8", "batch_size=32", "schedule.warmup_steps=0"]
    return [*short, "steps=2"] if recipe.steps else [*short, "epochs=1"] if recipe.epochs else short


def _evaluate(model: Model, out: Path) -> list[Row]:
    results = evaluate_suite(
        model,
        load_suite(SUITE),
        out / "world",
        lambda _: None,
        compute=Compute(store=Store(out / "store"), pixel_store=PixelStore(out / "pixels"), progress=False),
        results=out / "results",
    )
    return [row for result in results for row in result.rows]


def figures(rows: Sequence[Row], out: Path) -> list[Path]:
    """The methods' numbers, and WiSE-FT's curve."""
    return [
        *methods_figure(rows, BASE, _models(rows)[1:], PANELS, out / "finetuning"),
        *alpha_figure(_with_ends(rows), "demo_val", out / "wise_ft"),
    ]


def table(rows: Sequence[Row]) -> tuple[str, list[str], list[list[str]]]:
    """Heading, titles and cells: a line per method."""
    lines, shots = [], ""
    for model in _models(rows):
        facts = next(row["model_facts"] for row in rows if row["model"] == model)
        drawn = ((facts.get("lineage") or {}).get("train") or {}).get("shots")
        shots = f"{drawn['per_class']} " if drawn else shots
        name = "before" if model == BASE else str(facts["fine_tune"])
        lines.append([name, *(_cell(panel.find(rows, model)) for panel in PANELS)])
    heading = f"{BASE} fine-tuned on {shots}narrow images a class, % (the study's Table I and Fig. 10)"
    return heading, ["method", *TITLES], lines


def _models(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["model"] for row in rows))


def _cell(row: Row | None) -> str:
    if row is None:
        return "-"
    limits = row["interval"]
    interval = "" if limits is None else f" [{100 * limits['lo']:.0f}, {100 * limits['hi']:.0f}]"
    return f"{100 * row['value']:.1f}{interval}"


def _with_ends(rows: Sequence[Row]) -> Iterator[Row]:
    """The rows of the curve; the base is alpha 0, FLYP's model 1."""
    for row in rows:
        lineage = row["model_facts"].get("lineage") or {}
        ends = {BASE: 0.0, f"{BASE}-flyp-seed1": 1.0}
        alpha = lineage.get("alpha", ends.get(row["model"]))
        if alpha is not None:
            yield {**row, "model_facts": {**row["model_facts"], "lineage": {**lineage, "alpha": alpha}}}

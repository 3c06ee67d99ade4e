"""Tables and figures of configs/demo.toml, from the demo's results alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from clipjax.analysis.figures.of_run import figure_of
from clipjax.analysis.figures.tasks.accuracy import accuracy_figure
from clipjax.analysis.figures.tasks.finetuning import FinetuningPanel, alpha_figure, methods_figure
from clipjax.analysis.rows import curation
from clipjax.config import config_dir
from clipjax.demo.llava.asking import CHANCE, DEBIASED, RULE, QuestionResults, by_order
from clipjax.demo.plan import BASE, LLAVA
from clipjax.demo.reading import rows_of
from clipjax.demo.settings import DemoColumn, Figure, has_own_prompts, settings
from clipjax.evaluation.rows import Result
from clipjax.results.row import Row

Table = tuple[str, list[str], list[list[str]]]
"""Heading, titles and cells."""

# Sets in the world's picture, one per row.
SHOWN = (
    *("demo-val", "demo-r", "demo-a", "demo-sketch", "demo-corrupted/blur/5", "demo-corrupted/fog/5"),
    *("demo-objects", "demo-video", "demo-nuisance", "demo-cues", "demo-ninco", "demo-textures"),
)
ENDINGS = (".jpg", ".jpeg", ".png")


def tables(rows: Sequence[Row], models: Sequence[str]) -> Iterator[Table]:
    for table in settings().tables:
        lines = [[model, *(cell(column, rows, model) for column in table.columns)] for model in models]
        yield table.heading, ["model", *(column.title for column in table.columns)], lines
    of = curation.columns(config_dir() / "curation_demo.toml")
    summary = curation.curation_table(rows, models, prompts="demo", of=of)
    yield "The study's summary (its Table IV): a column an aspect", *curation.wide(summary)


def answers_table(answers: Sequence[QuestionResults], model: str) -> Table:
    """Accuracy among the four options of the lists; the last columns are checks."""
    heading = f"{LLAVA}, which has the image tower of {model}, asked which of four shapes an image shows, %"
    titles = [
        *("unseen", f"{model}", "asked", "in all orders", "right one first, ..., last", "beats chance"),
        *("shuffled images", "no more than chance"),
    ]
    lines = [
        [
            each.dataset.rpartition(":")[2],
            _of(each.clip, "top1"),
            _of(each.llava, f"top1@{RULE}"),
            _of(each.llava, DEBIASED),
            _orders([each]),
            "yes" if each.beats_chance else "no",
            _of(each.shuffled, DEBIASED),
            "yes" if each.needs_images else "no",
        ]
        for each in answers
    ]
    beaten = all(low > CHANCE for _, low in by_order([each.llava for each in answers]))
    lines.append(
        ["all three", "-", "-", "-", _orders(answers), "in every order" if beaten else "no", "-", "-"]
    )
    return heading, titles, lines


def _orders(answers: Sequence[QuestionResults]) -> str:
    return " ".join(f"{100 * share:.0f}" for share, _ in by_order([each.llava for each in answers]))


def _of(result: Result, metric: str) -> str:
    return _with_limits(next(row for row in result.rows if row["metric"] == metric))


def cell(column: DemoColumn, rows: Sequence[Row], model: str) -> str:
    """`81.1 [78.8, 83.2]`: the value and its 95 % interval."""
    row = column.find(rows, model)
    return "-" if row is None or row["value"] is None else _with_limits(row, column.percent)


def _with_limits(row: Row, percent: bool = True) -> str:
    value, limits = row["value"], row["interval"]
    assert value is not None
    scale, digits, limit_digits = (100, 1, 0) if percent else (1, 2, 2)
    shown = f"{scale * value:.{digits}f}"
    if limits is None:
        return shown
    lo, hi = (f"{scale * limits[end]:.{limit_digits}f}" for end in ("lo", "hi"))
    return f"{shown} [{lo}, {hi}]"


def pictures() -> list[str]:
    """Files that `figures` and `tuning_figures` draw, without those of other formats."""
    drawn = [f"{figure.name}.png" for figure in settings().figures]
    return ["accuracy.png", *drawn, "world.jpg", "finetuning.png", "wise_ft.png"]


def figures(results: list[Result], out: Path) -> list[Path]:
    own, accuracy = [row for row in rows_of(results) if has_own_prompts(row)], settings().accuracy
    accuracies = [row for row in own if row["task"] == accuracy.task]
    shown = [row for name in accuracy.datasets for row in accuracies if row["dataset"] == name]
    drawn = accuracy_figure(shown, out / "accuracy")
    for figure in settings().figures:
        drawn += _figure(figure, results, own, out)
    return [*drawn, world_figure(out / "world", out / "world.jpg")]


def _figure(figure: Figure, results: list[Result], own: Sequence[Row], out: Path) -> list[Path]:
    rows, images = [row for row in own if row["task"] == figure.task], dict
    if figure.dataset is not None:
        *_, last = (
            result
            for result in results
            if (result.rows[0]["task"], result.rows[0]["dataset"]) == (figure.task, figure.dataset)
            and has_own_prompts(result.rows[0])
        )
        rows, images = last.rows, last.images.to_pydict
    return figure_of(figure.name, figure.task)(rows, images, out / figure.name)


def world_figure(world: Path, out: Path, columns: int = 10) -> Path:
    side, gap = 64, 4
    sheet = Image.new("RGB", (columns * (side + gap) - gap, len(SHOWN) * (side + gap) - gap), "white")
    for row, place in enumerate(SHOWN):
        files = sorted(path for path in (world / place).rglob("*.*") if path.suffix.lower() in ENDINGS)
        for column in range(columns):
            # Spread over the files: the first of a folder are often of one class.
            with Image.open(files[(2 * column + 1) * len(files) // (2 * columns)]) as image:
                sheet.paste(
                    image.convert("RGB").resize((side, side)), (column * (side + gap), row * (side + gap))
                )
    sheet.save(out)
    return out


def tuning_table(rows: Sequence[Row]) -> Table:
    columns = settings().tuning.columns
    lines, shots = [], ""
    for model in _models(rows):
        facts = next(row["model_facts"] for row in rows if row["model"] == model)
        drawn = ((facts.get("lineage") or {}).get("train") or {}).get("shots")
        shots = f"{drawn['per_class']} " if drawn else shots
        name = "before" if model == BASE else str(facts["fine_tune"])
        lines.append([name, *(cell(column, rows, model) for column in columns)])
    heading = f"{BASE} fine-tuned on {shots}narrow images per class, % (the study's Table I and Fig. 10)"
    return heading, ["method", *(column.title for column in columns)], lines


def tuning_figures(rows: Sequence[Row], out: Path) -> list[Path]:
    tuning = settings().tuning
    panels = [
        FinetuningPanel(each.title, each.task, each.dataset, each.metric, each.slice)
        for each in tuning.columns
    ]
    return [
        *methods_figure(rows, BASE, _models(rows)[1:], panels, out / "finetuning"),
        *alpha_figure(_with_ends(rows), tuning.reference, out / "wise_ft"),
    ]


def _models(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(row["model"] for row in rows))


def _with_ends(rows: Sequence[Row]) -> Iterator[Row]:
    """WiSE-FT's curve on the table's data sets: the base has alpha 0, the tuned model 1."""
    datasets = {column.dataset for column in settings().tuning.columns}
    for row in (row for row in rows if row["dataset"] in datasets):
        lineage = row["model_facts"].get("lineage") or {}
        tuned = lineage.get("recipe") == settings().tuning.interpolated
        end = 0.0 if row["model"] == BASE else 1.0 if tuned else None
        alpha = lineage.get("alpha", end)
        if alpha is not None:
            yield {**row, "model_facts": {**row["model_facts"], "lineage": {**lineage, "alpha": alpha}}}

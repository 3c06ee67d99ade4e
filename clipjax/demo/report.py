"""What the demo prints and draws, from result rows alone: a table per aspect of robustness, a line per
model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from clipjax.analysis.figures.tasks.accuracy import accuracy_figure
from clipjax.analysis.figures.tasks.cues import shape_bias_figure
from clipjax.analysis.figures.tasks.factors import factor_figure
from clipjax.analysis.figures.tasks.scores import ood_figure, reliability_figure
from clipjax.analysis.rows import curation
from clipjax.config import config_dir
from clipjax.demo.run import PROMPTS, Demo
from clipjax.results.rows import Row

FACTOR = "top/filtered/factor:"


class Column(NamedTuple):
    """A column of a table: its title, and the row to find. Fractions are shown in percent."""

    title: str
    task: str
    dataset: str
    metric: str
    slice: str | None = None
    prompts: str | None = None
    percent: bool = True

    def find(self, rows: Sequence[Row], model: str) -> Row | None:
        """A model's newest such row; without `prompts`, with the card's own set."""
        wanted = (model, self.task, self.dataset, self.metric, self.slice)
        names = ("model", "task", "dataset", "metric", "slice")
        found = [row for row in rows if tuple(row[name] for name in names) == wanted]
        own = [row for row in found if (row["convention"].get("prompts") in PROMPTS) == bool(self.prompts)]
        right = [row for row in own if self.prompts in (None, row["convention"].get("prompts"))]
        return right[-1] if right else None

    def cell(self, rows: Sequence[Row], model: str) -> str:
        """`81.1 [78.8, 83.2]`: the value with its 95 % interval."""
        row = self.find(rows, model)
        if row is None or row["value"] is None:
            return "-"
        limits = row["interval"]
        scale, digits, limit_digits = (100, 1, 0) if self.percent else (1, 2, 2)
        value = f"{scale * row['value']:.{digits}f}"
        if limits is None:
            return value
        lo, hi = (f"{scale * limits[end]:.{limit_digits}f}" for end in ("lo", "hi"))
        return f"{value} [{lo}, {hi}]"


def _accuracy(title: str, dataset: str, metric: str = "top1", task: str = "zeroshot") -> Column:
    return Column(title, task, dataset, metric)


TABLES: dict[str, tuple[Column, ...]] = {
    "Accuracy under natural shifts, % (12 classes; R and A 6, objects 6, video 4)": (
        _accuracy("val", "demo_val"),
        _accuracy("v2", "demo_v2"),
        _accuracy("R", "demo_r"),
        _accuracy("A", "demo_a"),
        _accuracy("sketch", "demo_sketch"),
        _accuracy("objects", "demo_objects"),
        _accuracy("video pm-0", "demo_video", "pm0", "vid_robust"),
        _accuracy("pm-10", "demo_video", "pm10", "vid_robust"),
    ),
    "Accuracy on corrupted copies, %": tuple(
        _accuracy(f"{name} {severity}", f"demo_corrupted:{name}:{severity}")
        for name in ("blur", "fog")
        for severity in (1, 3, 5)
    ),
    "Unseen nuisances: accuracy, %; and among four, by the last model's list": tuple(
        Column(title + end, "imagenet_d", f"demo_nuisance:{title}", metric)
        for title in ("background", "texture", "material")
        for end, metric in (("", "top1"), (" of 4", "top1_4way_list"))
    ),
    "Visual factors: error where a factor is unusual, over the average error": tuple(
        Column(name.replace("_", " "), "imagenet_x", "demo_x", "error_ratio", FACTOR + name, percent=False)
        for name in ("color", "background", "pose", "smaller", "darker", "object_blocking", "partial_view")
    ),
    "Cue conflict, %: shape against colour and background": (
        Column("shape bias", "shape_bias", "demo_cues", "shape_bias"),
        Column("for the shape", "shape_bias", "demo_cues", "shape_fraction"),
        Column("for the other cue", "shape_bias", "demo_cues", "texture_fraction"),
    ),
    "Out-of-distribution detection, AUROC in % (MCM; NINCO-like: mean over classes)": (
        Column("unknown shapes", "ood", "demo_unknown", "auroc"),
        Column("by class", "ood", "demo_ninco", "class_mean_auroc"),
        Column("look-alikes", "ood", "demo_confused", "auroc"),
        Column("textures", "ood", "demo_textures", "auroc"),
    ),
    "Calibration: expected calibration error in %, before and after temperature scaling": tuple(
        Column(f"{title} {when}", "calibration", dataset, f"ece_15_{when}")
        for title, dataset in (("val", "demo_val"), ("A", "demo_a"), ("sketch", "demo_sketch"))
        for when in ("before", "after")
    ),
    "Retrieval among 200 images and 1,000 captions, recall in %": tuple(
        Column(f"{title} @{k}", "retrieval", "demo_captions", f"{metric}_retrieval_recall@{k}")
        for title, metric in (("image", "image"), ("text", "text"))
        for k in (1, 5, 10)
    ),
    "Prompts: accuracy on val and AUROC of unknown shapes, %": tuple(
        Column(f"{title} {prompts}", task, dataset, metric, prompts=prompts)
        for title, task, dataset, metric in (
            ("top-1", "zeroshot", "demo_val", "top1"),
            ("AUROC", "ood", "demo_unknown", "auroc"),
        )
        for prompts in PROMPTS
    ),
}
FIGURED = ("demo_val", "demo_a", "demo_sketch")
# The rows of the picture of the world.
SHOWN = (
    *("demo-val", "demo-r", "demo-a", "demo-sketch", "demo-corrupted/blur/5", "demo-corrupted/fog/5"),
    *("demo-objects", "demo-video", "demo-nuisance", "demo-cues", "demo-ninco", "demo-textures"),
)
ENDINGS = (".jpg", ".jpeg", ".png")


def tables(rows: Sequence[Row], models: Sequence[str]) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Heading, titles and cells of each table."""
    for heading, columns in TABLES.items():
        lines = [[model, *(column.cell(rows, model) for column in columns)] for model in models]
        yield heading, ["model", *(column.title for column in columns)], lines
    of = curation.columns(config_dir() / "curation_demo.toml")
    table = curation.curation_table(rows, models, prompts="demo", of=of)
    yield "The study's summary (its Table IV): a column an aspect", *curation.wide(table)


def figures(demo: Demo) -> list[Path]:
    """Draws and returns files: all models, the last one alone (confidence, OOD scores), the world."""
    own = [row for row in demo.rows if row["convention"].get("prompts") not in PROMPTS]
    accuracies = [row for row in own if row["task"] == "zeroshot"]
    shown = [row for name in FIGURED for row in accuracies if row["dataset"] == name]
    calibrated, detected = demo.last("calibration", "demo_val"), demo.last("ood", "demo_textures")
    return [
        *accuracy_figure(shown, demo.out / "accuracy"),
        *factor_figure(own, demo.out / "factors"),
        *shape_bias_figure(own, demo.out / "cues"),
        *reliability_figure(calibrated.rows, demo.out / "reliability"),
        *ood_figure(detected.rows, detected.images.to_pydict(), demo.out / "ood"),
        world_figure(demo.out / "world", demo.out / "world.jpg"),
    ]


def world_figure(world: Path, out: Path, columns: int = 10) -> Path:
    """Sample images of the world, a line per set."""
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

"""A user's options for a run: the `Request`. Imports no library that computes: commands start fast."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clipjax.options import check_fields, option

if TYPE_CHECKING:
    from clipjax.data.cards import Dataset, DatasetCard
    from clipjax.data.labels import LabelSpace, PromptSet

# The files of configs/labels without the demo's.
LABEL_SPACES = "imagenet, imagenet_a, imagenet_d, imagenet_r, imagenet_vid, objectnet, cue_conflict"


@dataclass(frozen=True)
class Request:
    """The options that decide the numbers of a run.

    Raises UsageError for a number below its minimum, or a value that is not one of an option's choices.
    """

    root: str | Path | None = option(
        None,
        "Root folder of the images, a CSV/JSONL list of them, .tar/.parquet shards, or one image.",
        python="Without a card: class folders, images without labels, or a list.",
        kind=Path,
        name="data",
        panel="Data",
        in_suites=False,
        of_model=False,
    )
    dataset: str | Path | DatasetCard | Dataset | None = option(
        None,
        "Data set card (see `clipjax datasets list`) or a card's file.",
        python="Or a `DatasetCard`, these with `root`; a `Dataset`; or just a folder.",
        kind=str,
        short="-d",
        completes="datasets",
        panel="Data",
        in_suites=False,
        of_model=False,
        of_card=True,
    )
    data_name: str | None = option(
        None,
        "Name of the --data images in results, without a card; default: the folder's.",
        kind=str,
        panel="Data",
        in_suites=False,
        of_model=False,
        of_card=True,
    )
    id_root: str | Path | None = option(
        None,
        "In-distribution images that ood and calibration compare with.",
        kind=Path,
        name="id_data",
        panel="Data",
        in_suites=False,
        of_card=True,
    )
    id_dataset: str | Path | DatasetCard | Dataset | None = option(
        None,
        "Card of the --id-data images; default: the choice of the data set's card.",
        python='Without one, "imagenet_val".',
        kind=str,
        panel="Data",
        in_suites=False,
        of_card=True,
    )
    fit_root: str | Path | None = option(
        None,
        "Training images of the ID classes: ood adds the scores of features that are fitted on them.",
        kind=Path,
        name="fit_data",
        panel="Data",
    )
    fit_dataset: str | Path | DatasetCard | Dataset | None = option(
        None,
        "Card of the --fit-data images; default: the folder decides the layout, its classes are named as the "
        "ID ones.",
        kind=str,
        completes="datasets",
        panel="Data",
    )
    fit_per_class: int | None = option(
        None,
        "Fit on a seeded random sample of this many images of each class.",
        kind=int,
        minimum=1,
        bound="a fit needs at least 1 image of each class",
        panel="Data",
    )
    labels: str | Path | LabelSpace | None = option(
        None,
        f"The classes, if no card names them: a label space ({LABEL_SPACES}), a file (.txt with a name per "
        "line, or CSV `id,name`), or the names: cat,dog.",
        python="Or a `LabelSpace`.",
        kind=str,
        panel="Data",
        in_suites=False,
        of_model=False,
        of_card=True,
    )
    limit: int | None = option(
        None,
        "Evaluate a seeded random sample of this many images, or pairs of images.",
        kind=int,
        minimum=1,
        bound="the limit must be at least 1 image",
        panel="Data",
    )
    annotations: str | Path | None = option(
        None,
        "File or folder that the task reads beside the images; run_of:MODEL is that model's newest run in "
        "--results, e.g. of imagenet_d for multiple_choice.",
        python="Default: the task's own.",
        kind=Path,
        panel="Data",
        of_model=False,
    )
    prompts: str | Path | PromptSet | None = option(
        None,
        "Prompt set by name (openai_80, openai_7, ...), a file (templates, or CuPL JSON), or one template: "
        "'a photo of a {}.'; A+B is both.",
        python='Or a `PromptSet`; default: the card\'s, else "openai_80". Not for a model with its own head. '
        "In retrieval: one template for captions; default none.",
        kind=str,
        panel="Measurement",
        in_suites=False,
    )
    precision: str = option(
        "parity",
        "Precision of the towers: parity (float32 HIGHEST) or fast (bfloat16).",
        python="Heads, scores and metrics are always float32.",
        kind=str,
        choices=("parity", "fast"),
        called="precision",
        panel="Measurement",
    )
    compare_precision: bool = option(
        False,
        "Run both precisions; report flips and the change in accuracy.",
        kind=bool,
        panel="Measurement",
    )
    decode: str = option(
        "full",
        "How to decode: full, or jpeg_scaled, which is faster for JPEGs much larger than the input, but "
        "changes pixels.",
        python="They are then not the reference's.",
        kind=str,
        choices=("full", "jpeg_scaled"),
        called="way to decode",
        panel="Measurement",
    )
    seed: int = option(
        0,
        "Seed of samples and of bootstraps.",
        kind=int,
        minimum=0,
        bound="the seed must be at least 0",
        panel="Measurement",
        of_model=False,
    )
    resamples: int = option(
        1000,
        "Number of bootstrap resamples.",
        kind=int,
        minimum=1,
        written_minimum=100,
        bound="a bootstrap needs 1 resample or more",
        panel="Measurement",
        of_model=False,
    )
    layers: str | None = option(
        None,
        "Layers that make a map of features to match: last, or multilayer (four of them).",
        python="These three as in `clipjax.models.dense.DenseRecipe`; default: as probe3d.",
        kind=str,
        choices=("last", "multilayer"),
        called="layers",
        panel="Pairs of images",
    )
    attention: str | None = option(
        None,
        "What a token of such a map attends to: tokens, or reference_batch, a pair's two images at its own "
        "place, as probe3d's pinned open_clip does.",
        python="Default: tokens.",
        kind=str,
        choices=("tokens", "reference_batch"),
        called="attention",
        panel="Pairs of images",
    )
    positions: str | None = option(
        None,
        "How such a map's position table is resized: probe3d, or library.",
        kind=str,
        choices=("library", "probe3d"),
        called="positions",
        panel="Pairs of images",
    )
    rotations: str | None = option(
        None,
        "The orders of the options that a vision-language model is asked in: all (each option comes first "
        "once; the default), or given.",
        kind=str,
        choices=("all", "given"),
        called="order of options",
        panel="Vision-language models",
    )
    steps: int | None = option(
        None,
        "The most tokens of a vision-language model's answer; default 128.",
        kind=int,
        minimum=1,
        bound="an answer needs 1 step or more",
        panel="Vision-language models",
    )

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def precisions(self) -> tuple[str, ...]:
        return ("parity", "fast") if self.compare_precision else (self.precision,)

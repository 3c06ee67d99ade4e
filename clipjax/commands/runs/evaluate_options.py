"""The options of `clipjax eval`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from clipjax.commands.shared import completion
from clipjax.commands.shared.exclusions import on_command_line, refuse_beside
from clipjax.commands.shared.facts import FactOptions
from clipjax.commands.shared.names import check_names
from clipjax.commands.shared.options import (
    AnyModelOption,
    AttentionOption,
    BatchSizeOption,
    CardOption,
    DatasetOption,
    DistributedOption,
    JsonOption,
    KeepMapsOption,
    LabelsOption,
    LayersOption,
    NameOption,
    ParamsOption,
    PositionsOption,
    TowerPrecisionOption,
    WorkersOption,
    batch_asked,
    workers_asked,
)
from clipjax.commands.shared.records import fields_of
from clipjax.commands.shared.stores import StoreOptions
from clipjax.errors import DataError, UsageError

if TYPE_CHECKING:
    from clipjax.embeddings.compute import Compute
    from clipjax.evaluation.request import Request

# Without effect beside --predictions: no model runs.
OF_A_MODEL = (
    *("id_data", "id_dataset", "prompts", "card", "name", "facts_of", "fact", "facts", "limit", "batch_size"),
    *("params", "precision", "compare_precision", "workers", "on_error", "decode", "store", "pixel_store"),
    *("pixel_budget", "distributed", "layers", "attention", "positions", "keep_maps", "rotations"),
    "steps",
)
PIXELS = ("pixel_store", "pixel_budget")
# Without effect on pairs of images: a device takes one pair at a time, prepared as its card says.
OF_IMAGES = ("labels", "prompts", "batch_size", "workers", "decode", "pixel_store", "pixel_budget")
# Without effect beside --data-root: the cards decide.
OF_ONE_RUN = ("dataset", "data_name", "labels", "id_data", "id_dataset")


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    PANELS: ClassVar = {
        "Model": ("model", "predictions", "card", "name", "facts_of", "fact", "facts"),
        "Data": (
            *("data", "data_root", "dataset", "data_name", "id_data", "id_dataset", "labels", "limit"),
            "annotations",
        ),
        "Measurement": (
            "prompts",
            "precision",
            "compare_precision",
            "decode",
            "on_error",
            "seed",
            "resamples",
        ),
        "Pairs of images": ("layers", "attention", "positions", "keep_maps"),
        "Vision-language models": ("rotations", "steps"),
        "Speed and storage": ("batch_size", "workers", "params", "store", *PIXELS, "distributed"),
        "Output": ("results", "all_metrics", "as_json"),
    }
    context: typer.Context
    task: Annotated[
        str,
        typer.Argument(
            metavar="TASK",
            help="A task, or with --data-root a collection of tasks: shifts, prompts, all.",
            autocompletion=completion.tasks,
        ),
    ]
    model: AnyModelOption = None
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            help="Root folder of the images, a CSV/JSONL list of them, .tar/.parquet shards, or one image.",
        ),
    ] = None
    data_root: Annotated[
        Path | None,
        typer.Option(
            "--data-root",
            help="Folder of data sets: run the task on each that it is made for (`clipjax datasets list`).",
        ),
    ] = None
    predictions: Annotated[
        Path | None,
        typer.Option(help="Instead of --model: per-image outputs of any framework (.parquet, .npz, .csv)."),
    ] = None
    dataset: DatasetOption = None
    data_name: Annotated[
        str | None,
        typer.Option(
            "--data-name", help="Name of the --data images in results, without a card; default: the folder's."
        ),
    ] = None
    id_data: Annotated[
        Path | None,
        typer.Option("--id-data", help="In-distribution images that ood and calibration compare with."),
    ] = None
    id_dataset: Annotated[
        str | None,
        typer.Option(
            "--id-dataset", help="Card of the --id-data images; default: the choice of the data set's card."
        ),
    ] = None
    annotations: Annotated[
        Path | None,
        typer.Option(
            help="File or folder that the task reads beside the images; run_of:MODEL is that model's newest "
            "run in --results, e.g. of imagenet_d for multiple_choice."
        ),
    ] = None
    labels: LabelsOption = None
    prompts: Annotated[
        list[str] | None,
        typer.Option(
            help="Prompt set by name (openai_80, openai_7, ...), a file (templates, or CuPL JSON), or one "
            "template: 'a photo of a {}.'; A+B is both. With --data-root it may be repeated."
        ),
    ] = None
    card: CardOption = None
    name: NameOption = None
    facts: FactOptions
    limit: Annotated[
        int | None,
        typer.Option(help="Evaluate a seeded random sample of this many images, or pairs of images."),
    ] = None
    seed: Annotated[int, typer.Option(min=0, help="Seed of the --limit sample and of bootstraps.")] = 0
    resamples: Annotated[int, typer.Option(min=100, help="Number of bootstrap resamples.")] = 1000
    batch_size: BatchSizeOption = "64"
    params: ParamsOption = "auto"
    precision: TowerPrecisionOption = "parity"
    compare_precision: Annotated[
        bool,
        typer.Option(
            "--compare-precision", help="Run both precisions; report flips and the change in accuracy."
        ),
    ] = False
    workers: WorkersOption = "0"
    on_error: Annotated[
        str,
        typer.Option(help="What to do with an unreadable image: raise, or skip (it is named and counted)."),
    ] = "raise"
    decode: Annotated[
        str,
        typer.Option(
            help="How to decode: full, or jpeg_scaled, which is faster for JPEGs much larger than the "
            "input, but changes pixels."
        ),
    ] = "full"
    layers: LayersOption = None
    attention: AttentionOption = None
    positions: PositionsOption = None
    keep_maps: KeepMapsOption = False
    rotations: Annotated[
        str | None,
        typer.Option(
            help="The orders of the options that a vision-language model is asked in: all (each option comes "
            "first once; the default), or given."
        ),
    ] = None
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="The most tokens of a vision-language model's answer; default 128."),
    ] = None
    stores: StoreOptions
    results: Annotated[Path, typer.Option(help="Folder for result rows and per-image tables.")] = Path(
        "results"
    )
    distributed: DistributedOption = False
    all_metrics: Annotated[
        bool,
        typer.Option("--all-metrics", help="Print every number of the task, not only the usual ones."),
    ] = False
    as_json: JsonOption = False

    def check(self) -> None:
        """Raises UsageError before a model is loaded."""
        if self.data_root is None:
            self._check_task()
        self._check_source()
        if self.data_root is None and len(self.prompts or []) > 1:
            raise UsageError("several --prompts need --data-root; with --data give one")
        if self.data_root is not None:
            refuse_beside("--data-root", on_command_line(self.context, OF_ONE_RUN))
        if self.predictions is not None:
            refuse_beside("--predictions", on_command_line(self.context, OF_A_MODEL))
        datasets = (self.dataset, self.id_dataset)
        is_run = self.predictions is None  # else --model is only the name in the rows
        check_names(
            evaluated=(self.model,) if is_run else (),
            models=(self.facts.facts_of,),
            card=self.card,
            datasets=datasets,
            prompts=self.prompts or (),
            labels=self.labels,
            roots=(self.data, self.id_data),
        )
        self._check_predictions()

    def _check_source(self) -> None:
        """Exactly one of --data, --data-root and --predictions, but predictions may be of --data."""
        sources = {"--data": self.data, "--data-root": self.data_root, "--predictions": self.predictions}
        given = [name for name, value in sources.items() if value is not None]
        if len(given) != 1 and given != ["--data", "--predictions"]:
            raise UsageError(
                f"give one of {', '.join(sources)}{': not ' + ' and '.join(given) if given else ''}"
            )
        if self.predictions is None and self.model is None:
            raise UsageError("say which model: --model ID, hub repository, folder or checkpoint")

    def _check_predictions(self) -> None:
        from clipjax.storage.buckets import BucketPath, place
        from clipjax.storage.reading import exists

        path = None if self.predictions is None else place(self.predictions)
        if path is not None and not isinstance(path, BucketPath) and not exists(path):
            raise DataError(f"{path} does not exist; give a .parquet, .csv or .npz file")

    def _check_task(self) -> None:
        from clipjax.tasks.collections import ALL, collections
        from clipjax.tasks.names import TASKS, needs_of

        if self.task in (*collections(), ALL):
            raise UsageError(
                f"{self.task!r} is a collection of tasks: run it on a folder of data sets, --data-root FOLDER"
            )
        TASKS.check(self.task)
        others = OF_IMAGES if "pairs" in needs_of(self.task) else ("keep_maps",)
        refuse_beside(f"the task {self.task}", on_command_line(self.context, others))

    def request(self) -> Request:
        """The first of several --prompts."""
        from clipjax.evaluation.request import Request

        prompts = next(iter(self.prompts or []), None)
        return fields_of(Request, self, root=self.data, id_root=self.id_data, prompts=prompts)

    def compute(self) -> Compute:
        return self.stores.compute(
            per_device_batch=batch_asked(self.batch_size),
            params=self.params,
            workers=workers_asked(self.workers),
            on_error=self.on_error,
            keep_maps=self.keep_maps,
        )

    def loading(self) -> dict[str, Any]:
        """As `load_model` takes it."""
        return {"card": self.card, **self.facts.stated(self.name)}

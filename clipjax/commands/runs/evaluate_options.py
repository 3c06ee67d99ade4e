"""The options of `clipjax eval`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from clipjax.commands.shared import completion
from clipjax.commands.shared.exclusions import on_command_line, refuse_beside
from clipjax.commands.shared.facts import FactOptions
from clipjax.commands.shared.names import check_names
from clipjax.commands.shared.options import (
    AnyModelOption,
    CardOption,
    DistributedOption,
    JsonOption,
    NameOption,
    TrackOption,
)
from clipjax.commands.shared.records import FieldsOf, field_option
from clipjax.commands.shared.stores import StoreOptions
from clipjax.embeddings.compute import Compute
from clipjax.errors import DataError, UsageError
from clipjax.evaluation.request import Request
from clipjax.options import options_of
from clipjax.results.tracking.tracker import check_trackers

PIXELS = ("pixel_store", "pixel_budget")
_OPTIONS = (*options_of(Request).values(), *options_of(Compute).values())
# Without effect beside --predictions: no model runs.
OF_A_MODEL = (
    *("card", "name", "facts_of", "fact", "facts", "store", *PIXELS, "distributed"),
    *(each.name for each in _OPTIONS if each.kind is not None and each.of_model),
)
# Fields refused here where a task's kinds of run (`Kind.options`) do not take them, others later.
OF_KINDS = ("labels", "prompts", "per_device_batch", "workers", "decode", "pixel_store", "keep_maps")
# Without effect beside --data-root: the cards decide.
OF_ONE_RUN = tuple(each.name for each in _OPTIONS if each.of_card)


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """`clipjax eval` takes all options of `Request` and `Compute`."""

    PANELS: ClassVar = {
        "Model": ("model", "predictions", "card", "name", "facts_of", "fact", "facts"),
        "Data": ("data_root",),
        "Measurement": (),
        "Pairs of images": (),
        "Vision-language models": (),
        "Speed and storage": ("store", *PIXELS, "distributed"),
        "Output": ("results", "track", "all_metrics", "as_json"),
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
    predictions: Annotated[
        Path | None,
        typer.Option(help="Instead of --model: per-image outputs of any framework (.parquet, .npz, .csv)."),
    ] = None
    card: CardOption = None
    name: NameOption = None
    facts: FactOptions
    data_root: Annotated[
        Path | None,
        typer.Option(
            "--data-root",
            help="Folder of data sets: run the task on each that it is made for (`clipjax datasets list`).",
        ),
    ] = None
    request: Request
    prompts: Annotated[
        list[str] | None,
        field_option(Request, "prompts", more="With --data-root it may be repeated."),
    ] = None
    how: Annotated[dict[str, Any], FieldsOf(Compute, per_device_batch=64)]
    stores: StoreOptions
    distributed: DistributedOption = False
    results: Annotated[Path, typer.Option(help="Folder for result rows and per-image tables.")] = Path(
        "results"
    )
    track: TrackOption = None
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
        check_trackers(self.track or ())
        if self.data_root is None and len(self.prompts or []) > 1:
            raise UsageError("several --prompts need --data-root; with --data give one")
        if self.data_root is not None:
            refuse_beside("--data-root", on_command_line(self.context, OF_ONE_RUN))
        if self.predictions is not None:
            refuse_beside("--predictions", on_command_line(self.context, OF_A_MODEL))
        is_run = self.predictions is None  # else --model is only the name in the rows
        check_names(
            evaluated=(self.model,) if is_run else (),
            models=(self.facts.facts_of,),
            card=self.card,
            prompts=self.prompts or (),
            request=self.request,
        )
        self._check_predictions()

    def _check_source(self) -> None:
        """Exactly one of --data, --data-root and --predictions, but predictions may be of --data."""
        sources = {
            "--data": self.request.root,
            "--data-root": self.data_root,
            "--predictions": self.predictions,
        }
        named = [name for name, value in sources.items() if value is not None]
        if len(named) != 1 and named != ["--data", "--predictions"]:
            raise UsageError(
                f"give one of {', '.join(sources)}{': not ' + ' and '.join(named) if named else ''}"
            )
        if self.predictions is None and self.model is None:
            raise UsageError("say which model: --model ID, hub repository, folder or checkpoint")

    def _check_predictions(self) -> None:
        from clipjax.storage.reading import exists
        from clipjax.storage.remote.buckets import BucketPath, as_path

        path = None if self.predictions is None else as_path(self.predictions)
        if path is not None and not isinstance(path, BucketPath) and not exists(path):
            raise DataError(f"{path} does not exist; give a .parquet, .csv or .npz file")

    def _check_task(self) -> None:
        from clipjax.evaluation.kinds.kind_names import options_taken
        from clipjax.tasks.collections import ALL, collections
        from clipjax.tasks.task_names import TASKS, listed

        if self.task in (*collections(), ALL):
            raise UsageError(
                f"{self.task!r} is a collection of tasks: run it on a folder of data sets, --data-root FOLDER"
            )
        TASKS.check(self.task)
        taken = {option for kind in listed(self.task).kinds for option in options_taken(kind)}
        known = options_of(Request) | options_of(Compute)
        others = [known[field].name for field in OF_KINDS if field not in taken]
        others += PIXELS[1:] if "pixel_store" in others else ()
        refuse_beside(f"the task {self.task}", on_command_line(self.context, others))

    def one_run(self) -> Request:
        """The request with the first of several --prompts."""
        return replace(self.request, prompts=next(iter(self.prompts or []), None))

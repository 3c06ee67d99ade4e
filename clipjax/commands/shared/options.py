"""Options of several commands, each declared once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from clipjax.commands.shared import completion
from clipjax.commands.shared.exclusions import refuse_beside
from clipjax.commands.shared.records import field_option
from clipjax.evaluation.request import Request

# The model.
_MODEL = typer.Option(
    "--model",
    "-m",
    help="Model id, hub repository, folder or checkpoint.",
    autocompletion=completion.models,
)
ModelOption = Annotated[str | None, _MODEL]
AnyModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="Model id, hub repository, folder or checkpoint; torch:LIBRARY:NAME for a model or folder of "
        "open_clip, timm or transformers, run in PyTorch (of the hub: torch:open_clip:hf-hub:org/name, "
        "torch:transformers:org/name); server:http://HOST:PORT/v1#NAME for a vision-language model that a "
        "server runs; or module:function, Python that returns a model.",
        autocompletion=completion.models,
    ),
]
NeededModelOption = Annotated[str, _MODEL]
OnlyModelsOption = Annotated[
    list[str] | None,
    typer.Option("--models", "-m", help="Only this model; may be repeated. Default: all."),
]
CARD_IDS = (
    "the registered model to load it as, or its library's name of the architecture, open_clip:ViT-B-32 or "
    "timm:resnet18."
)
CardOption = Annotated[str | None, typer.Option(metavar="ID", help=f"If --model is bare weights: {CARD_IDS}")]
NameOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Name of the model. Default: the registered id if the weights are known to be its own, "
        "else the name of the folder or file.",
    ),
]

# The data, and how it is computed.
DatasetOption = Annotated[str | None, field_option(Request, "dataset")]
StoreOption = Annotated[
    Path | None,
    typer.Option("--store", help="Folder of the store, or its URL; default: the user's cache."),
]
PixelStoreOption = Annotated[
    Path | None,
    typer.Option(
        "--pixel-store",
        help="Keep decoded pixels in this folder ('cache': the user's cache), for models that share them.",
    ),
]
PixelBudgetOption = Annotated[
    str | None, typer.Option("--pixel-budget", help="The most that the pixel store may take; default 100GB.")
]
SuiteDataOption = Annotated[
    Path | None, typer.Option("--data-root", help="Folder of data sets, in place of the suite's.")
]
ModelRootOption = Annotated[
    Path | None,
    typer.Option("--model-root", help="Folder of checkpoints named by model id, used in place of the hub's."),
]
NoPixelStoreOption = Annotated[
    bool, typer.Option("--no-pixel-store", help="Decode images anew for every model; keep no pixels.")
]
SampleOption = Annotated[
    int | None, field_option(Request, "limit", "A run for which the suite has a smaller limit keeps it.")
]
DistributedOption = Annotated[
    bool, typer.Option("--distributed", help="Join the other processes first: this is one of several.")
]

# The files of data sets.
SourceOption = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="DIR",
        help="Folder of files that you have already: they are verified and used, not downloaded.",
    ),
]
AcceptOption = Annotated[
    list[str] | None,
    typer.Option(
        "--accept",
        metavar="NAME",
        help="Accept the terms of this data set or family (`all`: of all); may be repeated.",
    ),
]

# Result rows, and what is made of them.
OnlyPromptsOption = Annotated[
    str | None,
    typer.Option(
        "--prompts", help="Only runs with this prompt set, where a model was evaluated with several."
    ),
]
OnlyPrecisionOption = Annotated[
    str | None, typer.Option("--precision", help="Only runs of this precision: parity or fast.")
]
OnlyTasksOption = Annotated[
    list[str] | None, typer.Option("--task", "-t", help="Only this task; may be repeated.")
]
OnlyDatasetsOption = Annotated[
    list[str] | None, typer.Option("--dataset", "-d", help="Only this data set; may be repeated.")
]
ShareOption = Annotated[str, typer.Option("--metric", help="A share of images, e.g. top1.")]
OnlyLabelsOption = Annotated[str | None, typer.Option("--labels", help="Only runs over this label space.")]
RunArgument = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="Id of a run (`clipjax results list --runs`), or the beginning of one."
    ),
]
PromptSetOption = Annotated[
    str | None,
    typer.Option(
        "--prompts",
        help="The prompt set to use if a number was measured with several. Default: the study's, openai_80; "
        "none in `clipjax results curation`.",
    ),
]
PrecisionOption = Annotated[
    str, typer.Option("--precision", help="Use numbers of this precision: parity or fast.")
]
FigureOption = Annotated[
    list[str] | None,
    typer.Option(
        "--figure",
        "-f",
        help="Only this figure or table, e.g. fig1, table2 or mine.toml; may be repeated. Default: all of "
        "the paper.",
    ),
]
HighlightOption = Annotated[
    list[str] | None,
    typer.Option("--highlight", help="A model to draw as a star with its name beside it; may be repeated."),
]
ClaimsOption = Annotated[
    Path | None,
    typer.Option("--claims", help="Your own claims: a file like configs/claims.toml."),
]
MetricOption = Annotated[
    list[str] | None, typer.Option("--metric", help="Only this metric, e.g. top1; may be repeated.")
]
LinesOption = Annotated[
    int, typer.Option("--limit", min=0, help="Print at most this many lines of a table; 0 for all.")
]
OutFolderOption = Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")]
OutFileOption = Annotated[Path | None, typer.Option("--out", "-o", help="File to write; default: stdout.")]
RatesOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--rates",
        help="Measured images a second, as `--batch-size auto` records them: a file, or a folder such as "
        "~/.cache/clipjax/batch_sizes; may be repeated.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print everything as JSON on stdout.")]


TrackOption = Annotated[
    list[str] | None,
    typer.Option(
        "--track",
        metavar="TRACKER",
        help="Show the runs in tensorboard, wandb or mlflow as they are made; may be repeated. A tracker's "
        "own settings say where to, e.g. WANDB_MODE=offline.",
    ),
]
NoRetryOption = Annotated[
    bool,
    typer.Option(
        "--no-retry",
        help="Leave runs alone that failed before and have a record below the results. Default: they run "
        "again.",
    ),
]


ResultsOption = Annotated[Path | None, typer.Option("--results", help="The same as RESULTS.")]


@dataclass(frozen=True, kw_only=True)
class ResultsOptions:
    """The folder of result rows: the last argument, or --results as in the commands that write it."""

    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="RESULTS",
            help="Folder that `clipjax eval --results` wrote to. Default: results.",
        ),
    ] = None
    results: ResultsOption = None

    @property
    def path(self) -> Path:
        """Raises UsageError if both were given."""
        refuse_beside("--results", {"RESULTS": self.folder if self.results is not None else None})
        return self.folder or self.results or Path("results")

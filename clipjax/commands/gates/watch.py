"""`clipjax watch DIR`."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from clipjax.commands.gates.gate_options import PANELS, Conditions, GateOptions, as_model, show
from clipjax.commands.shared.output import announce, say
from clipjax.commands.shared.records import with_options
from clipjax.devices import signals
from clipjax.errors import DataError, some_of

if TYPE_CHECKING:
    from clipjax.embeddings.compute import Compute
    from clipjax.gates.watch import Watch


NAMED = 4  # files that a message names


def register(app: typer.Typer) -> None:
    app.command("watch")(with_options(WatchOptions, watch))


@dataclass(frozen=True, kw_only=True)
class WatchOptions:
    PANELS: ClassVar = {**PANELS, "When": ("once", "every", "settle")}
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="Folder that training writes to: epoch_N.pt of open_clip, steps of Orbax, or clipjax's "
            "models.",
        ),
    ]
    conditions: Conditions
    shared: GateOptions
    like: Annotated[
        str | None,
        typer.Option(
            "--like",
            metavar="MODEL",
            rich_help_panel="What is judged",
            help="A model of the checkpoints' architecture and preprocessing. Default: the reference.",
        ),
    ] = None
    once: Annotated[
        bool,
        typer.Option("--once", help="Judge the checkpoints that are there and end, for a scheduled job."),
    ] = False
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two readings of the folder.")] = 60.0
    settle: Annotated[
        float, typer.Option(min=0, help="Seconds without a change after which an epoch_N.pt is finished.")
    ] = 30.0


def watch(options: WatchOptions) -> None:
    r"""Judge the checkpoints of a training run as `clipjax gate` does, each once when it is finished.

    A checkpoint that is still being written is not read. A watch that starts again goes on where its record
    (--out) ends. It runs until it is stopped, or until --planned checkpoints are judged. The exit code is
    that of `clipjax gate` for the newest checkpoint, or 1 if a checkpoint could not be read.

    Examples:

        clipjax watch logs/run/checkpoints "not_worse(top1, 0.005)" \
            --against vit_b_32-openai --suite mine.toml --planned 32

        clipjax watch flyp/seed1/train/checkpoints "not_worse(top1, 0.005)" \
            --against vit_b_32-openai --suite mine.toml --once
    """
    shared = options.shared
    gate = shared.gate(options.conditions)
    from clipjax.gates.gate import raise_unless_passed
    from clipjax.gates.watch import Watch

    watched = Watch(
        gate, options.folder, None if options.like is None else as_model(options.like), options.settle
    )
    compute = shared.compute()
    problems, own = _look(watched, compute, shared.as_json)
    while not options.once and not _is_over(watched, compute):
        time.sleep(options.every)
        for seen, more in zip((problems, own), _look(watched, compute, shared.as_json)):
            seen += more
    signals.done()
    history = gate.history(compute)
    if shared.as_json:
        say(json.dumps(dataclasses.asdict(history), indent=1))
    if problems:
        raise DataError(problems[0])
    if not history.judged:
        raise DataError(_nothing(watched, own))
    raise_unless_passed(history.judged[-1])


def _look(watched: Watch, compute: Compute, as_json: bool) -> tuple[list[str], list[str]]:
    """Judge what is new.

    Returns why checkpoints could not be read, and the names of those with the reference's own weights.
    """
    problems, own = [], []
    for each in watched.step(compute):
        if each.judgement is not None and not as_json:
            show(each.judgement, is_new=each.is_new)
        elif each.problem:
            announce(each.problem)
            problems += [] if each.is_reference else [each.problem]
            own += [each.name] if each.is_reference else []
    return problems, own


def _is_over(watched: Watch, compute: Compute) -> bool:
    planned = watched.gate.spending.planned
    return planned is not None and len(watched.gate.history(compute).judged) >= planned


def _nothing(watched: Watch, own: Sequence[str]) -> str:
    """Why nothing was judged; `own`: checkpoints with the reference's own weights."""
    waiting = [f"{each.path.name} ({each.unfinished})" for each in watched.unfinished()]
    rest = f"; not finished: {some_of(waiting, NAMED)}" if waiting else ""
    if own:
        return (
            f"{watched.folder} has no checkpoint to judge: {some_of(own, NAMED)} has the reference's own "
            f"weights; watch again when training has written others{rest}"
        )
    others = sorted(path.name for path in watched.folder.iterdir())
    there = f"; there are {some_of(others, NAMED)}" if others and not waiting else ""
    return (
        f"{watched.folder} has no finished checkpoint: epoch_N.pt of open_clip, a step of Orbax, or a folder "
        f"with card.json{rest}{there}"
    )

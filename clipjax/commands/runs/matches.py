"""`clipjax matches`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from clipjax.commands.shared.names import check_names
from clipjax.commands.shared.output import say
from clipjax.commands.shared.processes import say_slow
from clipjax.commands.shared.records import FieldsOf, with_options
from clipjax.evaluation.request import Request


def register(app: typer.Typer) -> None:
    app.command("matches")(with_options(MatchesOptions, matches))


@dataclass(frozen=True, kw_only=True)
class MatchesOptions:
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Folder of a data set of pairs, as `clipjax eval --data`.")
    ]
    model: Annotated[
        list[str],
        typer.Option("--model", "-m", help="Model, as `clipjax eval --model` takes it; may be repeated."),
    ]
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write: .png, .jpg, .pdf or .svg.")]
    how: Annotated[
        dict[str, Any], FieldsOf(Request, "dataset", "precision", "layers", "attention", "positions")
    ]
    pair: Annotated[
        list[str] | None,
        typer.Option(help="Id of a pair, as in images.parquet; may be repeated. Default: the first pair."),
    ] = None
    drawn: Annotated[
        int, typer.Option(min=1, help="Draw at most this many matches, from the strongest to the weakest.")
    ] = 80


def matches(options: MatchesOptions) -> None:
    r"""Draw the matches between two views: right ones, and wrong ones dashed.

    What is right is decided by the data set's card, as in the recall of `clipjax eval correspondence`.

    Example:

        clipjax matches /data/navi --dataset navi --model vit_b_16-openai \
            --out pair.png
    """
    check_names(evaluated=options.model, datasets=(options.how["dataset"],), roots=(options.data,))
    say_slow(options.how["precision"])
    from clipjax.evaluation.kinds.pairs.draw_matches import draw_matches

    sides = draw_matches(
        options.model,
        options.out,
        root=options.data,
        pairs=options.pair or (),
        drawn=options.drawn,
        **options.how,
    )
    for side in sides:
        say(f"{side.name}: {side.right.sum()} of {len(side.right)} matches are right")
    say(str(options.out))

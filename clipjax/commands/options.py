"""Options that several commands have, said once."""

from __future__ import annotations

from typing import Annotated

import typer

DatasetOption = Annotated[
    str | None,
    typer.Option("--dataset", "-d", help="Data set card (see `clipjax datasets list`) or a card's file."),
]
LabelsOption = Annotated[
    str | None,
    typer.Option(help="What the classes are, where no card says: a name (imagenet) or a CSV file."),
]
WorkersOption = Annotated[
    str,
    typer.Option(
        help="Decoding processes; 0 decodes in threads of this one, auto tries once what is fastest here."
    ),
]

"""`clipjax doctor`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from clipjax.commands.shared.exclusions import refuse_without
from clipjax.commands.shared.options import JsonOption, StoreOption
from clipjax.commands.shared.output import say
from clipjax.errors import DataError, counted

_COLOURS = {"fine": None, "note": "yellow", "broken": "red"}


def register(app: typer.Typer) -> None:
    app.command("doctor")(doctor)


def doctor(
    data_root: Annotated[
        Path | None, typer.Option("--data-root", help="Folder of data sets to check, too.")
    ] = None,
    models: Annotated[
        str | None,
        typer.Option(
            help="With --data-root: check that there is room for the embeddings of these models, ids "
            "A,B,... Default: all registered ones."
        ),
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    r"""Check devices, versions, caches, config folders and data before a run; change nothing.

    Each line says what to do. Exit code: 0 nothing is broken, 1 something must be fixed.

    Example:

        clipjax doctor --data-root /data \
            --models vit_b_32-openai,vit_l_14-openai
    """
    from clipjax.commands.shared.config_readers import read_config
    from clipjax.doctor.examine import examine
    from clipjax.doctor.line import BROKEN
    from clipjax.doctor.machine import this_machine

    ids, lines = _ids(models, data_root), []
    where = {"store": store, "data_root": data_root, "models": ids}
    for line in examine(this_machine(), **where, read_config=read_config):
        lines.append(line)
        if not as_json:
            _show(line)
    broken = [line.check for line in lines if line.status == BROKEN]
    names = list(dict.fromkeys(broken))
    if as_json:
        say(json.dumps({"lines": [dataclasses.asdict(line) for line in lines], "broken": names}, indent=2))
    if broken:
        raise DataError(f"{counted(len(broken), 'thing')} must be fixed: {', '.join(names)}")


def _ids(models: str | None, data_root: Path | None) -> tuple[str, ...]:
    """An unknown id is refused before anything is examined."""
    if data_root is None:
        refuse_without("--data-root", {"--models": models})
    if models is None:
        return ()
    from clipjax.checkpoints.identity.registry import model_card

    return tuple(model_card(name.strip()).id for name in models.split(","))


def _show(line: object) -> None:
    check, status, says, do = dataclasses.astuple(line)  # pyright: ignore[reportArgumentType]
    say(f"{status:<6}  {check:<13}  {says}", fg=_COLOURS[status])
    if do:
        say(f"{'':<6}  {'':<13}  -> {do}")

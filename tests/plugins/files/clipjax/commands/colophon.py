"""`clipjax colophon`: who made this."""

from __future__ import annotations

import typer

from clipjax.commands.shared.output import say


def register(app: typer.Typer) -> None:
    app.command("colophon")(colophon)


def colophon() -> None:
    """Say what this is."""
    say("a plug-in of the tests")

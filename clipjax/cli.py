"""The command line: `clipjax COMMAND`. A module of `clipjax/commands/` that has `register` adds its commands.

Exit codes: 0 done, 1 data, 2 usage, 75 interrupted (run it again and it goes on), 130 stopped by Ctrl-C, 141
the reader of a pipe has gone. Results go to stdout, progress and errors to stderr.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys

import typer

from clipjax import commands
from clipjax.commands.shared.failures import in_one_sentence
from clipjax.config import plug_ins
from clipjax.devices import signals
from clipjax.errors import ClipjaxError
from clipjax.results.escaping import terminal
from clipjax.results.remarks import remarks

# Modules in the order in which `clipjax --help` lists their commands; others follow by name.
ORDER = (
    *(
        "models",
        "convert",
        "export",
        "verify",
        "evaluate",
        "sweep",
        "crosscheck",
        "tasks",
        "compare",
        "generate",
    ),
    *("doctor", "explain", "analyze", "report", "claims", "finetune", "wise_ft"),
    *("datasets", "results", "store"),
)

app = typer.Typer(
    name="clipjax",
    help="How robust is CLIP? Convert, verify, evaluate and fine-tune CLIP models in JAX.",
    epilog="First steps: `clipjax models`, then `clipjax eval zeroshot --model ID --data DIR`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def command_modules() -> list[str]:
    """Those of `commands/` and its folders that have `register`, in the order of `ORDER`."""
    inside = pkgutil.iter_modules(commands.__path__, f"{commands.__name__}.")
    folders = [commands.__name__, *(module.name for module in inside if module.ispkg)]
    modules = [
        (name, f"{folder}.{name}")
        for folder in folders
        for name in plug_ins(importlib.import_module(folder).__path__, "def register")
    ]
    place = {name: number for number, name in enumerate(ORDER)}
    return [
        module for _, module in sorted(modules, key=lambda each: (place.get(each[0], len(ORDER)), each[0]))
    ]


for _module in command_modules():
    importlib.import_module(_module).register(app)


@app.callback()
def _say_remarks(context: typer.Context) -> None:
    """When a command ends, print what readers remarked, each kind once."""
    remarks()
    context.call_on_close(lambda: [typer.echo(terminal(each), err=True) for each in remarks()])


def main() -> None:
    """SIGTERM and Ctrl-C end it (`clipjax.devices.signals`)."""
    signals.run(_command)


def _command() -> None:
    """Prints every error that a user can cause as one sentence on stderr."""
    try:
        with in_one_sentence():
            app()
    except ClipjaxError as error:
        signals.check()  # Ctrl-C also ends the processes that we started: do not report that as a failure
        print(terminal(f"clipjax: {error}"), file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()

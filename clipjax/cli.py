"""The command line: `clipjax COMMAND`. A module of `clipjax/commands/` that has `register` adds its commands.

Exit codes: 0 done, 1 data, 2 usage, 75 interrupted (run it again and it goes on), 130 stopped by Ctrl-C, 141
the reader of a pipe has gone. Results go to stdout, progress and errors to stderr.
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import platform
import sys
from importlib import metadata
from typing import Annotated

import typer

from clipjax.commands.shared.failures import in_one_sentence
from clipjax.commands.shared.help import shape_help
from clipjax.commands.shared.notes import logs_as_notes
from clipjax.commands.shared.output import answering, say
from clipjax.config import with_folders
from clipjax.devices import signals
from clipjax.entry_points import CONFIGS_VARIABLE
from clipjax.errors import ClipjaxError
from clipjax.guards import known_name
from clipjax.progress import LEVELS, set_level
from clipjax.registry import Registry
from clipjax.results.escaping import terminal
from clipjax.results.remarks import remarks

COMMANDS = Registry("command", "def register")
# Modules in the order in which `clipjax --help` lists their commands; others follow by name.
ORDER = (
    *(
        "models",
        "convert",
        "export",
        "verify",
        "evaluate",
        "study",
        "crosscheck",
        "tasks",
        "compare",
        "rank",
        "pareto",
        "power",
        "gate",
        "watch",
        "gallery",
        "generate",
    ),
    *("doctor", "explain", "finetune", "wise_ft"),
    *("datasets", "results", "store"),
)

START = """\
How robust is CLIP? Evaluation and fine-tuning in JAX. Where to start:

  clipjax doctor                      is this machine ready?
  clipjax models                      the models that clipjax knows by name
  clipjax tasks                       what can be measured
  clipjax datasets list               the data sets that it knows

  clipjax eval zeroshot --model vit_b_32-openai --data FOLDER_OF_CLASS_FOLDERS
  clipjax results list                what was measured

clipjax --help lists all commands; clipjax COMMAND --help explains one."""

app = typer.Typer(
    name="clipjax",
    help="How robust is CLIP? Convert, verify, evaluate and fine-tune CLIP models in JAX.",
    epilog="First steps: `clipjax models`, then `clipjax eval zeroshot --model ID --data DIR`.",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def command_modules() -> list[str]:
    """The modules of `commands/` and its folders that have `register`, in the order of `ORDER`."""
    place = {name: number for number, name in enumerate(ORDER)}
    names = sorted(COMMANDS.own(), key=lambda name: (place.get(name, len(ORDER)), name))
    return [COMMANDS.own()[name].dotted for name in names]


for _module in command_modules():
    importlib.import_module(_module).register(app)
shape_help(app)


def _print_version(asked: bool) -> None:
    if asked:
        ours, jax = metadata.version("clipjax"), metadata.version("jax")
        say(f"clipjax {ours} (Python {platform.python_version()}, JAX {jax})")
        raise typer.Exit


@app.callback()
def _begin(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,
            help="Print the versions of clipjax, Python and JAX.",
        ),
    ] = False,
    log_level: Annotated[
        str,
        typer.Option(
            help="What appears on stderr: error (a failure's sentence alone), warning (also notes), info "
            "(also progress), or debug (also what the libraries log)."
        ),
    ] = "info",
    configs: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FOLDER",
            help="A folder like clipjax's configs/ with models, data cards, prompts or figures of yours; may "
            f"be repeated. {CONFIGS_VARIABLE} is the same.",
        ),
    ] = None,
) -> None:
    """Begin every command. When it ends, print what readers remarked, each kind once."""
    del version
    _set_level(context, log_level)
    if configs:
        before = os.environ.get(CONFIGS_VARIABLE, "")
        os.environ[CONFIGS_VARIABLE] = with_folders(configs)  # also for the processes that it starts
        context.call_on_close(lambda: os.environ.update({CONFIGS_VARIABLE: before}))
    if context.invoked_subcommand is None:
        say(START)
    remarks()  # forget those of an earlier command in this process
    context.call_on_close(lambda: [say(each, err=True) for each in remarks()])


def _set_level(context: typer.Context, level: str) -> None:
    known_name("log level", level, LEVELS)
    set_level(level)
    if level == "debug":
        logging.basicConfig(level=logging.DEBUG, format="%(name)s: %(message)s")
    else:
        context.with_resource(logs_as_notes())


# Python looks for garbage after this many new objects, in its three generations. Its own (700, 10, 10) take a
# tenth of a short command's time: imports make many objects and little garbage.
GARBAGE = (20_000, 10, 10)


def main() -> None:
    """Print every error that a user can cause as one sentence. SIGTERM and Ctrl-C end it (`signals`)."""
    gc.set_threshold(*GARBAGE)
    with signals.handled():
        try:
            with in_one_sentence(), answering():
                app()
        except ClipjaxError as error:
            signals.check()  # Ctrl-C also ends the processes that we started: do not report that as a failure
            print(terminal(f"clipjax: {error}"), file=sys.stderr)
            sys.exit(error.exit_code)


if __name__ == "__main__":
    main()

"""The command line: `clipjax COMMAND`. One file a group of commands in `clipjax/commands/`.

Exit codes: 0 done, 1 data (a file or folder is not what it should be), 2 usage, 75 interrupted: run it
again and it goes on, 130 stopped by Ctrl-C, 141 the reader of a pipe has gone. Results go to stdout, progress
and errors to stderr.
"""

from __future__ import annotations

import signal
import sys
from typing import Any, NoReturn

import typer

from clipjax.commands import (
    analyze,
    claims,
    compare,
    crosscheck,
    datasets,
    doctor,
    evaluate,
    explain,
    finetune,
    models,
    report,
    results,
    store,
    sweep,
    tasks,
    wise_ft,
)
from clipjax.commands.failures import in_one_sentence
from clipjax.errors import ClipjaxError, Interrupted

app = typer.Typer(
    name="clipjax",
    help="How robust is CLIP? Convert, verify, evaluate and fine-tune CLIP models in JAX.",
    epilog="First steps: `clipjax models`, then `clipjax eval zeroshot --model ID --data DIR`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
models.register(app)
evaluate.register(app)
sweep.register(app)
crosscheck.register(app)
tasks.register(app)
compare.register(app)
doctor.register(app)
explain.register(app)
analyze.register(app)
report.register(app)
claims.register(app)
finetune.register(app)
wise_ft.register(app)
app.add_typer(datasets.app, name="datasets")
app.add_typer(results.app, name="results")
app.add_typer(store.app, name="store")

INTERRUPTED = 75
STOPPED = 130


def main() -> None:
    """Run the command line; every error a user can cause is one sentence on stderr."""
    signal.signal(signal.SIGTERM, _requeue)
    signal.signal(signal.SIGINT, _stop)  # typer would take a KeyboardInterrupt and say nothing
    try:
        with in_one_sentence():
            app()
    except (ClipjaxError, Interrupted) as error:
        print(f"clipjax: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _requeue(*_: Any) -> NoReturn:
    """SIGTERM: a scheduler takes the machine away. What is stored is complete; ask to be run again."""
    print("clipjax: interrupted; finished shards are kept, run the same command again", file=sys.stderr)
    sys.exit(INTERRUPTED)


def _stop(*_: Any) -> NoReturn:
    """SIGINT: Ctrl-C."""
    print("clipjax: stopped; finished shards are kept, the same command goes on from there", file=sys.stderr)
    sys.exit(STOPPED)


if __name__ == "__main__":
    main()

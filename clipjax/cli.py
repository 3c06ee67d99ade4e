"""The command line: `clipjax COMMAND`. Each group of commands is a file in `clipjax/commands/`.

Exit codes: 0 done; 1 data (a file or folder is not what it should be); 2 usage; 75 interrupted, run it again
and it goes on; 130 stopped by Ctrl-C; 141 the reader of a pipe has gone. Results go to stdout, progress and
errors to stderr.
"""

from __future__ import annotations

import sys

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
    results_diff,
    store,
    sweep,
    tasks,
    wise_ft,
)
from clipjax.commands.shared.failures import in_one_sentence
from clipjax.devices import signals
from clipjax.errors import ClipjaxError
from clipjax.results.escaping import terminal
from clipjax.results.remarks import remarks

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
results_diff.register(results.app)
app.add_typer(results.app, name="results")
app.add_typer(store.app, name="store")


@app.callback()
def _say_remarks(context: typer.Context) -> None:
    """When a command ends, print what readers remarked, each kind once."""
    remarks()
    context.call_on_close(lambda: [typer.echo(terminal(each), err=True) for each in remarks()])


def main() -> None:
    """Run the command line; SIGTERM and Ctrl-C end it (`clipjax.devices.signals`)."""
    signals.run(_command)


def _command() -> None:
    """Print every error that a user can cause as one sentence on stderr."""
    try:
        with in_one_sentence():
            app()
    except ClipjaxError as error:
        signals.check()  # Ctrl-C also ends the processes that we started: do not report that as a failure
        print(terminal(f"clipjax: {error}"), file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()

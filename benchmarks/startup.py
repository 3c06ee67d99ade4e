"""Starting a command: processor time, beside that of the interpreter.

    python benchmarks/startup.py

Some commands list something or refuse a name. Four more find everything stored that they need: embeddings,
predictions or runs of two small models (`benchmarks/stored_runs.py`). Each start is a fresh process; its user
and system time count, not the clock. The commands take turns. The first start of each does not count: it
writes Python's bytecode.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from benchmarks import common, stored_runs

GOALS = {  # seconds
    "--help": 0.4,
    "models": 1.0,
    "tasks": 1.0,
    "datasets list": 1.0,
    "eval zeroshoot --model b32 --data .": 1.0,  # a mistyped task
    "eval zeroshot --model vit_b_32-opena --data .": 1.0,
    "verify vit_b_32-openai --against timmm": 1.0,
    "finetune flypp --data . --out tuned": 1.0,
}
_REFUSED = tuple(GOALS)[4:]


def main(
    rounds: Annotated[int, typer.Option(help="Starts of each command.")] = 10, json: common.Json = None
) -> None:
    """Processor time of commands that list something, refuse a mistyped name, or find everything stored."""
    goals = GOALS | stored_runs.COMMANDS
    sides = {command: ["-m", "clipjax.cli", *command.split()] for command in goals}
    sides |= {"python": ["-c", "pass"]}
    times: dict[str, list[float]] = {name: [] for name in sides}
    with common.reported("startup", json) as results, tempfile.TemporaryDirectory() as folder:
        stored_runs.make(Path(folder))
        for arguments in sides.values():
            processor_seconds(arguments, folder)  # writes the bytecode and fills the page cache
        for _ in range(rounds):
            for name, arguments in sides.items():
                times[name].append(processor_seconds(arguments, folder))
        results |= {"seconds": times, "python": common.median(times["python"])}
        common.table([(f"clipjax {command}", line(times, command, goal)) for command, goal in goals.items()])


def processor_seconds(arguments: list[str], folder: str) -> float:
    """User and system time of a Python process in a folder."""
    process = subprocess.Popen(
        [sys.executable, *arguments], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == (2 if " ".join(arguments[2:]) in _REFUSED else 0), arguments
    return used.ru_utime + used.ru_stime


def line(times: dict[str, list[float]], command: str, goal: float) -> str:
    seconds = times[command]
    against = common.ratio(seconds, times["python"])["ratio"]
    return (
        f"{common.median(seconds):.2f} s [{min(seconds):.2f}-{max(seconds):.2f}], {against:.0f}x the "
        f"interpreter's own start; wanted: under {goal:g} s"
    )


if __name__ == "__main__":
    typer.run(main)

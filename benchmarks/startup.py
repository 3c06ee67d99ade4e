"""Starting a command that lists something or refuses a name: processor time, beside that of the interpreter.

    python benchmarks/startup.py

Each start is a fresh process; its user and system time count, not the clock. The commands take turns.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Annotated

import typer

from benchmarks import common

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
_REFUSED = ("eval", "verify", "finetune")


def main(
    rounds: Annotated[int, typer.Option(help="Starts of each command.")] = 10, json: common.Json = None
) -> None:
    """Processor time of commands that list something or refuse a mistyped name."""
    sides = {command: ["-m", "clipjax.cli", *command.split()] for command in GOALS}
    sides |= {"python": ["-c", "pass"]}
    times: dict[str, list[float]] = {name: [] for name in sides}
    with common.reported("startup", json) as results:
        for arguments in sides.values():
            processor_seconds(arguments)  # writes the bytecode and fills the page cache
        for _ in range(rounds):
            for name, arguments in sides.items():
                times[name].append(processor_seconds(arguments))
        results |= {"seconds": times, "python": common.median(times["python"])}
        common.table([(f"clipjax {command}", line(command, times)) for command in GOALS])


def processor_seconds(arguments: list[str]) -> float:
    """User and system time of a Python process."""
    process = subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == (2 if set(_REFUSED).intersection(arguments) else 0), arguments
    return used.ru_utime + used.ru_stime


def line(command: str, times: dict[str, list[float]]) -> str:
    seconds = times[command]
    against = common.ratio(seconds, times["python"])["ratio"]
    return (
        f"{common.median(seconds):.2f} s [{min(seconds):.2f}-{max(seconds):.2f}], {against:.0f}x the "
        f"interpreter's own start; wanted: under {GOALS[command]:g} s"
    )


if __name__ == "__main__":
    typer.run(main)

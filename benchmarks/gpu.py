"""clipjax on a GPU, against torch eager and torch.compile: one command, under eight minutes.

    make gpu-env
    .venv-gpu/bin/python benchmarks/gpu.py --out gpu.jsonl
    python benchmarks/gpu.py --only decode --only bfloat16     # any Python with what is to be measured
    python benchmarks/gpu_table.py gpu.jsonl                   # the table of docs/hardware/gpu.md

Each row is one side of one case in one precision. It is appended to the file as soon as it is measured, and
rows of the file are not measured again: if the minutes do not suffice, the same command measures the rest. A
line names what is left out because a library is missing.

JAX and torch have a process each, alive together, and one works at a time. Both get the same weights;
clipjax's features and first losses are compared with torch's. Calls are queued as a user's are, and a round
ends when its last result is there. `first_seconds` is the first call, with its compilation.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # clipjax need not be installed

from benchmarks import common, gpu_cases
from benchmarks.gpu_cases import CASES, OTHER_FORMS, Case, Request

SCRIPTS = {
    **dict.fromkeys(("clipjax", *OTHER_FORMS), "gpu_clipjax.py"),
    **dict.fromkeys(("eager", "compiled"), "gpu_torch.py"),
}
ROW_SECONDS = 180  # a longer row is given up: its process is ended
KEY = ("device", "case", "precision", "side")

Row = dict[str, Any]


def main(
    only: Annotated[list[str] | None, typer.Option(help="Parts of a row's name; all must be in it.")] = None,
    out: Annotated[Path, typer.Option(help="The file of rows, a line of JSON each.")] = Path("gpu.jsonl"),
    minutes: Annotated[float, typer.Option(help="After these no row begins, and none goes on.")] = 7.5,
    device: Annotated[str, typer.Option(help="cuda or cpu.")] = "cuda",
    smoke: Annotated[bool, typer.Option("--smoke", help="Narrow models: does it run.")] = False,
) -> None:
    """clipjax on a GPU, against torch eager and compiled."""
    deadline = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory() as folder:
        sides = {script: Side(script, device) for script in SCRIPTS.values()}
        requests = [
            Request(case, precision, side, device, folder, smoke)
            for case, precision, side in plan(only or [], measured(out))
        ]
        if not requests:
            raise SystemExit(f"nothing to measure: no row has {only} in its name, or {out} has them all")
        count = 0
        try:
            for row in rows(requests, sides, deadline):
                count += 1
                with out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
        finally:
            for side in sides.values():
                side.close()
    if not count:
        raise SystemExit("nothing could be measured: the lines above say why")


def plan(only: list[str], done: set[tuple[str, ...]]) -> list[tuple[Case, Any, str]]:
    """What is to be measured, in order: what compiles longest comes last."""
    passes: list[tuple[Any, list[str]]] = [
        ("bfloat16", ["eager", "clipjax", *OTHER_FORMS]),  # eager writes what clipjax compares itself with
        ("float32", ["eager", "clipjax"]),
        ("bfloat16", ["compiled"]),
        ("float32", ["compiled"]),
    ]
    wanted = [
        (case, precision, side)
        for precision, sides in passes
        for case in CASES
        for side in sides
        if case.has(side)
    ]
    return [
        each
        for each in wanted
        if all(part in name_of(*each) for part in only) and (each[0].name, *each[1:]) not in done
    ]


def name_of(case: Case, precision: str, side: str) -> str:
    return f"{case.name}, {precision}, {side}"


def measured(out: Path) -> set[tuple[str, ...]]:
    """(case, precision, side) of the file's rows."""
    lines = out.read_text().splitlines() if out.exists() else []
    return {tuple(json.loads(line)[key] for key in KEY[1:]) for line in lines}


def rows(requests: list[Request], sides: dict[str, Side], deadline: float) -> Iterator[Row]:
    """The rows that could be measured; a line about each."""
    lacking: set[tuple[str, str]] = set()
    for request in requests:
        script, case = SCRIPTS[request.side], request.case
        name = name_of(case, request.precision, request.side)
        if (script, case.kind) in lacking:
            continue
        left = deadline - time.monotonic()
        if left <= 0:
            say(f"left out: {name}: no time is left; the same command measures it")
            continue
        answer = sides[script].ask(request.dumps(), min(left, ROW_SECONDS))
        if "lacks" in answer:
            lacking.add((script, case.kind))
            say(f"left out: all of {script} for {case.kind}: {answer['lacks']}")
        elif "problem" in answer:
            sides[script].close()  # its memory may be full
            say(f"left out: {name}: {answer['problem']}")
        else:
            rate = answer["work"] / common.median(answer["seconds"])
            say(f"{name}: {rate:,.0f} a second, first call {answer['first_seconds']:.1f} s")
            facts = {"case": case.name, "precision": request.precision, "side": request.side}
            yield {**facts, "batch": request.batch, **answer}


def say(line: str) -> None:
    print(line, flush=True)


class Side:
    """A library's process: begun by the first request, and again by the first one after a failure."""

    def __init__(self, script: str, device: str):
        self.script, self.process = script, None
        self.environ = dict(os.environ)
        self.environ["PYTHONPATH"] = os.pathsep.join(
            filter(None, [str(gpu_cases.ROOT), os.environ.get("PYTHONPATH")])
        )
        # Only clipjax's side may take the GPU by JAX, and only what it needs: torch's is there, too.
        platforms = "cpu"
        if script == SCRIPTS["clipjax"]:
            platforms = "cuda,cpu" if device == "cuda" else device
        if device == "cpu":  # torch's threads wait by spinning, beside JAX's
            self.environ.setdefault("OMP_NUM_THREADS", "1")
        self.environ |= {"JAX_PLATFORMS": platforms, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}

    def ask(self, request: str, limit: float) -> dict[str, Any]:
        process = self.process = self.process or self._start()
        with contextlib.suppress(BrokenPipeError):  # it has ended
            process.stdin.write(request.encode() + b"\n")
            process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], limit)
        if ready and (line := process.stdout.readline()):
            return json.loads(line)
        problem = f"its process ended with {process.wait()}" if ready else f"more than {limit:.0f} s"
        self.close()
        return {"problem": problem}

    def _start(self) -> Any:
        command = [sys.executable, str(Path(__file__).with_name(self.script))]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=self.environ, stdin=pipe, stdout=pipe)

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


if __name__ == "__main__":
    typer.run(main)

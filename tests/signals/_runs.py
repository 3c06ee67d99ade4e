"""Commands in processes of their own, that are disturbed at random moments.

    python tests/signals/_runs.py MARK SECONDS ARGUMENT...

is `clipjax ARGUMENT...`, whose first compilation takes at least so many seconds, inside XLA; while one is
under way the file MARK is there.
"""

from __future__ import annotations

import functools
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple, Self

from tests import _forks
from tests._forks import Running
from tests._xla_flags import flags_of

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 240.0  # seconds for what takes a few, on a machine that is busy
SLACK = 3.0  # seconds beside the grace, for a busy machine to notice


def environment() -> dict[str, str]:
    """Of a command: it finds `tests`, and compiles what it runs, for one device."""
    settings = {"JAX_ENABLE_COMPILATION_CACHE": "0", "PYTHONPATH": str(ROOT)}
    return {**os.environ, **settings, "XLA_FLAGS": flags_of(1), "PYTHONUNBUFFERED": "1"}


class Command(NamedTuple):
    """A command line, and the folder in which it is given; `forked`, or in an interpreter of its own."""

    folder: Path
    arguments: tuple[str, ...]
    compiling: float = 0.0
    forked: bool = False

    def start(self) -> Running:
        self.folder.mkdir(exist_ok=True)
        self.mark.unlink(missing_ok=True)
        said = self.folder / "said"
        said.write_text("")
        arguments = [str(self.mark), str(self.compiling), *self.arguments]
        nothing = subprocess.DEVNULL
        with said.open("w") as file:
            if self.forked:
                return _forks.start(
                    Path(__file__), arguments, environment(), folder=self.folder, stdout=nothing, stderr=file
                )
            command = [sys.executable, __file__, *arguments]
            return subprocess.Popen(
                command, env=environment(), cwd=self.folder, stdout=nothing, stderr=file, text=True
            )

    def at_once(self) -> Self:
        """The same command, which compiles no longer than its programs take."""
        return self._replace(compiling=0.0)

    @property
    def mark(self) -> Path:
        return self.folder / "compiling"

    def said(self) -> str:
        return (self.folder / "said").read_text()

    def wait_for_word(self, process: Running) -> float:
        """Until the first line of output is there; the time."""
        self._wait(process, lambda: "\n" in self.said())
        return time.monotonic()

    def wait_for_compilation(self, process: Running) -> None:
        self._wait(process, self.mark.exists)

    def _wait(self, process: Running, there: Any) -> None:
        until = time.monotonic() + PATIENCE
        while not there() and process.poll() is None:
            assert time.monotonic() < until, self.said()
            time.sleep(0.005)

    def finish(self) -> tuple[float, float]:
        """Run it to its end, compiling at once; the seconds since its first line, and since its start."""
        start, process = time.monotonic(), self.at_once().start()
        try:
            spoke = self.wait_for_word(process)
            assert process.wait(PATIENCE) == 0, self.said()
            return time.monotonic() - spoke, time.monotonic() - start
        finally:
            process.kill()
            process.wait()


class Ending(NamedTuple):
    """How a command ended that got a signal; `seconds` is the time between the two."""

    code: int
    seconds: float
    compiling: bool


def disturb(
    command: Command, number: signal.Signals, rng: random.Random, seconds: float, compiling: bool
) -> Ending | None:
    """Start a command and send it a signal after its first line; None where it had ended before.

    Args:
        seconds: from its first line to its end.
        compiling: wait for a compilation, and send the signal inside it.
    """
    process = (command if compiling else command.at_once()).start()
    try:
        command.wait_for_word(process)
        if compiling:
            command.wait_for_compilation(process)
            time.sleep(rng.uniform(0, 0.5 * command.compiling))
            command.wait_for_compilation(process)  # it traces between two
        else:
            time.sleep(rng.uniform(0, 0.5 * seconds))  # what is done already takes no time
        inside = command.mark.exists()
        if process.poll() is not None:
            assert process.poll() == 0, command.said()
            return None
        sent = time.monotonic()
        process.send_signal(number)
        inside = inside and command.mark.exists()
        code = process.wait(PATIENCE)
        return Ending(code, time.monotonic() - sent, inside)
    finally:
        process.kill()
        process.wait()


def kill(command: Command, rng: random.Random, seconds: float) -> None:
    """Start a command, which takes so many seconds, and kill it; a real one imports in their first half."""
    process = command.at_once().start()
    time.sleep(seconds * rng.uniform(0.5 if not command.forked else 0, 1))
    process.kill()
    process.wait()


def rows_of(results: Path) -> dict[tuple[str, ...], Any]:
    """Each row of the results, but for who made it; a run that is there twice has the same rows twice."""
    from clipjax.results.store import ResultStore
    from tests.sweep._sweep_world import _MAKER

    found: dict[tuple[str, ...], Any] = {}
    for row in ResultStore(results).rows():
        key = tuple(str(row[name]) for name in ("recipe_hash", "metric", "slice"))
        facts = repr({name: row[name] for name in row if name not in _MAKER})
        assert found.setdefault(key, facts) == facts
    return found


def main() -> None:
    mark, seconds = Path(sys.argv[1]), float(sys.argv[2])
    sys.argv[:3] = ["clipjax"]
    if seconds:
        _compile_slowly(mark, seconds)
    from clipjax.cli import main as clipjax

    clipjax()


def _compile_slowly(mark: Path, seconds: float) -> None:
    """The first program of this process is compiled behind one that takes XLA some seconds."""
    import jax
    import jax.numpy as jnp
    from jax._src import compiler

    compile_program, start = compiler.backend_compile_and_load, time.monotonic
    first = True

    def marked(*arguments: Any, **options: Any) -> Any:
        nonlocal first
        if first:
            first = False
            _compile_for(seconds)
        mark.touch()
        try:
            return compile_program(*arguments, **options)
        finally:
            mark.unlink(missing_ok=True)

    def _compile_for(seconds: float) -> None:
        def program(size: int, x: Any) -> Any:
            for i in range(size):
                x = jnp.tanh(x[: 300 - i % 7] @ x[: 300 - i % 7].T @ x[: 300 - i % 7]) + i
                x = jnp.pad(x, ((0, 300 - x.shape[0]), (0, 0)))
            return x

        size, until = 10, start() + seconds
        while start() < until:
            # A new function each time: for the same one JAX returns the first program.
            longer = functools.partial(program, size)
            jax.jit(longer).lower(jax.ShapeDtypeStruct((300, 300), "float32")).compile()
            size = round(size * 1.5)

    compiler.backend_compile_and_load = marked


if __name__ == "__main__":
    main()

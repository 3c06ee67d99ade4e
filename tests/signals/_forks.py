"""A process that has imported clipjax and forks commands: each starts without the imports' seconds.

    python tests/signals/_forks.py

reads requests from stdin, a line of JSON each, and runs one command at a time. It answers a request with two
lines: the command's process number when it has started, its exit code when it has ended. No backend of JAX
exists before a fork, and the command runs to the end of its interpreter as a real one does.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType

IMPORTS = (
    "jax",
    "grain",
    "pandas",
    "pyarrow.compute",
    "pydantic",
    "tensorboardX",
    "clipjax.cli",
    "clipjax.evaluation.collection",
    "clipjax.embeddings.images",
    "clipjax.evaluation.run",
    "clipjax.checkpoints.load",
    "clipjax.results.tables",
    "clipjax.results.store",
    "clipjax.finetune.before_after",
    "clipjax.finetune.contrastive",
    "clipjax.finetune.methods.linear_probe",
    "clipjax.finetune.run",
    "clipjax.models.families.text",
    "clipjax.models.families.vit",
    "clipjax.sweep.run",
    "clipjax.sweep.shards",
    "clipjax.tasks.calibration",
    "clipjax.tasks.ood",
    "clipjax.tasks.zeroshot",
    "converters.engine",
    "converters.hub",
)


class Forks:
    """The process that forks, from the test's side."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # `select` must see what has not been read
        )

    def __enter__(self) -> Forks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._process:  # its stdin ends, and so does it
            pass

    def start(self, folder: Path, said: Path, arguments: list[str]) -> Forked:
        """Start `_runs.main` with these arguments in `folder`, with stderr in the file `said`."""
        assert self._process.stdin is not None
        request = {"folder": str(folder), "said": str(said), "arguments": arguments}
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        return Forked(self)

    def answer(self, timeout: float | None) -> int | None:
        """The next line of the answer; None where it does not come in this many seconds."""
        stdout = self._process.stdout
        assert stdout is not None
        return int(stdout.readline()) if select.select([stdout], [], [], timeout)[0] else None


class Forked:
    """A forked command, with the methods of `subprocess.Popen` that the tests use."""

    def __init__(self, forks: Forks) -> None:
        self._forks = forks
        pid = forks.answer(None)
        assert pid is not None
        self.pid, self.returncode = pid, None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._forks.answer(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self.returncode = self._forks.answer(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("clipjax", timeout or 0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def serve() -> list[str] | None:
    """Fork a command for each request; in the command return its arguments, at the end of stdin None."""
    child = None
    for line in sys.stdin:
        if child is not None:
            os.waitpid(child, 0)  # until here its number belongs to nobody else
        request = json.loads(line)
        child = os.fork()
        if not child:
            _redirect(request["said"])
            os.chdir(request["folder"])
            return request["arguments"]
        print(child, flush=True)
        end = os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        assert end is not None
        print(end.si_status if end.si_code == os.CLD_EXITED else -end.si_status, flush=True)
    return None


def _redirect(said: str) -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    for number, target in enumerate((nothing, nothing, file)):
        os.dup2(target, number)


def main() -> None:
    for name in IMPORTS:
        importlib.import_module(name)
    from tests.signals import _runs

    if (arguments := serve()) is not None:
        sys.argv[1:] = arguments
        _runs.main()


if __name__ == "__main__":
    main()

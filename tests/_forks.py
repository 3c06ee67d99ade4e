"""A process that has imported clipjax forks the processes of tests: each starts without the imports' seconds.

    python tests/_forks.py SOCKET

takes requests from that socket, a line of JSON each, with three files: stdout and stderr of the new process,
and the pipe that gets its number when it has started and its exit code when it has ended. A script then runs
as `python SCRIPT ARGUMENT...` runs it, to the end of its interpreter: its environment, folder, files, signals
and options of JAX are its own, and no backend of JAX exists before a fork. Two things differ from a fresh
process: modules are imported already, and all forks of one process have one PYTHONHASHSEED.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import psutil

IMPORTS = (
    "jax",
    "grain",
    "pandas",
    "pyarrow.compute",
    "pydantic",
    "pytest",
    "scipy.optimize",
    "tensorboardX",
    "clipjax.cli",
    "clipjax.evaluation.plans.execute",
    "clipjax.embeddings.images",
    "clipjax.evaluation.run",
    "clipjax.checkpoints.load",
    "clipjax.results.tables",
    "clipjax.results.store",
    "clipjax.finetune.before_after",
    "clipjax.finetune.contrastive",
    "clipjax.finetune.methods.linear_probe",
    "clipjax.finetune.finetune",
    "clipjax.models.families.texts.text",
    "clipjax.models.families.patches.vit",
    "clipjax.sweep.execution",
    "clipjax.sweep.shards",
    "clipjax.tasks.calibration",
    "clipjax.tasks.ood",
    "clipjax.tasks.zeroshot",
    "converters.engine",
    "converters.hub",
)
_NUMBER = struct.Struct("i")
File = IO[Any] | int | None


class Forked:
    """A forked process, with the methods of `subprocess.Popen` that the tests use."""

    def __init__(self, status: int, stdout: int | None, stderr: int | None) -> None:
        self._status = status
        self.stdout, self.stderr = (file if file is None else os.fdopen(file) for file in (stdout, stderr))
        self.returncode: int | None = None
        pid = self._number(None)
        assert pid is not None
        self.pid = pid

    def _number(self, timeout: float | None) -> int | None:
        """The next number in the pipe; None where it does not come in this many seconds."""
        if not select.select([self._status], [], [], timeout)[0]:
            return None
        return int(_NUMBER.unpack(os.read(self._status, _NUMBER.size))[0])

    def poll(self) -> int | None:
        if self.returncode is None and (code := self._number(0)) is not None:
            self._end(code)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if (code := self._number(timeout)) is None:
                raise subprocess.TimeoutExpired("a forked process", timeout or 0)
            self._end(code)
        assert self.returncode is not None
        return self.returncode

    def _end(self, code: int) -> None:
        self.returncode = code
        os.close(self._status)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What is left of its two pipes, after its end."""
        texts, until = ["", ""], time.monotonic() + (timeout or float("inf"))

        def read(number: int, file: IO[str]) -> None:
            with file:
                texts[number] = file.read()

        files = [(n, file) for n, file in enumerate((self.stdout, self.stderr)) if file and not file.closed]
        readers = [threading.Thread(target=read, args=each, daemon=True) for each in files]
        for reader in readers:
            reader.start()
        self.wait(timeout)
        for reader in readers:
            reader.join(None if timeout is None else max(0, until - time.monotonic()))
        return texts[0], texts[1]

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


Running = subprocess.Popen[str] | Forked


@functools.cache
def _server() -> tuple[socket.socket, psutil.Process]:
    """The process that forks, and our end of its socket: one for all tests of this process."""
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, __file__, str(theirs.fileno())]
        root = str(Path(__file__).resolve().parents[1])
        environment = os.environ | {"PYTHONPATH": root}
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()]
        )

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours, psutil.Process(process.pid)


def processor_s() -> float:
    """Seconds of the processor that the process that forks, and the forks that have ended, took."""
    if not _server.cache_info().currsize:
        return 0.0
    used = _server()[1].cpu_times()
    # macOS has no figures of a process's children.
    return used.user + used.system + getattr(used, "children_user", 0) + getattr(used, "children_system", 0)


def start(
    script: Path,
    arguments: Sequence[Any],
    environment: dict[str, str],
    *,
    folder: Path | None = None,
    stdout: File = None,
    stderr: File = None,
    warnings: Sequence[str] = (),
) -> Forked:
    """`python SCRIPT ARGUMENT...` in a forked process.

    Args:
        folder: in which it runs; else in that of this process.
        stdout, stderr: as `subprocess.Popen` takes them.
        warnings: what the warnings filter does with every warning, as after `python -W`.
    """
    request = {
        "arguments": [str(script), *map(str, arguments)],
        "environment": environment,
        "folder": str(folder or Path.cwd()),
        "warnings": list(warnings),
    }
    (output, theirs), (errors, their_errors) = _opened(stdout, 1), _opened(stderr, 2)
    status, their_status = os.pipe()
    files = [theirs, their_errors, their_status]
    socket.send_fds(_server()[0], [json.dumps(request).encode() + b"\n"], files)
    for file in files:
        os.close(file)
    return Forked(status, output, errors)


def _opened(file: File, inherited: int) -> tuple[int | None, int]:
    """Our end of a pipe, and a file for the forked process that is ours to close."""
    if file == subprocess.PIPE:
        return os.pipe()
    if file == subprocess.DEVNULL:
        return None, os.open(os.devnull, os.O_RDWR)
    return None, os.dup(inherited if file is None else file if isinstance(file, int) else file.fileno())


# ------------------------------------------------------------------------- the process that forks


def serve(requests: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Fork for each request; the request and its two files in the fork, None at the end of requests."""
    running: dict[int, int] = {}
    ended, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests and the forks
    signal.set_wakeup_fd(waker)
    while True:
        ready = select.select([requests, ended], [], [])[0]
        if ended in ready:
            os.read(ended, 1024)
            _tell_ends(running)
        if requests not in ready:
            continue
        text, (*files, status) = _received(requests)
        if not text:
            return None
        if not (child := os.fork()):
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for file in (requests.fileno(), ended, waker, status, *running.values()):
                os.close(file)
            requests.detach()
            return json.loads(text), files
        for file in files:
            os.close(file)
        os.write(status, _NUMBER.pack(child))
        running[child] = status


def _received(requests: socket.socket) -> tuple[bytes, list[int]]:
    text, files, *_ = socket.recv_fds(requests, 1 << 20, 3)
    while text and not text.endswith(b"\n"):
        text += requests.recv(1 << 20)
    return text, files or [-1]


def _tell_ends(running: dict[int, int]) -> None:
    for child, status in list(running.items()):
        ended, end = os.waitpid(child, os.WNOHANG)
        if ended:
            with contextlib.suppress(BrokenPipeError):  # whoever started it has ended
                os.write(status, _NUMBER.pack(os.waitstatus_to_exitcode(end)))
            os.close(running.pop(child))


def become(request: dict[str, Any], files: list[int]) -> list[str]:
    """Make this process the one that was asked for; its script and arguments."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, file in enumerate((nothing, *files)):
        os.dup2(file, number)
        os.close(file)
    os.chdir(request["folder"])
    environment = request["environment"]
    _configure_jax(
        {name: environment[name] for name in environment if os.environ.get(name) != environment[name]}
    )
    os.environ.clear()
    os.environ.update(environment)
    if environment.get("PYTHONUNBUFFERED"):
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(write_through=True)  # type: ignore[union-attr]
    for action in request["warnings"]:
        sys.warnoptions.append(action)
        warnings.simplefilter(action)
    script = request["arguments"][0]
    sys.path[:1] = [
        str(Path(script).parent),
        *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep)),
    ]
    return request["arguments"]


def _configure_jax(environment: dict[str, str]) -> None:
    """JAX's options of the environment, which it reads when it is imported."""
    import jax

    for name, value in environment.items():
        option = name.lower()
        if not name.startswith("JAX_") or not hasattr(jax.config, option):
            continue
        now = getattr(jax.config, option)
        if isinstance(now, bool):
            jax.config.update(option, value.lower() in ("1", "true", "yes", "on"))
        else:
            jax.config.update(option, type(now)(value) if isinstance(now, (int, float)) else value)


def main() -> None:
    for name in IMPORTS:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    if (asked := serve(socket.socket(fileno=int(sys.argv[1])))) is not None:
        sys.argv = become(*asked)
        runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()

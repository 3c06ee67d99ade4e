"""The one process that runs models of PyTorch libraries for this one; see `converters.golden.serve`.

It starts with the first question and ends with this process. If it ends or hangs, the next question starts
another.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import json
import os
import select
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from typing import IO, Any

from clipjax.errors import ClipjaxError, DataError
from converters.hub import why_only_cached

LIMIT = 600.0  # seconds without a sign of the process; each batch starts it anew
OPENING = 6 * LIMIT  # the same while a model is loaded, or downloaded
_NEEDED = ("torch", "torchvision", "open_clip", "timm", "transformers")
_SERVER = [sys.executable, "-m", "converters.golden", "serve"]
_LENGTHS = struct.Struct("<QQ")
_PIECE = 1 << 20  # bytes written or read at once


class _EndedError(Exception):
    """The process closed its end."""


class TorchProcess:
    """`command`: the program; by default the server of this Python."""

    def __init__(self, command: list[str] | None = None) -> None:
        self._command = command or _SERVER
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self._only_cached: str | None = None  # why the process asks no hub
        self._lock = threading.Lock()

    def ask(
        self, header: Mapping[str, Any], payload: bytes = b"", limit: float | None = None
    ) -> tuple[Any, bytes]:
        """The answer to one question.

        Raises:
            ClipjaxError: the libraries are not installed.
            DataError: it answers with an error, ended, or did not answer within the limit; a model is not in
                the local cache, and cannot be downloaded.
        """
        name = "torch:" + ":".join(header["model"])
        with self._lock:
            process = self._running(header["do"] == "open")
            try:
                answer, data = _exchange(process, header, payload, LIMIT if limit is None else limit)
            except TimeoutError as error:
                how = self._how(process, True)
                raise DataError(f"{name}: its process has not answered for {error} s{how}") from None
            except (_EndedError, OSError):
                raise DataError(f"{name}: its process ended{self._how(process, False)}") from None
            except BaseException:  # half a message was exchanged: it cannot be used again
                self.close()
                raise
        if answer.get("uncached") and self._only_cached is not None:
            raise DataError(
                f"{name}: its files are not in the local cache, and {self._only_cached}; download them where "
                "there is a network, or name a folder that has them"
            )
        if "error" in answer:
            raise DataError(f"{name}: {answer['error']}")
        return answer, data

    def close(self) -> None:
        """End the process; the next question starts another."""
        process, self._process = self._process, None
        errors, self._errors = self._errors, None
        if process is not None:
            process.kill()
            process.wait()
        for stream in (errors, process and process.stdin, process and process.stdout):
            with contextlib.suppress(OSError):
                _ = stream and stream.close()

    def _running(self, opens: bool) -> subprocess.Popen[bytes]:
        """`opens`: a model, perhaps from the hub, which the process cannot reach or leave alone later."""
        if opens and self._process is not None and bool(self._only_cached) != bool(why_only_cached()):
            self.close()
        if self._process is None or self._process.poll() is not None:
            self.close()
            if self._command == _SERVER:
                check_installed()
            atexit.register(self.close)
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `close`)
            # Asked once here: each library would retry for a minute.
            self._only_cached = why_only_cached()
            environment = {**os.environ, **({"HF_HUB_OFFLINE": "1"} if self._only_cached else {})}
            self._process = subprocess.Popen(
                self._command,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
            )
            for stream in (self._process.stdin, self._process.stdout):
                assert stream is not None
                os.set_blocking(stream.fileno(), False)
        return self._process

    def _how(self, process: subprocess.Popen[bytes], hangs: bool) -> str:
        """End it, and tell how it ended: by its exit code and its last line on stderr."""
        if not hangs:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
        code, line = process.poll(), ""
        if self._errors is not None:
            self._errors.seek(0)
            lines = self._errors.read().decode(errors="replace").strip().splitlines()
            line = f": {lines[-1]}" if lines else ""
        self.close()
        return f"{'' if code is None else f' with exit code {code}'}{line} (what was stored before stays)"


def check_installed() -> None:
    """Raises ClipjaxError if the PyTorch libraries are not installed."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ClipjaxError(
            f"models of PyTorch libraries cannot be run, {missing[0]} is not installed: pip install "
            "'clipjax[reference]'"
        )


def _exchange(
    process: subprocess.Popen[bytes], header: Mapping[str, Any], payload: bytes, limit: float
) -> tuple[Any, bytes]:
    text = json.dumps(header).encode()
    assert process.stdin is not None
    assert process.stdout is not None
    asked, answers = process.stdin.fileno(), process.stdout.fileno()
    for part in (_LENGTHS.pack(len(text), len(payload)) + text, payload):
        _write(asked, memoryview(part), limit)
    lengths = _LENGTHS.unpack(_read(answers, _LENGTHS.size, limit))
    answer, data = (_read(answers, length, limit) for length in lengths)
    return json.loads(answer), data


def _write(file: int, data: memoryview, limit: float) -> None:
    while data:
        _wait([], [file], limit)
        data = data[os.write(file, data[:_PIECE]) :]


def _read(file: int, length: int, limit: float) -> bytes:
    parts: list[bytes] = []
    while length:
        _wait([file], [], limit)
        parts.append(os.read(file, min(length, _PIECE)))
        if not parts[-1]:
            raise _EndedError
        length -= len(parts[-1])
    return b"".join(parts)


def _wait(read: list[int], write: list[int], limit: float) -> None:
    end = time.monotonic() + limit
    while not any(select.select(read, write, [], min(1.0, max(0.0, end - time.monotonic())))):
        if time.monotonic() >= end:
            raise TimeoutError(f"{limit:.0f}")


PROCESS = TorchProcess()

"""What the system refuses ends a command in one sentence; mistakes of ours keep their traceback."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest

from clipjax import cli
from clipjax.commands.shared import failures


def _fail(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def app() -> None:
        raise error

    monkeypatch.setattr(cli, "app", app)
    monkeypatch.setattr(cli.signals, "handled", contextlib.nullcontext)
    cli.main()


REFUSED = {
    "disk": (OSError(5, "Input/output error", "/data/a.png"), "/data/a.png: Input/output error"),
    "bytes name": (OSError(36, "File name too long", b"/x"), "/x: File name too long"),
    "no file": (OSError(24, "Too many open files"), "the system refused (Too many open files)"),
    "memory": (MemoryError("Unable to allocate 9 TiB"), "memory ran out: Unable to allocate 9 TiB"),
    "depth": (RecursionError("maximum recursion depth"), "nested too deeply"),
    "name": (
        UnicodeEncodeError("utf-8", "a\udcff", 1, 2, "surrogates not allowed"),
        r"'a\udcff' is not UTF-8",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_system_refuses_is_one_sentence(
    case: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error, says = REFUSED[case]
    with pytest.raises(SystemExit) as ended:
        _fail(error, monkeypatch)
    said = capsys.readouterr().err
    assert ended.value.code == 1
    assert says in said
    assert said.count("\n") == 1
    assert "CLIPJAX_TRACEBACK=1" in said


def test_the_traceback_is_there_for_the_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(failures.TRACEBACK, "1")
    with pytest.raises(OSError, match="Input/output"):
        _fail(OSError(5, "Input/output error", "/data/a.png"), monkeypatch)


@pytest.mark.parametrize("error", [TypeError("ours"), KeyError("ours"), ValueError("ours")])
def test_mistakes_of_ours_keep_their_traceback(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(type(error), match="ours"):
        _fail(error, monkeypatch)


COMMAND = """
import sys
from clipjax.commands.shared.failures import in_one_sentence
from clipjax.errors import DataError
try:
    with in_one_sentence():
        print("x" * {size})
        {end}
except DataError as error:
    sys.exit(str(error))
"""


@pytest.mark.parametrize("size", [1, 1_000_000])
@pytest.mark.parametrize("end", ["pass", "sys.exit(0)"])
def test_a_closed_pipe_ends_quietly(size: int, end: str) -> None:
    command = [sys.executable, "-c", COMMAND.format(size=size, end=end)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == failures.PIPE_CLOSED


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_output_that_cannot_be_written_is_one_sentence() -> None:
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-c", COMMAND.format(size=1, end="pass")]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "No space left on device" in done.stderr


def test_a_stdout_that_was_never_open_is_no_failure() -> None:
    """`clipjax ... >&-`: Python has no sys.stdout then."""
    command = f'exec "{sys.executable}" -c "$1" >&-'
    done = subprocess.run(
        ["sh", "-c", command, "sh", COMMAND.format(size=0, end="pass")], stderr=subprocess.PIPE
    )
    assert (done.returncode, done.stderr) == (0, b"")

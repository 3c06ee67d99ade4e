"""Runs one command of clipjax and writes which functions of the checkout it called, for `code_path.py`.

    PYTHONPATH=CHECKOUT python code_path_run.py CHECKOUT CALLS.json eval zeroshot ...

It imports nothing but the checkout's clipjax, so it can run any commit.
"""

from __future__ import annotations

import inspect
import json
import sys
import threading
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

FOLDERS = ("clipjax", "converters")


class Calls:
    """Functions below some folders that were called on any thread, and the stack at the first call of one.

    Attributes:
        codes: each function's code by its `id`: equal code of two files stays two functions.
        stack: the functions below the folders on the stack when `target` was first called, outermost first.
    """

    def __init__(self, folders: tuple[Path, ...], target: str):
        self.folders = tuple(f"{folder}/" for folder in folders)
        self.target = target
        self.codes: dict[int, CodeType] = {}
        self.stack: list[str] = []

    def __enter__(self) -> Calls:
        threading.setprofile(self._profile)  # of threads that start from now on
        sys.setprofile(self._profile)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)

    def _profile(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event != "call" or not self._is_ours(code):
            return
        self.codes[id(code)] = code
        if not self.stack and code.co_qualname == self.target:
            self.stack = self._stack(frame)

    def _is_ours(self, code: CodeType) -> bool:
        """A function, which a module's or a class's body is not."""
        return bool(code.co_flags & inspect.CO_OPTIMIZED) and code.co_filename.startswith(self.folders)

    def _stack(self, frame: FrameType | None) -> list[str]:
        stack = []
        while frame is not None:
            if self._is_ours(frame.f_code):
                stack.append(f"{frame.f_code.co_filename} {frame.f_code.co_qualname}")
            frame = frame.f_back
        return stack[::-1]

    def functions(self) -> list[tuple[str, int, str, int]]:
        """(file, line, qualified name, number) of each function; the number tells two of one line apart."""
        return sorted(
            (code.co_filename, code.co_firstlineno, code.co_qualname, number)
            for number, code in self.codes.items()
        )


def main(root: Path, out: Path, command: list[str]) -> None:
    with Calls(tuple(root / folder for folder in FOLDERS), "Network.encode_image") as calls:
        from clipjax import cli

        start = calls.functions()
        calls.codes.clear()
        sys.argv[1:] = command
        try:
            cli.main()
        except SystemExit as end:
            if end.code:
                raise
    record = {"start": start, "run": calls.functions(), "stack": calls.stack}
    out.write_text(json.dumps(record).replace(f"{root}/", ""))


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), Path(sys.argv[2]), sys.argv[3:])

"""A fixture: `verify` runs its reference in the tests' process. No torch is imported before it is used."""

from __future__ import annotations

import subprocess
import sys
import traceback
import warnings
from types import SimpleNamespace
from typing import Any

import pytest


@pytest.fixture
def reference_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """`verify` runs its reference in this process, which has imported torch and the libraries.

    It gets the same command line and files. test_a_converted_folder_against_open_clip starts a process.
    """
    from converters.golden.__main__ import app

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert command[:3] == [sys.executable, "-m", "converters.golden"]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                app(command[3:], standalone_mode=False)
        except (Exception, SystemExit):
            return subprocess.CompletedProcess(command, 1, "", traceback.format_exc())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr("clipjax.verification.verify.subprocess", SimpleNamespace(run=run))

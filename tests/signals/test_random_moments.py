"""SIGTERM, Ctrl-C and `kill -9` at random moments: a handful of them, in real commands and in forked ones.

An evaluation is a real command, which may be disturbed while it imports; the others are forked from a process
that has imported clipjax. `test_many_moments.py` has the hundreds, which are slow.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.signals._disturbed import Disturbed, new_seed
from tests.signals._kinds import Whole


@pytest.fixture
def command(
    name: str,
    disturbed_world: Path,
    wholes: dict[str, Whole],
    forked_wholes: dict[str, Whole],
    tmp_path: Path,
) -> Disturbed:
    whole, forked = (wholes, False) if name == "eval" else (forked_wholes, True)
    return Disturbed(name, disturbed_world, whole, tmp_path / "run", new_seed(), forked)


@pytest.mark.parametrize("name", ["eval", "finetune"])
def test_a_disturbed_command_ends_and_goes_on(command: Disturbed) -> None:
    assert command.signal(signal.SIGTERM, compiling=True)
    command.signal(signal.SIGTERM, compiling=False)
    command.signal(signal.SIGINT, compiling=False)
    command.finish()


# Sweeps, training and the embeddings of a store have such tests of their own, beside their code.
@pytest.mark.parametrize("name", ["eval", "convert", "merge", "pack"])
def test_a_killed_command_goes_on(command: Disturbed) -> None:
    command.kill_and_finish(1)

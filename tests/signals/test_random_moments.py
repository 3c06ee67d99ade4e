"""SIGTERM, Ctrl-C and `kill -9` at random moments, in real commands: a handful of them.

`test_many_moments.py` has the hundreds, which are slow.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.signals._disturbed import Disturbed, new_seed
from tests.signals._kinds import Whole


@pytest.mark.parametrize("name", ["eval", "finetune"])
def test_a_disturbed_command_ends_and_goes_on(
    name: str, disturbed_world: Path, wholes: dict[str, Whole], tmp_path: Path
) -> None:
    disturbed = Disturbed(name, disturbed_world, wholes, tmp_path / "run", new_seed())
    assert disturbed.signal(signal.SIGTERM, compiling=True)
    disturbed.signal(signal.SIGTERM, compiling=False)
    disturbed.signal(signal.SIGINT, compiling=False)
    disturbed.finish()


# Sweeps, training and the embeddings of a store have such tests of their own, beside their code.
@pytest.mark.parametrize("name", ["eval", "convert", "merge", "pack"])
def test_a_killed_command_goes_on(
    name: str, disturbed_world: Path, wholes: dict[str, Whole], tmp_path: Path
) -> None:
    Disturbed(name, disturbed_world, wholes, tmp_path / "run", new_seed()).kill_and_finish(1)

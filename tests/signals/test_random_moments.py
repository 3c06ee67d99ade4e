"""SIGTERM, Ctrl-C and `kill -9` at random moments: a handful of them, in real commands and in forked ones.

Most are forked from a process that has imported clipjax; real ones may be disturbed while they import. All
are long: training holds its signals and ends by itself, an evaluation ends as any program does, and the guard
of a killed command is of what it writes.
`test_many_moments.py` has the hundreds, which are slow.
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.signals._disturbed import Disturbed, new_seed
from tests.signals._kinds import Whole

ENDED = "signals/test_signals.py::test_the_program_unwinds_once_and_says_one_sentence"
TRAINED = "finetune/training/test_preemption.py::test_a_signal_ends_the_step_and_the_run_goes_on"
KILLED = "storage/test_writing.py::test_a_writer_killed_at_any_step_leaves_the_old_folder_or_the_new_one"
PACKED = "data/test_pack.py::test_an_interrupted_run_goes_on"


@pytest.fixture
def command(
    name: str,
    real: bool,
    disturbed_world: Path,
    wholes: dict[str, Whole],
    forked_wholes: dict[str, Whole],
    tmp_path: Path,
) -> Disturbed:
    whole = wholes if real else forked_wholes
    return Disturbed(name, disturbed_world, whole, tmp_path / "run", new_seed(), forked=not real)


def commands(**guards: str) -> list[Any]:
    """Forked commands, each with its guard; a real evaluation has that of a forked one."""
    given = [("real eval", True, guards["eval"]), *((name, False, guard) for name, guard in guards.items())]
    return [
        pytest.param(name.removeprefix("real "), real, marks=pytest.mark.long(guard), id=name)
        for name, real, guard in given
    ]


@pytest.mark.parametrize(("name", "real"), commands(eval=ENDED, finetune=TRAINED))
def test_a_disturbed_command_ends_and_goes_on(command: Disturbed) -> None:
    first, second = command.rng.sample([signal.SIGTERM, signal.SIGINT], 2)
    assert command.signal(first, compiling=True)
    command.signal(second, compiling=False)
    command.finish()


# Sweeps, training and the embeddings of a store have such tests of their own, beside their code.
@pytest.mark.parametrize(("name", "real"), commands(eval=KILLED, pack=PACKED, convert=KILLED, merge=KILLED))
def test_a_killed_command_goes_on(command: Disturbed) -> None:
    command.kill_and_finish(1)

"""SIGTERM, Ctrl-C and `kill -9` at many random moments between the first line of output and the end.

A signal ends the command within the grace with its code, `kill -9` at once; however often a command is
disturbed, the same command then finishes with the results of a run that nothing has disturbed. The commands
are forked from a process that has imported clipjax, one at a time: real ones would import for an hour.
Each test prints its seed, which CLIPJAX_SIGNALS_SEED repeats, and its counts.
"""

from __future__ import annotations

import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.signals._disturbed import Disturbed, new_seed
from tests.signals._kinds import Whole
from tests.signals._runs import Ending

CHAIN = 8  # times that one run is disturbed before it may finish
pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "number", "wanted", "inside"),
    [
        ("eval", signal.SIGTERM, 34, 10),
        ("sweep", signal.SIGTERM, 33, 8),
        ("finetune", signal.SIGTERM, 33, 8),
        ("eval", signal.SIGINT, 7, 2),
        ("sweep", signal.SIGINT, 6, 2),
        ("finetune", signal.SIGINT, 7, 2),
    ],
)
def test_a_hundred_signals(
    name: str,
    number: signal.Signals,
    wanted: int,
    inside: int,
    disturbed_world: Path,
    forked_wholes: dict[str, Whole],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """At least `wanted` ends by the signal, `inside` of them during compilation."""
    seed, runs, endings = new_seed(), 0, list[Ending]()
    while len(endings) < wanted or _compiling(endings) < inside:
        run = Disturbed(name, disturbed_world, forked_wholes, tmp_path / f"{runs}", seed + runs, True)
        for _ in range(CHAIN):
            ending = run.signal(number, compiling=_compiling(endings) < inside)
            if ending is None:
                break  # it has done its work, and `has_results` has seen it
            endings.append(ending)
            with capsys.disabled():
                print(f"\n{name}, seed {seed} + {runs}, {number.name} {len(endings)}: {ending}", end="")
        else:
            run.finish()
        runs += 1
    with capsys.disabled():
        print(
            f"\n{name}, seed {seed}: {len(endings)} {number.name}, {_summary(endings)}, "
            f"{runs} of {runs} runs finished with the same results"
        )


def _compiling(endings: list[Ending]) -> int:
    return sum(ending.compiling for ending in endings)


def _summary(endings: list[Ending]) -> str:
    seconds = sorted(ending.seconds for ending in endings)
    codes = Counter(ending.code for ending in endings)
    return (
        f"{_compiling(endings)} during compilation, exit codes {dict(codes)}, "
        f"seconds to the end: median {seconds[len(seconds) // 2]:.2f}, most {seconds[-1]:.2f}"
    )


@pytest.mark.parametrize(
    ("name", "kills"),
    [("eval", 12), ("sweep", 8), ("finetune", 8), ("convert", 8), ("merge", 8), ("pack", 8)],
)
def test_killed_at_fifty_points(
    name: str,
    kills: int,
    disturbed_world: Path,
    forked_wholes: dict[str, Whole],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    seed = new_seed()
    for run in range(kills // 4):
        folder = tmp_path / f"{run}"
        Disturbed(name, disturbed_world, forked_wholes, folder, seed + run, True).kill_and_finish(4)
    with capsys.disabled():
        print(f"\n{name}, seed {seed}: {kills} kills, {kills // 4} runs finished with the same results")

"""SIGTERM and Ctrl-C at random moments between the first line of output and the end, in real commands.

Each ends within the grace with its code, however often it is disturbed; then the same command finishes with
the results of a run that nothing has disturbed.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from clipjax import signals
from tests.signals._kinds import KINDS, Whole
from tests.signals._runs import SLACK, Command, Ending, disturb, kill

CHAIN = 5  # signals that one run gets before it may finish


class Disturbed:
    """A command in a folder of its own, to be disturbed, and the undisturbed run."""

    def __init__(self, name: str, world: Path, wholes: Mapping[str, Whole], folder: Path, seed: int) -> None:
        self.name, self.seed, self.rng = name, seed, random.Random(seed)
        self.whole, self.folder = wholes[name], folder
        self.command = Command(folder, KINDS[name].arguments(world, wholes), self.whole.compiling)

    def signal(self, number: signal.Signals, compiling: bool) -> Ending | None:
        """The end by this signal; None where the command had done its work before."""
        ending = disturb(self.command, number, self.rng, self.whole.seconds, compiling)
        if ending is None:
            return None
        print(f"{self.name}, seed {self.seed}: {ending}", flush=True)
        about = f"{self.name}, seed {self.seed}: {ending}\n{self.command.said()}"
        assert ending.seconds < signals.GRACE + SLACK, about
        if ending.code == 0:  # after the last row
            self.has_results()
            return None
        assert ending.code == signals.EXIT_CODES[number], about
        said = self.command.said()
        assert said.count("what is finished is kept") + said.count("after step") == 1, about
        return ending

    def finish(self) -> None:
        self.command.finish()
        self.has_results()

    def has_results(self) -> None:
        assert KINDS[self.name].results(self.folder) == self.whole.results, f"{self.name}, seed {self.seed}"


def new_seed() -> int:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    return seed


@pytest.mark.parametrize("name", ["eval", "finetune"])
def test_a_disturbed_command_ends_and_goes_on(
    name: str, disturbed_world: Path, wholes: dict[str, Whole], tmp_path: Path
) -> None:
    disturbed = Disturbed(name, disturbed_world, wholes, tmp_path / "run", new_seed())
    assert disturbed.signal(signal.SIGTERM, compiling=True)
    disturbed.signal(signal.SIGTERM, compiling=False)
    disturbed.signal(signal.SIGINT, compiling=False)
    disturbed.finish()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "number", "wanted", "inside"),
    [
        ("eval", signal.SIGTERM, 50, 20),
        ("sweep", signal.SIGTERM, 25, 5),
        ("finetune", signal.SIGTERM, 25, 5),
        ("eval", signal.SIGINT, 10, 3),
        ("finetune", signal.SIGINT, 10, 3),
    ],
)
def test_a_hundred_signals(
    name: str,
    number: signal.Signals,
    wanted: int,
    inside: int,
    disturbed_world: Path,
    wholes: dict[str, Whole],
    tmp_path: Path,
) -> None:
    """At least `wanted` ends by the signal, `inside` of them during compilation; two runs at a time."""
    seed, endings = new_seed(), list[Ending]()

    def chain(run: int, compiling: int) -> list[Ending]:
        disturbed = Disturbed(name, disturbed_world, wholes, tmp_path / f"{run}", seed + run)
        found = [disturbed.signal(number, i < compiling) for i in range(CHAIN)]
        disturbed.finish()
        return [ending for ending in found if ending is not None]

    run, _ = 0, wholes[name]
    with ThreadPoolExecutor(2) as threads:
        while len(endings) < wanted or sum(ending.compiling for ending in endings) < inside:
            left = inside - sum(ending.compiling for ending in endings)
            for found in threads.map(chain, (run, run + 1), ((left + 1) // 2, left // 2)):
                endings += found
            run += 2
    seconds = sorted(ending.seconds for ending in endings)
    print(
        f"{name}: {len(endings)} times {number.name}, {sum(ending.compiling for ending in endings)} during "
        f"compilation; seconds to the end: median {seconds[len(seconds) // 2]:.1f}, most {seconds[-1]:.1f}"
    )


# Sweeps, training and the embeddings of a store have such tests of their own, beside their code.
@pytest.mark.parametrize("name", ["eval", "convert", "merge", "pack"])
def test_a_killed_command_goes_on(
    name: str, disturbed_world: Path, wholes: dict[str, Whole], tmp_path: Path
) -> None:
    _kill_and_finish(Disturbed(name, disturbed_world, wholes, tmp_path / "run", new_seed()), 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kills"),
    [("eval", 12), ("sweep", 8), ("finetune", 8), ("convert", 8), ("merge", 8), ("pack", 8)],
)
def test_killed_at_fifty_points(
    name: str, kills: int, disturbed_world: Path, wholes: dict[str, Whole], tmp_path: Path
) -> None:
    seed = new_seed()
    for run in range(kills // 4):
        _kill_and_finish(Disturbed(name, disturbed_world, wholes, tmp_path / f"{run}", seed + run), 4)


def _kill_and_finish(disturbed: Disturbed, kills: int) -> None:
    for _ in range(kills):
        kill(disturbed.command, disturbed.rng, disturbed.whole.from_start)
    disturbed.finish()

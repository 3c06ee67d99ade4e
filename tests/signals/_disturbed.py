"""A command that is disturbed again and again, beside a run of it that nothing has disturbed."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Mapping
from pathlib import Path

from clipjax.devices import signals
from tests.signals._kinds import KINDS, Whole
from tests.signals._runs import SLACK, Command, Ending, disturb, kill


class Disturbed:
    """A command in a folder of its own, to be disturbed, and the undisturbed run."""

    def __init__(
        self,
        name: str,
        world: Path,
        wholes: Mapping[str, Whole],
        folder: Path,
        seed: int,
        forked: bool = False,
    ) -> None:
        self.name, self.seed, self.rng = name, seed, random.Random(seed)
        self.whole, self.folder = wholes[name], folder
        self.command = Command(folder, KINDS[name].arguments(world, wholes), self.whole.compiling, forked)

    def signal(self, number: signal.Signals, compiling: bool) -> Ending | None:
        """The end by this signal; None where the command had done its work before, with the same results."""
        ending = disturb(self.command, number, self.rng, self.whole.seconds, compiling)
        if ending is None:
            self.has_results()
            return None
        about = f"{self.name}, seed {self.seed}: {ending}\n{self.command.said()}"
        assert ending.seconds < signals.GRACE + SLACK, about
        if ending.code == 0:  # after the last row
            self.has_results()
            return None
        assert ending.code == signals.EXIT_CODES[number], about
        said = self.command.said()
        assert said.count("what is finished is kept") + said.count("after step") == 1, about
        return ending

    def kill_and_finish(self, kills: int) -> None:
        for _ in range(kills):
            kill(self.command, self.rng, self.whole.from_start)
        self.finish()

    def finish(self) -> None:
        self.command.finish()
        self.has_results()

    def has_results(self) -> None:
        assert KINDS[self.name].results(self.folder) == self.whole.results, f"{self.name}, seed {self.seed}"


def new_seed() -> int:
    """Of CLIPJAX_SIGNALS_SEED, to repeat a run; else another one each time."""
    seed = int(os.environ.get("CLIPJAX_SIGNALS_SEED") or random.randrange(10**6))
    print(f"seed {seed}")
    return seed

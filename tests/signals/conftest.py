"""A small world of data sets and models for commands that are disturbed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.finetune._small import small_model, write_colours
from tests.signals._kinds import KINDS, RECIPE, Whole
from tests.signals._runs import Command
from tests.sweep._sweep_world import write_world

COMPILING = 1.0  # seconds that the first compilation of a command takes at least


@pytest.fixture(scope="session")
def disturbed_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder)
    write_colours(folder)
    small_model(folder / "small")
    (folder / "short.toml").write_text(RECIPE)
    return folder


class Wholes(dict[str, Whole]):
    """Undisturbed runs, each made when it is asked for."""

    def __init__(self, world: Path, forked: bool = False) -> None:
        self._world, self._forked = world, forked

    def __missing__(self, name: str) -> Whole:
        kind = KINDS[name]
        folder = self._world / f"whole-{name}{'-forked' if self._forked else ''}"
        compiling = COMPILING if kind.compiles else 0.0
        command = Command(folder, kind.arguments(self._world, self), compiling, self._forked)
        seconds = command.finish()
        self[name] = Whole(folder, *seconds, compiling, kind.results(folder))
        assert self[name].results
        return self[name]


@pytest.fixture(scope="session")
def wholes(disturbed_world: Path) -> dict[str, Whole]:
    """Of real commands."""
    return Wholes(disturbed_world)


@pytest.fixture(scope="session")
def forked_wholes(disturbed_world: Path) -> dict[str, Whole]:
    """Of forked commands."""
    return Wholes(disturbed_world, forked=True)

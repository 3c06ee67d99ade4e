"""A small world of data sets and models for commands that are disturbed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.finetune._small import small_model, write_colours
from tests.signals._kinds import KINDS, RECIPE, Whole
from tests.signals._runs import Command
from tests.sweep._sweep_world import write_world

COMPILING = 2.0  # seconds that the first compilation takes at least


@pytest.fixture(scope="session")
def disturbed_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder)
    write_colours(folder)
    small_model(folder / "small")
    (folder / "short.toml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="session")
def wholes(disturbed_world: Path) -> dict[str, Whole]:
    """Undisturbed runs, each made when it is asked for."""

    class Made(dict[str, Whole]):
        def __missing__(self, name: str) -> Whole:
            kind, folder = KINDS[name], disturbed_world / f"whole-{name}"
            compiling = COMPILING if kind.compiles else 0.0
            command = Command(folder, kind.arguments(disturbed_world, self), compiling)
            seconds = command.finish()
            self[name] = Whole(folder, *seconds, compiling, kind.results(folder))
            assert self[name].results
            return self[name]

    return Made()

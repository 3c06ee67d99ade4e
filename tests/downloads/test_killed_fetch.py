"""A fetch that is cut off anywhere goes on, and nothing half-written is taken for a data set."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from clipjax.cli import app
from clipjax.downloads import installation
from tests.downloads._fetch_world import CLASSES, World, images, png, tar

STEPS = {
    "the draft is made": (installation, "unpack"),
    "it is unpacked": (installation, "check_dataset"),
    "it is checked": (installation.os, "rename"),
    "it is ready": (installation, "place"),
    "it is placed": (installation, "digest_of"),
}


@pytest.mark.parametrize("step", STEPS)
def test_cut_off_after_any_step(world: World, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """A fetch that was killed goes on; what it had downloaded is not asked for again."""
    world.card("mine", tar(images("mine")))

    def cut(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(*STEPS[step], cut)
        with contextlib.suppress(KeyboardInterrupt, SystemExit):
            CliRunner().invoke(app, ["datasets", "fetch", "mine", "--to", str(world.root)])
    assert (world.root / "mine").exists() == (step == "it is placed")
    before = world.asked
    assert before == 1
    world.fetched("mine")
    world.check("mine")
    assert world.asked == before


def test_a_kill_between_two_renames(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A half-placed family is not taken for another layout: its ready draft goes on."""
    world.family()
    (world.root / "Kinds" / "other").mkdir(parents=True)  # so each kind is a rename of its own
    renamed, rename = [], installation.os.rename

    def once(source: object, target: object) -> None:
        if "Kinds" in str(target):
            if renamed:
                raise KeyboardInterrupt
            renamed.append(target)
        rename(source, target)  # pyright: ignore[reportArgumentType]

    with monkeypatch.context() as patch:
        patch.setattr("clipjax.downloads.placement.os.rename", once)
        CliRunner().invoke(app, ["datasets", "fetch", "kinds", "--to", str(world.root)])
    assert len(renamed) == 1
    assert (world.root / "Kinds" / "a").exists() != (world.root / "Kinds" / "b").exists()
    world.fetched("kinds")
    assert "there" in world.fetched("kinds:a", "kinds:b")
    assert world.asked == 1


def kill(world: World, kills: int, each: int) -> dict[str, int]:
    """How many kills of a fetch, of twice `each` images, left which state."""
    members = {f"mine/{name}/{k}.png": png(k % 256) for name in CLASSES for k in range(each)}
    world.card("mine", tar(members), images=2 * each)
    script = Path(__file__).with_name("_killed_fetch.py")
    arguments = [world.root / "mine.toml", world.root, kills, 3]
    done = subprocess.run(
        [sys.executable, script, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_ten_kills_at_random_moments(world: World) -> None:
    assert sum(kill(world, 10, 100).values()) == 10


@pytest.mark.slow
def test_two_hundred_kills_at_random_moments(world: World) -> None:
    """They hit most steps."""
    assert len(kill(world, 200, 400)) >= 4

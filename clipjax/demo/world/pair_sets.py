"""Pairs of views of the world's shapes as solids, each set in the layout of a real one.

    demo-navi     NAVI             an object from several sides
    demo-scannet  ScanNet pairs    a camera that turns in a room
    demo-spair    SPair-71k        objects of one class in different patterns

Columns: folder, layout of, contents.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np

from clipjax.demo.world.files import rng_of, write_once
from clipjax.demo.world.pair_files import Shot, hidden_corners, write_navi, write_scannet, write_spair
from clipjax.demo.world.solids import box, motion, prism, rotation

OBJECTS = ("star", "arrow", "cross", "hourglass", "bolt", "triangle")
# Degrees that an object or a camera has turned in each view: every bin of a card has pairs.
NAVI_TURNS = (-50.0, -25.0, 20.0, 65.0)
SCANNET_TURNS = (0.0, 8.0, 25.0, 62.0)
SPAIR_TURNS = (-40.0, -20.0, 12.0, 42.0)
HALF, THICK = 45.0, 22.0  # of an object, in millimetres
NAVI_AWAY, SPAIR_AWAY = 230.0, 170.0  # of the camera, in millimetres


def write_pair_sets(world: Path, objects: int, seed: int) -> None:
    """Write the pair sets that `world` lacks, with this many objects, rooms or classes.

    Raises:
        DataError: `world` holds sets of other settings, or cannot be written.
    """
    for name, write in SETS.items():
        write_once(
            world, name, {"objects": objects}, seed, functools.partial(write, objects=objects, seed=seed)
        )


def _navi(root: Path, objects: int, seed: int) -> None:
    solids = {
        shape: prism(shape, HALF, THICK, look)
        for shape, look in zip(OBJECTS[:objects], _looks("demo-navi", seed))
    }
    write_navi(root, solids, [_seen(turn, 20.0, NAVI_AWAY) for turn in NAVI_TURNS], _both(NAVI_TURNS))


def _scannet(root: Path, objects: int, seed: int) -> None:
    solids = {
        (900 + k, 0): box((2.0 + 0.2 * k, 1.5, 2.5 - 0.1 * k), look)
        for k, look in zip(range(objects), _looks("demo-scannet", seed))
    }
    poses = [
        motion(rotation((0.1, 1.0, 0.2), 20 + turn), (0.1 * k, -0.05 * k, 0.2 - 0.1 * k))
        for k, turn in enumerate(SCANNET_TURNS)
    ]
    write_scannet(root, solids, poses, _both(SCANNET_TURNS))


def _spair(root: Path, objects: int, seed: int) -> None:
    shots: dict[str, list[Shot]] = {}
    for c, shape in enumerate(OBJECTS[:objects]):
        looks, rng = _looks("demo-spair", seed), rng_of(seed, "demo-spair", c)
        shots[shape] = []
        for turn, look in zip(SPAIR_TURNS, looks):
            solid = prism(shape, HALF * rng.uniform(0.8, 1.0), THICK, look + c)
            pose = _seen(turn, rng.uniform(5, 25), SPAIR_AWAY)
            shots[shape].append(Shot(solid, pose, hidden_corners(solid, pose)))
    write_spair(root, shots)


SETS: dict[str, Callable[..., None]] = {
    "demo-navi": _navi,
    "demo-scannet": _scannet,
    "demo-spair": _spair,
}


def _seen(turn: float, tilt: float, away: float) -> np.ndarray:
    """Object to camera, in millimetres: turned about the vertical, then tilted to show its top."""
    return motion(rotation((1, 0, 0), tilt) @ rotation((0, 1, 0), turn), (4.0, -3.0, away))


def _both(turns: tuple[float, ...]) -> list[tuple[int, int]]:
    """Every two views, once."""
    return list(itertools.combinations(range(len(turns)), 2))


def _looks(name: str, seed: int) -> list[int]:
    return [
        int(look) for look in rng_of(seed, name, 0).integers(2**31, size=max(len(OBJECTS), len(SPAIR_TURNS)))
    ]

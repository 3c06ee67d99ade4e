"""Pictures of matches: what is drawn is what the task counts, at the places that the pair's geometry says."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pytest
from _embed_tools import TinyModel
from _long import mostly_long
from _pair_worlds import small_card, write_navi, write_scannet, write_spair
from matplotlib.figure import Figure
from typer.testing import CliRunner

import clipjax
from clipjax.analysis.figures import matches as drawing
from clipjax.cli import app
from clipjax.data.cards import load_dataset
from clipjax.data.pairs.matching import NORMALISATIONS
from clipjax.data.pairs.pair import Pair
from clipjax.errors import UsageError
from clipjax.evaluation.kinds.pairs import draw_matches
from clipjax.tasks.correspondence import PairMatcher

pytestmark = pytest.mark.usefixtures("one_device")

LAYOUTS = {"navi": write_navi, "scannet_pairs": write_scannet, "spair71k": write_spair}
KEEP = {"navi": {"keep": 20}, "scannet_pairs": {"keep": 20}, "spair71k": {}}
ERRORS = {"navi": "error_3ds", "scannet_pairs": "error_2ds", "spair71k": "errors"}
LIMITS = {"navi": 0.02, "scannet_pairs": 10, "spair71k": 0.1}


@pytest.fixture(scope="module")
def model() -> Any:
    return TinyModel()


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    root = tmp_path_factory.mktemp("worlds")
    return {
        name: {"dataset": small_card(name, root / "cards", None, **KEEP[name]), "root": write(root / name)}
        for name, write in LAYOUTS.items()
    }


def true_errors(name: str, pair: Pair, ends: np.ndarray) -> np.ndarray:
    """Of matches [K, 2, 2] in pixels: from the points or keypoints there, in the unit of the card's curve."""
    if name == "spair71k":
        there = pair.geometry["visible"]
        np.testing.assert_allclose(ends[:, 0], pair.geometry["keypoints"][0][there], atol=1e-3)
        off = np.linalg.norm(ends[:, 1] - pair.geometry["keypoints"][1][there], axis=1)
        return off / pair.images.shape[1] / pair.geometry["extent"]
    points, motion = pair.geometry["points"].astype(float), pair.geometry["motion"].astype(float)
    height, width = points.shape[1:3]
    cells = np.array([pair.images.shape[2] / width, pair.images.shape[1] / height])
    column, row = np.moveaxis((ends + 0.5) / cells - 0.5, -1, 0)
    np.testing.assert_allclose([column, row], np.round([column, row]), atol=1e-3)
    of = np.arange(2)[None], row.round().astype(int), column.round().astype(int)
    first, second = np.moveaxis(points[of], 1, 0)
    moved = first @ motion[:3, :3].T + motion[:3, 3]
    if name == "navi":
        return np.linalg.norm(moved - second, axis=1)
    seen = [each @ pair.geometry["intrinsics"].astype(float).T for each in (moved, second)]
    one, two = (each[:, :2] / np.maximum(each[:, 2:], 1e-9) for each in seen)
    return np.linalg.norm(one - two, axis=1)


@pytest.mark.parametrize("name", mostly_long(LAYOUTS, keep=["navi", "scannet_pairs"]))
def test_what_is_drawn_is_what_the_task_counts(name: str, model: Any, worlds: Any, tmp_path: Path) -> None:
    result = clipjax.evaluate(model, "correspondence", **worlds[name], progress=False, resamples=100)
    pairs = load_dataset(worlds[name]["dataset"], worlds[name]["root"]).manifest.pairs
    assert pairs is not None
    rows = result.images.to_pylist()[1:3]
    sides = clipjax.draw_matches(
        model, tmp_path / "x.png", **worlds[name], pairs=[row["id"] for row in rows], drawn=5
    )
    with PIL.Image.open(tmp_path / "x.png") as drawn:
        assert drawn.width == 100 * drawing.WIDTH
    for row, side in zip(rows, sides):
        assert side.name == f"tiny, {row['id']}"
        pair = pairs.load(pairs.ids.index(row["id"]))
        assert len(side.right) == row["matches"] == len(side.ends)
        errors = np.array(row[ERRORS[name]])
        np.testing.assert_allclose(true_errors(name, pair, side.ends), errors, rtol=2e-3, atol=2e-3)
        assert (side.right == (errors < LIMITS[name])).all()
        assert side.images.dtype == np.uint8
        mean, std = NORMALISATIONS["half" if name == "scannet_pairs" else "imagenet"]
        np.testing.assert_allclose((side.images / 255 - mean) / std, pair.images, atol=0.01)


def test_places_change_no_other_number(worlds: Any) -> None:
    matching = load_dataset(worlds["navi"]["dataset"], worlds["navi"]["root"]).card.matching
    assert matching is not None
    plain, placed = PairMatcher(matching), PairMatcher(matching, places=True)
    assert plain.key() != placed.key(), "they have their own entry of a store"
    assert placed.numbers[: len(plain.numbers)] == plain.numbers
    assert plain.words() == placed.words()


def test_lines_go_from_point_to_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(drawing, "new_figure", lambda *size: figures.append(Figure(size)) or figures[-1])
    ends = np.array([[[k, 1.0], [k + 2.0, 3.0]] for k in range(6)])
    right = np.array([True] * 4 + [False] * 2)
    side = drawing.PairMatches("m", np.zeros((2, 8, 10, 3), np.uint8), ends, right)
    for form in ("png", "jpg", "pdf", "svg"):
        path = tmp_path / f"a.{form}"
        assert drawing.matches_figure([side, side], path, "near", drawn=3) == path
        assert path.stat().st_size > 1000
    [first, second] = figures[0].axes
    assert first.get_title() == second.get_title() == "m: 67% of 6 matches are right"
    _, *lines = first.lines
    assert [line.get_linestyle() for line in lines] == ["-", "-", "--"]
    assert [np.ravel(line.get_xydata()).tolist() for line in lines] == [
        [k, 1, k + 12, 3] for k in (0, 2, 5)
    ], "the second image is 10 pixels further right"


def test_the_command_draws_them(
    model: Any, worlds: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipjax.evaluation.models.encoders.load_model", lambda name: model)
    out = tmp_path / "pair.png"
    data = [str(worlds["navi"]["root"]), "--dataset", str(worlds["navi"]["dataset"]), "--model", "a/tiny"]
    done = CliRunner().invoke(app, ["matches", *data, "--out", str(out)])
    assert done.exit_code == 0, done.output
    first, second = done.stdout.splitlines()
    assert first.startswith("tiny, box/wild_set/000 box/wild_set/001: ")
    assert first.endswith(" of 20 matches are right")
    assert second == str(out)
    assert out.is_file()


def test_what_cannot_be_drawn(
    model: Any, worlds: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, navi = tmp_path / "x.png", worlds["navi"]
    with pytest.raises(UsageError, match="unknown pair 'box/wild_set/000'"):
        clipjax.draw_matches(model, out, **navi, pairs=["box/wild_set/000"])
    monkeypatch.setattr(draw_matches, "encoder", lambda name: pytest.fail("a model was loaded"))
    pairs = [f"box/wild_set/{i:03d} box/wild_set/{i + 1:03d}" for i in range(5)]
    monkeypatch.setattr(draw_matches, "pairs_of", lambda *_: (SimpleNamespace(ids=pairs), None))
    with pytest.raises(UsageError, match=r"unknown pair 'nope'; known: ([^,]+, ){2}[^,]+ and 2 more$"):
        clipjax.draw_matches("a/model", out, **navi, pairs=["nope"])
    monkeypatch.undo()
    with pytest.raises(UsageError, match=r"x.gif must end in .png, .jpg"):
        clipjax.draw_matches(model, tmp_path / "x.gif", **navi)
    with pytest.raises(UsageError, match="draw at least one match, not 0"):
        clipjax.draw_matches(model, out, **navi, drawn=0)
    own: Any = TinyModel()
    own.network = None
    with pytest.raises(UsageError, match="tiny is not one of clipjax's networks"):
        clipjax.draw_matches(own, out, **navi)
    PIL.Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
    with pytest.raises(UsageError, match=r"has no pairs of images: .* name with dataset=NAME \(--dataset"):
        clipjax.draw_matches("a/model", out, root=tmp_path)  # refused before it is loaded
    assert not out.exists()

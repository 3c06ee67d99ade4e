"""The demo: a world of independent factors, on disk as real data sets are, and the script end to end."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import chi2_contingency
from typer.testing import CliRunner

import clipjax
from clipjax.data.cards import load_dataset, read_card
from clipjax.data.check import check_dataset
from clipjax.demo import run as demo
from clipjax.demo.files import Split, write_split
from clipjax.demo.world import BACKGROUNDS, COLOURS, SHAPES, TEXTURES, Scene, caption, render, sample_scene
from clipjax.errors import DataError
from clipjax.labels import load_labels
from clipjax.results import ResultStore

SCENE = Scene("star", "striped", "red", "night", 0.7, 0.5, 0.5, 10.0)
NAMED = ("shape", "texture", "colour", "background")


def pixels(scene: Scene, seed: int = 0, side: int = 64) -> np.ndarray:
    return np.asarray(render(scene, seed, side)).astype(int)


def test_render_depends_on_scene_and_seed_alone() -> None:
    assert np.array_equal(pixels(SCENE), pixels(SCENE))
    assert not np.array_equal(pixels(SCENE, 0), pixels(SCENE, 1))
    assert pixels(SCENE, side=32).shape == (32, 32, 3)


@pytest.mark.parametrize(
    ("factor", "value"),
    [
        *itertools.product(["texture"], sorted(set(TEXTURES) - {"striped"})),
        *itertools.product(["colour"], sorted(set(COLOURS) - {"red"})),
        ("shape", "circle"),
        ("background", "wood"),
        ("size", 0.55),
        ("x", 0.42),
        ("rotation", -20.0),
    ],
)
def test_every_factor_changes_the_image(factor: str, value: str | float) -> None:
    changed = pixels(dataclasses.replace(SCENE, **{factor: value}))
    assert (np.abs(changed - pixels(SCENE)).max(axis=2) > 12).mean() > 0.01


def test_colour_and_texture_leave_the_background_alone() -> None:
    """Far from the shape only what belongs to the background may change an image."""
    corner = (slice(0, 8), slice(0, 8))
    for factor, value in (("colour", "green"), ("shape", "circle"), ("rotation", 0.0)):
        assert np.array_equal(
            pixels(dataclasses.replace(SCENE, **{factor: value}))[corner], pixels(SCENE)[corner]
        )


def test_shapes_differ_when_all_else_is_equal() -> None:
    plain = dataclasses.replace(SCENE, texture="plain", background="asphalt", rotation=0.0)
    masks = {shape: pixels(dataclasses.replace(plain, shape=shape)).max(axis=2) > 128 for shape in SHAPES}
    assert all(0.05 < mask.mean() < 0.6 for mask in masks.values())
    for one, other in itertools.combinations(masks.values(), 2):
        assert (one & other).sum() / (one | other).sum() < 0.9


def dependence(scenes: list[Scene], one: str, other: str) -> float:
    """p-value of independence of two named factors."""
    values = [sorted({getattr(scene, name) for scene in scenes}) for name in (one, other)]
    table = np.zeros([len(v) for v in values])
    for scene in scenes:
        table[values[0].index(getattr(scene, one)), values[1].index(getattr(scene, other))] += 1
    pvalue: Any = chi2_contingency(table)[1]
    return float(pvalue)


def test_diverse_factors_are_independent() -> None:
    rng = np.random.default_rng(0)
    scenes = [sample_scene(rng) for _ in range(6000)]
    assert {scene.background for scene in scenes} == set(BACKGROUNDS)
    for one, other in itertools.combinations(NAMED, 2):
        assert dependence(scenes, one, other) > 1e-3
    numbers = np.array([[s.size, s.x, s.y, s.rotation, list(SHAPES).index(s.shape)] for s in scenes])
    assert np.abs(np.corrcoef(numbers.T) - np.eye(5)).max() < 0.05


def test_narrow_colours_and_backgrounds_follow_the_shape() -> None:
    rng = np.random.default_rng(0)
    scenes = [sample_scene(rng, "narrow") for _ in range(6000)]
    assert dependence(scenes, "shape", "colour") < 1e-100
    assert dependence(scenes, "shape", "background") < 1e-100
    assert dependence(scenes, "shape", "texture") > 1e-3


def test_captions_name_the_shape_and_are_english() -> None:
    rng = np.random.default_rng(0)
    scene = dataclasses.replace(SCENE, shape="arrow", colour="orange")
    texts = {caption(scene, rng) for _ in range(200)}
    assert len(texts) > 5
    assert all("arrow" in text for text in texts)
    assert "a photo of an orange arrow." in texts
    assert {"night", "striped"} <= {word for text in texts for word in text.strip(".").split()}
    assert not any("a arrow" in text or "a orange" in text for text in texts)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    write_split(root, Split("narrow", "narrow", 30, False), progress=False)
    write_split(root, Split("val", "diverse", 36, True), progress=False)
    return root


def test_the_readers_of_real_data_read_the_world(world: Path) -> None:
    val = load_dataset("demo_val", world / "val")
    assert val.label_space is not None
    assert val.label_space.classes == load_labels("demo_shapes").classes == tuple(sorted(SHAPES))
    assert val.manifest.labels is not None
    assert np.bincount(val.manifest.labels).tolist() == [3] * 12

    train = load_dataset("demo_train", world / "narrow.jsonl").manifest
    assert len(train) == 30
    assert train.labels is not None
    for label, text, factors in zip(train.labels, train.columns["caption"], train.columns["factors"]):
        assert factors["shape"] == val.label_space.classes[label]
        assert factors["shape"] in text
    card = dataclasses.replace(read_card("demo_val"), images=36, per_class=3)
    assert check_dataset(world / "val", card) == []


def test_the_world_is_the_same_everywhere(world: Path, tmp_path: Path) -> None:
    write_split(tmp_path, Split("val", "diverse", 36, True), progress=False)
    digests = [load_dataset("demo_val", root / "val").manifest.digest for root in (world, tmp_path)]
    assert digests[0] == digests[1]
    write_split(tmp_path / "other", Split("val", "diverse", 36, True), seed=1, progress=False)
    assert load_dataset("demo_val", tmp_path / "other" / "val").manifest.digest != digests[0]


def test_rendering_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from clipjax.demo import files

    split = Split("diverse", "diverse", 20, False)
    drawn: list[int] = []

    def counted(scene: Scene, seed: int) -> object:
        if len(drawn) == 12:
            drawn.append(seed)
            raise KeyboardInterrupt
        drawn.append(seed)
        return render(scene, seed)

    monkeypatch.setattr(files, "render", counted)
    with pytest.raises(KeyboardInterrupt):
        write_split(tmp_path, split, progress=False)
    assert not (tmp_path / "diverse.jsonl").exists()
    write_split(tmp_path, split, progress=False)
    assert len(drawn) == 12 + 1 + 8
    write_split(tmp_path, split, progress=False)
    assert len(drawn) == 21
    lines = [json.loads(line) for line in (tmp_path / "diverse.jsonl").read_text().splitlines()]
    assert [line["path"] for line in lines] == [f"diverse/train_{i:08d}.JPEG" for i in range(20)]
    with pytest.raises(DataError, match="other settings"):
        write_split(tmp_path, split._replace(images=21), progress=False)


def test_the_demo_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from clipjax.demo.__main__ import app

    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "out"
    first = CliRunner().invoke(app, ["--quick", "--out", str(out)], catch_exceptions=False)
    assert first.exit_code == 0
    for model in demo.QUICK.models:
        assert f"\n{model.id} " in first.stdout
        assert clipjax.load_model(out / "models" / model.id).card.id == model.id
    assert (out / "accuracy.png").is_file()
    assert not list((out / "training").iterdir()), "resume points go when the model is there"
    rows = ResultStore(out / "results").rows()
    top1 = [row for row in rows if row["metric"] == "top1" and row["slice"] is None]
    assert [row["n"] for row in top1] == [60, 60, 60]
    assert all(row["model_facts"]["train_source"].startswith("demo world") for row in top1)

    def never(*_: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr(demo, "_train", never)
    again = CliRunner().invoke(app, ["--quick", "--out", str(out)], catch_exceptions=False)
    assert again.exit_code == 0
    assert again.stdout == first.stdout

    full = CliRunner().invoke(app, ["--out", str(out)])
    assert full.exit_code == 1
    assert "other settings" in full.output

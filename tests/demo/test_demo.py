"""The demo: a world of independent factors, on disk as real data sets are, and the script end to end."""

from __future__ import annotations

import csv
import dataclasses
import functools
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import PIL.Image
import pytest
from _figures import undrawn
from matplotlib.figure import Figure
from scipy.stats import chi2_contingency
from typer.testing import CliRunner

import clipjax
from clipjax.analysis.claims.ledger import ledger
from clipjax.analysis.figures import style as figure_style
from clipjax.config import config_dir
from clipjax.data.annotations import load_factors
from clipjax.data.cards import cards_in, load_dataset, read_card
from clipjax.data.check import check_dataset
from clipjax.data.labels import load_labels
from clipjax.demo import beside, plan, report, sweeps, training, tuning
from clipjax.demo.__main__ import app
from clipjax.demo.analysis import CLAIMS
from clipjax.demo.corrupting import IMAGES, KINDS, SEVERITIES
from clipjax.demo.llava.asking import DEBIASED
from clipjax.demo.parts import HELD_OUT, LANGUAGE, PARTS, TESTS, TUNING, jobs_of
from clipjax.demo.settings import DemoColumn, DemoFile, settings
from clipjax.demo.world.factor_files import KEYS, PROTOTYPES, TICKED, unusual
from clipjax.demo.world.files import RenderedSplit, draw_part, write_split
from clipjax.demo.world.scenes import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    STYLES,
    TEXTURES,
    UNUSUAL_SHARE,
    Scene,
    caption_of,
    mask,
    own_cues,
    render,
    sample_scene,
)
from clipjax.demo.world.shapes import UNKNOWN
from clipjax.demo.world.shifts import OBJECTS, VIDEO_CLASSES
from clipjax.embeddings.forward import ProgramKey, compiled
from clipjax.embeddings.stream import Stream
from clipjax.errors import DataError
from clipjax.evaluation.data_folder import survey
from clipjax.evaluation.plans.collection import plan as plan_of
from clipjax.finetune.data.shots import read_shots
from clipjax.finetune.method import all_methods
from clipjax.finetune.recipe import load_recipe
from clipjax.finetune.suites import FinetuneSuite, load_suite
from clipjax.results.store import ResultStore
from clipjax.sweep.execution import SweepReport, run_sweep

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


def test_styles_and_occlusion_change_the_image_where_they_should() -> None:
    plain = dataclasses.replace(SCENE, texture="plain", background="asphalt")
    inside = mask(plain) > 0.99
    for style in ("cartoon", "pencil", "glass", "metal"):
        changed = np.abs(pixels(dataclasses.replace(plain, style=style)) - pixels(plain)).max(axis=2)
        assert changed[inside].mean() > 20, style
    blocked = np.abs(pixels(dataclasses.replace(plain, blocked=0.3)) - pixels(plain)).max(axis=2) > 0
    assert blocked.any(axis=0).sum() in (13, 14)  # 0.3 * 0.7 * 64 pixels
    dim = pixels(dataclasses.replace(plain, light=0.5))
    assert dim.mean() == pytest.approx(pixels(plain).mean() / 2, rel=0.05)


@pytest.mark.parametrize("style", STYLES)
def test_a_style_paints_the_same_whatever_the_order_of_memory(style: str) -> None:
    """`render` keeps one colour after the other in memory, and NumPy adds up in the order of memory."""
    rng = np.random.default_rng(0)
    canvas, surface = 255 * rng.random((2, 64, 64, 3), np.float32)
    cover = mask(SCENE)[..., None]
    canvas_planes, surface_planes = map(in_planes, (canvas, surface))
    expected = STYLES[style](canvas, surface, cover)
    assert np.array_equal(STYLES[style](canvas_planes, surface_planes, cover), expected)


def in_planes(image: np.ndarray) -> np.ndarray:
    """The same numbers [side, side, 3], in memory one colour after the other."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(image, -1, 0)), 0, -1)


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


def test_varied_scenes_are_between_the_two_and_some_are_unusual() -> None:
    rng = np.random.default_rng(0)
    scenes = [sample_scene(rng, "varied") for _ in range(3000)]
    own = np.mean([scene.colour == own_cues(scene.shape)[0] for scene in scenes])
    assert own == pytest.approx(0.5 + 0.5 / len(COLOURS), abs=0.03)
    colour, background = own_cues("arrow")
    usual = {"shape": "arrow", "texture": "plain", "colour": colour, "background": background}
    plain = [dataclasses.replace(scene, **usual) for scene in scenes]
    odd = np.mean([max(unusual(scene).values()) > 1.01 for scene in plain])
    assert odd == pytest.approx(UNUSUAL_SHARE, abs=0.03)
    misleading = [sample_scene(rng, "misleading") for _ in range(200)]
    assert all((s.colour, s.background) != own_cues(s.shape) for s in misleading)


def test_captions_name_the_shape_and_are_english() -> None:
    rng = np.random.default_rng(0)
    scene = dataclasses.replace(SCENE, shape="arrow", colour="orange")
    texts = {caption_of(scene, rng) for _ in range(200)}
    assert len(texts) > 5
    assert all("arrow" in text for text in texts)
    assert "a photo of an orange arrow." in texts
    assert {"night", "striped"} <= {word for text in texts for word in text.strip(".").split()}
    assert not any("a arrow" in text or "a orange" in text for text in texts)


def test_the_world_is_the_same_everywhere(tmp_path: Path) -> None:
    for folder, seed in (("one", 0), ("same", 0), ("other", 1)):
        write_split(tmp_path / folder, RenderedSplit("val", "diverse", 36, True), seed=seed, progress=False)
    one, same, other = (
        load_dataset("demo_val", tmp_path / folder / "val").manifest.digest
        for folder in ("one", "same", "other")
    )
    assert one == same != other


def test_rendering_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from clipjax.demo.world import files

    split = RenderedSplit("diverse", "diverse", 20, False)
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
    draw_part(tmp_path, split.image_set(0), slice(10, None), progress=False)
    assert len(drawn) == 21
    lines = [json.loads(line) for line in (tmp_path / "diverse.jsonl").read_text().splitlines()]
    assert [line["path"] for line in lines] == [f"diverse/train_{i:08d}.JPEG" for i in range(20)]
    other = split._replace(images=21)
    with pytest.raises(DataError, match="other settings"):
        write_split(tmp_path, other, progress=False)
    with pytest.raises(DataError, match="other settings"):
        draw_part(tmp_path, other.image_set(0), slice(10), progress=False)


def test_a_set_drawn_in_parts_is_the_whole_set(tmp_path: Path) -> None:
    split = RenderedSplit("diverse", "diverse", 9, False)
    for part in (slice(4, None), slice(4)):
        draw_part(tmp_path / "parts", split.image_set(0), part, progress=False)
    for folder in ("parts", "whole"):
        write_split(tmp_path / folder, split, progress=False)
    parts, whole = (
        {path.name: path.read_bytes() for path in (tmp_path / folder).rglob("*.*")}
        for folder in ("parts", "whole")
    )
    assert parts == whole


# -----------------------------------------------------------------------------------------------------------
# The whole world, rendered and evaluated once with hardly trained models.


class Quick(NamedTuple):
    """`programs`: how often each tower was compiled."""

    out: Path
    stdout: str
    programs: Counter[ProgramKey]

    @property
    def world(self) -> Path:
        return self.out / "world"

    def scenes(self, name: str) -> dict[str, Scene]:
        """Path below the set's folder -> what the image shows."""
        lines = map(json.loads, (self.world / f"{name}.jsonl").read_text().splitlines())
        return {line["path"].removeprefix(f"{name}/"): Scene(**line["factors"]) for line in lines}


def invoke(out: Path, *options: str) -> Any:
    return CliRunner().invoke(app, [*options, "--out", str(out)])


BATCH = 16
swept: list[SweepReport] = []  # of the sweeps since the tests began
drawn = ["pdf"]  # forms of figures of which no more are drawn


def counted(*arguments: Any, **options: Any) -> SweepReport:
    swept.append(run_sweep(*arguments, **options))
    return swept[-1]


rendered = figure_style._rendered


def first_of_each_form(figure: Figure, form: str, names: Mapping[str, Sequence[str]]) -> bytes:
    """A figure's file. Drawing one takes half a second, PDFs more, and the tests of figures do."""
    if form in drawn:
        return undrawn(figure, form, names)
    drawn.append(form)
    return rendered(figure, form, names)


def with_one_prompt_set() -> DemoFile:
    """configs/demo.toml with the first of the prompt sets that a run lists."""
    return dataclasses.replace(
        settings(), runs=tuple(dataclasses.replace(run, prompts=run.prompts[:1]) for run in settings().runs)
    )


def of_the_table(name: str) -> FinetuneSuite:
    """A suite with the data sets of the table alone: the others are Fig. 8's."""
    shown = {column.dataset for column in settings().tuning.columns}
    suite = load_suite(name)
    return dataclasses.replace(suite, datasets=tuple(each for each in suite.datasets if each in shown))


@pytest.fixture(scope="module")
def quick(one_device: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Quick]:
    out = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPJAX_CACHE", str(out / "cache"))
        patch.setattr(sweeps, "run_sweep", counted)
        patch.setattr(figure_style, "_rendered", first_of_each_form)
        patch.setattr(sweeps, "settings", with_one_prompt_set)
        # Most sets have 12 images, and the rest of a batch is padding.
        patch.setattr(sweeps, "IMAGE_BATCH", BATCH)
        patch.setattr(Stream, "batch", BATCH)
        patch.setattr(tuning, "load_suite", of_the_table)
        patch.setattr("clipjax.tasks.selective.CALIBRATED", 5)
        before = Counter(compiled)
        first = invoke(out, "--quick")
        assert first.exit_code == 0, first.output
        yield Quick(out, first.stdout, Counter(compiled) - before)


# Card -> images of the quick world: 5 held-out images per class, 2 in most other sets.
COUNTS = {
    "demo_val": 60,
    "demo_v2": 24,
    "demo_r": 12,
    "demo_a": 12,
    "demo_sketch": 24,
    "demo_objects": 12,
    "demo_video": 34,
    "demo_cues": 144,
    "demo_unknown": 20,
    "demo_textures": 12,
    "demo_ninco": 16,
    "demo_confused": 12,
    "demo_captions": 20,
    **{f"demo_corrupted:{name}:{severity}": 12 for name in ("blur", "fog") for severity in (1, 3, 5)},
    **{f"demo_nuisance:{name}": 12 for name in ("background", "texture", "material")},
    **{f"demo_3dcc:{name}:{severity}": 60 for name in KINDS for severity in SEVERITIES},
}
# Card -> images and pairs of the quick world's two objects.
PAIRS = {"demo_navi": (8, 12), "demo_scannet": (8, 12), "demo_spair": (8, 24)}


@pytest.mark.parametrize("name", COUNTS)
def test_the_readers_of_real_data_read_every_set(quick: Quick, name: str) -> None:
    card = dataclasses.replace(read_card(name), images=COUNTS[name], per_class=None)
    assert card.place is not None
    assert check_dataset(quick.world / card.place, card) == []


@pytest.mark.parametrize("name", PAIRS)
def test_the_readers_of_real_pairs_read_every_set(quick: Quick, name: str) -> None:
    card, (images, pairs) = read_card(name), PAIRS[name]
    assert (
        check_dataset(quick.world / str(card.place), dataclasses.replace(card, pairs=pairs, images=images))
        == []
    )
    share = plan.FULL.objects / plan.QUICK.objects
    assert (card.images, card.pairs) == (share * images, share * pairs)


def test_a_quick_world_has_cards_of_its_own(quick: Quick) -> None:
    """`clipjax datasets check --all` complains of nothing, and the full world keeps the shipped counts."""
    found = {located.card.name: problems for located, problems in survey(quick.world, decode=True)}
    assert {*COUNTS, *PAIRS, "demo_x"} <= set(found)
    assert {name: problems for name, problems in found.items() if problems} == {}


def test_cards_count_what_the_full_world_holds() -> None:
    full = [*plan.FULL.held_out(), *plan.FULL.test_sets()]
    sizes = {images.name: [p.path for p in images.pictures] for images in full}
    for name in COUNTS:
        card = read_card(name)
        assert card.place is not None
        if name.startswith("demo_3dcc"):
            assert card.images == IMAGES
            continue
        [paths] = [
            [path for path in paths if path.startswith(f"{card.place}/")]
            for folder, paths in sizes.items()
            if card.place.split("/")[0] == folder
        ]
        if name == "demo_objects":
            paths = [path for path in paths if path.split("/")[2] not in ("dwelling", "steps")]
        if name == "demo_captions":
            paths = paths[:200]
        assert card.images == len(paths), name
        if card.per_class is not None:
            assert card.images == card.per_class * len(load_labels(str(card.label_space))), name


def test_labels_are_what_the_scenes_show(quick: Quick) -> None:
    groups = {"demo_objects": OBJECTS, "demo_video": VIDEO_CLASSES}
    for name in ("demo_val", "demo_v2", "demo_r", "demo_a", "demo_sketch", "demo_objects", "demo_video"):
        card = read_card(name)
        data = load_dataset(card, quick.world / str(card.place))
        assert data.label_space is not None
        assert data.manifest.labels is not None
        inside = str(card.place).partition("/")[2]
        scenes = quick.scenes(str(card.place).split("/")[0])
        for image, label in zip(data.manifest.ids, data.manifest.labels):
            said, shape = data.label_space.ids[label], scenes[f"{inside}/{image}".strip("/")].shape
            assert shape == said or shape in groups.get(name, {}).get(said, ()), (name, image)


def test_training_images_have_captions_that_name_them(quick: Quick) -> None:
    train = load_dataset("demo_train", quick.world / "narrow.jsonl")
    assert train.manifest.labels is not None
    assert train.label_space is not None
    columns = train.manifest.columns
    for label, text, factors in zip(train.manifest.labels, columns["caption"], columns["factors"]):
        assert factors["shape"] == train.label_space.classes[label]
        assert factors["shape"] in text


def test_layouts_keep_the_traps_of_the_real_ones(quick: Quick) -> None:
    world = quick.world
    assert {path.name for path in (world / "demo-v2").iterdir()} == {str(i) for i in range(12)}
    assert (world / "demo-r" / "README.txt").is_file()
    assert {path.name for path in (world / "demo-objects/images").iterdir()} == set(OBJECTS)
    ninco = list((world / "demo-ninco/OOD_classes").rglob("*.*"))
    assert {path.parent.name for path in ninco} == set(UNKNOWN)
    assert any(" " in path.name for path in ninco)
    assert sum(path.suffix == ".gif" for path in ninco) == 1
    assert {path.parent.name for path in (world / "demo-confused").rglob("*.JPEG")} <= set(SHAPES)
    sets = json.loads((world / "demo-video/metadata/pmsets.json").read_text())
    assert sorted(map(len, sets.values())) == [0, 10, 10, 10]
    records = json.loads((world / "demo-captions/dataset_demo.json").read_text())["images"]
    assert [record["split"] for record in records].count("train") == 2
    for path in (world / "demo-objects/images/box").iterdir():
        image = np.asarray(PIL.Image.open(path))
        assert image.shape == (68, 68, 3)
        assert (image[:2] == (255, 0, 0)).all()
        assert not (image[2:-2, 2:-2] == (255, 0, 0)).all(axis=2).any()


def test_unknown_shapes_are_no_class() -> None:
    assert not set(UNKNOWN) & set(SHAPES)
    for name in UNKNOWN:
        unknown = mask(dataclasses.replace(SCENE, shape=name, rotation=0.0)) > 0.5
        for shape in SHAPES:
            known = mask(dataclasses.replace(SCENE, shape=shape, rotation=0.0)) > 0.5
            assert (unknown & known).sum() / (unknown | known).sum() < 0.85, (name, shape)


def test_cues_are_those_of_the_class_that_the_name_says(quick: Quick) -> None:
    data = load_dataset("demo_cues", quick.world / "demo-cues").manifest
    scenes = quick.scenes("demo-cues")
    objects: dict[str, set[tuple]] = {}
    for image, cue in zip(data.ids, data.columns["texture"]):
        scene = scenes[image]
        assert (scene.colour, scene.background) == own_cues(cue)
        place = (scene.size, scene.x, scene.y, scene.rotation, scene.texture)
        objects.setdefault(scene.shape, set()).add(place)
    assert all(len(places) == 1 for places in objects.values()), "one object with the cues of every class"
    assert sum(image.split("/")[0] == cue for image, cue in zip(data.ids, data.columns["texture"])) == 12


def test_corrupted_copies_are_of_the_held_out_images(quick: Quick) -> None:
    for name, severity in itertools.product(("blur", "fog"), (1, 5)):
        copies = quick.world / "demo-corrupted" / name / str(severity)
        changes = []
        for path in sorted(copies.rglob("*.JPEG")):
            pair = [quick.world / "demo-val" / path.relative_to(copies), path]
            one, other = (np.asarray(PIL.Image.open(file), float) for file in pair)
            assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.6
            changes.append(np.abs(one - other).mean())
        assert len(changes) == 12
        assert np.mean(changes) > (2 if severity == 1 else 8)


def test_what_is_unusual_is_measured_against_the_class() -> None:
    colour, background = own_cues("star")
    typical = Scene("star", "plain", colour, background, 0.7, 0.5, 0.5, 0.0)
    assert max(unusual(typical).values()) == 0
    changes: dict[str, dict[str, Any]] = {
        "color": {"colour": "white" if colour != "white" else "red"},
        "background": {"background": "grass" if background != "grass" else "night"},
        "smaller": {"size": 0.4},
        "larger": {"size": 1.0},
        "pose": {"rotation": -60.0},
        "partial_view": {"x": 0.1},
        "darker": {"light": 0.4},
        "brighter": {"light": 1.7},
        "object_blocking": {"blocked": 0.3},
        "pattern": {"texture": "checkered"},
        "texture": {"texture": "grainy"},
    }
    for factor, change in changes.items():
        found = unusual(dataclasses.replace(typical, **change))
        assert max(found, key=found.__getitem__) == factor
        assert found[factor] >= TICKED
    assert unusual(dataclasses.replace(typical, shape="ring", rotation=70.0))["pose"] == 0


def test_annotations_follow_from_the_scenes(quick: Quick) -> None:
    notes = load_factors(quick.world / "demo-factors")
    assert set(notes.factors) == set(KEYS)
    assert notes.metaclasses is not None
    assert len(notes.metaclasses) == 12
    scenes = {path.split("/")[1]: scene for path, scene in quick.scenes("demo-val").items()}
    assert set(notes.names) == set(scenes)
    furthest: dict[str, dict[str, float]] = {}
    for name, label, top, multi in zip(notes.names, notes.classes, notes.top, notes.multi):
        distance = unusual(scenes[name])
        assert list(SHAPES)[label] == scenes[name].shape
        [chosen] = [factor for factor, ticked in zip(notes.factors, top) if ticked]
        assert distance[chosen] == max(distance.values())
        ticked = {factor for factor, one in zip(notes.factors, multi) if one}
        assert ticked == {factor for factor, value in distance.items() if value >= TICKED} | {chosen}
        furthest.setdefault(scenes[name].shape, {})[name] = max(distance.values())
    assert notes.prototypes is not None
    for of_class in furthest.values():
        nearest = sorted(of_class, key=of_class.__getitem__)[:PROTOTYPES]
        assert set(nearest) == notes.prototypes & set(of_class)


def test_the_demo_runs_every_task_on_every_set(quick: Quick) -> None:
    assert all(f"\n{table.heading}\n" in quick.stdout for table in settings().tables)
    drawn = quick.stdout.split("\nfigures ")[1].split(" (and .pdf)")[0].split(", ")
    assert len(drawn) == 12
    assert all(Path(picture.strip()).is_file() for picture in drawn)
    for figure in ("accuracy.png", "factors.pdf", "reliability.png", "ood.png", "cues.png", "world.jpg"):
        assert (quick.out / figure).is_file()
    assert not list((quick.out / "training").iterdir()), "resume points go when the model is there"
    rows = ResultStore(quick.out / "results").rows()
    wanted = {(job.task, job.data.card.name) for job in plan_of("all", quick.world).jobs}
    shown = [card for card in cards_in(config_dir() / "datasets") if card.demo]
    assert {task for task, _ in wanted} == {task for card in shown for task in card.tasks} | {"imagenet_x"}
    assert {name for _, name in wanted} == {*COUNTS, *PAIRS, "demo_x"}
    for model in plan.QUICK.models:
        assert f"\n{model.id} " in quick.stdout
        assert clipjax.load_model(quick.out / "models" / model.id).card.id == model.id
        assert {(row["task"], row["dataset"]) for row in rows if row["model"] == model.id} == wanted
    top1 = [row for row in rows if row["metric"] == "top1" and row["dataset"] == "demo_val"]
    assert [row["n"] for row in top1] == [60] * len(top1)
    sources = {row["model_facts"]["train_source"] for row in top1}
    assert sources == {"demo world, narrow", "demo world, diverse"}
    assert all(row["value"] is not None or row["note"] for row in rows)


def test_the_demo_fine_tunes_one_model_by_every_recipe_of_its_plan(quick: Quick) -> None:
    heading = next(line for line in quick.stdout.splitlines() if line.startswith(f"{plan.BASE} fine-"))
    assert "fine-tuned on 8 narrow images per class" in heading
    titles, _, *lines = quick.stdout.split(heading)[1].strip().split("\n\n")[0].splitlines()
    columns = [column.title for column in settings().tuning.columns]
    assert re.split(r"\s{2,}", titles.strip()) == ["method", *columns]
    recipes = [load_recipe(name) for name in plan.QUICK.recipes]
    tuned = [all_methods()[recipe.method].title for recipe in recipes]
    mixed = [f"FLYP, WiSE-FT, alpha {alpha:g}" for alpha in settings().tuning.alphas]
    names = [re.split(r"\s{2,}", line)[0] for line in lines]
    assert sorted(names) == sorted(["before", *tuned, *mixed])
    assert names[0] == "before"
    assert not any(re.search(r"  -(  |$)", line) for line in lines), "a number that a method does not have"
    for name in ("finetuning.png", "finetuning.pdf", "wise_ft.png", "wise_ft.pdf"):
        assert (quick.out / name).is_file()
    rows = [row for row in ResultStore(quick.out / "results").rows() if row["metric"] == "top1"]
    curve = {row["model_facts"]["lineage"]["alpha"] for row in report._with_ends(rows)}
    assert curve == {0.0, *settings().tuning.alphas, 1.0}
    for recipe in recipes:
        folder = quick.out / "finetuned" / recipe.name / "seed1"
        card = clipjax.load_model(folder / "model").card
        assert card.id == f"{plan.BASE}-{recipe.method}-seed1"
        assert card.lineage is not None
        assert card.lineage["train"]["shots"]["per_class"] == 8
        assert len(read_shots(folder / "shots.json").ids) == card.lineage["train"]["images"]
    first, *others = [read_shots(quick.out / "finetuned" / r.name / "seed1/shots.json") for r in recipes]
    assert all(each == first for each in others), "every method saw the same images"
    commands = quick.stdout.split("Try next")[1]
    assert "finetune flyp --recipe demo_flyp" in commands
    assert "--dry-run --set shots=8" in commands, "a quick class has 14 images"


def test_the_demo_ends_with_figures_claims_and_a_report(quick: Quick) -> None:
    """Made of its results alone: every model is on the page, every claim was told by rows of all methods."""
    text = (quick.out / "report.html").read_text(encoding="utf-8")
    models = {row["model"] for row in ResultStore(quick.out / "results").rows()}
    assert len(models) == len(plan.QUICK.models) + 1 + len(plan.QUICK.recipes) + len(settings().tuning.alphas)
    assert all(f'"{model}"' in text for model in models)
    assert "Not here" not in text
    assert all(f'id="{name}"' in text for name in ("ranks-top1", "figure-risk-coverage"))
    gallery = (quick.out / "gallery.html").read_text(encoding="utf-8")
    assert '"page":"gallery.html#images-0"' in text
    assert all(f"<span>{model.id}</span>" in gallery for model in plan.QUICK.models)
    assert "Thumbnails show the crop that" in gallery
    assert '">top_factors: pose</h3>' in gallery
    for figure in ("correspondence", "corruptions_3d", "fine_tuning", "risk_coverage"):
        assert all((quick.out / f"{figure}.{ending}").is_file() for ending in ("png", "pdf", "svg"))
    claims = ledger(CLAIMS).claims
    assert len(claims) == 5
    for claim in claims:
        assert f'id="claim-{claim.key}"' in text
        measured = rf"\n{claim.key} .* 0\.95 +([5-9]) +\1 models *\n"
        assert re.search(measured, quick.stdout), "measured, on five models or more, each a unit"


def test_figures_7_and_8_are_drawn_from_the_demos_rows(quick: Quick) -> None:
    def lines(file: str) -> list[dict[str, str]]:
        return list(csv.DictReader((quick.out / file).read_text().splitlines()))

    points = Counter(point["title"].rsplit(", ", 1)[0] for point in lines("correspondence_points.csv"))
    assert sorted(points.values()) == [2 * 3, 2 * 4, 2 * 4], "two models in every bin"
    trends = [line for line in lines("corruptions_3d_trends.csv") if line["trend"] == "whole"]
    assert [line["title"] for line in trends] == [
        f"{name}, level {severity}" for name in ("Fog", "Flash") for severity in SEVERITIES
    ]
    for line in trends:
        limits = [line[f"tan_angle{end}"] for end in ("_lo", "", "_hi")]
        assert line["reason"] or sorted(limits, key=float) == limits, (
            "tan(delta) with its interval, or why not"
        )


def test_corruptions_from_depth_are_those_of_the_command(quick: Quick) -> None:
    folder = quick.world / "demo-3dcc/fog_3d/3"
    made = json.loads((folder / "corruption.json").read_text())
    assert (made["corruption"], made["severity"], made["images"], made["skipped"]) == ("fog_3d", 3, 60, [])
    for path in folder.rglob("*.JPEG"):
        image = PIL.Image.open(path)
        clean = PIL.Image.open(quick.world / "demo-val" / path.relative_to(folder)).resize((256, 256))
        ours, theirs = (np.asarray(each, float) for each in (image, clean.crop((16, 16, 240, 240))))
        assert image.size == (224, 224)
        assert ours.std() < 0.8 * theirs.std(), "fog hides what is far"


def test_the_demo_asks_a_llava_beside_its_clip(quick: Quick) -> None:
    rows = ResultStore(quick.out / "results").rows()
    lists = plan.QUICK.models[-1].id
    asked = [row for row in rows if row["convention"].get("annotations") == lists]
    asked = [row for row in asked if row["task"] == "multiple_choice"]
    for model, metrics in ((plan.QUICK.tower.id, ["top1"]), (plan.LLAVA, ["top1", DEBIASED])):
        own = [row for row in asked if row["model"] == model]
        assert {row["dataset"] for row in own} == {
            name for name in COUNTS if name.startswith("demo_nuisance")
        }
        assert set(metrics) <= {row["metric"] for row in own}
    model, tower = (
        clipjax.load_model(quick.out / "models" / name) for name in (plan.LLAVA, plan.QUICK.tower.id)
    )
    same = jax.tree.map(np.array_equal, model.params["vision"], tower.params["vision"])
    assert all(jax.tree.leaves(same)), "the tower is frozen"
    heading = f"{plan.LLAVA}, which has the image tower of {plan.QUICK.tower.id}, asked which of four shapes"
    table = quick.stdout.split(heading)[1].strip().split("\n\n")[1]
    assert "beats chance" in table
    for name in ("background", "material", "texture", "all three"):
        assert f"\n{name} " in table
    [answer] = model.answer([PIL.Image.new("RGB", (40, 30))], "What shape is it?", steps=4)
    assert isinstance(answer, str)


def test_the_demo_compiles_each_program_once(quick: Quick) -> None:
    assert {program.arch for program in quick.programs} == {"demo_small", "demo_llava", "any"}
    assert {program.tower for program in quick.programs if program.arch == "any"} == {"matches"}
    assert {program.batch for program in quick.programs if program.tower == "image"} == {BATCH}
    # The image tower has two programs: a classifier's features keep their length.
    repeated = {program: count for program, count in quick.programs.items() if count > 1}
    assert {program.tower for program in repeated} <= {"image"}
    assert set(repeated.values()) <= {2}
    assert [report.failures for report in swept] == [[]] * len(swept)


def test_what_is_made_is_left_out(quick: Quick, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each kind of job, by its files or its rows; the whole command: the next test."""
    jobs = {job.name: job for job in jobs_of(plan.QUICK, quick.out, progress=False)}
    assert all(job.is_made for job in jobs.values())
    left_out = {name for name, job in jobs.items() if job.is_left_out}
    assert left_out == {*PARTS, LANGUAGE, *(f"train {model.id}" for model in plan.QUICK.models)}
    assert jobs[TUNING].makes, "those are read, though not made again"

    def never(*_: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr("clipjax.demo.world.files.render", never)
    monkeypatch.setattr("clipjax.finetune.finetune.solve", never)
    monkeypatch.setattr(beside, "_Worker", never)
    beside.work_through([jobs[name] for name in (*PARTS, HELD_OUT, TESTS)], apart=False)
    tuning.fine_tune(plan.QUICK, quick.out, progress=False)
    sweeps.lists_of(plan.BASE, quick.out, progress=False)
    assert (swept[-1].runs, swept[-1].failures) == (0, [])
    assert swept[-1].skipped == sum(name.startswith("demo_nuisance") for name in COUNTS)


@pytest.mark.parametrize("options", [(), ("--quick", "--seed", "1")], ids=["full", "seed"])
def test_another_plans_world_is_refused(quick: Quick, options: tuple[str, ...]) -> None:
    other = invoke(quick.out, *options)
    assert other.exit_code == 1
    assert "other settings" in other.output


@pytest.mark.long("demo/test_demo.py::test_what_is_made_is_left_out")
def test_the_demo_is_not_made_again(quick: Quick, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr(training, "train", never)
    monkeypatch.setattr("clipjax.demo.world.files.render", never)
    monkeypatch.setattr("clipjax.finetune.finetune.solve", never)
    monkeypatch.setattr(beside, "_Worker", never)
    # Drawing takes most of the time, and other tests look at pictures.
    monkeypatch.setattr(figure_style, "_rendered", undrawn)
    deleted = [quick.out / name for name in ("report.html", "cues.png", "wise_ft.png", "correspondence.svg")]
    for file in deleted:
        file.unlink()
    runs = ResultStore(quick.out / "results").run_ids()
    again = invoke(quick.out, "--quick")
    assert again.exit_code == 0
    assert again.stdout == quick.stdout
    assert ResultStore(quick.out / "results").run_ids() == runs
    assert all(file.is_file() for file in deleted), "pictures and page are drawn anew"


def test_cells_show_the_row_that_the_column_means() -> None:
    def row(value: float | None, prompts: str, interval: Any = None) -> Any:
        named = {"model": "m", "task": "zeroshot", "dataset": "d", "metric": "top1", "slice": None}
        return {**named, "value": value, "interval": interval, "convention": {"prompts": prompts}}

    rows = [row(0.25, "demo", {"lo": 0.2, "hi": 0.3}), row(0.75, "single")]
    column = DemoColumn("t", "zeroshot", "d", "top1")
    changed = functools.partial(dataclasses.replace, column)
    assert report.cell(column, rows, "m") == "25.0 [20, 30]"
    assert report.cell(changed(prompts="single"), rows, "m") == "75.0"
    assert report.cell(changed(prompts="openai_7"), rows, "m") == "-"
    assert report.cell(changed(percent=False), rows, "m") == "0.25 [0.20, 0.30]"
    assert report.cell(column, [row(None, "demo")], "m") == report.cell(column, rows, "other") == "-"

"""Published protocols, and what departs from them."""

from __future__ import annotations

import csv
import dataclasses
import fnmatch
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _rows import row
from typer.testing import CliRunner

from clipjax.cli import app
from clipjax.config import config_dir
from clipjax.data.cards import dataset_names
from clipjax.data.labels import load_labels, load_prompts
from clipjax.errors import DataError
from clipjax.results.published import effects, protocols
from clipjax.results.published.protocols import matches, nearest, with_protocols
from clipjax.results.rows import validate_rows
from clipjax.results.store import ResultStore, new_run_id
from clipjax.tasks.task import all_tasks

CLIP_80 = {"prompts": "openai_80", "label_space": "imagenet", "projection": None}


def imagenet(**changed: Any) -> dict[str, Any]:
    """A row of a zero-shot accuracy on ImageNet, as CLIP's own notebook measures it."""
    fields = {"dataset": "imagenet_val", "convention": CLIP_80, "recipe": {"pixels": {"pre_crop": 0}}}
    fields |= {"model_facts": {"kind": "zero_shot"}}
    return row(new_run_id(), **{**fields, **changed})


def departures(one: dict[str, Any], name: str) -> list[str]:
    [found] = [match for match in matches(one) if match.protocol.name == name]
    return [departure.aspect for departure in found.departures]


def test_a_result_that_follows_a_protocol() -> None:
    assert departures(imagenet(), "clip_80") == []
    match = nearest(imagenet())
    assert match is not None
    assert match.field()["departures"] == []


@pytest.mark.parametrize(
    ("changed", "aspect"),
    [
        ({"convention": {**CLIP_80, "prompts": "single"}}, "templates"),
        ({"convention": {**CLIP_80, "label_space": "mine"}}, "classes"),
        ({"sample": {"limit": 100, "seed": 0, "of": 50000}}, "images"),
        ({"skipped": 2}, "unreadable images"),
        ({"precision": "fast"}, "precision of the towers"),
        ({"model_facts": {"kind": "zero_shot", "resized": True, "image_size": 336}}, "image size"),
        ({"convention": {**CLIP_80, "id_sample": {"limit": 9, "seed": 0, "of": 50}}}, "ID images"),
        ({"recipe": {"pixels": {"decode": "jpeg_scaled"}}}, "decoding"),
    ],
)
def test_each_departure_is_named(changed: dict[str, Any], aspect: str) -> None:
    assert departures(imagenet(**changed), "clip_80") == [aspect]


def test_other_class_names_are_named_whatever_their_file_is_called() -> None:
    own, other = load_labels("imagenet"), dataclasses.replace(load_labels("imagenet"), classes=("x",) * 1000)
    assert departures(imagenet(recipe={"head_classes": own.digest}), "clip_80") == []
    assert departures(imagenet(recipe={"head_classes": other.digest}), "clip_80") == ["class names"]
    classifier = imagenet(recipe={"head_classes": other.digest}, model_facts={"kind": "classifier"})
    assert departures(classifier, "study_accuracy") == []


@pytest.mark.parametrize(
    ("field", "value", "aspect"),
    [
        ("image_size", 240, "crop"),
        ("resize_size", 256, "resize"),
        ("resize_mode", "squash", "resize mode"),
        ("interpolation", "bilinear", "interpolation"),
    ],
)
def test_a_registered_models_transform_is_its_own(field: str, value: object, aspect: str) -> None:
    own = {"image_size": 224, "resize_size": 224, "resize_mode": "shortest", "interpolation": "bicubic"}
    followed, changed = ({"pixels": pixels} for pixels in (own, {**own, field: value}))
    assert departures(imagenet(model="vit_b_32-openai", recipe=followed), "clip_80") == []
    assert departures(imagenet(model="vit_b_32-openai", recipe=changed), "clip_80") == [aspect]
    assert departures(imagenet(recipe=changed), "clip_80") == [], "of other models nothing is known"
    resized = {"kind": "zero_shot", "resized": {"from": 224}, "image_size": 240}
    at_240 = imagenet(model="vit_b_32-openai", recipe=changed, model_facts=resized)
    assert departures(at_240, "clip_80") == ["image size"]


def test_a_protocol_goes_before_the_models_own_transform() -> None:
    """MCM's bilinear resize is followed though the model's own is bicubic."""
    assert departures(ood("bilinear", model="vit_b_32-openai"), "mcm") == []
    assert departures(ood("bilinear", model="vit_b_32-openai"), "study_ood")[1:] == ["interpolation"]


def test_the_nearest_protocol_is_the_one_with_the_fewest_departures() -> None:
    for prompts, name in (("openai_7", "clip_7"), ("single", "one_template")):
        match = nearest(imagenet(convention={**CLIP_80, "prompts": prompts}))
        assert match is not None
        assert (match.protocol.name, match.departures) == (name, ())


def ranked(row: Any, monkeypatch: pytest.MonkeyPatch, **asks: dict[str, Any]) -> list[str]:
    """The names of protocols of one task and data set, that ask for this, nearest first."""
    of = {"title": "", "source": "", "task": "zeroshot", "datasets": ("imagenet_val",)}
    made = [protocols.Protocol(name, asks=each, **of) for name, each in asks.items()]
    monkeypatch.setattr(protocols, "protocols", lambda: tuple(made))
    return [match.protocol.name for match in matches(row)]


def test_a_wrong_label_space_is_further_than_three_small_departures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, the first would be the nearest; its one departure moves a number by 13 points."""
    one = {"convention.label_space": ("imagenet_a",)}
    three = {"convention.prompts": ("single",), "recipe.pixels.interpolation": ("bilinear",)}
    three["recipe.pixels.pre_crop"] = ("2",)
    assert ranked(imagenet(), monkeypatch, one=one, three=three) == ["three", "one"]
    # Where the sums are equal, fewer unknown effects are nearer; an unknown one is no effect of its own.
    crop, two = {"recipe.pixels.pre_crop": ("2",)}, {"convention.projection": ("max",)}
    assert ranked(imagenet(), monkeypatch, both=crop | two, crop=crop, one=one) == ["crop", "both", "one"]


def test_departures_are_ordered_and_carry_their_size() -> None:
    changed = {**CLIP_80, "prompts": "single", "label_space": "mine"}
    pixels = {"pixels": {"decode": "jpeg_scaled"}}
    sample = {"limit": 100, "seed": 0, "of": 50000}
    [match] = [
        each
        for each in matches(imagenet(convention=changed, recipe=pixels, sample=sample))
        if each.protocol.name == "clip_80"
    ]
    assert [(each.aspect, str(each.effect)) for each in match.departures] == [
        ("classes", "13.3 points"),
        ("templates", "3.5 points"),
        ("decoding", "unknown"),
        ("images", "0 points"),
    ]
    assert (match.points, match.unknown) == (16.8, ("decoding",))
    [departure] = [
        d for each in matches(ood("bicubic")) for d in each.departures if each.protocol.name == "mcm"
    ]
    assert str(departure.effect) == "unknown", "the figure is of accuracies"


def test_every_departure_has_an_entry_and_every_entry_a_departure() -> None:
    """Without an entry an effect would be unknown by mistake."""
    words = {*protocols._WORDS.values(), *(word for word, _ in protocols._TRANSFORM.values()), "score"}
    source = Path(protocols.__file__).read_text()
    words |= set(re.findall(r'_Difference\("([^"]+)"', source)) | {"images", "ID images", "random sample"}
    assert {each.aspect for each in effects.effects()} == words
    for each in effects.effects():
        assert set(each.tasks) <= set(all_tasks())
        assert len(each.source) > 8


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("points = -3", r"departures\.toml: effects\[1\]: points = -3 must be from 0 to 100: it has no sign"),
        ("points = nan", r"departures\.toml: effects\[1\]: points = nan must be"),
        ('tasks = ["zeroshots"]', r"departures\.toml: effects\[1\]\.tasks: .* 'zeroshots'; .*, zeroshot"),
    ],
)
def test_a_mistake_among_the_effects_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, says: str
) -> None:
    fine = '[[effects]]\naspect = "crop"\nsource = "a table"\n'
    (tmp_path / "departures.toml").write_text(f"{fine}\n{fine}{line}\n", encoding="utf-8")
    shipped = (config_dir() / "protocols.toml").read_text(encoding="utf-8")
    (tmp_path / "protocols.toml").write_text(shipped, encoding="utf-8")
    monkeypatch.setattr(effects, "config_dir", lambda: tmp_path)
    with pytest.raises(DataError, match=says):
        effects.effects.__wrapped__()


def test_figures_of_effects_are_those_of_the_published_tables(test_data: Path) -> None:
    """The label space and the image size are measured by timm on ImageNet's validation set."""

    def read(name: str) -> dict[tuple[str, str], float]:
        with (test_data / "published" / "timm" / name).open() as file:
            return {(row["model"], row["img_size"]): float(row["top1"]) for row in csv.DictReader(file)}

    whole, medians = read("results-imagenet.csv"), []
    for part in ("a", "r"):
        among = read(f"results-imagenet-{part}-clean.csv")
        medians.append(np.median([among[key] - whole[key] for key in among if key in whole]))
    assert effects.effect("classes", "zeroshot").points == pytest.approx(np.mean(medians), abs=0.05)
    by_model: dict[str, list[float]] = {}
    for (model, _), value in whole.items():
        by_model.setdefault(model, []).append(value)
    twice = [abs(np.diff(values)[0]) for values in by_model.values() if len(values) == 2]
    assert len(twice) == 290
    assert effects.effect("image size", "zeroshot").points == pytest.approx(np.median(twice), abs=0.01)


def test_a_crop_and_an_interpolation_are_asked_for() -> None:
    convention = {"prompts": "openai_80", "label_space": "objectnet", "projection": "max from imagenet"}
    cut, whole = (
        imagenet(dataset="objectnet", convention=convention, recipe={"pixels": {"pre_crop": pixels}})
        for pixels in (2, 0)
    )
    assert departures(cut, "objectnet_border") == []
    assert departures(whole, "objectnet_border") == ["border cut"]
    direct = {**convention, "projection": None}
    own_head = imagenet(dataset="objectnet", convention=direct, recipe={"pixels": {"pre_crop": 2}})
    assert departures(own_head, "objectnet_border") == ["projection"]


MCM = {
    "prompts": "single_no_period",
    "id": "imagenet_val",
    "headline": {"zero_shot": "mcm", "classifier": "msp"},
}


def ood(interpolation: str, **changed: Any) -> dict[str, Any]:
    fields = {"task": "ood", "dataset": "places", "convention": MCM, "model_facts": {"kind": "zero_shot"}}
    recipe = {"pixels": {"interpolation": interpolation}}
    return row(new_run_id(), **{**fields, "recipe": recipe, **changed})


def test_the_score_and_the_interpolation_are_asked_for() -> None:
    assert departures(ood("bilinear"), "mcm") == []
    assert departures(ood("bicubic"), "mcm") == ["interpolation"]
    assert departures(ood("bilinear", slice="score:mcm"), "mcm") == []
    assert departures(ood("bilinear", slice="score:energy"), "mcm") == ["score"]


def test_a_protocol_of_zero_shot_models_covers_no_classifier() -> None:
    found = matches(ood("bilinear", model_facts={"kind": "classifier"}))
    assert [match.protocol.name for match in found] == ["study_ood"]


def test_a_classifier_departs_in_no_templates() -> None:
    own = {**CLIP_80, "prompts": "not applicable: a classifier has its own head"}
    classifier = imagenet(convention=own, model_facts={"kind": "classifier"})
    assert departures(classifier, "study_accuracy") == []


def test_no_protocol_for_data_of_ones_own_or_published_numbers() -> None:
    assert nearest(row(new_run_id())) is None
    assert nearest(imagenet(origin="published")) is None


def test_rows_carry_it_and_older_rows_need_not() -> None:
    rows = with_protocols([imagenet(), row(new_run_id())])
    assert rows[0]["protocol"]["sha256"] == matches(imagenet())[0].protocol.sha256
    assert rows[1]["protocol"] is None
    for each in (*rows, imagenet()):
        validate_rows([each])


def test_the_file_names_what_exists() -> None:
    for protocol in protocols.protocols():
        assert protocol.task in all_tasks()
        known = [name.split(":")[0] for name in dataset_names()]
        for pattern in protocol.datasets:
            assert fnmatch.filter(known, pattern.split(":")[0]), f"{protocol.name}: {pattern}"
        for prompts in protocol.asks.get("convention.prompts", ()):
            assert prompts == "captions as they stand" or load_prompts(prompts).name == prompts
    assert len({protocol.sha256 for protocol in protocols.protocols()}) == len(protocols.protocols())


def test_a_mistake_in_the_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocols, "config_dir", lambda: tmp_path)
    whole = '[mine]\ntitle = "x"\nsource = "x"\ntask = "zeroshot"\ndatasets = ["x"]\n'
    for text, words in (
        (whole, "the key 'asks' is missing"),
        (f"{whole}asks = {{}}\nask = 1\n", "unknown key 'ask'"),
    ):
        (tmp_path / "protocols.toml").write_text(text)
        protocols.protocols.cache_clear()
        with pytest.raises(DataError, match=rf"\[mine\].*{words}"):
            protocols.protocols()
    protocols.protocols.cache_clear()


def test_the_command(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    one, other = (
        imagenet(convention={**CLIP_80, "prompts": name}, recipe_hash=letter * 64)
        for name, letter in (("openai_80", "a"), ("mine", "b"))
    )
    for each in (one, other):
        store.add(with_protocols([each]))
    listed = CliRunner().invoke(app, ["explain", str(tmp_path), "--against", "clip_80"])
    assert listed.exit_code == 0
    assert [line.split("clip_80")[1].strip() for line in listed.stdout.splitlines()[2:]] == [
        "nothing",
        "templates: mine (3.5 points)",
    ]
    whole = CliRunner().invoke(app, ["explain", str(tmp_path), "--run", other["run_id"]])
    assert "departs in" in whole.stdout
    assert "openai_80" in whole.stdout
    assert "usual effects together: 3.5 points" in whole.stdout
    record = json.loads(CliRunner().invoke(app, ["explain", str(tmp_path), "--json"]).stdout)
    assert [len(each["protocol"]["departures"]) for each in record] == [0, 1]
    assert [effect["points"] for each in record for effect in each["effects"]] == [3.5]
    for wrong in (["--run", "nothing"], ["--against", "nothing"]):
        assert CliRunner().invoke(app, ["explain", str(tmp_path), *wrong]).exit_code != 0


def known(value: float, source: str) -> dict[str, Any]:
    return {"value": value, "source": source, "difference": 0.5 - value, "note": None}


def test_what_is_published_stands_beside_a_run(tmp_path: Path) -> None:
    run = imagenet(reference=[known(0.51, "paper"), known(0.4, "open_clip")])
    part = {**run, "metric": "top5", "reference": [known(0.5, "open_clip")], "recipe_hash": "b" * 64}
    ResultStore(tmp_path).add([run, part])
    ResultStore(tmp_path).add([imagenet(recipe_hash="c" * 64)])
    lines = CliRunner().invoke(app, ["explain", str(tmp_path)]).stdout.splitlines()
    assert lines[0].rstrip().endswith("published numbers")
    assert lines[2].endswith("3, furthest top1 +0.1000 (open_clip)")
    assert lines[3].rstrip().endswith("nothing")
    record = json.loads(CliRunner().invoke(app, ["explain", str(tmp_path), "--json"]).stdout)
    expected = [("top1", 0.51, "paper"), ("top1", 0.4, "open_clip"), ("top5", 0.5, "open_clip")]
    shown = [(one["metric"], one["published"], one["source"]) for one in record[0]["published"]]
    assert (shown, record[1]["published"]) == (expected, [])
    whole = CliRunner().invoke(app, ["explain", str(tmp_path), "--run", run["run_id"]]).stdout
    assert re.search(r"top1 +0\.5000 +0\.5100 +-0\.0100 +paper", whole)
    alone = json.loads(
        CliRunner().invoke(app, ["explain", str(tmp_path), "--run", run["run_id"], "--json"]).stdout
    )
    assert alone["published"] == record[0]["published"]

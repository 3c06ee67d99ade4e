"""All published models become result rows: whose they are, what is known of them, from how many images."""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path
from typing import Any

import _published_page
import numpy as np
import pytest
from _rows import row as result_row
from typer.testing import CliRunner

from clipjax.checkpoints.identity.registry_rows import registry
from clipjax.cli import app
from clipjax.config import config_dir
from clipjax.errors import DataError
from clipjax.results.published.models import facts, rules
from clipjax.results.published.numbers import PublishedNumber, read_numbers, updated
from clipjax.results.published.references import scores, sources, with_imported
from clipjax.results.published.result_rows import METHOD, published_rows
from clipjax.results.rows import validate_rows
from clipjax.results.store import ResultStore, new_run_id
from clipjax.storage.reading import read_csv

FOLDERS = {"open_clip": "openclip", "timm": "timm", "testbed": "testbed", "imagenet_x": "imagenet_x"}
# The study's ImageNet classifiers, which timm's tables have.
IMAGENET = {
    row["id"]
    for row in read_csv(config_dir() / "models.csv")
    if row["library"] == "timm" and row["group"] in ("standard", "contrastive", "more_data")
}
# Numbers, models, and registered ones but for those. 121 x (6 + 12); 1,556 lines x 8 files x 2 (one file has
# another model); 393 x 2 x 19.
SIZES = {
    "open_clip": (2178, 121, 82),
    "timm": (24896, 1557, 36),
    "testbed": (45774, 338, 0),
    "imagenet_x": (14934, 393, 2),
}
# The study's ImageNet classifiers that ImageNet-X's tables have.
NAMED = {of["id"] for of in sources()["imagenet_x"]["models"].values()}


@pytest.fixture(scope="module", params=FOLDERS)
def numbers(request: pytest.FixtureRequest, test_data: Path) -> list[PublishedNumber]:
    return read_numbers(request.param, test_data / "published" / FOLDERS[request.param])


def test_every_number_comes_in_once(numbers: list[PublishedNumber]) -> None:
    models = {number.score.model: number.facts is None for number in numbers}
    source = numbers[0].score.source
    numbered, listed, others = SIZES[source]
    assert (len(numbers), len(models)) == (numbered, listed)
    more = {"timm": IMAGENET, "imagenet_x": NAMED & set(registry()) - {"vit_b_32-openai", "rn50-openai"}}
    assert sum(models.values()) == others + len(more.get(source, ()))
    assert len({number.score.key for number in numbers}) == len(numbers)
    known = {model["id"] for model in read_csv(config_dir() / "models.csv")}
    assert {model for model, registered in models.items() if registered} == models.keys() & known
    assert all(model.startswith(f"{source}:") for model in models.keys() - known)


def test_a_number_of_images_is_one_whose_counts_the_values_are(numbers: list[PublishedNumber]) -> None:
    """Another number would leave fractions of images; open_clip's four digits are too few to show it."""
    digits = {"open_clip": 5e-5, "timm": 5e-6, "testbed": 6e-7, "imagenet_x": 6e-7}[numbers[0].score.source]
    by_data: dict[tuple[str, str | None], list[PublishedNumber]] = {}
    for number in numbers:
        if number.n is not None:
            by_data.setdefault((number.score.dataset, number.score.slice), []).append(number)
    for data, some in by_data.items():
        hits = np.array([number.score.value * number.n for number in some if number.n])
        whole = np.abs(hits - np.rint(hits)) <= digits * (some[0].n or 0) + 1e-6
        assert whole.mean() > 0.94, data  # timm printed some older numbers through the error, with two digits


def test_the_testbeds_numbers_are_counts_to_the_last_digit(test_data: Path) -> None:
    path = test_data / "published" / "testbed" / "robustness_top1s.csv"
    number = {"imagenet-sketch": 50889, "objectnet-1.0-beta": 18514, "imagenet-vid-robust_pm10": 1109}
    for title, n in number.items():
        hits = np.array([float(row[title]) * n / 100 for row in read_csv(path) if row[title]])
        assert np.abs(hits - np.rint(hits)).max() < 0.01
        assert np.abs(hits * (n + 1) / n - np.rint(hits * (n + 1) / n)).max() > 0.1


def test_rows_of_all_models(numbers: list[PublishedNumber]) -> None:
    some = numbers[:: max(len(numbers) // 500, 1)]
    rows = published_rows(some)
    validate_rows(rows)
    assert [row["model"] for row in rows] == [number.score.model for number in some]
    for row, number in zip(rows, some):
        assert row["n"] == number.n
        assert (row["interval"] is None) == (number.n is None)
        if row["interval"]:
            assert row["interval"]["method"] == METHOD
            half = 1 / row["n"]  # a rounded value may lie off its count
            assert row["interval"]["lo"] - half <= row["value"] <= row["interval"]["hi"] + half
        assert row["convention"]["source"] == number.score.source


GROUPS = {
    "open_clip": {"clip": 16, "curated": 13, None: 10},
    "timm": {"standard": 1077, "more_data": 274, "clip_ft": 5, "robust_intervention": 11, None: 154},
    "testbed": {
        "standard": 79,
        None: 6,
        "more_data": 41,
        "robust_intervention": 70,
        "lp_adversarial": 16,
        "contrastive": 4,
        "low_accuracy": 118,
        "no_network": 4,
    },
    "imagenet_x": {
        "clip": 2,
        "standard": 98,
        None: 20,
        "more_data": 47,
        "robust_intervention": 70,
        "lp_adversarial": 25,
        "contrastive": 12,
        "low_accuracy": 115,
        "no_network": 4,
    },
}


def test_groups_by_the_rules(numbers: list[PublishedNumber]) -> None:
    """Of models that are not registered, and of the study's ImageNet classifiers by their names alone."""
    source = numbers[0].score.source
    models = {number.score.model: number.facts for number in numbers if number.facts is not None}
    models |= {name: facts("timm", (name, "")) for name in IMAGENET if source == "timm"}
    if source == "imagenet_x":  # registered or not, a model is in the same group
        models |= {name: registry()[name] for name in NAMED & set(registry())}
    assert Counter(known.get("group") for known in models.values()) == GROUPS[source]


def test_facts_of_some_models() -> None:
    def of(source: str, *name: str) -> tuple[str | None, ...]:
        found = facts(source, name)
        return tuple(found.get(fact) for fact in ("group", "train_source", "fine_tune", "arch_kind"))

    assert of("timm", "resnet50.a1_in1k", "288") == ("standard", "IN1K", "none", "cnn")
    swin = of("timm", "swin_base_patch4_window7_224.ms_in22k_ft_in1k", "224")
    assert swin == ("more_data", "IN21K", "ft_in1k", "vit")
    tuned = of("timm", "convnext_base.clip_laiona_augreg_ft_in1k_384", "384")
    assert tuned == ("clip_ft", "LAION-Aesthetic", "ft_in1k", "cnn")
    assert of("timm", "eva_giant_patch14_224.clip_ft_in1k", "224") == ("clip_ft", None, "ft_in1k", "vit")
    assert of("timm", "hiera_base_224.mae_in1k_ft_in1k", "224") == (None, "IN1K", "ft_in1k", "vit")
    assert of("timm", "levit_128.fb_dist_in1k", "224") == (None, None, "none", None)
    assert of("timm", "regnety_1280.swag_lc_in1k", "224") == ("more_data", None, "lc_in1k", "cnn")
    assert of("timm", "tf_efficientnet_b0.ap_in1k", "224") == ("robust_intervention", "IN1K", "none", "cnn")
    assert of("open_clip", "ViT-H-14-quickgelu", "dfn5b") == ("curated", "DFN", "none", "vit")
    flexible = of("timm", "flexivit_base.600ep_in1k", "240")
    assert flexible == (None, "IN1K", "none", "vit"), "a DeiT III was its teacher"
    assert of("timm", "rdnet_large.nv_in1k_ft_in1k_384", "384") == ("standard", "IN1K", "ft_in1k", "cnn")
    merged = of("timm", "eva_giant_patch14_560.m30m_ft_in22k_in1k", "560")
    assert merged == ("more_data", None, "ft_in22k_in1k", "vit"), "30 million images of several sets"
    taught = of("timm", "tiny_vit_21m_512.dist_in22k_ft_in1k", "512")
    assert taught == ("more_data", None, "ft_in1k", None)
    coca = of("open_clip", "coca_ViT-B-32", "mscoco_finetuned_laion2b_s13b_b90k")
    assert coca == (None, "LAION-2B", "mscoco", "vit")
    assert of("testbed", "vit_b_32_clip_zeroshot") == (None, "WIT", "none", "vit")
    assert of("testbed", "resnet50_swav") == (None, "IN1K", None, "cnn")
    assert of("testbed", "resnet50_swsl") == ("more_data", "IG-1B", None, "cnn")


def test_groups_of_timm_agree_with_its_own_metadata(test_data: Path) -> None:
    """Where an architecture is listed with one tag, the metadata (which have no tags) are of that."""
    folder, listed = test_data / "published" / "timm", dict[str, set[tuple[str, str]]]()
    for row in read_csv(folder / "results-imagenet.csv"):
        listed.setdefault(row["model"].split(".")[0], set()).add((row["model"], row["img_size"]))
    more = ("in21k", "in21k-selfsl", "jft300m-ns", "yfc-semisl", "ig1b-swsl", "ig1b-wsl")
    expected = {"in1k": "standard", "in1k-dist": None, **dict.fromkeys(more, "more_data")}
    expected |= dict.fromkeys(("in1k-ap", "in1k-adv"), "robust_intervention")
    metadata = {row["model"]: row["pretrain"] for row in read_csv(folder / "model_metadata-in1k.csv")}
    one = {m: names for m, names in listed.items() if m in metadata and len({n for n, _ in names}) == 1}
    other = [
        m for m in one if {facts("timm", name).get("group") for name in one[m]} != {expected[metadata[m]]}
    ]
    assert len(one) == 309
    assert other == ["mixer_l16_224"]  # in1k there, but its tag says goog_in21k_ft_in1k


def test_the_page_counts_what_the_files_have(test_data: Path) -> None:
    """Written by hand, it named 80 registered models where the import prints 82."""
    text = _published_page.PAGE.read_text(encoding="utf-8")
    assert text == _published_page.page(test_data / "published"), (
        "run: python tests/records.py published_page"
    )
    for source, (numbers, models, _) in SIZES.items():
        assert re.search(rf"\| `{source}` \| {models:,} \| \d+ \| {numbers:,}: ", text)
    assert re.search(
        r"1,557 models are 1,265 weights .*, 290 of them at two sizes, and 2 that", text, re.DOTALL
    )


def test_every_rule_is_about_a_model(test_data: Path) -> None:
    for source, found in rules().items():
        folder = test_data / "published" / FOLDERS[source]
        keys = sources()[source]["name"]
        parts = sources()[source].get("parts", [])
        names = {
            " ".join([*(part for part in parts if path.name.startswith(part)), *(row[key] for key in keys)])
            for path in folder.glob("*.csv")
            for row in read_csv(path)
            if set(keys) <= row.keys()
        }
        for rule in found:
            assert any(map(rule.covers, names)), rule.why
            assert rule.names <= names, rule.names - names


def test_the_other_spelling_of_a_registered_model_stands_in_no_trend(test_data: Path) -> None:
    numbers = read_numbers("open_clip", test_data / "published" / "openclip")
    known = {number.score.model: number.facts for number in numbers}
    assert known["open_clip:RN50:cc12m"] == {"other_spelling_of": "rn50-cc12m"}
    assert known["rn50-cc12m"] is None
    assert known["vit_h_14_378-dfn5b"] is None
    assert known["open_clip:ViT-H-14-quickgelu:metaclip_fullcc"] == {
        **facts("open_clip", ("ViT-H-14-quickgelu", "metaclip_fullcc")),
        "params_m": 632.08,
        "image_size": 224,
    }


def table(path: Path, *lines: list[str]) -> Path:
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    return path


TIMM = ["model", "img_size", "top1", "top1_err", "top5", "param_count"]


def test_an_image_size_of_its_own_is_the_registered_model(tmp_path: Path) -> None:
    """The same weights at another size are another line, and not the registry's model."""
    name = "vit_base_patch32_clip_224.openai_ft_in1k"
    path = table(
        tmp_path / "results-imagenet.csv",
        TIMM,
        [name, "224", "81.93", "18.07", "95", "88.22"],
        [name, "448", "80", "20", "94", "1,088.5"],
    )
    first, _, second, _ = read_numbers("timm", path)
    assert (first.score.model, first.facts) == (name, None)
    assert second.score.model == f"timm:{name}@448px"
    assert second.facts is not None
    assert [second.facts[key] for key in ("params_m", "image_size", "group")] == [1088.5, 448, "clip_ft"]
    assert len(read_numbers("timm", path, registered=True)) == 2


def test_blank_cells_were_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sources()["testbed"], "columns", sources()["testbed"]["columns"][:1])
    path = table(tmp_path / "robustness_top1s.csv", *TESTBED)
    shown = {(n.score.model, n.score.dataset): n.score.value for n in read_numbers("testbed", path)}
    assert shown == {
        ("testbed:resnet50", "imagenet_val"): 0.7613,
        ("testbed:alexnet", "testbed:new_setting"): 0.25,
        ("testbed:resnet50", "testbed:new_setting"): 0.5,
    }


TESTBED = (["model", "val", "new_setting"], ["resnet50", "76.13", "50"], ["alexnet", "", "25"])


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = table(tmp_path / "testbed" / "robustness_top1s.csv", *TESTBED)
    monkeypatch.setitem(sources()["testbed"], "columns", sources()["testbed"]["columns"][:1])
    command = ["results", "import", str(path), "--source", "testbed", "--out", str(tmp_path / "r")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "3 numbers of 2 models, 0 of them registered" in done.output
    rows = ResultStore(tmp_path / "r").rows()
    assert [row["n"] for row in rows] == [50000, None, None]
    refused = CliRunner().invoke(app, [*command, "--registered"])
    assert isinstance(refused.exception, DataError)
    assert re.search(r"no model of testbed's in .* is registered", str(refused.exception))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[timm]]\npattern = "a"', r"\[\[timm\]\] 1: the key 'why' is missing"),
        ('[[timm]]\nwhy = "a"', r"\[\[timm\]\] 1 needs `why`, and `pattern` or `names`"),
        ('[[timm]]\nwhy = "a"\npattern = "("', r"'\(' is not a regular expression"),
        ('[[timm]]\nwhy = "a"\nname = "b"', r"unknown key 'name'"),
        ('[[timm]]\nwhy = "a"\nnames = ["b"]\nlike = "testbed"', r"\[\[timm\]\] 1 needs `pattern`"),
    ],
)
def test_a_wrong_rule_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "rules.toml").write_text(text)
    with pytest.raises(DataError, match=message):
        rules(tmp_path / "rules.toml")


def test_groups_are_those_that_the_registry_has_for_the_same_training_set(
    numbers: list[PublishedNumber],
) -> None:
    """What is registered and what is not differ in no group where the training set, or CLIP, is the same."""
    registered = {
        row["train_source"]: row["group"]
        for row in registry().values()
        if row["library"] == "open_clip" and row["group"] != "recent"
    }
    others = {number.score.model: number.facts for number in numbers if number.facts}
    compared = [
        known
        for known in others.values()
        if known.get("kind") == "zero_shot" and "group" in known and known.get("train_source") in registered
    ]
    assert [known for known in compared if known["group"] != registered[known["train_source"]]] == []
    if numbers[0].score.source == "open_clip":
        assert {known["group"] for known in compared} == {"clip", "curated"}


# ------------------------------------------------------------------------------------------------- ImageNet-X


def of_imagenet_x(name: str) -> dict[str, str]:
    return facts("imagenet_x", tuple(name.split()))


def test_imagenet_x_takes_the_testbeds_facts() -> None:
    for name in (
        "resnet50_swsl",
        "BiT-M-R50x1-nonfinetuned",
        "vit_b_32_clip_zeroshot",
        "resnet18_50k_7_epochs",
    ):
        assert of_imagenet_x(f"imagenet_testbed {name}") == facts("testbed", (name,))
    twice = of_imagenet_x("modelvshuman resnet50_swsl")
    assert twice == {"kind": "classifier", "train_source": "IN1K", "arch_kind": "cnn"}


def test_imagenet_x_names_models_of_its_parts_apart(test_data: Path) -> None:
    """dpn68b is another model in each of two parts; the eight contrastive models and the CLIPs are there."""
    found = read_numbers("imagenet_x", test_data / "published" / "imagenet_x")
    values = {number.score.key: number.score.value for number in found}
    key = ("imagenet_x", "imagenet_x", None, "average")
    assert round(values["imagenet_x:modelvshuman:dpn68b", *key], 4) == 0.7778
    assert round(values["imagenet_x:imagenet_testbed:dpn68b", *key], 4) == 0.7565
    assert round(values["vit_b_32-openai", *key], 4) == 0.6165
    [clip] = [n.score for n in found if n.score.key == ("vit_b_32-openai", *key)]
    assert clip.pairs == {"label_space": "imagenet", "prompts": "openai_80"}
    assert clip.note == "images cut at 224 from 256 pixels, bilinear: not CLIP's own transform"
    eight = [f"simclr_resnet50x{k}" for k in (1, 2, 4)] + ["InsDis", "MoCo", "MoCoV2", "PIRL", "InfoMin"]
    assert {of_imagenet_x(f"modelvshuman {name}")["group"] for name in eight} == {"contrastive"}


def test_models_taken_for_registered_ones_agree_with_timm(test_data: Path) -> None:
    """The testbed's models: on ImageNet and on Sketch as accurate as timm's, in its own table and timm's."""
    folder = test_data / "published"
    testbed = {row["model"]: row for row in read_csv(folder / "testbed" / "robustness_top1s.csv")}
    timm = {
        column: {
            (row["model"], row["img_size"]): float(row["top1"]) for row in read_csv(folder / "timm" / name)
        }
        for column, name in {"val": "results-imagenet.csv", "imagenet-sketch": "results-sketch.csv"}.items()
    }
    compared = 0
    for name, of in sources()["imagenet_x"]["models"].items():
        part, listed = name.split()
        if part == "imagenet_testbed":
            for column, values in timm.items():
                assert float(testbed[listed][column]) == pytest.approx(values[of["id"], "224"], abs=0.1), name
                compared += 1
    assert compared == 2 * 18


def test_models_taken_for_registered_ones_are_registered() -> None:
    """A family may still be missing, but no id may be misspelled: its architecture is one of its group's."""
    known = {row["library_arch"] for row in registry().values()}
    for of in sources()["imagenet_x"]["models"].values():
        assert of["id"] in registry() or of["id"].split(".")[0] not in known, of["id"]


def test_no_number_of_imagenet_x_is_kept(test_data: Path) -> None:
    """Its licence: users read it from their own folder."""
    assert {score.source for score in scores()} == {"paper", "open_clip", "timm"}
    with pytest.raises(DataError, match=r"holds the published tables of none of open_clip, timm, testbed$"):
        updated([test_data / "published" / "imagenet_x"])


def test_imported_numbers_stand_beside_measured_ones(tmp_path: Path, test_data: Path) -> None:
    """Of the same model, and only where prompts agree; a number that is kept already is not shown twice."""
    numbers = read_numbers("imagenet_x", test_data / "published" / "imagenet_x", registered=True)
    imported: list[Any] = published_rows(numbers)
    ours = {"task": "imagenet_x", "dataset": "imagenet_x", "metric": "average", "value": 0.62}
    ours["model"] = "vit_b_32-openai"
    conventions = [{"prompts": "openai_80", "label_space": "imagenet"}, {"prompts": "single"}]
    measured = [result_row("r", **ours, convention=convention) for convention in conventions]
    first: Any
    first, second, *rest = with_imported([*measured, *imported])
    [beside] = first["reference"]
    assert (beside["source"], beside["value"]) == ("imagenet_x", 0.616461)
    assert beside["difference"] == pytest.approx(0.62 - 0.616461)
    assert second["reference"] is None
    assert rest == imported
    assert with_imported(measured) == measured
    [again, *_] = with_imported([first, *imported])
    assert again["reference"] == [beside]
    ResultStore(tmp_path).add(imported)
    ResultStore(tmp_path).add([result_row(new_run_id(), **ours, convention=conventions[0])])
    shown = CliRunner().invoke(
        app, ["results", "export", str(tmp_path), "--metric", "average", "-f", "markdown"]
    )
    assert shown.exit_code == 0, shown.output
    assert "| 0.6165 | imagenet_x | +0.0035 |" in shown.output

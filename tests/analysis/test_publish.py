"""`clipjax results publish`: what other places read back is what the rows have."""

from __future__ import annotations

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


def test_the_validator_accepts_the_records(results: Path, tmp_path: Path) -> None:
    """Its own, and its schema by jsonschema, in an environment of its own."""
    if not (python := os.environ.get(VALIDATOR)):
        pytest.skip(f"{VALIDATOR} names no Python with every-eval-ever 0.3.0, which clipjax's cannot have")
    publish(tmp_path / "eee", results, "--to", "eee", "--by", "A laboratory")
    files = sorted(map(str, (tmp_path / "eee" / "data").rglob("*.json")))
    check = (
        "import json, sys, pathlib, jsonschema, every_eval_ever as e\n"
        "schema = json.loads((pathlib.Path(e.__file__).parent / 'schemas/eval.schema.json').read_text())\n"
        "for file in sys.argv[1:]: jsonschema.validate(json.load(open(file)), schema)\n"
    )
    for words in (["-c", check, *files], ["-m", "every_eval_ever", "validate", "data/*/*/*/*.json"]):
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
    publish(*words, "--model", MODEL)
    assert len(_cards(tmp_path / "out")) == 1
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert "mine.txt was not written by `clipjax results publish`" in refused(*words)
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def refused(*words: object) -> str:
    return str(CliRunner().invoke(app, ["results", "publish", *map(str, words)]).exception)


def test_what_cannot_be_published_is_refused(results: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for words, said in (
        (["--to", "hub"], "unknown place 'hub'"),
        (["--to", "eee"], "say who measured the numbers, as Every Eval Ever asks: --by NAME"),
        (["--to", "eee", "--by", "x", "--relation", "friend"], "unknown relation 'friend'"),
        (["--to", "eee", "--by", "x", "--benchmark", "a/b=c/d:e"], "has no effect without --to hf"),
        (["--to", "hf", "--by", "x"], "has no effect without --to eee"),
        (["--to", "hf", "--benchmark", "top1"], "is not DATASET/METRIC=ORGANISATION/NAME:TASK"),
        (["--to", "hf", "--benchmark", "a/b=c/d:e"], "no row is a/b, which --benchmark names"),
        (["--to", "hf", "--metric", "top1", "--dataset", "set_4"], "none of these rows can be published"),
    ):
        assert said in refused(out, results, *words), words
    assert not out.exists()
    assert "are published into a folder of this disk" in refused("gs://b/c", results, "--to", "hf")

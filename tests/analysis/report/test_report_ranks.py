"""The report's ranks: those of `clipjax rank`, beside numbers that they do not change."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from _compared import add, retrieval_table, write
from typer.testing import CliRunner

from clipjax import cli
from clipjax.analysis.report.ranks_section import ranks_section
from clipjax.evaluation.comparison.ranking import rank_headlines, rank_models
from clipjax.evaluation.comparison.run_pairs import RunFilter
from clipjax.tasks.task import Measure

ACCURACY = {"a": 0.9, "b": 0.88, "c": 0.5, "<d>": 0.2}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for k, (model, accuracy) in enumerate(ACCURACY.items()):
        add(tmp_path, model, accuracy, recipe_hash=f"{k}" * 64)
    return tmp_path


def parsed(folder: Path, choice: RunFilter | None = None) -> ET.Element:
    return ET.fromstring(f"<div>{ranks_section(rank_headlines(folder, choice)).body}</div>")


def cells(folder: Path) -> dict[str, list[str]]:
    """Of each model: the ranks of each data set."""
    lines = [[*line] for line in parsed(folder).iter("tr") if line.find("td") is not None]
    return {line[0].text or "": ["".join(cell.itertext()) for cell in line[1:]] for line in lines}


def test_each_model_has_its_ranks_and_the_best_are_marked(folder: Path) -> None:
    [place] = rank_models(folder, "top1").places
    values = {each.model: f"{each.value:.3f}" for each in place.models}
    assert cells(folder) == {
        "a": [f"1–2 *{values['a']}"],
        "b": [f"1–2 *{values['b']}"],
        "c": [f"3{values['c']}"],
        "<d>": [f"4{values['<d>']}"],
    }
    [caption] = parsed(folder).iter("caption")
    assert "95% holds for all 12 ordered pairs of models" in (caption.text or "")
    order = [
        float(line[1].get("data-value", 0)) for line in parsed(folder).iter("tr") if line[1].get("data-value")
    ]
    assert order == sorted(order)
    assert len(order) == 4


def test_models_of_other_images_are_left_out_by_name(folder: Path) -> None:
    add(folder, "few", 0.99, n=200, recipe_hash="e" * 64)
    add(folder, "fast", 0.99, precision="fast", recipe_hash="f" * 64)
    add(folder, "published", 0.99, origin="published", recipe_hash="9" * 64)
    add(folder, "a", dataset="alone", recipe_hash="8" * 64)
    assert cells(folder).keys() == ACCURACY.keys()
    said = "".join(parsed(folder).itertext())
    assert "zeroshot on d: few: measured on 200 other images, not on the 300 of most models" in said
    assert "zeroshot on d: fast: measured with precision fast, not parity" in said
    assert "zeroshot on alone: ranks need two models or more on the same images" in said


def test_ways_that_no_run_has_are_not_asked_for(folder: Path) -> None:
    """Retrieval has no prompts; of a data set with several the page's own count."""
    for model in "ab":
        add(folder, model, 0.5, recipe_hash=model * 64, convention={"prompts": "openai_80"})
        measure = [Measure("text_retrieval_recall@5", 0.5, 40)]
        table, way = retrieval_table(40, ord(model), 40), {"task": "retrieval", "convention": {}}
        write(folder, table, model=model, measures=measure, recipe_hash=model * 63 + "0", **way)
    found = rank_headlines(folder, RunFilter(prompts="openai_80"))
    assert {each.model for each in found["top1"].places[0].models} == {"a", "b"}
    assert {each.model for each in found["text_retrieval_recall@5"].places[0].models} == {"a", "b"}
    assert {each.model for each in rank_headlines(folder)["top1"].places[0].models} == ACCURACY.keys()


@pytest.mark.parametrize(
    ("changed", "why"),
    [({"n": 3}, "only 3 images: ranks need 30"), ({"precision": "fast"}, "two models or more")],
)
def test_what_cannot_be_ranked_says_why(tmp_path: Path, changed: dict[str, Any], why: str) -> None:
    add(tmp_path, "a", n=changed.get("n", 300), recipe_hash="a" * 64)
    add(tmp_path, "b", recipe_hash="b" * 64, **changed)
    said = "".join(parsed(tmp_path).itertext())
    assert "top1: no models can be ranked." in said
    assert why in said


def test_one_model_has_no_ranks(tmp_path: Path) -> None:
    add(tmp_path, "a")
    assert rank_headlines(tmp_path) == {}


def test_a_headline_that_is_no_share_of_images_has_no_table(tmp_path: Path) -> None:
    for model in "ab":
        table = retrieval_table(40, ord(model), 40)
        measure = [Measure("image_retrieval_recall@5", 0.5, 40)]
        write(tmp_path, table, task="retrieval", model=model, measures=measure, recipe_hash=model * 64)
    assert rank_headlines(tmp_path) == {}
    assert not ranks_section({}).body


def page(folder: Path, *options: str) -> str:
    out = folder.parent / "page.html"
    words = ["report", str(folder), "--out", str(out), "--figure", "fig4", *options]
    done = CliRunner().invoke(cli.app, words)
    assert done.exit_code == 0, done.exception
    return out.read_text(encoding="utf-8")


def test_the_page_has_them_and_no_other_number(folder: Path) -> None:
    with_ranks, without = page(folder), page(folder, "--no-ranks")
    start = with_ranks.index('<section aria-labelledby="ranks-title">')
    end = with_ranks.index("</section>", start) + len("</section>")
    rest = with_ranks[:start] + with_ranks[end:]
    assert re.sub('<a href="#ranks-title">Ranks</a>', "", rest) == without
    assert "1–2 *" in with_ranks[start:end]
    assert "<d>" not in with_ranks[start:end], "a name is never markup"


def test_many_models_take_fewer_draws(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rank_headlines(folder)["top1"].draws == 10_000
    monkeypatch.setattr("clipjax.evaluation.comparison.ranking.PAGE", (2000, 15))
    assert rank_headlines(folder)["top1"].draws == 2000
    monkeypatch.setattr("clipjax.evaluation.comparison.ranking.PAGE", (2000, 16))
    assert rank_headlines(folder)["top1"].draws == 10_000

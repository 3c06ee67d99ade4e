"""The report's costs: verdicts of the ranks' tests, a picture of the front, and who is left out."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from _compared import add, ids
from typer.testing import CliRunner

from clipjax.analysis.cost.measured_rates import MeasuredRate
from clipjax.analysis.cost.model_costs import model_costs
from clipjax.analysis.report.cost_section import cost_section
from clipjax.analysis.report.sections import RowChoice
from clipjax.analysis.report.write import Choices, write_report
from clipjax.cli import app
from clipjax.evaluation.comparison.ranking import rank_headlines
from clipjax.results.store import ResultStore

MODELS = {"<b32>": (0.3, "ViT-B-32"), "b16": (0.8, "ViT-B-16"), "l14": (0.5, "ViT-L-14"), "mine": (0.9, None)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    results = tmp_path / "results"
    for k, (model, (accuracy, arch)) in enumerate(MODELS.items()):
        facts = {"image_size": 224} | ({"arch": arch} if arch else {})
        add(results, model, accuracy, recipe_hash=f"{k}" * 64, model_facts=facts)
    return results


def section(folder: Path, *measured: MeasuredRate) -> ET.Element:
    rows = ResultStore(folder).rows()
    costs = model_costs(rows, measured)
    return ET.fromstring(f"<div>{cost_section(rows, rank_headlines(folder), costs, RowChoice()).body}</div>")


def cells(of: ET.Element) -> dict[str, list[str]]:
    lines = [[*line] for line in of.iter("tr") if line.find("td") is not None]
    return {line[0].text or "": ["".join(cell.itertext()) for cell in line[1:]] for line in lines}


def test_each_model_has_its_costs_and_its_verdict(folder: Path) -> None:
    found = section(folder, MeasuredRate("ViT-B-32", 224, "cpu", "fast", 1234.0))
    lines = cells(found)
    assert [*lines] == ["<b32>", "b16", "l14"]  # the cheapest first
    values = {model: line[-1] for model, line in lines.items()}
    assert values["<b32>"].startswith("✓ ")
    assert values["b16"].startswith("✓ ")
    assert values["l14"].endswith("by b16")
    assert values["l14"].startswith("✗ ")
    titles = ["".join(head.itertext()) for head in found.iter("th")]
    of_b32 = dict(zip(titles[1:], lines["<b32>"]))
    assert of_b32["operations of an image (GFLOP)"] == "8.818"
    assert of_b32["images a second, cpu fast (measured)"] == "1,234"
    assert of_b32["images a second, v5e fast (estimate)"] == "13,000 (estimate, scaled)"
    of_b16 = dict(zip(titles[1:], lines["b16"]))
    assert of_b16["images a second, cpu fast (measured)"].startswith("–its architecture ViT-B-16 was not")
    said = "".join(found.itertext())
    assert "mine: its rows name no architecture of clipjax's" in said
    [figure] = found.iter("svg")
    drawn = "".join(figure.itertext())
    assert "line: Pareto front" in drawn
    assert drawn.count("b16") >= 2  # the name beside the point, and under the mouse


def test_models_of_one_cost_have_no_picture(tmp_path: Path) -> None:
    for model, accuracy in (("a", 0.2), ("b", 0.9)):
        facts = {"arch": "ViT-B-32", "image_size": 224}
        add(tmp_path, model, accuracy, recipe_hash=model * 64, model_facts=facts)
    found = section(tmp_path)
    assert not [*found.iter("svg")]
    assert cells(found)["a"][-1].endswith("by b")


def test_models_on_other_images_are_in_no_front(folder: Path) -> None:
    facts = {"arch": "ViT-B-32", "image_size": 224}
    add(folder, "others", 0.99, recipe_hash="e" * 64, model_facts=facts, ids=[f"x{k}" for k in ids(300)])
    assert "others" not in cells(section(folder))


def test_the_page_has_the_section_only_with_ranks_and_costs(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    rates = tmp_path / "cpu.json"
    about = {"arch": "ViT-B-32", "image_size": 224, "precision": "fast", "devices": 1}
    batches = {"k": {"batch": 8, "measured": {**about, "images a second": {"8": 77.0}}}}
    rates.write_text(json.dumps({"device": "cpu", "batches": batches}))

    def page(*options: str) -> str:
        words = ["report", str(folder), "--out", str(out), "--figure", "fig4", *options]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.exception
        return out.read_text(encoding="utf-8")

    text = page("--rates", str(rates))
    assert '<section aria-labelledby="cost-title">' in text
    assert "images a second, cpu fast (measured)" in text
    assert "cost-title" not in page("--no-ranks")
    refused = CliRunner().invoke(app, ["report", str(folder), "--no-ranks", "--rates", str(rates)])
    assert "--no-ranks and --rates do not go together" in str(refused.exception)
    for k, model in enumerate("ab"):
        add(tmp_path / "bare", model, 0.5, recipe_hash=f"{k}" * 64)
    bare = ResultStore(tmp_path / "bare").rows()
    write_report(bare, out, "bare", Choices(figures=[]), rankings=rank_headlines(tmp_path / "bare"))
    assert "cost-title" not in out.read_text(encoding="utf-8")

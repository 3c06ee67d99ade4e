"""What a sketch in an inner module's docstring takes for granted: small results, models, and names."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import _compared
import _study
from _reader import study_models
from test_python_examples import example_in

from clipjax.analysis.claims.claims import check
from clipjax.analysis.claims.ledger import ledger
from clipjax.analysis.cost.model_costs import model_costs
from clipjax.analysis.figures.spec import load_spec
from clipjax.analysis.figures.style import new_figure, save_figure
from clipjax.analysis.rows.points import Point, points
from clipjax.analysis.trends.trends import fit_points
from clipjax.commands.shared.output import print_table
from clipjax.evaluation.comparison.ranking import rank_models
from clipjax.results.store import ResultStore

ROOT = Path(__file__).parents[2]
MODELS = {"vit_b_32-openai": 0.5, "vit_b_16-openai": 0.6, "lite0": 0.55}  # and their accuracies


def sketches() -> dict[str, str]:
    """Module, and the function or class if it is not the module's docstring -> its example."""
    found = {}
    for path in sorted((ROOT / "clipjax").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for name, docstring in _docstrings(ast.parse(path.read_text(encoding="utf-8"))):
            if example := example_in(docstring):
                found[f"{module}:{name}" if name else module] = example
    return found


def _docstrings(node: ast.AST) -> Iterator[tuple[str, str]]:
    """Those of a module, and of functions and classes at any depth, each with its name."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
        yield "" if isinstance(node, ast.Module) else node.name, ast.get_docstring(node) or ""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):  # expressions are most of a tree, and have none
            yield from _docstrings(child)


def furnish_results(folder: Path) -> None:
    """Results: `runs` of three models, `before` and `after` of one, `study` of many; and a figure."""
    for model, accuracy in MODELS.items():
        recipe = hashlib.sha256(model.encode()).hexdigest()
        same = {"dataset": "imagenet_r", "convention": {"prompts": "openai_80"}}
        _compared.add(folder / "runs", model, accuracy, **same, recipe_hash=recipe)
    for name, accuracy in (("before", 0.5), ("after", 0.6)):
        _compared.add(folder / name, "vit_b_32-openai", accuracy)
    ResultStore(folder / "study").add(study())
    save_figure(new_figure(2, 2), folder / "fig1", ("svg",))


@cache
def study() -> list[Any]:
    return list(_study.study_rows(load_spec("fig3").terms, study_models()))


def of_group(group: str) -> list[Point]:
    panel = load_spec("fig3").panels[0]
    assert panel.y is not None
    found = points(study(), panel.x.column, panel.y.column)
    return [each for each in found if each.facts["group"] == group]


def names(results: Path) -> Mapping[str, Callable[[], Any]]:
    """Name in a sketch -> what makes it. results: the folder `runs`."""
    panel = load_spec("fig3").panels[0]
    assert panel.y is not None
    x, y = panel.x.column, panel.y.column
    things = {
        "Path": Path,
        "ResultStore": ResultStore,
        "dataclass": dataclasses.dataclass,
        "fit_points": fit_points,
        "ledger": ledger,
        "load_spec": load_spec,
        "print_table": print_table,
        "spec_names": lambda: ["fig3"],  # one for all
    }
    return {
        **{name: lambda thing=thing: thing for name, thing in things.items()},
        "clips": lambda: of_group("clip"),
        "cnns": lambda: of_group("standard"),
        "column": lambda: x,
        "costs": lambda: model_costs(study()),
        "place": lambda: rank_models(results, "top1").places[0],
        "points": lambda: of_group("clip"),
        "row": lambda: study()[0],
        "rows": study,
        "spec": lambda: load_spec("fig3"),
        "standard": lambda: of_group("standard"),
        "verdicts": lambda: check(ledger(), study(), claims=[ledger().claims[0].key]),
        "vits": lambda: of_group("clip"),
        "x": lambda: x,
        "y": lambda: y,
    }

"""`clipjax/evaluation/evaluate.pyi`: the keywords of `clipjax.evaluate` for editors and type checkers.

They are made from the fields of `Request` and `Compute`; `make records` writes the file.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path

from clipjax.embeddings import compute
from clipjax.evaluation import evaluate, request

FILE = Path(evaluate.__file__).with_suffix(".pyi")
HEAD = "# Made from the fields of Request and Compute: .venv/bin/python tests/records.py keywords\n"


def stub() -> str:
    signature = inspect.signature(evaluate.evaluate)
    parameters = [_parameter(each) for each in signature.parameters.values()]
    parameters.insert(2, "*")  # after the model and the task
    used = {
        node.id
        for text in [
            *(each.annotation for each in signature.parameters.values()),
            signature.return_annotation,
        ]
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Name)
    }
    doc = textwrap.indent(f'"""{inspect.getdoc(evaluate.evaluate)}\n"""', "    ")
    imports = sorted(_imports(used), key=lambda line: (line.startswith("from clipjax"), line))
    ours = next(n for n, line in enumerate(imports) if line.startswith("from clipjax"))
    lines = [HEAD, *imports[:ours], "", *imports[ours:], "", "def evaluate("]
    lines += [f"    {each}," for each in parameters]
    return "\n".join([*lines, f") -> {signature.return_annotation}:", doc, ""])


def _parameter(each: inspect.Parameter) -> str:
    default = "" if each.default is each.empty else f" = {_written(each.default)}"
    return f"{each.name}: {each.annotation}{default}"


def _written(default: object) -> str:
    return f'"{default}"' if isinstance(default, str) else repr(default)


def _imports(names: set[str]) -> Iterator[str]:
    """Where the files of the records import these names from, or the file that defines one."""
    for module in (evaluate, request, compute):
        tree = ast.parse(inspect.getsource(module))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (found := sorted(names & {n.name for n in node.names})):
                names = names - set(found)
                yield f"from {node.module} import {', '.join(found)}"
        defined = {
            target.id
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        if found := sorted(names & defined):
            names = names - set(found)
            yield f"from {module.__name__} import {', '.join(found)}"

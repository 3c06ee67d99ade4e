"""The figures and tables of configs/figures."""

from __future__ import annotations

from clipjax.analysis.figures.spec import Spec, load_spec, spec_names
from docs.generate.markdown import code, table, text


def figures_part() -> str:
    """A line for each, as `clipjax analyze --list` shows them."""
    heads = ["name", "in the paper", "what it shows", "panels or lines"]
    return table(heads, (_cells(load_spec(name)) for name in spec_names()))


def _cells(spec: Spec) -> list[str]:
    count = f"{len(spec.lines)} lines" if spec.kind == "table" else str(len(spec.panels))
    return [code(spec.name), text(spec.paper), text(spec.title), count]

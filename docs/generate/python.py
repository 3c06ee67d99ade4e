"""The public Python names and the metrics: directives that Sphinx's autodoc fills."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from types import ModuleType

import clipjax
import clipjax.metrics
from docs.generate.markdown import section

# What the public functions take and return.
RECORDS = (
    "clipjax.evaluation.rows.Result",
    "clipjax.checkpoints.card.Preprocess",
    "clipjax.data.cards.DatasetCard",
    "clipjax.data.labels.LabelSpace",
)


def python_part() -> str:
    """A section for each name of `clipjax.__all__`, then the records that they take and return."""
    names = [name for name in clipjax.__all__ if not name.startswith("_")]
    ours = [section(name, _directive(f"clipjax.{name}", getattr(clipjax, name))) for name in names]
    records = [section(path.rpartition(".")[2], _directive(path, type)) for path in RECORDS]
    return "".join(ours + records)


def metrics_part() -> str:
    """A section for each module of metrics, with its public functions."""
    return "".join(section(name, _module(name, module)) for name, module in metric_modules().items())


def metric_modules() -> dict[str, ModuleType]:
    """Modules of `clipjax.metrics` by their names below it."""
    prefix = f"{clipjax.metrics.__name__}."
    walked = pkgutil.walk_packages(clipjax.metrics.__path__, prefix)
    names = [each.name for each in walked if not each.ispkg]
    return {name.removeprefix(prefix): importlib.import_module(name) for name in sorted(names)}


def _module(name: str, module: ModuleType) -> str:
    full = module.__name__
    return _fenced(f".. automodule:: {full}\n   :members:")


def _directive(path: str, thing: object) -> str:
    if inspect.isfunction(thing):
        return _fenced(f".. autofunction:: {path}")
    return _fenced(f".. autoclass:: {path}\n   :members:")


def _fenced(directive: str) -> str:
    return f"```{{eval-rst}}\n{directive}\n```"

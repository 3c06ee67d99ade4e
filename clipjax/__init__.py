"""clipjax: how robust is CLIP? Evaluation and fine-tuning in JAX.

Public names load on first use (PEP 562): `clipjax.analysis` works without JAX.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipjax.checkpoints.language import LanguageModel as LanguageModel
    from clipjax.checkpoints.language import load_language_model as load_language_model
    from clipjax.checkpoints.load import load_model as load_model
    from clipjax.checkpoints.model import Model as Model
    from clipjax.evaluation.corrupted import corrupt as corrupt
    from clipjax.evaluation.evaluate import evaluate as evaluate
    from clipjax.evaluation.kinds.pairs.draw_matches import draw_matches as draw_matches
    from clipjax.evaluation.own_model import wrap as wrap
    from clipjax.results.frame import load_results as load_results

__version__ = "0.2.0.dev0"

_HOMES = {
    "LanguageModel": "clipjax.checkpoints.language",
    "load_language_model": "clipjax.checkpoints.language",
    "load_model": "clipjax.checkpoints.load",
    "load_results": "clipjax.results.frame",
    "Model": "clipjax.checkpoints.model",
    "corrupt": "clipjax.evaluation.corrupted",
    "draw_matches": "clipjax.evaluation.kinds.pairs.draw_matches",
    "evaluate": "clipjax.evaluation.evaluate",
    "wrap": "clipjax.evaluation.own_model",
}

__all__ = [
    "LanguageModel",
    "Model",
    "__version__",
    "corrupt",
    "draw_matches",
    "evaluate",
    "load_language_model",
    "load_model",
    "load_results",
    "wrap",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'clipjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, before they are loaded."""
    return sorted(__all__)

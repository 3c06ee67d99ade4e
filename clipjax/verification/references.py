"""The sources of numbers that a model can be verified against. Imports no JAX."""

from __future__ import annotations

from clipjax.checkpoints.identity.model_reference import TORCH_LIBRARIES
from clipjax.errors import unknown_name


def check_against(name: str | None, *, golden: bool) -> None:
    """Raises UsageError with the nearest names; None is the default.

    Args:
        golden: whether it may also be a golden file.
    """
    known = [*TORCH_LIBRARIES, *(["golden"] if golden else [])]
    if name is not None and name not in known:
        raise unknown_name("reference", name, known)

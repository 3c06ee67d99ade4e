"""Models in no group of a figure: which are the user's own, and why they fit none.

    look_of(spec, "mine", row["model_facts"])    # (YOURS, None) for a model whose facts are unknown

A figure shows the user's own models, unless a known fact excludes them from its `models`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clipjax.analysis.figures.spec import Spec
from clipjax.analysis.rows.groups import Group, group_of, matches

YOURS = Group("yours", "Yours (in no group)", "#6A3D9A", ">", True, {})
STATED = "facts stated by the user"
Look = tuple[Group, Group | None]
"""A group and, in a figure with shapes, a shape."""


def is_stated(facts: Mapping[str, Any]) -> bool:
    return facts.get("facts_origin") == "stated"


def is_own(facts: Mapping[str, Any]) -> bool:
    """Whether a model is the user's own: facts not from the registry, no known group, or fine-tuned here.

    Rows older than `facts_origin` are judged by the last two. Published models may also lack a group, but
    only measured ones have an `arch` or are predictions.
    """
    measured = "arch" in facts or facts.get("kind") == "predictions"
    return (
        facts.get("facts_origin") in ("stated", "unknown")
        or (facts.get("group") is None and measured)
        or bool(facts.get("lineage"))
    )


def look_of(spec: Spec, model: str, facts: Mapping[str, Any]) -> Look | None:
    """The group and shape to draw a model with; None if it is not shown. Highlighted models always are."""
    highlighted = model in spec.highlight
    if not matches(facts, spec.models) and not highlighted:
        return (YOURS, None) if is_own(facts) and not _refuted(facts, spec.models) else None
    group, shape = group_of(facts, spec.groups), group_of(facts, spec.shapes)
    if group is not None and (shape is not None or not spec.shapes):
        return group, shape
    return (YOURS, None) if highlighted or is_own(facts) else None


def why_none(spec: Spec, facts: Mapping[str, Any]) -> str:
    wheres = [[spec.models]] if spec.models and not matches(facts, spec.models) else []
    schemes = [scheme for scheme in (spec.groups, spec.shapes) if scheme and group_of(facts, scheme) is None]
    wheres += [[group.where for group in scheme] for scheme in schemes]
    return "; ".join(_why(facts, some) for some in wheres)


def _why(facts: Mapping[str, Any], wheres: Sequence[Mapping[str, Any]]) -> str:
    possible = [where for where in wheres if not _refuted(facts, where)]
    names = dict.fromkeys(name for where in possible or wheres for name in where)
    if possible:
        unknown = [name for name in names if facts.get(name) is None]
        origin = " (facts_origin unknown)" if facts.get("facts_origin") == "unknown" else ""
        return f"not known: {', '.join(unknown)}{origin}"
    words = [f"{name} {facts[name]!r}" for name in names if facts.get(name) is not None]
    return f"no group has {', '.join(words)}"


def _refuted(facts: Mapping[str, Any], where: Mapping[str, Any]) -> bool:
    known = {name: wanted for name, wanted in where.items() if facts.get(name) is not None}
    return not matches(facts, known)

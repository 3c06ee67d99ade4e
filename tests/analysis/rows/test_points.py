"""Points: models with both numbers, group by group and prompt set by prompt set."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from _rows import row

from clipjax.analysis.rows.cells import Column, RowIndex, Term, cells_of
from clipjax.analysis.rows.groups import groups
from clipjax.analysis.rows.points import coordinates, grouped, points, points_of_prompts

RUN = "20260101T000000.000000Z-00000000"
X, Y, Z = (Term("zeroshot", name, "top1") for name in ("imagenet_val", "imagenet_a", "imagenet_r"))
ACROSS = Column("x", "ImageNet", "higher", None, (X,))
UP = Column("y", "shifts", "higher", None, (Y, Z))


def of(model: str, term: Term, value: float | None, **changed: Any) -> Any:
    named = {"task": term.task, "dataset": term.dataset, "metric": term.metric, "slice": term.slice}
    return row(RUN, model=model, value=value, **named, **{"convention": {}, **changed})


def test_a_point_has_both_numbers() -> None:
    rows = [of(m, t, v) for m in ("b", "a") for t, v in ((X, 0.5), (Y, 0.2), (Z, 0.4))]
    rows += [of("only_x", X, 0.5), of("none", X, 0.5), of("none", Y, None), of("none", Z, 0.1)]
    found = points(rows, ACROSS, UP)
    assert [(p.model, p.x.value, round(p.y.value or 0, 9)) for p in found] == [
        ("a", 0.5, 0.3),
        ("b", 0.5, 0.3),
    ]
    assert found == points(RowIndex(reversed(rows)), ACROSS, UP)
    assert [p.model for p in points(rows, ACROSS, UP, models=["b", "nobody"])] == ["b"]
    assert cells_of(rows, [UP])["none"][0].missing == ("zeroshot imagenet_a top1",)
    x, y, n_x, n_y = coordinates(found)
    assert (x.tolist(), n_x.tolist(), n_y.tolist()) == ([0.5, 0.5], [100, 100], [200, 200])
    np.testing.assert_allclose(y, 0.3)


def test_images_that_are_not_counted_are_not_known() -> None:
    rows = [of("a", X, 0.5, n=None), of("a", Y, 0.2), of("a", Z, 0.2, n=None)]
    *_, n_x, n_y = coordinates(points(rows, ACROSS, UP))
    assert math.isnan(n_x[0])
    assert math.isnan(n_y[0])


def test_points_by_group() -> None:
    wit = {"group": "clip", "fine_tune": "none", "train_source": "WIT"}
    rows = [of("a", t, 0.5, model_facts=wit) for t in (X, Y, Z)] + [of("b", t, 0.5) for t in (X, Y, Z)]
    found, rest = grouped(points(rows, ACROSS, UP), groups("training_source"))
    assert [p.model for p in found["wit"]] == ["a"]
    assert list(found) == [group.key for group in groups("training_source")]
    assert [p.model for p in rest] == ["b"]


def test_a_point_for_each_prompt_set() -> None:
    rows = [
        of("a", t, value, convention={"prompts": name})
        for name, value in (("single", 0.2), ("openai_80", 0.4))
        for t in (X, Y, Z)
    ]
    rows += [of("b", t, 0.1, convention={"prompts": "single"}) for t in (X, Y, Z)]
    rows += [of("c", t, 0.1) for t in (X, Y, Z)]

    def shown(**settings: Any) -> list[tuple[str, str, float | None]]:
        found = points_of_prompts(RowIndex(rows), ACROSS, UP, **settings)
        return [(p.model, p.facts["prompts"], p.x.value) for p in found]

    assert shown() == [("a", "openai_80", 0.4), ("a", "single", 0.2), ("b", "single", 0.1)]
    assert shown(prompts=["single", "mcm_5"]) == [("a", "single", 0.2), ("b", "single", 0.1)]

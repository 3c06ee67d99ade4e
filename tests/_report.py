"""Result rows that the report page has to show rightly: a small study, and everything that is awkward."""

from __future__ import annotations

from typing import Any

from _rows import row
from _study import models, study_rows

from clipjax.analysis.rows.cells import Term

HOSTILE = '</script><img src=x onerror="alert(1)">&quot;$title'
FORMULA = "=1+1|cmd"
FACTOR = "top/filtered/factor:pose"
VAL, SKETCH = (Term("zeroshot", name, "top1") for name in ("imagenet_val", "imagenet_sketch"))
POSE = Term("imagenet_x", "imagenet_x", "accuracy", FACTOR)
NLL = Term("calibration", "imagenet_val", "nll_before")
SHAPE = Term("shape_bias", "cue_conflict", "shape_bias")
OLD, RUN, NEW = (f"2026010{k}T000000.000000Z-0000000{k}" for k in (1, 2, 3))
# Of Table II.
SHAPED = [
    f"vit_base_patch{k}_clip_{size}.laion2b_ft_in12k_in1k" for k, size in ((16, 384), (16, 224), (32, 224))
]
REFERENCE = {"value": 0.4, "source": "open_clip", "difference": 0.1, "note": "as listed <b>there</b>"}
PROTOCOL = {"name": "paper", "sha256": "c" * 64, "departures": ["limit: 500 of 1000 images", "<i>other</i>"]}


def report_rows() -> list[Any]:
    """A study of five numbers, with six digits as the page has them; and models whose rows are special."""
    known = {**models(every=8), **{model: models()[model] for model in SHAPED}}
    found = study_rows((VAL, SKETCH, POSE, NLL, SHAPE), known)
    return [{**one, "run_id": RUN, "value": float(f"{one['value']:.6g}")} for one in found] + special_rows()


def special_rows() -> list[Any]:
    """Of each of these models at least one number."""
    facts = {"group": "standard", "train_source": HOSTILE, "arch": "vit", "fine_tune": "none"}
    sample = {"limit": 500, "of": 1000, "seed": 0, "digest": "d" * 64}
    published = {"origin": "published", "recipe": {}, "convention": {"source": "a table <of> theirs"}}
    return [
        _of(
            HOSTILE,
            VAL,
            0.5,
            model_facts=facts,
            dataset=VAL.dataset,
            protocol=PROTOCOL,
            reference=[REFERENCE],
        ),
        _of(HOSTILE, SKETCH, 0.25, model_facts=facts, convention={"note": HOSTILE}),
        _of(FORMULA, VAL, 0.45),
        _of("absent", VAL, None, interval=None, note="no image was decided <here>"),
        _of("published_only", VAL, 0.7, **published),
        _of("both", VAL, 0.61, **published, run_id=NEW),
        _of("both", VAL, 0.62, run_id=OLD, sample=sample),
        _of("both", VAL, 0.63, run_id=OLD),
        _of("both", VAL, 0.64, run_id=RUN, recipe_hash="b" * 64),
        _of("sampled", VAL, 0.3, sample=sample),
        *(_of("sampled", Term(*VAL[:3], f"class:{k}"), 0.1 * k, n=10) for k in range(3)),
    ]


def prompted_rows() -> list[Any]:
    """One model under two prompt sets, others under none, one of these, and one that it has learned."""
    sets = [("a", "openai_7", 0.5), ("a", "openai_80", 0.6)]
    known = [_of(model, VAL, value, convention={"prompts": prompts}) for model, prompts, value in sets]
    without = _of("b", VAL, 0.7, convention={"prompts": "not applicable: a classifier"})
    one_way = _of("c", VAL, 0.75, convention={"prompts": "openai_7"})
    return [*known, without, one_way, _of("tuned", VAL, 0.8, convention={"prompts": "CoOp, 4 vectors"})]


def _of(model: str, term: Term, value: float | None, **changed: Any) -> Any:
    near = (
        None if value is None else {"lo": value - 0.02, "hi": value + 0.02, "level": 0.95, "method": "wilson"}
    )
    fields = {**term._asdict(), "interval": near, "convention": {"prompts": "openai_80"}}
    run = {
        "device": {"kind": "cpu", "count": 1, "platform": "cpu", "processes": 1},
        "versions": {"jax": "0.1"},
    }
    return row(changed.pop("run_id", RUN), model=model, value=value, **{**fields, **run, **changed})

"""Result rows of a made-up study: models of every group, with every number that the figures need.

Each group has a line of its own: on the scale of a panel, a model's number is the group's slope and offset
applied to its ability.
"""

from __future__ import annotations

import functools
import hashlib
import math
import random
from collections.abc import Iterable, Iterator
from typing import Any

from _rows import row
from scipy.special import ndtr

from clipjax.analysis.rows.cells import Term
from clipjax.config import config_dir
from clipjax.storage.reading import read_csv

RUN = "20260101T000000.000000Z-00000000"
FACTS = ("group", "arch", "arch_kind", "train_source", "train_crop_scale", "fine_tune", "parent", "licence")


def models(every: int = 1) -> dict[str, dict[str, Any]]:
    """Facts by model: every n-th registered one, and made-up classifiers, as many as the study has."""
    found: dict[str, dict[str, Any]] = {}
    for record in read_csv(config_dir() / "models.csv"):
        known = {name: None if record[name].startswith("?") else record[name] for name in FACTS}
        found[record["id"]] = known | {
            "params_m": float(record["params_m"]),
            "image_size": int(record["crop_size"]),
        }
    for group, n in (("standard", 71), ("contrastive", 8), ("more_data", 48)):
        for k in range(n):
            kind = ("cnn", "vit")[k % 2]
            facts = {"group": group, "arch": kind, "arch_kind": kind, "fine_tune": "none"}
            found[f"{group}_{k}"] = facts | {"params_m": 5.0 + 3 * k, "image_size": 224}
    return dict(list(found.items())[::every])


def tuned() -> dict[str, dict[str, Any]]:
    """The study's four CLIPs, fine-tuned by four methods."""
    registered = models()
    return {
        f"{base}-{method}": {**registered[base], "fine_tune": method, "parent": base}
        for base in ("rn50-openai", "rn101-openai", "vit_b_32-openai", "vit_b_16-openai")
        for method in ("Cross-entropy", "FLYP", "CoOp", "Tip-Adapter")
    }


def ability(model: str, facts: dict[str, Any]) -> float:
    """A number from about -0.6 to 1.6, larger for larger models, the same for the same model."""
    return 0.7 * math.log10(facts["params_m"]) - 1.0 + 0.3 * _noise(model)


def value(term: Term, model: str, facts: dict[str, Any]) -> float:
    """What the study measured: the group decides slope and offset."""
    slope = {"clip": 0.9, "clip_ft": 0.8}.get(facts["group"], 1.0) + 0.3 * (facts["arch_kind"] == "cnn")
    offset = 0.5 * _noise(term.task + term.dataset + (term.slice or "")) + 0.3 * (facts["group"] == "clip")
    offset += 0.1 * (facts.get("train_source") == "WIT")
    if term.metric in ("top1", "average", "accuracy") and term.slice is None and ":" not in term.dataset:
        slope, offset = 1.0, 0.0
    level = float(ndtr(slope * ability(model, facts) + offset + 0.05 * _noise(str(term) + model)))
    if term.metric.startswith("ece"):
        return 0.25 * (1 - level)
    return 4 * (1 - level) if term.metric.startswith("nll") else level


def study_rows(
    terms: Iterable[Term],
    of: dict[str, dict[str, Any]] | None = None,
    prompts: Iterable[str] = ("openai_80",),
) -> Iterator[Any]:
    """A row for each model, number and prompt set."""
    known = {**models(), **tuned()} if of is None else of
    shift = {name: -0.02 * k for k, name in enumerate(prompts)}
    for term in terms:
        for model, facts in known.items():
            for name, less in shift.items():
                number = max(value(term, model, facts) + less, 0.001)
                interval = {
                    "lo": max(number - 0.01, 0.0),
                    "hi": number + 0.01,
                    "level": 0.95,
                    "method": "wilson",
                }
                if not term.metric.startswith("nll"):
                    interval["hi"] = min(interval["hi"], 1.0)
                recipe = hashlib.sha256(f"{term} {model} {name}".encode()).hexdigest()
                yield row(
                    RUN,
                    model=model,
                    model_facts=facts,
                    value=number,
                    n=10_000,
                    interval=interval,
                    recipe_hash=recipe,
                    convention={"prompts": name},
                    **term._asdict(),
                )


@functools.cache  # seeding by a text takes 15 microseconds, and tests ask for the same texts again and again
def _noise(text: str) -> float:
    return random.Random(text).uniform(-1, 1)

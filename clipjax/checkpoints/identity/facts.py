"""Facts of a model: their names and types, and those that a user states (command line or TOML file).

    fact_table(["group=clip", "train_size_m=400"], None)   # {"group": "clip", "train_size_m": 400.0}

`facts_origin`, in a card and in result rows' `model_facts`:

* "registry": the weights are known to be those of the row `facts_of`;
* "stated": by a user, as facts or as the row `facts_of`;
* "unknown";
* null: our own training, or an older card.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipjax.errors import UsageError
from clipjax.storage.reading import read_toml

REGISTRY, STATED, UNKNOWN = "registry", "stated", "unknown"
ORIGINS = (REGISTRY, STATED, UNKNOWN)
STATED_BY_USER = "stated by the user"


@dataclass(frozen=True)
class Fact:
    """A column of configs/models.csv that becomes a fact.

    Attributes:
        kind: the type of its values.
        meaning: what it states, and its values.
        source: what the registry takes it from.
    """

    kind: type
    meaning: str
    source: str


FACTS: Mapping[str, Fact] = {
    "group": Fact(str, "the group of models, as listed above", "the paper"),
    "arch_kind": Fact(
        str,
        "`cnn`, `vit` (also EVA, Swin, BEiT, PE-Core, DINOv3) or `mlp`; unknown for MobileCLIP's FastViT, "
        "which is both",
        "the image tower",
    ),
    "objective": Fact(
        str,
        "what it was last trained with: `softmax` (contrastive), `coca` (contrastive and captions), "
        "`sigmoid` (contrastive), `cross_entropy`, `self_distillation`",
        "the tag, the papers",
    ),
    "train_source": Fact(str, "the training set; for a fine-tune that of its CLIP", "its name or paper"),
    "train_size_m": Fact(
        float,
        "millions of images or pairs in the training set",
        "its name or paper; sizes of CommonPool's filtered subsets are not checked against DataComp's paper",
    ),
    "samples_seen_m": Fact(
        float, "millions of pairs seen in pre-training; for a fine-tune those of its CLIP", "see below"
    ),
    "data_filter": Fact(
        str,
        "the filter of the training set, as in Table IV: `none`, `text`, `image`, `basic`, `clip`, `laion`, "
        "`datacomp` (CommonPool), `metaclip`, `dfn`, `aesthetic`, `retrieval`. LAION counts as unfiltered, "
        "as it does there",
        "CommonPool's and DataComp's tags, the papers",
    ),
    "train_crop_scale": Fact(
        str,
        "the share of the image's area that a training crop covers",
        "the ConvNeXts' model cards; OpenCLIP's default, 0.9-1.0, for ViTs and ResNets trained with it whose "
        "cards name no other; the code of DINOv2 (global crops) and ConvNeXt",
    ),
    "fine_tune": Fact(
        str,
        "`none`, `ft_in1k`, `ft_in12k_in1k` or `ft_in22k_in1k` (on ImageNet-12k or -21k first), `lc_in1k` "
        "(a linear classifier on frozen features)",
        "the tag",
    ),
    "parent": Fact(
        str,
        "what the image tower started from: an id (two for the average of two models), the name of another "
        "pre-training, or `none`",
        "timm's tags, the model cards of EVA-CLIP and of the ConvNeXts",
    ),
    "resolution_pair": Fact(
        str, "the pair of Table II that the model belongs to, or `none`", "the paper's accuracies"
    ),
    "params_m": Fact(
        float,
        "millions of parameters of the image tower, with its head for a classifier",
        "the reference library",
    ),
    "licence": Fact(
        str,
        "licence of the weights, never of the code; unknown where no source states it or two contradict "
        "each other",
        "`licence_source`: `timm:NAME` is timm's record of these weights or of their image tower; others "
        "are addresses",
    ),
    "certain": Fact(int, "1 where the paper fixes the checkpoint", "the paper"),
}
# `certain` rates the registry's own rows: nobody can state it.
_STATABLE = {**{name: fact.kind for name, fact in FACTS.items() if name != "certain"}, "notes": str}


def origin_in_words(facts: Mapping[str, Any]) -> str:
    """A note beside stated facts; "" for all others."""
    if facts.get("facts_origin") != STATED:
        return ""
    of = facts.get("facts_of")
    return f"facts {STATED_BY_USER}" + (f", of {of}" if of else "")


def fact_table(pairs: Sequence[str] | None, file: str | Path | None) -> dict[str, Any] | None:
    """The facts of repeated `--fact KEY=VALUE` and of a TOML file; None without either.

    Raises:
        UsageError: as `check_facts`; a pair without "=", or a fact stated twice.
        DataError: the file cannot be read.
    """
    if not pairs and file is None:
        return None
    facts = {} if file is None else check_facts(read_toml(Path(file)), f"{file}")
    for pair in pairs or ():
        name, equals, text = pair.partition("=")
        if not equals:
            raise UsageError(f"--fact {pair}: write KEY=VALUE, as train_source=LAION-2B")
        if name in facts:
            raise UsageError(f"--fact {pair}: {name} is stated twice, leave one of them out")
        facts |= check_facts({name: _number(text) if _STATABLE.get(name) is float else text}, "--fact")
    return facts


def check_facts(facts: Mapping[str, Any], where: str = "facts") -> dict[str, Any]:
    """The facts, numbers as floats. Raises UsageError for an unknown fact or a value of a wrong type."""
    if not isinstance(facts, Mapping):
        raise UsageError(f"{where}: {facts!r} is not a table of facts, as {{'train_source': 'LAION-2B'}}")
    return {name: _checked(name, value, where) for name, value in facts.items()}


def _checked(name: str, value: Any, where: str) -> Any:
    if name not in _STATABLE:
        near = difflib.get_close_matches(str(name), _STATABLE, n=2, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"the facts are {', '.join(_STATABLE)}"
        raise UsageError(f"{where}: {name!r} is not a fact of a model; {hint}")
    if _STATABLE[name] is str:
        if not isinstance(value, str) or not value.strip():
            raise UsageError(f"{where}: {name} is {value!r}, should be a text")
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UsageError(f"{where}: {name} is {value!r}, should be a number")
    return float(value)


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text

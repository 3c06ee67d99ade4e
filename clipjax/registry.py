"""The registered models: configs/models.csv, one row a checkpoint, read into model cards.

What only the weights can tell (sha256, logit scale and bias) is null here, with its reason, and filled at
conversion.
"""

from __future__ import annotations

import functools
from typing import Any

from clipjax.card import Card, Preprocess, Source
from clipjax.config import config_dir, read_csv, read_toml
from clipjax.data.tokenizers import TokenizerSpec, tokenizer_spec
from clipjax.errors import DataError, unknown_name
from clipjax.models.arch import Arch, load_arch

_FACTS = {
    "group": str,
    "objective": str,
    "train_source": str,
    "train_size_m": float,
    "samples_seen_m": float,
    "data_filter": str,
    "fine_tune": str,
    "params_m": float,
    "licence": str,
    "certain": int,
    "notes": str,
}
_WHY_UNKNOWN = {
    "train_size_m": "the size of the training set is not published",
    "samples_seen_m": "not part of the checkpoint's name; the source tables do not give it",
    "data_filter": "no data filter is documented",
    "licence": "stated by the weights' own repository, not by the reference library",
}
_FROM_WEIGHTS = {
    "source.sha256": "filled at conversion: only the weights can tell",
    "logit_scale": "filled at conversion: only the weights can tell",
    "logit_bias": "filled at conversion: only the weights can tell (null there means the model has none)",
}


@functools.cache
def registry() -> dict[str, dict[str, str]]:
    """Every row of configs/models.csv by its id, in file order.

    Raises:
        DataError: two rows with one id, naming it.
    """
    path = config_dir() / "models.csv"
    rows: dict[str, dict[str, str]] = {}
    for row in read_csv(path):
        if row["id"] in rows:
            raise DataError(f"{path}: two rows have the id {row['id']!r}")
        rows[row["id"]] = row
    return rows


def model_ids() -> list[str]:
    return list(registry())


def id_of_repo(repo: str) -> str | None:
    """The registered model whose weights are that hub repository; None when no or several rows name it."""
    ids = [row["id"] for row in registry().values() if row["hub_repo"] == repo and not row["hub_file"]]
    return ids[0] if len(ids) == 1 else None


@functools.cache
def model_card(model_id: str) -> Card:
    """The card of a registered model, before its weights have been seen.

    Raises:
        UsageError: unknown id, with the nearest ones.
        DataError: the row names an arch or statistics that configs/ does not have.
    """
    rows = registry()
    if model_id not in rows:
        raise unknown_name("model", model_id, list(rows))
    row = rows[model_id]
    arch = load_arch(row["arch"])
    facts, unknown = _facts(row)
    return Card(
        id=model_id,
        arch=arch,
        source=Source(
            library=row["library"],
            arch=row["library_arch"] or None,
            tag=row["tag"] or None,
            repo=row["hub_repo"] or None,
            file=row["hub_file"] or None,
            url=row["url"] or None,
        ),
        preprocess=_preprocess(row),
        tokenizer=_tokenizer(row["tokenizer"], arch),
        logit_scale=None,
        logit_bias=None,
        facts=facts,
        unknown=unknown | (_FROM_WEIGHTS if arch.text is not None else {}),
        classes=row["classes"] or None,
    )


def channel_statistics(name: str) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """(mean, std) by name, from configs/normalization.toml."""
    table = read_toml(config_dir() / "normalization.toml")
    if name not in table:
        raise DataError(f"configs/normalization.toml has no [{name}]; it has {', '.join(table)}")
    return tuple(table[name]["mean"]), tuple(table[name]["std"])


def _preprocess(row: dict[str, str]) -> Preprocess:
    mean, std = channel_statistics(row["mean_std"])
    return Preprocess(
        image_size=int(row["crop_size"]),
        resize_size=int(row["resize_size"]),
        resize_mode=row["resize_mode"],
        interpolation=row["interpolation"],
        mean=mean,
        std=std,
    )


def _tokenizer(name: str, arch: Arch) -> TokenizerSpec | None:
    return tokenizer_spec(name, arch.text.context_length) if arch.text is not None else None


def _facts(row: dict[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """(facts, unknown): an empty cell is None with a reason."""
    facts: dict[str, Any] = {}
    unknown: dict[str, str] = {}
    for name, kind in _FACTS.items():
        cell = row[name]
        facts[name] = kind(cell) if cell else None
        if not cell and name in _WHY_UNKNOWN:
            unknown[f"facts.{name}"] = _WHY_UNKNOWN[name]
    return facts, unknown

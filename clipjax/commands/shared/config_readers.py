"""Readers of the files of a config folder: the functions of the commands that need a file read it."""

from __future__ import annotations

from pathlib import Path

from clipjax.config import ConfigFolder, ConfigTable, kind_of
from clipjax.errors import DataError


def read_config(path: Path) -> None:
    """Read a file by its place in a config folder, with what it names. Raises ClipjaxError."""
    READERS[kind_of(path)](path)


def _models(path: Path) -> None:
    from clipjax.checkpoints.identity.registry import check_added_rows

    check_added_rows()


def _statistics(path: Path) -> None:
    from clipjax.checkpoints.identity.registry import channel_statistics
    from clipjax.storage.reading import read_toml

    for name in read_toml(path):
        channel_statistics(name)


def _claims(path: Path) -> None:
    from clipjax.analysis.claims.ledger import ledger

    ledger()


def _collections(path: Path) -> None:
    from clipjax.tasks.collections import collections

    collections()


def _groups(path: Path) -> None:
    from clipjax.analysis.rows.groups import groups, schemes

    for scheme in schemes(path):
        groups(scheme)


def _metrics(path: Path) -> None:
    from clipjax.analysis.rows.pivot import metric_ends

    metric_ends()


def _arch(path: Path) -> None:
    from clipjax.models.arch import load_arch

    load_arch(path.stem)


def _cards(path: Path) -> None:
    from clipjax.data.cards import cards_of, label_spaces, own_prompts

    for card in cards_of(path):
        label_spaces(card)
        own_prompts(card)


def _figure(path: Path) -> None:
    from clipjax.analysis.figures.spec import load_spec

    load_spec(path.stem)


def _labels(path: Path) -> None:
    from clipjax.data.labels import load_labels, load_projection

    if path.suffix != ".toml":
        load_labels(path.stem)
        return
    source, to, target = path.stem.partition("-to-")
    if not to:
        raise DataError(f"{path} is not read: a map between label spaces is called FROM-to-TO.toml")
    load_projection(load_labels(source), load_labels(target))


def _prompts(path: Path) -> None:
    from clipjax.data.labels import load_prompts

    load_prompts(path.stem)


def _recipe(path: Path) -> None:
    from clipjax.finetune.recipe import load_recipe

    load_recipe(path.stem)


def _runs(path: Path) -> None:
    from clipjax.finetune.suites import load_suite

    load_suite(path.stem)


def _suite(path: Path) -> None:
    from clipjax.sweep.suite import NAMED, load_suite

    load_suite(f"{NAMED}{path.stem}")


READERS = {
    ConfigTable.MODELS: _models,
    ConfigTable.NORMALIZATION: _statistics,
    ConfigTable.CLAIMS: _claims,
    ConfigTable.COLLECTIONS: _collections,
    ConfigTable.GROUPS: _groups,
    ConfigTable.METRICS: _metrics,
    ConfigFolder.ARCHS: _arch,
    ConfigFolder.BEFORE_AFTER: _runs,
    ConfigFolder.DATASETS: _cards,
    ConfigFolder.FIGURES: _figure,
    ConfigFolder.FINETUNE: _recipe,
    ConfigFolder.FINETUNE_RUNS: _runs,
    ConfigFolder.LABELS: _labels,
    ConfigFolder.PROMPTS: _prompts,
    ConfigFolder.SUITES: _suite,
}
"""What reads each kind of file."""

"""What the files of configs/ and of a user may contain, from the records that read them."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clipjax.checkpoints.card import Card, Preprocess, WeightsSource
from clipjax.data.card_files import CardFile
from clipjax.data.cards import DatasetCard
from clipjax.data.corrupted.opener import CorruptionTable
from clipjax.data.pairs.matching import Matching
from clipjax.data.questions import Question
from clipjax.embeddings.compute import Compute
from clipjax.evaluation.request import Request
from clipjax.finetune.recipe import Recipe
from clipjax.finetune.training.optimizer import Optimizer, Schedule
from clipjax.options import Option, options_of
from clipjax.sweep.suite import OPTIONS, Suite, SuiteRun
from docs.generate.markdown import attributes, code, section, table, text


@dataclass(frozen=True)
class Described:
    """A record on the page: its title there, and a sentence about it."""

    record: type[Any]
    title: str
    about: str


OPTION_RECORDS = (
    Described(
        Request, "Request", "Options that decide numbers: of `clipjax eval`, `clipjax.evaluate` and suites."
    ),
    Described(Compute, "Compute", "Options that change numbers by rounding alone."),
)
RECORDS = (
    Described(
        SuiteRun, "Suite run", "An entry of `[[runs]]` in a suite; `options` are the keys of Suite options."
    ),
    Described(Suite, "Suite", "A suite of `clipjax sweep`, as it is after reading."),
    Described(DatasetCard, "Data card", "A file of `configs/datasets`, or a card of your own."),
    Described(CardFile, "File of a data card", "An entry of `[[files]]` in a data card."),
    Described(Question, "Questions of a data card", "The table `[question]` of a data card."),
    Described(CorruptionTable, "Corruption of a data card", "The table `[corruption]` of a data card."),
    Described(Matching, "Matching of a data card", "The table `[matching]` of a data set of pairs."),
    Described(Recipe, "Fine-tuning recipe", "A file of `configs/finetune`, or `--recipe FILE`."),
    Described(Optimizer, "Optimizer", "The table `[optimizer]` of a recipe."),
    Described(Schedule, "Schedule", "The table `[schedule]` of a recipe."),
    Described(Card, "Model card", "`card.json` of a checkpoint."),
    Described(Preprocess, "Preprocess", "`preprocess` in a model's card."),
    Described(WeightsSource, "Weights source", "`source` in a model's card."),
)


def config_files_part() -> str:
    """A table of the fields of each record."""
    parts = [section(each.title, each.about, _options(each.record)) for each in OPTION_RECORDS]
    parts += [section("Suite options", "Keys of a suite's `[options]` and of a run in it.", _keys(OPTIONS))]
    parts += [section(each.title, each.about, _fields(each.record)) for each in RECORDS]
    return "".join(parts)


def _options(record: type[Any]) -> str:
    """Keyword, flag, type, default and help of the options that are fields of a record."""
    kinds = {each.name: _type(each.type) for each in dataclasses.fields(record)}
    rows = [
        [
            code(name),
            code(each.flag) if each.kind is not None else "",
            code(each.accepts or kinds[name]),
            code(repr(getattr(record, name))),
            text(f"{each.help} {each.python}"),
        ]
        for name, each in options_of(record).items()
    ]
    return table(["keyword", "flag", "type", "default", "what it does"], rows)


def _keys(options: Mapping[str, Option]) -> str:
    rows = [[code(name), code(_name(each.kind)), text(each.help)] for name, each in options.items()]
    return table(["key", "type", "what it does"], rows)


def _fields(record: type[Any]) -> str:
    said = attributes(record.__doc__)
    rows = [
        [code(each.name), code(_type(each.type)), _default(each), text(said.get(each.name, ""))]
        for each in dataclasses.fields(record)
        if each.init and not each.name.startswith("_") and each.repr
    ]
    return table(["field", "type", "default", "meaning"], rows)


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return code(repr(field.default))
    return "needed" if field.default_factory is dataclasses.MISSING else "empty"


def _type(kind: Any) -> str:
    """A field's type as the source has it, without the checks that `Annotated` adds."""
    written = kind if isinstance(kind, str) else _name(kind)
    return re.sub(r"Annotated\[([^,\]]+(?:\[[^\]]*\])?), .*?\)\]", r"\1", written)


def _name(kind: Any) -> str:
    return getattr(kind, "__name__", str(kind))

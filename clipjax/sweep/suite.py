"""Suites of evaluation: a TOML file -> which models are run on which data sets, with which tasks and prompts.

    title = "Accuracy on the natural shifts"
    models = [
        "vit_b_32-openai",
        { path = "mine/b32", name = "mine", facts_of = "vit_b_32-openai" },
        { group = "clip", train_source = ["WIT", "LAION-2B"] },
    ]

    [[runs]]
    task = "zeroshot"
    datasets = ["imagenet_v2:matched-frequency", "imagenet_r"]

docs/sweeps.md lists the keys. Everything that a file can get wrong by itself is found here, before anything
is read or run. Imports no JAX.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from clipjax.checkpoints.registry_rows import registry, unknown_model
from clipjax.config import config_dir
from clipjax.data.cards import cards_in
from clipjax.data.labels import load_prompts
from clipjax.errors import ClipjaxError, DataError, unknown_name
from clipjax.storage.buckets import place
from clipjax.storage.reading import exists, is_dir, read_toml
from clipjax.tasks.collections import collection
from clipjax.tasks.task import precision_tasks

NAMED = "suite:"  # before the name of a suite that ships with clipjax
CHOICES = {
    "precision": ("parity", "fast"),
    "on_error": ("raise", "skip"),
    "decode": ("full", "jpeg_scaled"),
    "params": ("auto", "replicated", "sharded"),
}
AUTO = "auto"  # a batch size that is measured
LEAST = {"limit": 1, "seed": 0, "resamples": 100, "batch_size": 1}
STATED = ("name", "facts_of")  # beside the `path` of a model: as `clipjax eval` takes them
OPTIONS = (*LEAST, *CHOICES, "compare_precision", "annotations")
KEYS = ("title", "models", "data_root", "model_root", "options", "data", "runs")
RUN_KEYS = ("task", "datasets", "prompts", "models", *OPTIONS)


@dataclass(frozen=True)
class Run:
    """One entry of `[[runs]]`.

    Attributes:
        task: of a task, or of a collection of tasks.
        models: ids, hub repositories, or absolute paths and URLs, in order and each once.
        datasets: names of cards, or of families, which stand for all their members; empty: all that lie below
            the folder of data sets and that the task is made for.
        prompts: prompt sets to repeat it with; empty: the data sets' own, or the collection's.
        options: as `clipjax eval` has them, those of the suite included.
    """

    task: str
    models: tuple[str, ...]
    datasets: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Suite:
    """A suite file.

    Attributes:
        data_root: the folder of data sets; None where the file leaves it to the command line.
        model_root: a folder of checkpoints by model id, taken in place of the hub's where one is there.
        data: data sets that lie elsewhere: name -> folder.
        stated: name and facts_of of models that the file states them of, by their path.
    """

    name: str
    title: str
    runs: tuple[Run, ...]
    data_root: Path | None = None
    model_root: Path | None = None
    data: Mapping[str, Path] = field(default_factory=dict)
    stated: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def models(self) -> tuple[str, ...]:
        """Of all runs, each once."""
        return tuple(dict.fromkeys(model for run in self.runs for model in run.models))


def load_suite(
    name: str | Path, *, data_root: str | Path | None = None, model_root: str | Path | None = None
) -> Suite:
    """Read a suite.

    Args:
        name: the path of a TOML file, or "suite:NAME" for one that ships with clipjax.
        data_root, model_root: in place of the file's.

    Raises:
        UsageError: no suite of that name.
        DataError: an unknown, missing or mistyped key; a model, task, data set or prompt set that does not
            exist. Names the file, the key and the nearest match.
    """
    path = _path(str(name))
    reader = _Reader(path, path.absolute().parent)
    return reader.suite(read_toml(path), data_root, model_root)


def suite_names() -> list[str]:
    """The suites of evaluation in configs/suites."""
    return sorted(path.stem for path in (config_dir() / "suites").glob("*.toml"))


def select(where: Mapping[str, Any]) -> list[str]:
    """The registered models whose columns of configs/models.csv have these values: one, or one of a list.

    Raises:
        ValueError: a column that is not there, or a value that no model has, with the nearest.
    """
    rows = registry()
    columns = list(next(iter(rows.values())))
    for column, wanted in where.items():
        if column not in columns:
            raise ValueError(f"unknown column {column!r} of models.csv; {_near(column, columns)}")
        known = list(dict.fromkeys(row[column] for row in rows.values() if not row[column].startswith("?")))
        for value in _listed(wanted):
            if not any(_same(value, cell) for cell in known):
                raise ValueError(f"no model has {column} = {value!r}; {_near(str(value), known)}")
    return [
        name
        for name, row in rows.items()
        if all(any(_same(v, row[column]) for v in _listed(wanted)) for column, wanted in where.items())
    ]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _same(value: Any, cell: str) -> bool:
    """Numbers are compared as such: 224 and 224.0."""
    if isinstance(value, str):
        return value == cell
    try:
        return float(cell) == value
    except ValueError:
        return False


def _near(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(list(known)[:12])}"


def _path(name: str) -> Path:
    if not name.startswith(NAMED):
        return Path(name)
    path = config_dir() / "suites" / f"{name.removeprefix(NAMED)}.toml"
    if name.removeprefix(NAMED) not in suite_names():
        raise unknown_name("suite", name.removeprefix(NAMED), suite_names())
    return path


@dataclass(frozen=True)
class _Reader:
    """Turns keys into what they mean, and says where one is wrong.

    Attributes:
        folder: what relative paths in the file are relative to.
        stated: filled as models are read; see `Suite`.
    """

    path: Path
    folder: Path
    stated: dict[str, dict[str, str]] = field(default_factory=dict)

    def suite(
        self, record: Mapping[str, Any], data_root: str | Path | None, model_root: str | Path | None
    ) -> Suite:
        self.check(record, KEYS, ("title", "models", "runs"), "")
        data = self.typed(record.get("data", {}), dict, "data")
        given = {"data_root": data_root, "model_root": model_root}
        places = {
            key: self.root(record, key) if value is None else place(value) for key, value in given.items()
        }
        known = self.datasets(places["data_root"])
        for name in data:
            self.named(name, known, "data")
        models = self.models(record["models"], "models")
        defaults = self.options(self.typed(record.get("options", {}), dict, "options"), "options")
        runs = self.typed(record["runs"], list, "runs")
        if not runs:
            self.refuse("runs", "there is none")
        return Suite(
            name=self.path.stem,
            title=self.typed(record["title"], str, "title"),
            runs=tuple(self.run(run, i, models, defaults, known) for i, run in enumerate(runs)),
            **places,
            data={name: self.place(self.typed(each, str, f"data.{name}")) for name, each in data.items()},
            stated=self.stated,
        )

    def root(self, record: Mapping[str, Any], key: str) -> Path | None:
        return self.place(self.typed(record[key], str, key)) if key in record else None

    def run(
        self,
        record: Any,
        index: int,
        models: tuple[str, ...],
        defaults: dict[str, Any],
        known: Mapping[str, set[str]],
    ) -> Run:
        where = f"runs[{index}]"
        self.check(self.typed(record, dict, where), RUN_KEYS, ("task",), where)
        task = self.typed(record["task"], str, f"{where}.task")
        self.call(f"{where}.task", collection, task)
        datasets = self.names(record.get("datasets", []), f"{where}.datasets")
        for name in datasets:
            self.named(name, known, f"{where}.datasets", task)
        prompts = tuple(
            self.beside(name) for name in self.names(record.get("prompts", []), f"{where}.prompts")
        )
        for name in prompts:
            self.call(f"{where}.prompts", load_prompts, name)
        own = {key: record[key] for key in OPTIONS if key in record}
        options = defaults | self.options(own, where)
        if options.get("compare_precision") and task not in precision_tasks():
            only = " or ".join(map(repr, precision_tasks()))
            self.refuse(f"{where}.compare_precision", f"it is for the task {only} alone")
        if "models" in record:
            models = self.models(record["models"], f"{where}.models")
        return Run(task, models, datasets, prompts, options)

    def models(self, given: Any, where: str) -> tuple[str, ...]:
        found: dict[str, None] = {}
        for i, each in enumerate(_listed(given)):
            if isinstance(each, dict) and "path" in each:
                found[self.own(each, f"{where}[{i}]")] = None
            elif isinstance(each, dict):
                ids = self.call(f"{where}[{i}]", select, each)
                if not ids:
                    self.refuse(f"{where}[{i}]", f"no registered model has {each}")
                found |= dict.fromkeys(ids)
            else:
                found[self.model(self.typed(each, str, f"{where}[{i}]"), f"{where}[{i}]")] = None
        if not found:
            self.refuse(where, "there is none")
        return tuple(found)

    def own(self, record: Mapping[str, Any], where: str) -> str:
        """A model of the user's with what the file states of it."""
        self.check(record, ("path", *STATED), ("path",), where)
        words = {
            key: self.typed(record[key], str, f"{where}.{key}") for key in ("path", *STATED) if key in record
        }
        path = self.model(words.pop("path"), f"{where}.path")
        if "facts_of" in words and words["facts_of"] not in registry():
            self.refuse(f"{where}.facts_of", str(unknown_model(words["facts_of"])))
        if self.stated.setdefault(path, words) != words:
            self.refuse(where, f"{path} is named twice, with other words: say them once")
        return path

    def model(self, name: str, where: str) -> str:
        if name in registry() or "://" in name:
            return name
        if exists(path := self.folder / Path(name).expanduser()):
            return str(path.absolute())
        if name.count("/") == 1 and not name.startswith((".", "~", "/")):
            return name  # a hub repository
        if "/" in name:
            self.refuse(where, f"{path} does not exist")
        self.refuse(where, str(unknown_model(name)))

    def options(self, record: Mapping[str, Any], where: str) -> dict[str, Any]:
        self.check(record, OPTIONS, (), where)
        for key, value in record.items():
            at = f"{where}.{key}"
            if key in CHOICES and value not in CHOICES[key]:
                self.refuse(at, f"{value!r} is not {' or '.join(CHOICES[key])}")
            if key == "batch_size" and value == AUTO:
                continue
            if key in LEAST and (type(value) is not int or value < LEAST[key]):
                self.refuse(at, f"{value!r} is not a whole number of {LEAST[key]} or more")
            if key == "compare_precision":
                self.typed(value, bool, at)
            if key == "annotations" and not self.place(self.typed(value, str, at)).exists():
                self.refuse(at, f"{self.place(str(value))} does not exist")
        found = dict(record)
        if "annotations" in found:
            found["annotations"] = self.place(found["annotations"])
        return found

    def datasets(self, data_root: Path | None) -> dict[str, set[str]]:
        """The cards that ship with clipjax, those in the folder of data sets, and the families of both, each
        with the tasks that it is made for."""
        folders = [config_dir() / "datasets"]
        if data_root is not None and is_dir(data_root):
            folders.append(data_root)
        cards = {card.name: card for folder in folders for card in cards_in(folder)}
        found: dict[str, set[str]] = {}
        for name, card in cards.items():
            for each in {name, name.partition(":")[0]}:
                found.setdefault(each, set()).update(card.tasks)
        return found

    def named(self, name: str, known: Mapping[str, set[str]], where: str, task: str | None = None) -> None:
        """A data set that exists, and that the task (or one of the collection) is made for."""
        if name not in known:
            self.refuse(where, str(unknown_name("data set", name, list(known))))
        if task is not None and not known[name].intersection(collection(task).tasks):
            tasks = ", ".join(sorted(known[name])) or "none"
            self.refuse(where, f"{name} is not made for {task!r}; its card says tasks = {tasks}")

    def names(self, given: Any, where: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.typed(name, str, where) for name in _listed(given)))

    def beside(self, prompts: str) -> str:
        """Prompt files lie beside the suite; names are names."""
        parts = [
            str(self.folder / part) if part.endswith((".txt", ".json")) else part
            for part in prompts.split("+")
        ]
        return "+".join(parts)

    def place(self, text: str) -> Path:
        return place(text) if "://" in text else self.folder / Path(text).expanduser()

    def check(
        self, record: Mapping[str, Any], known: Sequence[str], required: Sequence[str], where: str
    ) -> None:
        for key in record:
            if key not in known:
                self.refuse(where, f"unknown key {key!r}; {_near(key, known)}")
        for key in required:
            if key not in record:
                self.refuse(where, f"the key {key!r} is missing")

    def typed(self, value: Any, kind: type, where: str) -> Any:
        if not isinstance(value, kind):
            words = {str: "a text", dict: "a table", list: "a list", bool: "true or false"}
            self.refuse(where, f"{value!r} is not {words[kind]}")
        return value

    def call(self, where: str, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except (ClipjaxError, ValueError) as error:
            self.refuse(where, str(error))

    def refuse(self, where: str, what: str) -> NoReturn:
        raise DataError(f"{self.path}: {where + ': ' if where else ''}{what}")

"""Suites of evaluation: which models to run, on which data sets, with which tasks and prompts.

    title = "Accuracy on the natural shifts"
    models = [
        "vit_b_32-openai",
        { path = "runs/mine", name = "tuned", facts_of = "vit_b_32-openai" },
        { group = "clip", train_source = ["WIT", "LAION-2B"] },
        "mine:build",
        "torch:timm:resnet50.a1_in1k",
        "server:http://127.0.0.1:8000/v1#MODEL",
        { name = "theirs", predictions = "preds/{dataset}.parquet" },
    ]

    [[runs]]
    task = "zeroshot"
    datasets = ["imagenet_v2:matched-frequency", "imagenet_r"]

docs/how_to/sweeps.md has an example. A wrong file is refused before anything runs. Imports no JAX.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar

from clipjax.checkpoints.identity.model_reference import model_reference
from clipjax.checkpoints.identity.registry_rows import registry, unknown_model
from clipjax.config import ConfigFolder, config_file, config_files
from clipjax.data.cards import cards_in, registered_cards
from clipjax.data.labels import load_prompts
from clipjax.embeddings.compute import Compute
from clipjax.errors import ClipjaxError, DataError, unknown_name
from clipjax.evaluation.request import Request
from clipjax.options import Option, options_of
from clipjax.results.runs.run_of import names_run
from clipjax.storage.reading import exists, is_dir, read_toml
from clipjax.storage.records import AtLeast, FilledText, read
from clipjax.storage.remote.buckets import as_path
from clipjax.sweep.selection import listed, select
from clipjax.tasks.collections import collection
from clipjax.tasks.task import precision_tasks

PREDICTIONS = "predictions:"  # before the name of a model that only has files of its outputs
NAMED = "suite:"  # prefix of suites that ship with clipjax
OPTIONS = {
    each.name: each
    for record in (Request, Compute)
    for each in options_of(record).values()
    if each.kind is not None and each.in_suites
}
T = TypeVar("T")
Names = str | tuple[str, ...]


@dataclass(frozen=True)
class SuiteRun:
    """One entry of `[[runs]]`.

    Attributes:
        task: a task, or a collection of tasks.
        models: ids, hub repositories, or absolute paths and URLs, each once.
        datasets: names of cards or families; empty: all made for the task.
        prompts: prompt sets, each a run of its own; empty: the data sets' own, or the collection's.
        options: as in `clipjax eval`, including the suite's.
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
        data_root: None: left to the command line.
        model_root: a folder of checkpoints by model id, preferred to the hub's.
        data: data sets elsewhere: name -> folder.
        stated: a model's path -> its name and facts_of.
        predictions: a model of files -> their path, with {dataset} and {task} in it.
    """

    name: str
    title: str
    runs: tuple[SuiteRun, ...]
    data_root: Path | None = None
    model_root: Path | None = None
    data: Mapping[str, Path] = field(default_factory=dict)
    stated: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    predictions: Mapping[str, str] = field(default_factory=dict)

    @property
    def models(self) -> tuple[str, ...]:
        """The models of all runs, each once."""
        return tuple(dict.fromkeys(model for run in self.runs for model in run.models))


def _with_options(cls: type[T]) -> type[T]:
    """The class with a field for each of `OPTIONS`, which is None where the suite leaves it out."""
    keys = [(name, _kind(each) | None, None) for name, each in OPTIONS.items()]
    return make_dataclass(cls.__name__, keys, bases=(cls,), frozen=True, kw_only=True)


def _kind(about: Option) -> Any:
    """The type of an option's value in a suite. A path may be relative to its folder, or `run_of:MODEL`."""
    if about.choices:
        return Literal[about.choices]  # pyright: ignore[reportInvalidTypeForm]
    kind = str if about.kind is Path else about.kind
    kind = kind if about.least is None else Annotated[kind, AtLeast(about.least)]
    return kind | Literal["auto"] if about.auto else kind  # pyright: ignore[reportOptionalOperand]


@_with_options
@dataclass(frozen=True, kw_only=True)
class _Options:
    """The options of a suite or of one of its runs."""


@dataclass(frozen=True, kw_only=True)
class _Run(_Options):
    task: str
    datasets: Names = ()
    prompts: Names = ()
    models: Any = None


@dataclass(frozen=True)
class _File:
    title: str
    models: Any
    runs: tuple[_Run, ...]
    data_root: str | None = None
    model_root: str | None = None
    options: _Options = field(default_factory=_Options)
    data: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Own:
    path: str
    name: str | None = None
    facts_of: str | None = None


@dataclass(frozen=True)
class _Files:
    name: FilledText
    predictions: str


def load_suite(
    name: str | Path,
    *,
    data_root: str | Path | None = None,
    model_root: str | Path | None = None,
    needs_models: bool = True,
) -> Suite:
    """Read a suite: a TOML file, or "suite:NAME" for one that ships with clipjax.

    Args:
        data_root: replaces the file's.
        model_root: replaces the file's.
        needs_models: refuse a suite with `models = []`; False: the caller brings its own models.

    Raises:
        UsageError: an unknown suite.
        DataError: an unknown, missing or mistyped key, or an unknown model, task, data set or prompt set.
    """
    path = _path(str(name))
    reader = _Reader(path, path.absolute().parent, needs_models)
    return reader.suite(read(_File, read_toml(path), path), data_root, model_root)


def suite_names() -> list[str]:
    return sorted(config_files(ConfigFolder.SUITES))


def _names(names: Names) -> tuple[str, ...]:
    return tuple(dict.fromkeys(listed(names)))


def _path(name: str) -> Path:
    if not name.startswith(NAMED):
        return Path(name)
    path = config_file(ConfigFolder.SUITES, name.removeprefix(NAMED))
    if path is None:
        raise unknown_name("suite", name.removeprefix(NAMED), suite_names())
    return path


@dataclass(frozen=True)
class _Reader:
    """`folder`: base of relative paths. `stated` and `predictions` are filled as models are read."""

    path: Path
    folder: Path
    needs_models: bool
    stated: dict[str, dict[str, str]] = field(default_factory=dict)
    predictions: dict[str, str] = field(default_factory=dict)

    def suite(self, file: _File, data_root: str | Path | None, model_root: str | Path | None) -> Suite:
        roots = {
            "data_root": self.root(data_root, file.data_root),
            "model_root": self.root(model_root, file.model_root),
        }
        known = self.datasets(roots["data_root"])
        for name in file.data:
            self.named(name, known, "data")
        models = self.models(file.models, "models")
        defaults = self.options(file.options, "options")
        if not file.runs:
            self.refuse("runs", "there is none")
        return Suite(
            name=self.path.stem,
            title=file.title,
            runs=tuple(self.run(run, i, models, defaults, known) for i, run in enumerate(file.runs)),
            **roots,
            data={name: self.place(each) for name, each in file.data.items()},
            stated=self.stated,
            predictions=self.predictions,
        )

    def root(self, given: str | Path | None, own: str | None) -> Path | None:
        if given is not None:
            return as_path(given)
        return None if own is None else self.place(own)

    def run(
        self,
        run: _Run,
        index: int,
        models: tuple[str, ...],
        defaults: dict[str, Any],
        known: Mapping[str, set[str]],
    ) -> SuiteRun:
        """Check one entry of `[[runs]]`.

        Args:
            index: its number, for messages.
            models: the suite's models, where the entry names none.
            defaults: the suite's options, which those of the entry replace.
            known: the tasks of each data set, by its name.
        """
        where = f"runs[{index}]"
        task = run.task
        self.call(f"{where}.task", collection, task)
        datasets = _names(run.datasets)
        for name in datasets:
            self.named(name, known, f"{where}.datasets", task)
        prompts = tuple(self.beside(name) for name in _names(run.prompts))
        for name in prompts:
            self.call(f"{where}.prompts", load_prompts, name)
        options = defaults | self.options(run, where)
        if options.get("compare_precision") and task not in precision_tasks():
            only = " or ".join(map(repr, precision_tasks()))
            self.refuse(f"{where}.compare_precision", f"it is for the task {only} alone")
        if run.models is not None:
            models = self.models(run.models, f"{where}.models")
        self.refuse_parts(models, options, where)
        return SuiteRun(task, models, datasets, prompts, options)

    def models(self, given: Any, where: str) -> tuple[str, ...]:
        names: dict[str, None] = {}
        for i, each in enumerate(listed(given)):
            if isinstance(each, dict) and "path" in each:
                names[self.own(each, f"{where}[{i}]")] = None
            elif isinstance(each, dict) and "predictions" in each:
                names[self.files(each, f"{where}[{i}]")] = None
            elif isinstance(each, dict):
                ids = self.call(f"{where}[{i}]", select, each)
                if not ids:
                    self.refuse(f"{where}[{i}]", f"no registered model has {each}")
                names |= dict.fromkeys(ids)
            else:
                if not isinstance(each, str):
                    self.refuse(f"{where}[{i}]", f"{each!r} is not a text or a table")
                names[self.model(each, f"{where}[{i}]")] = None
        if not names and self.needs_models:
            self.refuse(where, "there is none")
        return tuple(names)

    def own(self, record: Mapping[str, Any], where: str) -> str:
        """A user's model's path; adds to `stated`."""
        own = read(_Own, record, f"{self.path}: {where}")
        path = self.model(own.path, f"{where}.path")
        stated = {"name": own.name, "facts_of": own.facts_of}
        words = {key: word for key, word in stated.items() if word is not None}
        if "facts_of" in words and words["facts_of"] not in registry():
            self.refuse(f"{where}.facts_of", str(unknown_model(words["facts_of"])))
        if self.stated.setdefault(path, words) != words:
            self.refuse(where, f"{path} is named twice, with other words: say them once")
        return path

    def files(self, record: Mapping[str, Any], where: str) -> str:
        """The name of a model of which there are only files; adds to `predictions`."""
        files = read(_Files, record, f"{self.path}: {where}")
        try:
            files.predictions.format(dataset="", task="")
        except (LookupError, ValueError, AttributeError):
            self.refuse(
                f"{where}.predictions", f"{files.predictions!r}: of braces, only {{dataset}} and {{task}}"
            )
        name, path = PREDICTIONS + files.name, self.pattern(files.predictions)
        if self.predictions.setdefault(name, path) != path:
            self.refuse(where, f"{files.name} is named twice, with other files: give each a name of its own")
        return name

    def refuse_parts(self, models: Sequence[str], options: Mapping[str, Any], where: str) -> None:
        """Files of predictions are not cut to a sample, and nothing is computed twice."""
        for name in self.predictions.keys() & set(models):
            for key in (key for key in ("limit", "compare_precision") if options.get(key)):
                what = f"{name.removeprefix(PREDICTIONS)} has files of predictions, which it cannot change"
                self.refuse(f"{where}.{key}", what)

    def model(self, name: str, where: str) -> str:
        if name in registry():
            return name
        reference = self.call(where, model_reference, name)
        if reference.kind in ("python", "server") or "://" in name:
            return name
        if reference.library is not None:  # a folder, or the library's own name
            folder = self.folder / Path(reference.value).expanduser()
            return str(replace(reference, value=str(folder.absolute()))) if is_dir(folder) else name
        if exists(path := self.folder / Path(name).expanduser()):
            return str(path.absolute())
        if name.count("/") == 1 and not name.startswith((".", "~", "/")):
            return name  # a hub repository
        if "/" in name:
            self.refuse(where, f"{path} does not exist")
        self.refuse(where, str(unknown_model(name, to_run=True)))

    def options(self, options: _Options, where: str) -> dict[str, Any]:
        values = {key: getattr(options, key) for key in OPTIONS}
        given = {key: value for key, value in values.items() if value is not None}
        for key, value in given.items():
            if OPTIONS[key].kind is Path and not names_run(value):
                given[key] = self.place(value)
                if not given[key].exists():
                    self.refuse(f"{where}.{key}", f"{given[key]} does not exist")
        return given

    def datasets(self, data_root: Path | None) -> dict[str, set[str]]:
        """Names of cards (shipped, or in `data_root`) and of their families -> their tasks."""
        own = cards_in(data_root) if data_root is not None and is_dir(data_root) else []
        cards = {card.name: card for card in (*registered_cards(), *own)}
        tasks: dict[str, set[str]] = {}
        for name, card in cards.items():
            for each in {name, name.partition(":")[0]}:
                tasks.setdefault(each, set()).update(card.tasks)
        return tasks

    def named(self, name: str, known: Mapping[str, set[str]], where: str, task: str | None = None) -> None:
        wanted = () if task is None else collection(task).tasks
        if name not in known:
            fitting = [each for each, tasks in known.items() if not wanted or tasks.intersection(wanted)]
            self.refuse(where, str(unknown_name("data set", name, fitting)))
        if wanted and not known[name].intersection(wanted):
            if not known[name]:
                self.refuse(where, f'the card of {name} has no `tasks`: add `tasks = ["{wanted[0]}"]` to it')
            tasks = ", ".join(sorted(known[name]))
            self.refuse(where, f"{name} is not made for {task!r}; its card says tasks = {tasks}")

    def beside(self, prompts: str) -> str:
        parts = [
            # Files are relative to the suite; other parts are names.
            str(self.folder / part) if part.endswith((".txt", ".json")) else part
            for part in prompts.split("+")
        ]
        return "+".join(parts)

    def place(self, text: str) -> Path:
        return as_path(text) if "://" in text else self.folder / Path(text).expanduser()

    def pattern(self, text: str) -> str:
        """Like `as_path`, for `str.format`: braces in the name of the suite's own folder stay braces."""
        if "://" in text:
            return text
        folder = str(self.folder).replace("{", "{{").replace("}", "}}")
        return str(Path(folder) / Path(text).expanduser())

    def call(self, where: str, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except (ClipjaxError, ValueError) as error:
            self.refuse(where, str(error))

    def refuse(self, where: str, what: str) -> NoReturn:
        raise DataError(f"{self.path}: {where + ': ' if where else ''}{what}")

"""`clipjax finetune METHOD`: fine-tune a model by a recipe, and show what that changed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from clipjax.commands.finetune.changes import print_changes
from clipjax.commands.shared.exclusions import check_suite, refuse_beside, refuse_without
from clipjax.commands.shared.options import (
    DistributedOption,
    FactOption,
    FactsOfOption,
    FactsOption,
    JsonOption,
    ModelOption,
    PixelBudgetOption,
    PixelStoreOption,
    StoreOption,
    SuiteOption,
    SuiteRootOption,
    ValidationDatasetOption,
    ValidationOption,
    WorkersOption,
    say_unknown_facts,
    stated_options,
    workers_asked,
)
from clipjax.commands.shared.output import print_table, say
from clipjax.commands.shared.processes import join
from clipjax.commands.shared.stores import pixels_in, store_root
from clipjax.errors import ClipjaxError, DataError, UsageError, counted

if TYPE_CHECKING:
    from clipjax.embeddings.compute import Compute


def register(app: typer.Typer) -> None:
    app.command("finetune")(finetune)


def finetune(
    method: Annotated[
        str,
        typer.Argument(
            metavar="METHOD",
            help="A method, e.g. flyp (`clipjax finetune list` shows all), or a suite of runs: suite:NAME.",
        ),
    ],
    model: ModelOption = None,
    data: Annotated[Path | None, typer.Option("--data", help="Root folder of the training images.")] = None,
    dataset: Annotated[
        str,
        typer.Option("--dataset", "-d", help="Data set card of the training images, e.g. imagenet_train."),
    ] = "folder",
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for models, resume points and logs, or a URL."),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="A recipe of configs/finetune or a .toml file; default: the method's on ImageNet."),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change the recipe, e.g. optimizer.learning_rate=1e-5."
        ),
    ] = None,
    seeds: Annotated[
        list[int] | None,
        typer.Option("--seed", min=0, help="Seed of a run; may be repeated. Default: the recipe's."),
    ] = None,
    shots: Annotated[
        str | None,
        typer.Option(help="Training images per class: a number, a file of shots, or `all`."),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Train on a random sample of this many images.")] = None,
    validation: ValidationOption = None,
    validation_dataset: ValidationDatasetOption = "folder",
    hold_out: Annotated[
        int | None,
        typer.Option(
            help="Instead of --validation: hold out this many training images per class to choose by."
        ),
    ] = None,
    evaluate: SuiteOption = None,
    data_root: SuiteRootOption = None,
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Name of the new models, -seedN added; default: after the base model."
        ),
    ] = None,
    facts_of: FactsOfOption = None,
    fact: FactOption = None,
    facts: FactsOption = None,
    fsdp: Annotated[
        bool, typer.Option("--fsdp", help="Shard trained params and moments over the devices.")
    ] = False,
    every: Annotated[int, typer.Option(min=1, help="Steps between resume points.")] = 500,
    workers: WorkersOption = "0",
    store: StoreOption = None,
    pixel_store: PixelStoreOption = None,
    pixel_budget: PixelBudgetOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print parameter counts, memory and schedule; train nothing.")
    ] = False,
    distributed: DistributedOption = False,
    as_json: JsonOption = False,
) -> None:
    """Fine-tune a model and write it as a checkpoint that every other command takes.

    The same command continues an interrupted run where it stopped (exit code 75: run it again; 0: finished).
    Everything that is chosen by accuracy is chosen on held-out or validation images.

    Examples:

        clipjax finetune list

        clipjax finetune flyp --model b32 --data imagenet/train --dataset imagenet_train --out flyp

        clipjax finetune tip_adapter --model vit_b_32-openai --data photos --hold-out 4 --shots 16 --out tip

        clipjax finetune flyp --recipe flyp_few_shot --model b32 --data photos --out flyp \
            --evaluate robustness --data-root /data
    """
    if method == "list":
        _list_methods(as_json)
        return
    if not method.startswith("suite:"):
        from clipjax.finetune.method import find_method

        find_method(method)
    missing = {"--data": data, "--out": out or (Path() if dry_run else None)}
    if data is None or None in missing.values():
        names = [name for name, value in missing.items() if value is None]
        raise UsageError(f"say {' and '.join(names)}: which training images, and where to write")
    check_suite(evaluate, data_root)
    if evaluate is None:
        refuse_without("--evaluate", {"--pixel-store": pixel_store})
    if validation is not None:
        refuse_beside("--validation", {"--hold-out": hold_out})
    _refuse_draws(seeds or [], shots)
    join(distributed)
    from clipjax.embeddings.compute import Compute
    from clipjax.storage.buckets import place
    from clipjax.storage.store import Store

    asked = _Asked(
        data=data,
        dataset=dataset,
        validation=validation,
        validation_dataset=validation_dataset,
        hold_out=hold_out,
        shots=shots,
        limit=limit,
        suite=evaluate,
        data_root=data_root,
        fsdp=fsdp,
        every=every,
        compute=Compute(
            store=Store(store_root(store)),
            pixel_store=pixels_in(pixel_store, pixel_budget),
            workers=workers_asked(workers),
            progress=False,
        ),
        name=name,
        loading=stated_options(None, facts_of, fact, facts),
    )
    if method.startswith("suite:"):
        refuse_beside(method, {"--name": name, "--facts-of": facts_of, "--fact": fact, "--facts": facts})
    jobs = _jobs(method, model, recipe, changes or [], seeds or [], shots, place(out or Path()))
    if dry_run:
        from clipjax.commands.finetune.plan import print_plan

        pairs = [(job.model, job.recipe) for job in jobs]
        print_plan(asked.read(), asked.settings(), pairs, asked.loading, as_json)
        return
    _run_all(jobs, asked, as_json)


def _refuse_draws(seeds: Sequence[int], shots: str | None) -> None:
    """Raises UsageError for a repeated seed, or if --shots is not a number, a file or `all`."""
    from clipjax.storage.reading import is_file

    if len(set(seeds)) < len(seeds):
        raise UsageError(f"--seed {' --seed '.join(map(str, seeds))}: each seed is one run, give it once")
    if shots in (None, "all"):
        return
    if shots.isdecimal() and int(shots) == 0:
        raise UsageError("--shots 0: give at least 1 image a class, or `all`")
    if not shots.isdecimal() and not is_file(Path(shots)):
        raise UsageError(
            f"--shots {shots}: give a number of images a class, a file of shots (there is none), or `all`"
        )


class _Job(NamedTuple):
    """One recipe for one model, and the folder to write."""

    model: str
    recipe: Any
    out: Path


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What all jobs of a command share, as the user wrote it; `compute` is for the evaluation."""

    data: Path
    dataset: str
    validation: Path | None
    validation_dataset: str
    hold_out: int | None
    shots: str | None
    limit: int | None
    suite: str | None
    data_root: Path | None
    fsdp: bool
    every: int
    compute: Compute
    name: str | None
    loading: dict[str, Any]

    def read(self) -> Any:
        from clipjax.data.cards import load_dataset
        from clipjax.finetune.run import Data

        validation = self.validation and load_dataset(self.validation_dataset, self.validation)
        file = (
            None if self.shots is None or self.shots == "all" or self.shots.isdecimal() else Path(self.shots)
        )
        return Data(load_dataset(self.dataset, self.data), validation, self.hold_out, file, self.limit)

    def settings(self) -> Any:
        from clipjax.devices.sharding import DP, FSDP, make_mesh
        from clipjax.finetune.method import Settings

        return Settings(
            make_mesh(),
            rules=FSDP if self.fsdp else DP,
            every=self.every,
            store=self.compute.store,
            workers=self.compute.workers,
        )


def _jobs(
    method: str,
    model: str | None,
    recipe: str | None,
    changes: Sequence[str],
    seeds: Sequence[int],
    shots: str | None,
    out: Path,
) -> list[_Job]:
    """The runs that METHOD stands for."""
    from clipjax.finetune.suites import load_suite

    if not method.startswith("suite:"):
        if model is None:
            raise UsageError("say which model: --model ID, hub repository, folder or checkpoint")
        return [_Job(model, _recipe(method, recipe, changes, seeds, shots), out)]
    refuse_beside(method, {"--model": model, "--recipe": recipe})
    suite = load_suite(method.removeprefix("suite:"))
    if not suite.runs:
        raise UsageError(f"the suite {suite.name} lists no fine-tuning [[runs]]; use it with --evaluate")
    jobs = []
    for each in suite.runs:
        found = _recipe(None, each.recipe, changes, seeds, shots)
        model = each.model.strip("/").replace("/", "_")  # a hub repository, a folder
        jobs.append(_Job(each.model, found, out / f"{found.name}-{model}"))
    return jobs


def _recipe(
    method: str | None, name: str | None, changes: Sequence[str], seeds: Sequence[int], shots: str | None
) -> Any:
    from clipjax.finetune.recipe import default_recipe, load_recipe

    found = load_recipe(name or default_recipe(str(method)), changes)
    if method not in (None, found.method):
        raise UsageError(f"the recipe {found.name} is one of {found.method}, not of {method}")
    _check_options(found, changes)
    if seeds:
        found = dataclasses.replace(found, seeds=tuple(seeds))
    if shots is not None and (shots == "all" or shots.isdecimal()):
        found = dataclasses.replace(found, shots=None if shots == "all" else int(shots))
    return found


def _check_options(recipe: Any, changes: Sequence[str]) -> None:
    """Refuse options that the method does not have: UsageError if --set gives them, DataError if the file
    does.
    """
    from clipjax.finetune.method import find_method

    try:
        find_method(recipe.method).options_of(recipe)
    except DataError as error:
        if given := [each for each in changes if each.startswith("options.")]:
            raise UsageError(f"--set {' --set '.join(given)}: {error}") from None
        raise


def _run_all(jobs: Sequence[_Job], asked: _Asked, as_json: bool) -> None:
    """Run every job; if one fails, the others still run."""
    import jax

    from clipjax.finetune.run import check

    records, failed, first = [], [], ""
    data, settings = asked.read(), asked.settings()
    for job in jobs:
        check(job.recipe, data)
    for job in jobs:
        try:
            runs, changes = _run(job, asked, data, settings)
        except ClipjaxError as error:
            if len(jobs) == 1:
                raise
            failed.append(f"{job.recipe.name} of {job.model}")
            first = first or str(error)
            say(f"  failed: {error}", err=True)
            continue
        records.append(_record(job, runs, changes))
        if not as_json and jax.process_index() == 0:
            _show(job, runs, changes)
    if as_json and jax.process_index() == 0:
        say(json.dumps(records, indent=2))
    if failed:
        raise DataError(
            f"{counted(len(failed), 'run')} of {len(jobs)} failed: {', '.join(failed)}; the first: {first}"
        )


def _run(job: _Job, asked: _Asked, data: Any, settings: Any) -> tuple[Sequence[Any], Sequence[Any]]:
    from clipjax.checkpoints.load import load_model
    from clipjax.finetune.before_after import before_and_after, refuse_leaks
    from clipjax.finetune.run import finetune, splits
    from clipjax.finetune.suites import load_suite

    def announce(line: str) -> None:
        say(line, err=True)

    suite = None if asked.suite is None else load_suite(asked.suite)
    if suite is not None and asked.data_root is not None:
        refuse_leaks([each for each in splits(data) if each is not None], suite, asked.data_root)
    base = load_model(job.model, **asked.loading)
    say_unknown_facts(job.model, base.card)
    runs = finetune(base, job.recipe, data, job.out, settings, name=asked.name, announce=announce)
    if suite is None or asked.data_root is None:
        return runs, []
    tuned, results = [run.model for run in runs], job.out / "results"
    changes = before_and_after(
        base, tuned, suite, asked.data_root, results, compute=asked.compute, announce=announce
    )
    return runs, changes


def _show(job: _Job, runs: Sequence[Any], changes: Sequence[Any]) -> None:
    for run in runs:
        chosen = (run.model.card.lineage or {}).get("chosen", {})
        found = "".join(f", {name} = {_rounded(value)}" for name, value in chosen.items())
        say(f"{job.recipe.title}, seed {run.seed}: {run.folder / 'model'}{found}")
    if changes:
        say("")
        print_changes(changes)
        say("")


def _rounded(value: Any) -> str:
    """A value that a search chose, rounded for reading; the model's card keeps every digit."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_rounded, value))}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _record(job: _Job, runs: Sequence[Any], changes: Sequence[Any]) -> dict[str, Any]:
    made = [
        {"seed": run.seed, "model": str(run.folder / "model"), "lineage": run.model.card.lineage}
        for run in runs
    ]
    table = [
        dataclasses.asdict(change)
        | {"difference": change.difference, "interval": change.interval, "verdict": change.verdict}
        for change in changes
    ]
    return {"recipe": job.recipe.name, "base": job.model, "runs": made, "changes": table}


def _list_methods(as_json: bool) -> None:
    from clipjax.finetune.method import all_methods
    from clipjax.finetune.recipe import load_recipe, recipe_names

    recipes = [load_recipe(name) for name in recipe_names()]
    methods = [all_methods()[name] for name in sorted(all_methods())]
    if as_json:
        record = [
            {"name": each.name, "title": each.title, "paper": each.paper, "options": dict(each.options)}
            for each in methods
        ]
        say(json.dumps({"methods": record, "recipes": [each.to_dict() for each in recipes]}, indent=2))
        return
    rows = [
        [each.name, each.title, ", ".join(r.name for r in recipes if r.method == each.name)]
        for each in methods
    ]
    print_table(["method", "title", "recipes"], rows)

"""The options of `clipjax finetune`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from clipjax.commands.finetune.data_options import SuiteOptions, ValidationOptions
from clipjax.commands.shared.exclusions import refuse_beside, refuse_without
from clipjax.commands.shared.facts import FactOptions
from clipjax.commands.shared.names import check_names
from clipjax.commands.shared.options import (
    DistributedOption,
    JsonOption,
    ModelOption,
    TrackOption,
)
from clipjax.commands.shared.records import FieldsOf
from clipjax.commands.shared.stores import StoreOptions
from clipjax.embeddings.compute import Compute
from clipjax.errors import UsageError
from clipjax.results.tracking.tracker import check_trackers

if TYPE_CHECKING:
    from clipjax.finetune.finetune import FinetuneData
    from clipjax.finetune.method import Settings

SUITE = "suite:"  # how METHOD begins if it is a suite of runs


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions:
    PANELS: ClassVar = {
        "Model": ("model", "facts_of", "fact", "facts"),
        "Data": ("data", "dataset", "shots", "limit", "validation", "validation_dataset", "hold_out"),
        "Recipe": ("recipe", "changes", "seeds"),
        "Evaluation": ("evaluate", "data_root"),
        "Speed and storage": (*("fsdp", "every", "store", "pixel_store", "pixel_budget", "distributed"),),
        "Output": ("out", "name", "track", "dry_run", "as_json"),
    }
    method: Annotated[
        str,
        typer.Argument(
            metavar="METHOD",
            help="A method, e.g. flyp (`clipjax finetune list` shows all), or a suite of runs: suite:NAME.",
        ),
    ]
    model: ModelOption = None
    data: Annotated[Path | None, typer.Option("--data", help="Root folder of the training images.")] = None
    dataset: Annotated[
        str,
        typer.Option("--dataset", "-d", help="Data set card of the training images, e.g. imagenet_train."),
    ] = "folder"
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for models, resume points and logs, or a URL."),
    ] = None
    recipe: Annotated[
        str | None,
        typer.Option(help="A recipe of configs/finetune or a .toml file; default: the method's on ImageNet."),
    ] = None
    changes: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change the recipe, e.g. optimizer.learning_rate=1e-5."
        ),
    ] = None
    seeds: Annotated[
        list[int] | None,
        typer.Option("--seed", min=0, help="Seed of a run; may be repeated. Default: the recipe's."),
    ] = None
    shots: Annotated[
        str | None,
        typer.Option(help="Training images per class: a number, a file of shots, or `all`."),
    ] = None
    limit: Annotated[int | None, typer.Option(help="Train on a random sample of this many images.")] = None
    held_out: ValidationOptions
    hold_out: Annotated[
        int | None,
        typer.Option(
            help="Instead of --validation: hold out this many training images per class to choose by."
        ),
    ] = None
    suite: SuiteOptions
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Name of the new models, followed by -seedN; default: after the base model."
        ),
    ] = None
    facts: FactOptions
    fsdp: Annotated[
        bool, typer.Option("--fsdp", help="Shard trained params and moments over the devices.")
    ] = False
    every: Annotated[int, typer.Option(min=1, help="Steps between resume points.")] = 500
    how: Annotated[dict[str, Any], FieldsOf(Compute, "workers")]
    stores: StoreOptions
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print parameter counts, memory and schedule; train nothing.")
    ] = False
    track: TrackOption = None
    distributed: DistributedOption = False
    as_json: JsonOption = False

    @property
    def runs(self) -> str | None:
        """The suite that METHOD names; None for one method."""
        return self.method.removeprefix(SUITE) if self.method.startswith(SUITE) else None

    @property
    def file_of_shots(self) -> Path | None:
        if self.shots is None or self.shots == "all" or self.shots.isdecimal():
            return None
        return Path(self.shots)

    def check(self) -> None:
        self._check_method()
        missing = {"--data": self.data, "--out": self.out or (Path() if self.dry_run else None)}
        if names := [name for name, value in missing.items() if value is None]:
            raise UsageError(f"say {' and '.join(names)}: which training images, and where to write")
        self.suite.check()
        self.held_out.check()
        if self.suite.evaluate is None:
            refuse_without("--evaluate", {"--pixel-store": self.stores.pixel_store})
        if self.held_out.validation is not None:
            refuse_beside("--validation", {"--hold-out": self.hold_out})
        if self.dry_run:
            refuse_beside("--dry-run", {"--track": self.track})
        check_trackers(self.track or ())
        self._check_seeds()
        self._check_shots()
        check_names(
            models=(self.model, self.facts.facts_of),
            datasets=(self.dataset, self.held_out.validation and self.held_out.validation_dataset),
            roots=(self.data, self.held_out.validation),
        )
        if self.runs is not None:
            facts = self.facts
            stated = {"--facts-of": facts.facts_of, "--fact": facts.fact, "--facts": facts.facts}
            refuse_beside(self.method, {"--name": self.name, **stated})

    def _check_method(self) -> None:
        """METHOD and --recipe, before a library is loaded that computes."""
        from clipjax.finetune.method_names import METHODS, recipe_file
        from clipjax.finetune.suites import load_suite

        if self.runs is None:
            METHODS.check(self.method)
        else:
            load_suite(self.runs)
        if self.recipe is not None:
            recipe_file(self.recipe)

    def _check_seeds(self) -> None:
        seeds = self.seeds or []
        if len(set(seeds)) < len(seeds):
            raise UsageError(f"--seed {' --seed '.join(map(str, seeds))}: each seed is one run, give it once")

    def _check_shots(self) -> None:
        from clipjax.storage.reading import is_file

        shots, file = self.shots, self.file_of_shots
        if shots is not None and shots.isdecimal() and int(shots) == 0:
            raise UsageError("--shots 0: give at least 1 image per class, or `all`")
        if file is not None and not is_file(file):
            raise UsageError(
                f"--shots {shots}: there is no such file; give a number of images per class, a file of shots "
                "or `all`"
            )

    def read(self) -> FinetuneData:
        from clipjax.data.cards import load_dataset
        from clipjax.finetune.finetune import FinetuneData

        assert self.data is not None  # see check
        train = load_dataset(self.dataset, self.data)
        return FinetuneData(train, self.held_out.read(), self.hold_out, self.file_of_shots, self.limit)

    def settings(self, compute: Compute) -> Settings:
        from clipjax.devices.sharding import DP, make_mesh
        from clipjax.finetune.method import Settings
        from clipjax.models.cut import FSDP

        return Settings(
            make_mesh(),
            rules=FSDP if self.fsdp else DP,
            every=self.every,
            store=compute.store,
            workers=compute.workers,
            track=tuple(self.track or ()),
        )

    def compute(self) -> Compute:
        """Options of the suite's evaluation."""
        return self.stores.compute(**self.how, progress=False)

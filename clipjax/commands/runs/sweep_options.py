"""The options of `clipjax sweep`."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from clipjax.commands.shared.exclusions import refuse_beside, refuse_without
from clipjax.commands.shared.options import (
    DistributedOption,
    ModelRootOption,
    NoPixelStoreOption,
    NoRetryOption,
    OnlyModelsOption,
    SampleOption,
    SuiteDataOption,
    TrackOption,
)
from clipjax.commands.shared.records import FieldsOf
from clipjax.commands.shared.stores import StoreOptions
from clipjax.embeddings.compute import Compute
from clipjax.errors import UsageError
from clipjax.guards import known_name
from clipjax.options import AUTO
from clipjax.results.tracking.tracker import check_trackers

if TYPE_CHECKING:
    from clipjax.sweep.suite import Suite


QUEUES = ("slurm", "skypilot", "xpk")
ONLY_HERE = ("submit", "shares", "dry_run", "share_of_peak")  # not of the jobs that --submit makes


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    PANELS: ClassVar = {
        "Where things are": ("data_root", "model_root", "results", "track"),
        "What is run": (
            *("models", "limit", "dry_run", "share_of_peak", "no_retry", "status", "collect", "from_"),
        ),
        "In parts": ("shares", "shard", "submit", "distributed"),
        "Speed and storage": (
            *("store", "pixel_store", "pixel_budget", "no_pixel_store", "no_compile_cache", "keep_maps"),
        ),
    }
    context: typer.Context
    suite: Annotated[
        str,
        typer.Argument(metavar="SUITE", help="A TOML file, or suite:NAME for one that ships with clipjax."),
    ]
    data_root: SuiteDataOption = None
    model_root: ModelRootOption = None
    models: OnlyModelsOption = None
    limit: SampleOption = None
    results: Annotated[
        Path, typer.Option(help="Folder for result rows; runs that have rows there are skipped.")
    ] = Path("results")
    track: TrackOption = None
    stores: StoreOptions
    no_pixel_store: NoPixelStoreOption = False
    no_compile_cache: Annotated[
        bool, typer.Option("--no-compile-cache", help="Keep no compiled programs between runs.")
    ] = False
    how: Annotated[
        dict[str, Any],
        FieldsOf(
            *(Compute, "per_device_batch", "workers", "params", "keep_maps"),
            per_device_batch=AUTO,
            workers=AUTO,
        ),
    ]
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Run part I of N, for the jobs of an array.")
    ] = None
    shares: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="With --dry-run: print what each of N parts would take. With --submit: the number of jobs.",
        ),
    ] = None
    submit: Annotated[
        str | None,
        typer.Option(
            metavar="QUEUE",
            help="Run nothing here: hand the parts to slurm as the jobs of an array, with time and memory "
            "from their cost. With --dry-run: print the script. For skypilot and xpk, only the latter.",
        ),
    ] = None
    no_retry: NoRetryOption = False
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Evaluate nothing: print what would be run, what it takes and what exists. Models of torch: "
            "and module:function are opened.",
        ),
    ] = False
    share_of_peak: Annotated[
        float | None,
        typer.Option(
            "--share-of-peak",
            metavar="SHARE",
            help="With --dry-run or --submit: the share of its peak that a GPU is assumed to reach; default: "
            "as in configs/machines.toml.",
        ),
    ] = None
    status: Annotated[
        bool,
        typer.Option(
            "--status",
            help="Run nothing: print what the sweep's jobs have done, what failed and why, and the time "
            "left. Reads --results alone, so it works on any machine that sees that folder.",
        ),
    ] = False
    collect: Annotated[
        bool, typer.Option("--collect", help="Run nothing: list the runs without results.")
    ] = False
    from_: Annotated[
        list[Path] | None,
        typer.Option("--from", help="With --collect: folders of results to copy into --results first."),
    ] = None
    distributed: DistributedOption = False

    def check(self) -> None:
        stores = self.stores
        if self.no_pixel_store:
            pixels = {"--pixel-store": stores.pixel_store, "--pixel-budget": stores.pixel_budget}
            refuse_beside("--no-pixel-store", pixels)
        shown = {"--collect": self.collect, "--dry-run": self.dry_run, "--status": self.status}
        to_run: dict[str, object] = {"--distributed": self.distributed}
        if self.submit is None:
            to_run |= {"--no-retry": self.no_retry, "--track": self.track}
        else:  # its jobs take these
            self._check_submit()
        for main in (name for name, is_given in shown.items() if is_given):
            others = {name: is_given for name, is_given in shown.items() if name != main}
            refuse_beside(main, {**others, **to_run})
        if self.status:
            refuse_beside("--status", {"--shard": self.shard, "--models": self.models, "--limit": self.limit})
        if not self.collect:
            refuse_without("--collect", {"--from": self.from_})
        if not self.dry_run and self.submit is None:
            asked = {"--shares": self.shares, "--share-of-peak": self.share_of_peak}
            refuse_without("--dry-run", asked)
        check_trackers(self.track or ())
        if not self.distributed:  # there all processes read it, and end together
            _ = self.read_suite

    def _check_submit(self) -> None:
        known_name("queue", self.submit, QUEUES)
        beside = {"--collect": self.collect, "--status": self.status, "--shard": self.shard}
        refuse_beside("--submit", {**beside, "--distributed": self.distributed})
        if self.submit == "slurm":
            return
        if not self.dry_run:
            raise UsageError(
                f"--submit {self.submit} starts nothing: print its file with --dry-run, and start the jobs "
                "from that"
            )
        from clipjax.storage.remote.buckets import BucketPath, as_path

        if not isinstance(as_path(self.results), BucketPath):
            raise UsageError(
                f"--results {self.results}: the jobs of {self.submit} share no disk; name a bucket, e.g. "
                "gs://BUCKET/results, and another folder of it for --store"
            )

    @functools.cached_property
    def read_suite(self) -> Suite:
        """Imports no JAX: a mistake in the file is found at once."""
        from clipjax.sweep.subset import subset
        from clipjax.sweep.suite import load_suite

        whole = load_suite(self.suite, data_root=self.data_root, model_root=self.model_root)
        return subset(whole, self.models or (), self.limit)

    def compute(self) -> Compute:
        return self.stores.sharing_pixels(kept=not self.no_pixel_store, **self.how)

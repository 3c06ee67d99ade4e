"""Options that `clipjax gate` and `clipjax watch` share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipjax.commands.shared.options import (
    JsonOption,
    ModelRootOption,
    NoPixelStoreOption,
    SampleOption,
    SuiteDataOption,
)
from clipjax.commands.shared.output import announce, print_table, say
from clipjax.commands.shared.records import FieldsOf
from clipjax.commands.shared.stores import StoreOptions
from clipjax.embeddings.compute import Compute
from clipjax.options import AUTO

if TYPE_CHECKING:
    from clipjax.gates.gate import Gate
    from clipjax.gates.history import Judgement

Conditions = Annotated[
    list[str],
    typer.Argument(
        metavar="CONDITION...",
        help="not_worse(METRIC, MARGIN) or better(METRIC, MARGIN), with ` on DATASET` for one data "
        "set alone. All must hold. METRIC is a share of images, MARGIN a fraction: 0.005 is half a point.",
    ),
]


PANELS = {
    "What is judged": ("against", "suite", "limit", "alpha", "planned"),
    "Where things are": ("data_root", "model_root", "out", "as_json"),
    "Speed and storage": ("store", "pixel_store", "pixel_budget", "no_pixel_store"),
}


@dataclass(frozen=True, kw_only=True)
class GateOptions:
    against: Annotated[
        str,
        typer.Option(
            "--against",
            metavar="PINNED",
            help="The reference: a name or path as for `clipjax sweep`. The digest of its weights is "
            "recorded at the first use, and must not change.",
        ),
    ]
    suite: Annotated[
        str,
        typer.Option(
            "--suite",
            help="Data sets, tasks and options: a suite's TOML file, or suite:NAME. Its models do not run.",
        ),
    ]
    data_root: SuiteDataOption = None
    model_root: ModelRootOption = None
    limit: SampleOption = None
    alpha: Annotated[
        float,
        typer.Option(
            help="The probability that any of the gate's checkpoints passes without meeting a condition."
        ),
    ] = 0.05
    planned: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Divide alpha equally over N checkpoints, and refuse more. Default: the k-th spends "
            "alpha / (k (k + 1)), for any number of checkpoints.",
        ),
    ] = None
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the gate: gate.json, history.svg and results.")
    ] = Path("gate")
    stores: StoreOptions
    no_pixel_store: NoPixelStoreOption = False
    how: Annotated[
        dict[str, Any],
        FieldsOf(Compute, "per_device_batch", "workers", "params", per_device_batch=AUTO, workers=AUTO),
    ]
    as_json: JsonOption = False

    def gate(self, conditions: list[str]) -> Gate:
        """The gate. Refuses wrong conditions and a wrong suite before JAX is loaded."""
        from clipjax.gates.conditions import Spending, read_condition
        from clipjax.storage.remote.buckets import refuse_url
        from clipjax.sweep.subset import subset
        from clipjax.sweep.suite import load_suite

        refuse_url(self.out, "a gate")
        read = tuple(dict.fromkeys(map(read_condition, conditions)))
        spending = Spending(self.alpha, self.planned)
        roots = {"data_root": self.data_root, "model_root": self.model_root}
        whole = load_suite(self.suite, **roots, needs_models=False)
        suite = subset(whole, limit=self.limit)
        from clipjax.devices.programs import enable_compile_cache
        from clipjax.gates.gate import Gate

        enable_compile_cache()
        return Gate(suite, as_model(self.against), read, spending, self.out, announce)

    def compute(self) -> Compute:
        return self.stores.sharing_pixels(kept=not self.no_pixel_store, **self.how)


def as_model(name: str) -> str:
    """The absolute path of a file or folder on this disk; other names as they are."""
    return str(Path(name).absolute()) if Path(name).exists() else name


TITLES = (
    *("condition", "task", "data set", "reference", "model", "difference", "lower limit", "n", "power"),
    "verdict",
)


def show(judgement: Judgement, *, is_new: bool) -> None:
    rows = [
        [
            *(each.condition, each.task, each.dataset, f"{each.first:.4f}", f"{each.second:.4f}"),
            *(f"{each.difference:+.4f}", f"{each.lower:+.4f}", f"{each.n:,}", f"{each.power:.2f}"),
            each.verdict,
        ]
        for each in judgement.measured
    ]
    print_table(TITLES, rows)
    before = "" if is_new else f"judged before, at {judgement.time}: "
    say()
    say(f"{before}{in_words(judgement)}")


def in_words(judgement: Judgement) -> str:
    number = f"checkpoint {judgement.number} (alpha {judgement.alpha:.2g})"
    return f"{judgement.model}, {number}: {judgement.verdict}"

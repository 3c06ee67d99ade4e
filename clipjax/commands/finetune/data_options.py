"""Images to choose by, and a suite to evaluate on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipjax.commands.shared.exclusions import refuse_without
from clipjax.errors import UsageError

if TYPE_CHECKING:
    from clipjax.data.cards import Dataset
    from clipjax.finetune.suites import FinetuneSuite


@dataclass(frozen=True, kw_only=True)
class ValidationOptions:
    validation: Annotated[
        Path | None, typer.Option(help="Images for choosing alpha, epoch, ...; never those tested on.")
    ] = None
    validation_dataset: Annotated[str, typer.Option(help="Data set card of the --validation images.")] = (
        "folder"
    )

    def check(self) -> None:
        if self.validation is None and self.validation_dataset != "folder":
            refuse_without("--validation", {"--validation-dataset": self.validation_dataset})

    def read(self) -> Dataset | None:
        from clipjax.data.cards import load_dataset

        return self.validation and load_dataset(self.validation_dataset, self.validation)


@dataclass(frozen=True, kw_only=True)
class SuiteOptions:
    evaluate: Annotated[
        str | None,
        typer.Option(help="Suite to evaluate the new models on, e.g. robustness; needs --data-root."),
    ] = None
    data_root: Annotated[
        Path | None,
        typer.Option("--data-root", help="Folder of the data sets for --evaluate (`clipjax datasets list`)."),
    ] = None

    def check(self) -> None:
        if (self.evaluate is None) != (self.data_root is None):
            raise UsageError(
                "--evaluate and --data-root go together: which suite, and the folder of its data sets"
            )
        self.read()

    def read(self) -> tuple[FinetuneSuite, Path] | None:
        """The suite and the folder of its data sets, if there is one."""
        from clipjax.finetune.suites import load_suite

        if self.evaluate is None or self.data_root is None:
            return None
        return load_suite(self.evaluate), self.data_root

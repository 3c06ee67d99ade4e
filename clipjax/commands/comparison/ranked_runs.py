"""Which runs `clipjax rank` and `clipjax pareto` rank, and by what."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipjax.commands.shared.options import (
    OnlyDatasetsOption,
    OnlyLabelsOption,
    OnlyModelsOption,
    OnlyPrecisionOption,
    OnlyPromptsOption,
    OnlyTasksOption,
    ShareOption,
)

if TYPE_CHECKING:
    from clipjax.analysis.rows.model_ranking import ModelRanking


@dataclass(frozen=True, kw_only=True)
class RankedRuns:
    metric: ShareOption
    models: OnlyModelsOption = None
    task: OnlyTasksOption = None
    dataset: OnlyDatasetsOption = None
    prompts: OnlyPromptsOption = None
    precision: OnlyPrecisionOption = None
    labels: OnlyLabelsOption = None

    def ranking(self, results: Path, **tests: Any) -> ModelRanking:
        """The models of a folder of results, ranked.

        tests: keywords of `clipjax.evaluation.comparison.ranking.rank_models` that say how to test.

        Raises: as `rank_models`.
        """
        from clipjax.evaluation.comparison.ranking import rank_models
        from clipjax.evaluation.comparison.run_pairs import RunFilter

        return rank_models(
            results,
            self.metric,
            models=self.models or (),
            tasks=self.task or (),
            datasets=self.dataset or (),
            choice=RunFilter(self.prompts, self.precision, self.labels),
            **tests,
        )

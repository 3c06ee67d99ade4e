"""Whether a file has all images of its data set and of the ID set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clipjax.data.card_images import missing_of
from clipjax.data.cards import DatasetCard
from clipjax.errors import ClipjaxError
from clipjax.evaluation.data_folder import id_card
from clipjax.evaluation.predictions.file import PredictionsFile, PredictionTable


def shares(file: PredictionsFile, contents: PredictionTable) -> dict[str, Any]:
    columns, card = contents.columns, file.card
    known, more = _id_card(card) if "id" in file.task.needs else None, 0
    ids: Sequence[str] = columns["id"] if contents.ids is None else contents.ids
    id_ids = contents.id_ids
    if contents.ids is None and "in_distribution" in columns:  # a table of OOD detection has both sides
        sides = list(zip(ids, columns["in_distribution"]))
        ids, id_ids = ([name for name, inside in sides if inside is side] for side in (False, True))
    elif contents.ids is None and "calibration_images" in columns and card is not None and known == card:
        # A table of the ID set itself has only the test half.
        more = int(columns["calibration_images"][0])
    return {
        "part": missing_of(card, ids, more),
        "id_part": None if id_ids is None else missing_of(known, id_ids),
    }


def _id_card(card: DatasetCard | None) -> DatasetCard | None:
    try:
        return None if card is None else id_card(card)
    except ClipjaxError:
        return None

"""Instance records of Every Eval Ever: one for each image and each number that the per-image table gives.

The schema: evaleval/every_eval_ever 0.3.0, instance_level_eval.schema.json.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from clipjax.results.row import Row

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = {"top1": "correct", "top5": "correct_top5"}  # metric -> the column whose mean it is
_NEEDED = {"id", "label", "prediction"}


def image_records(
    record: Mapping[str, Any], results: Sequence[tuple[Row, Mapping[str, Any]]], table: pa.Table
) -> str:
    """The text of a file of JSON lines, one for each image and number; empty if the table gives no number.

    Args:
        record: the aggregate record of the run.
        results: its rows, each with what the record has of it.
        table: the run's per-image table.
    """
    names = {*table.column_names}
    of = {
        COLUMNS[row["metric"]]: result
        for row, result in results
        if row["slice"] is None
        and {*_NEEDED, COLUMNS.get(row["metric"], "")} <= names
        and _is_mean(row, table)
    }
    shared = {
        "schema_version": record["schema_version"],
        "evaluation_id": record["evaluation_id"],
        "model_id": record["model_info"]["id"],
        "interaction_type": "single_turn",
    }
    images = table.select([*_NEEDED, *of]).to_pylist() if of else []
    lines = [
        json.dumps(shared | _of_result(result) | _of_image(image, bool(image[column])))
        for column, result in of.items()
        for image in images
    ]
    return "".join(f"{line}\n" for line in lines)


def reference(path: str, text: str) -> dict[str, Any]:
    """What the aggregate record states of the file.

    Args:
        path: from the folder of all records.
        text: what the file contains.
    """
    return {
        "format": "jsonl",
        "file_path": path,
        "hash_algorithm": "sha256",
        "checksum": hashlib.sha256(text.encode()).hexdigest(),
        "total_rows": text.count("\n"),
    }


def _is_mean(row: Row, table: pa.Table) -> bool:
    """Whether the row's value is the mean of the column: it is not where, e.g., classes are weighted."""
    values = table.column(COLUMNS[row["metric"]]).to_pylist()
    return bool(values) and math.isclose(sum(values) / len(values), row["value"] or 0.0, rel_tol=1e-9)


def _of_result(result: Mapping[str, Any]) -> dict[str, Any]:
    return {name: result[name] for name in ("evaluation_name", "evaluation_result_id")}


def _of_image(image: Mapping[str, Any], is_correct: bool) -> dict[str, Any]:
    """Labels and predictions are the indices of classes."""
    label, prediction = image["label"], str(image["prediction"])
    answer = {
        "turn_idx": 0,
        "source": "output.raw",
        "extracted_value": prediction,
        "extraction_method": "argmax",
        "is_terminal": True,
    }
    return {
        "sample_id": image["id"],
        "input": {
            "raw": image["id"],
            "reference": [str(each) for each in (label if isinstance(label, list) else [label])],
        },
        "output": {"raw": [prediction]},
        "answer_attribution": [answer],
        "evaluation": {"score": float(is_correct), "is_correct": is_correct},
    }

"""Results as records of Every Eval Ever, one file for each run and model.

    data/clipjax/DEVELOPER/MODEL/UUID.json
    data/clipjax/DEVELOPER/MODEL/UUID_samples.jsonl     of the images, where asked for

The schema: evaleval/every_eval_ever 0.3.0, eval.schema.json. `python -m every_eval_ever validate` checks it.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from clipjax.analysis.publish.image_records import image_records, reference
from clipjax.analysis.publish.model_cards import moment_of
from clipjax.analysis.publish.publishable import UNKNOWN, as_text, evidence, file_name, hub_repo
from clipjax.analysis.rows.pivot import better_end
from clipjax.results.row import Row, metric_name

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA = "0.3.0"
RELATIONS = ("first_party", "third_party", "collaborative", "other")
NO_END = "of metrics without a good end"


class Evaluator(NamedTuple):
    """Who measured, and how they are related to the models' makers: one of `RELATIONS`."""

    organization: str
    relation: str


def records(
    rows: Mapping[str, Sequence[Row]],
    evaluator: Evaluator,
    left_out: dict[str, int],
    images: Callable[[str], pa.Table | None] | None = None,
) -> Iterator[tuple[str, str]]:
    """The path and the text of each file.

    Args:
        rows: by model, all with a value.
        left_out: gets the rows of metrics of which no `metrics.toml` states the good end, which the schema
            asks for.
        images: the per-image table of a run's id, None without one; without it there are no files of images.
    """
    for model, own in rows.items():
        runs: dict[tuple[str, str], list[Row]] = {}
        for row in own:
            if better_end(row["metric"]) in ("higher", "lower"):
                runs.setdefault((row["run_id"], row["origin"]), []).append(row)
            else:
                left_out[NO_END] = left_out.get(NO_END, 0) + 1
        for (run_id, _), of_run in runs.items():
            # The format asks for a developer; weights that are not on the hub are the evaluator's.
            model_id = hub_repo(of_run[0]) or f"{file_name(evaluator.organization)}/{file_name(model)}"
            record = _record(model, model_id, of_run, evaluator)
            path = f"data/clipjax/{model_id}/{_uuid(run_id, model)}"
            table = images(run_id) if images is not None and of_run[0]["origin"] == "measured" else None
            if table is not None:
                results = list(zip(of_run, record["evaluation_results"], strict=True))
                if text := image_records(record, results, table):
                    yield f"{path}_samples.jsonl", text
                    record["detailed_evaluation_results"] = reference(f"{path}_samples.jsonl", text)
            yield f"{path}.json", json.dumps(record, indent=1, allow_nan=False) + "\n"


def _uuid(run_id: str, model: str) -> uuid.UUID:
    """The same one whenever the run is published, in the form that the schema asks for."""
    return uuid.UUID(bytes=hashlib.sha256(f"{run_id} {model}".encode()).digest()[:16], version=4)


def _record(model: str, model_id: str, rows: Sequence[Row], evaluator: Evaluator) -> dict[str, Any]:
    first = rows[0]
    measured, moment = first["origin"] == "measured", moment_of(first["run_id"])
    engine = {"name": first.get("framework") or UNKNOWN, "version": _version(first, "jax")}
    facts = {name: as_text(value) for name, value in first["model_facts"].items() if value is not None}
    deployment = {
        "deployment_type": "self_deployed" if measured else UNKNOWN,
        "model_availability": "open_weights" if hub_repo(first) else UNKNOWN,
    }
    return {
        "schema_version": SCHEMA,
        "evaluation_id": f"clipjax/{model}/{first['run_id']}",
        **({} if moment is None else {"evaluation_timestamp": moment}),
        "retrieved_timestamp": str(int(time.time())),
        "source_metadata": {
            "source_name": "clipjax" if measured else as_text(first["convention"].get("source") or UNKNOWN),
            "source_type": "evaluation_run" if measured else "documentation",
            "source_organization_name": evaluator.organization,
            "evaluator_relationship": evaluator.relation,
        },
        "eval_library": {"name": "clipjax", "version": _version(first, "clipjax")},
        "model_info": {
            "name": model,
            "id": model_id,
            **({"inference_engine": engine} if measured else {}),
            "additional_details": {**facts, **deployment},
        },
        "evaluation_results": [_result(row) for row in rows],
    }


def _version(row: Row, package: str) -> str:
    return (row["versions"] or {}).get(package, UNKNOWN)


def _result(row: Row) -> dict[str, Any]:
    metric = metric_name(row["metric"], row["slice"])
    known = {name: as_text(value) for name, value in evidence(row).items() if name not in ("interval", "n")}
    uncertainty: dict[str, Any] = {} if row["n"] is None else {"num_samples": row["n"]}
    if (interval := row["interval"]) is not None:
        uncertainty["confidence_interval"] = {
            "lower": interval["lo"],
            "upper": interval["hi"],
            "confidence_level": interval["level"],
            "method": interval["method"],
        }
    prompts = row["convention"].get("prompts")
    return {
        "evaluation_result_id": f"{row['recipe_hash']} {metric}",
        "evaluation_name": f"{row['task']} on {row['dataset']}",
        "source_data": {
            "dataset_name": row["dataset"],
            "source_type": "other",
            "additional_details": {"images_sha256": as_text(row["recipe"].get("images") or UNKNOWN)},
        },
        "metric_config": {
            "metric_id": metric,
            "metric_name": row["metric"],
            "lower_is_better": better_end(row["metric"]) == "lower",
        },
        "score_details": {"score": row["value"], "uncertainty": uncertainty, "details": known},
        "generation_config": {"additional_details": {} if prompts is None else {"prompts": as_text(prompts)}},
    }

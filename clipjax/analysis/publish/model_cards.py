"""Results for the Hugging Face hub: a folder for each model, as its repository has it.

    MODEL/README.md                      a card: the numbers as `model-index`, and a table
    MODEL/.eval_results/clipjax.yaml     the numbers of the hub's registered benchmarks

The formats are in huggingface/hub-docs: `modelcard.md` and `eval_results.yaml` (of 2026-08). The hub counts a
number of `.eval_results` only if it is of a benchmark that is registered there; a user states which one is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from huggingface_hub.utils import yaml_dump

from clipjax.analysis.publish.publishable import as_text, evidence, file_name, hub_repo
from clipjax.errors import DataError, UsageError
from clipjax.results.row import Row, metric_name
from clipjax.results.tables import as_markdown, summary_table

_TYPES = {"classifier": "image-classification", "vision_language": "visual-question-answering"}
_BENCHMARK = re.compile(r"([^/=]+)/([^=]+)=([^/:=]+/[^/:=]+):([^:=]+)")


class Benchmark(NamedTuple):
    """A number of ours, and the task of a registered benchmark that it is."""

    dataset: str
    metric: str
    repo: str
    task_id: str


def benchmark_from(text: str) -> Benchmark:
    """Raises UsageError unless the text is DATASET/METRIC=ORGANISATION/NAME:TASK."""
    if (match := _BENCHMARK.fullmatch(text)) is None:
        raise UsageError(
            f"--benchmark {text!r} is not DATASET/METRIC=ORGANISATION/NAME:TASK, such as "
            "imagenet_r/top1=lab/imagenet-r:top1"
        )
    return Benchmark(*match.groups())


def hub_files(rows: Mapping[str, Sequence[Row]], benchmarks: Sequence[Benchmark]) -> dict[str, str]:
    """The text of each file, by its path.

    Args:
        rows: by model.
        benchmarks: the numbers that the hub has a benchmark for.

    Raises:
        DataError: a benchmark that no row is of.
    """
    files = {}
    for model, own in rows.items():
        folder = (hub_repo(own[0]) or file_name(model)).strip("/")
        files[f"{folder}/README.md"] = _card(model, own)
        if entries := [_entry(each, row) for each in benchmarks for row in own if _is_of(each, row)]:
            files[f"{folder}/.eval_results/clipjax.yaml"] = _yaml(entries)
    for each in benchmarks:
        if not any(_is_of(each, row) for own in rows.values() for row in own):
            raise DataError(f"no row is {each.dataset}/{each.metric}, which --benchmark names")
    return files


def _is_of(benchmark: Benchmark, row: Row) -> bool:
    return (row["dataset"], metric_name(row["metric"], row["slice"])) == benchmark[:2]


def _entry(benchmark: Benchmark, row: Row) -> dict[str, Any]:
    notes = "; ".join(f"{name}: {as_text(value)}" for name, value in evidence(row).items())
    dataset = {"id": benchmark.repo, "task_id": benchmark.task_id}
    date = {} if (moment := moment_of(row["run_id"])) is None else {"date": moment}
    return {"dataset": dataset, "value": row["value"], **date, "notes": notes}


def moment_of(run_id: str) -> str | None:
    """The time in ISO 8601 at which a run was written; None if its name is not dated."""
    match = re.match(r"(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)", run_id)
    return "{}-{}-{}T{}:{}:{}Z".format(*match.groups()) if match else None


def _card(model: str, rows: Sequence[Row]) -> str:
    index = [{"name": model, "results": [_result(of) for of in _grouped(rows)]}]
    header = {"tags": ["clipjax"], "model-index": index}
    whole = [row for row in rows if row["slice"] is None]
    text = (
        "Numbers that clipjax measured, with 95 % intervals. The metadata above also have those of parts of "
    )
    text += "data sets, and of each number the convention and the hash of its recipe."
    table = as_markdown(*summary_table(whole or rows))
    return f"---\n{_yaml(header)}---\n\n# {model}\n\n{text}\n\n{table}"


def _grouped(rows: Sequence[Row]) -> list[list[Row]]:
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["task"], row["dataset"]), []).append(row)
    return list(groups.values())


def _result(rows: Sequence[Row]) -> dict[str, Any]:
    first = rows[0]
    kind = _TYPES.get(first["model_facts"].get("kind") or "", "zero-shot-image-classification")
    metrics = [
        {
            "type": row["metric"],
            "value": row["value"],
            "name": metric_name(row["metric"], row["slice"]),
            "args": evidence(row),
        }
        for row in rows
    ]
    return {
        "task": {"type": kind, "name": first["task"]},
        "dataset": {"name": first["dataset"], "type": first["dataset"]},
        "metrics": metrics,
    }


def _yaml(value: Any) -> str:
    return yaml_dump(value, sort_keys=False, allow_unicode=False)

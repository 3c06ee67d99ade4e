"""Published tables of other projects -> scores of registered models, and result rows of origin "published".

    scores = read_published("open_clip", "open_clip/docs")    # a folder, or one of its files
    ResultStore("results").add(published_rows(scores))

Which column of which file is which number of ours says configs/reference_sources.toml. From a checkout,
`python -m clipjax.published FOLDER...` brings configs/reference_scores.csv up to date: each folder holds the
files of one source; the numbers of other sources stay as they are.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from clipjax.config import config_dir, read_csv
from clipjax.digests import sha256_json
from clipjax.errors import DataError, unknown_name
from clipjax.references import FIELDS, Score, scores, sources
from clipjax.results import SCHEMA_VERSION, Row, model_facts, new_run_id

QUICKGELU = "-quickgelu"

Name = tuple[str, ...]


def readable_sources() -> list[str]:
    """The sources whose published tables can be read."""
    return [name for name, source in sources().items() if "columns" in source]


def read_published(source: str, path: str | Path) -> list[Score]:
    """The numbers of registered models in a source's tables, model by model in the registry's order.

    Args:
        source: of `readable_sources`.
        path: one of its files, under its published name, or a folder with some of them.

    Raises:
        UsageError: there is no such source.
        DataError: no file of the source is there, a column is missing, or a cell is not a number.
    """
    if source not in readable_sources():
        raise unknown_name("source", source, readable_sources())
    tables, found = _tables(source, Path(path).expanduser()), []
    for model in read_csv(config_dir() / "models.csv"):
        if model["library"] == sources()[source]["library"]:
            found += [
                _score(source, c, model, tables[c["file"]]) for c in _columns(source) if c["file"] in tables
            ]
    return [score for score in found if score is not None]


class _Table:
    """One published file: its rows by the name that the library gives a model."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[Name, dict[str, str]] = {}
        for row in read_csv(path):
            name = (row["name"], row["pretrained"]) if "pretrained" in row else (row.get("model", ""),)
            self.rows.setdefault(name, row)

    def value(self, name: Name, column: str) -> float:
        row = self.rows[name]
        if column not in row:
            raise DataError(f"{self.path}: there is no column {column!r}")
        try:
            return float(row[column])
        except ValueError:
            raise DataError(f"{self.path}: {column!r} of {' '.join(name)} is {row[column]!r}") from None


def _tables(source: str, path: Path) -> dict[str, _Table]:
    files = list(dict.fromkeys(column["file"] for column in _columns(source)))
    folder, wanted = (path, files) if path.is_dir() else (path.parent, [path.name])
    there = [name for name in wanted if name in files and (folder / name).is_file()]
    if not there:
        raise DataError(f"{path} is not a table of {source}, nor a folder with one: {', '.join(files)}")
    return {name: _Table(folder / name) for name in there}


def _score(source: str, column: Mapping[str, Any], model: Mapping[str, str], table: _Table) -> Score | None:
    """The number of one model; None if the table does not list it."""
    own, *others = _names(model)
    found = next((name for name in (own, *others) if name in table.rows), None)
    if found is None:
        return None
    percent = 100 if sources()[source].get("percent") else 1
    notes = [column.get("note"), None if found == own else f"listed as {' '.join(found)}"]
    return Score(
        model=model["id"],
        task=column["task"],
        dataset=column["dataset"],
        slice=None,
        metric=column["metric"],
        value=round(table.value(found, column["column"]) / percent, 6),
        source=source,
        convention=column.get("convention"),
        note="; ".join(filter(None, notes)) or None,
    )


def _names(model: Mapping[str, str]) -> list[Name]:
    """What the library calls a registered model; open_clip's other spelling of its architecture comes last.

    Both spellings listed are two measurements where the weights leave the activation to the name, and the
    registry's is the one that the weights were trained with. With only one listed, it is that model.
    """
    arch, tag = model["library_arch"], model["tag"]
    if model["library"] == "timm":
        return [(f"{arch}.{tag}",)]
    other = arch.removesuffix(QUICKGELU) if arch.endswith(QUICKGELU) else arch + QUICKGELU
    return [(arch, tag), (other, tag)]


def published_rows(found: Sequence[Score]) -> list[Row]:
    """Result rows of one run: what is not known of a published number is null. Loads JAX (the registry)."""
    from clipjax.registry import model_card

    run_id = new_run_id()
    unknown = ("task_version", "interval", "n", "aggregates", "sample", "skipped", "reference", "precision")
    unknown += ("per_device_batch", "versions", "xla_flags", "device", "git_revision", "wall_time")
    rows = []
    for score in found:
        task, dataset, part, metric = score.key[1:]
        recipe = {"source": score.source, "model": score.model, "task": task, "dataset": dataset}
        recipe |= {"slice": part, "metric": metric, "convention": score.convention}
        rows.append(
            {
                **dict.fromkeys((*unknown, "compile_count")),
                "schema_version": SCHEMA_VERSION,
                "run_id": run_id,
                "recipe_hash": sha256_json(recipe),
                "recipe": recipe,
                "origin": "published",
                "task": task,
                "dataset": dataset,
                "slice": part,
                "model": score.model,
                "model_facts": model_facts(model_card(score.model)),
                "metric": metric,
                "value": score.value,
                "note": score.note,
                "convention": {"source": score.source} | score.pairs,
            }
        )
    return rows


def as_csv(found: Iterable[Score]) -> str:
    """Scores as configs/reference_scores.csv holds them."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(FIELDS)
    writer.writerows([getattr(score, name) for name in FIELDS] for score in found)
    return text.getvalue()


def updated(folders: Sequence[str | Path]) -> list[Score]:
    """All published numbers, source by source; those of the sources that the folders hold are read anew.

    Raises:
        DataError: a folder holds the tables of no source.
    """
    new: dict[str, list[Score]] = {}
    order = list(sources())
    for folder in folders:
        held = [
            s for s in readable_sources() if any((Path(folder) / c["file"]).is_file() for c in _columns(s))
        ]
        if not held:
            raise DataError(f"{folder} holds the published tables of none of {', '.join(readable_sources())}")
        new |= {source: read_published(source, folder) for source in held}
    kept = [score for score in scores() if score.source not in new]
    return sorted([*kept, *(s for found in new.values() for s in found)], key=lambda s: order.index(s.source))


def _columns(source: str) -> list[dict[str, Any]]:
    return sources()[source]["columns"]


if __name__ == "__main__":
    (config_dir() / "reference_scores.csv").write_text(as_csv(updated(sys.argv[1:])), encoding="utf-8")

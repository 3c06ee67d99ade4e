"""The rows of configs/models.csv, as text. Imports no JAX."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import Path

from clipjax.checkpoints.identity.facts import FACTS
from clipjax.checkpoints.identity.model_reference import OTHER_WAYS
from clipjax.config import ConfigTable, config_dir, config_tables
from clipjax.entry_points import cached
from clipjax.errors import DataError, UsageError
from clipjax.storage.reading import read_csv
from clipjax.storage.records import check_keys
from converters.foreign.open_clip_towers import configs
from converters.foreign.timm_options import architectures, default_tag

SHOWN = 6  # ids of one architecture, in a message

# Columns that a row of an added folder needs; those that it leaves out are empty, or unknown facts.
NEEDED = ("id", "arch", "library", "mean_std", "interpolation", "resize_mode", "resize_size", "crop_size")


def registry() -> dict[str, dict[str, str]]:
    """The rows by id, in file order: ours, then those of added folders.

    Raises DataError for an id that two rows have, or for a wrong column of an added file.
    """
    return _read()[0]


def file_of(model_id: str) -> Path:
    """The file with the row of a registered id."""
    return _read()[1][model_id]


@cached
def _read() -> tuple[dict[str, dict[str, str]], dict[str, Path]]:
    """The rows by id, and the file of each row by id."""
    rows: dict[str, dict[str, str]] = {}
    files: dict[str, Path] = {}
    for path in config_tables(ConfigTable.MODELS):
        for row in shipped_rows() if path.parent == config_dir() else _added_rows(path):
            name = row["id"]
            if name in rows:
                also = "" if files[name] == path else f", the other in {files[name]}"
                raise DataError(f"{path}: two rows have the id {name!r}{also}")
            rows[name], files[name] = row, path
    return rows, files


@cached
def shipped_rows() -> tuple[dict[str, str], ...]:
    """The rows of configs/models.csv, without the user's own."""
    return tuple(read_csv(config_dir() / "models.csv"))


def _added_rows(path: Path) -> Iterator[dict[str, str]]:
    columns = list(shipped_rows()[0])
    unstated = {name: f"? {path} does not state it" if name in FACTS else "" for name in columns}
    rows = read_csv(path)
    if not rows:
        raise DataError(
            f"{path} has no row: write one for each model, below the names of columns, or remove it"
        )
    for row in rows:
        check_keys(row, columns, path, NEEDED)
        if empty := [name for name in NEEDED if not row[name]]:
            raise DataError(f"{path}: {empty[0]} of {row['id']!r} is empty: write its value")
        if not re.fullmatch(r"[^\W_][\w.+-]*", row["id"]):  # names files
            raise DataError(
                f"{path}: the id {row['id']!r} must be letters, digits, '.', '_', '+' and '-', the first a "
                "letter or digit: rename it"
            )
        yield unstated | row


def model_ids() -> list[str]:
    return list(registry())


def unknown_model(name: str, *, to_run: bool = False) -> UsageError:
    """`to_run`: the name is of a model to evaluate, for which there are other ways."""
    if name in architectures():
        return _architecture_alone("timm", name, f"torch:timm:{name}.TAG" if to_run else None)
    if name in configs():
        return _architecture_alone("open_clip", name, f"torch:open_clip:{name}/TAG" if to_run else None)
    near = difflib.get_close_matches(name, model_ids(), n=3, cutoff=0.6)
    ways = f"; {OTHER_WAYS}" if to_run else ""
    hint = f"did you mean {', '.join(near)}? " if near else ""
    return UsageError(f"unknown model {name!r}; {hint}`clipjax models` lists the ids{ways}")


def _architecture_alone(library: str, name: str, way: str | None) -> UsageError:
    """`way`: to evaluate its weights that are not registered."""
    tag = default_tag(name) if library == "timm" else None
    loads = f" (timm itself would load {name}.{tag})" if tag else ""
    rows = registry().values()
    ids = [row["id"] for row in rows if (row["library"], row["library_arch"]) == (library, name)]
    more = [f"another of `clipjax models` ({len(ids)} in all)"] if len(ids) > SHOWN else []
    ways = [*ids[:SHOWN], *more, *([way] if way else [])] or ["a file, folder or hub repository of weights"]
    return UsageError(
        f"{name!r} is {library}'s name of an architecture, not of weights{loads}: give {' or '.join(ways)}"
    )


def why_unknown(cell: str) -> str | None:
    """The reason that a cell gives for having no value; None if it has a value."""
    return cell[1:].strip() if cell.startswith("?") else None

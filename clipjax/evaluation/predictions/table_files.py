"""Predictions in tables: our own Parquet, and a task's own CSV format."""

from __future__ import annotations

from clipjax.errors import DataError, UsageError
from clipjax.evaluation.predictions.checks import check_table
from clipjax.evaluation.predictions.file import PredictionsFile, PredictionTable, check_ids, with_file
from clipjax.storage.parquet import read_columns
from clipjax.storage.reading import read_csv


def read_table(file: PredictionsFile) -> PredictionTable:
    columns = read_columns(file.path)
    if "label" in columns and file.space is None:
        raise UsageError(
            f"{file.path}: say what its labels are: dataset=CARD, or labels=NAME or a CSV file (--dataset "
            "and --labels on the command line)"
        )
    size = len(next(iter(columns.values()), []))
    columns = {"id": [f"{row:08d}" for row in range(size)], **columns}
    return PredictionTable(check_table(file, columns), file.space)


def read_csv_table(file: PredictionsFile) -> PredictionTable:
    path, form = file.path, file.task.predictions.csv
    assert form is not None
    rows = read_csv(path)
    if not rows:
        raise DataError(f"{path} holds no predictions; expected the header {','.join(form.columns)} and rows")
    missing = [name for name in form.needed if name not in rows[0]]
    unknown = [name for name in rows[0] if name not in form.columns]
    if missing or unknown:
        what = f"no column {missing[0]!r}" if missing else f"an unknown column {unknown[0]!r}"
        raise DataError(f"{path} has {what}; its columns must be {','.join(form.columns)}")
    named = [(f"{path}:{line}", row) for line, row in enumerate(rows, 2)]
    columns = form.read(named, file.about)
    check_ids(path, columns["id"])
    if form.join is not None:
        join, read = form.join, columns
        columns = {"id": columns["id"], **with_file(path, {}, lambda: join(read, file.about))}
    return PredictionTable(columns, file.space)

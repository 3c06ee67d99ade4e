"""Whether a result row covers a whole data set. Imports no JAX.

    is_whole(row)     # neither a part of the data set, nor a random sample
    in_words(row)     # "373 of 1,280 images"; None for all of them

`part` (`id_part` for in-distribution images): the images, or their number, are not those of the card.
`sample` (`id_sample` in the convention): `--limit` drew from the data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from clipjax.data.cards import shipped_count
from clipjax.results.row import AnyRow, PublishedReference, Row
from clipjax.storage.remote.buckets import readable


def is_whole(row: AnyRow) -> bool:
    sampled = row["sample"] or row["convention"].get("id_sample")
    return not (sampled or row.get("part") or row.get("id_part"))


def in_words(row: AnyRow) -> str | None:
    if is_whole(row):
        return None
    sides = (
        (row.get("part"), row["sample"], (row.get("part") or row["sample"] or {}).get("unit", "images")),
        (row.get("id_part"), row["convention"].get("id_sample"), "in-distribution images"),
    )
    return ", ".join(share(*side) for side in sides if side[0] or side[1])


def share(part: Mapping[str, Any] | None, sample: Mapping[str, Any] | None, images: str = "") -> str:
    """E.g. "373 of 1,280 images", for a part or sample."""
    held, of = (sample["limit"], sample["of"]) if sample else (0, 0)
    foreign = 0
    if part:
        held, of, foreign = held or part["images"], part["of"], part.get("foreign", 0)
    counts = f"{held:,} {'of' if held <= of else 'instead of'} {of:,}"
    others = f"({foreign:,} of them not the data set's)" if foreign else ""
    return " ".join(filter(None, (counts, images, others)))


def noted(note: str | None, words: str | None) -> str | None:
    """`words`: our images (None: all)."""
    return "; ".join(filter(None, (words and f"ours is of {words}", note))) or None


def stated(rows: Sequence[AnyRow]) -> list[str]:
    """What there is of each data set that the rows cover in part: "pets: 100 of 500 images"."""
    lines = {(row["dataset"], words): None for row in rows if (words := in_words(row))}
    return [f"{dataset}: {words}" for dataset, words in lines]


# Rows of older versions.


def recovered(rows: list[Row], table: Path) -> list[Row]:
    """One run's rows with `part` and `id_part`: older versions recorded neither.

    They come from the per-image `table`; if it cannot be read, the rows stay as they are.
    """
    row = rows[0]
    if "part" in row or row["origin"] != "measured" or all(each["value"] is None for each in rows):
        return rows
    if (id_set := _id_set(row)) is None and shipped_count(row["dataset"]) is None:
        return rows
    if (held := _held(row, id_set, table)) is None:
        return rows
    named = zip(("part", "id_part"), (row["dataset"], id_set), held, _samples(row))
    parts = {field: _part(dataset, n, sample, row["skipped"] or 0) for field, dataset, n, sample in named}
    known = [cast(Row, {**each, **parts}) for each in rows]
    return [_with_words(each) for each in known] if any(parts.values()) else known


def _with_words(row: Row) -> Row:
    """The row of a part, of which its references and its protocol say so."""
    words, protocol = in_words(row), row.get("protocol")
    known: list[PublishedReference] = [
        {**one, "note": noted(one["note"], words)} for one in row["reference"] or ()
    ]
    if protocol is None:
        return {**row, "reference": known or None}
    sides = {"images": row.get("part"), "ID images": row.get("id_part")}
    departures = [f"{images}: {share(part, None)}, not all" for images, part in sides.items() if part]
    departures = [*protocol["departures"], *departures]
    return {**row, "reference": known or None, "protocol": {**protocol, "departures": departures}}


def _id_set(row: Row) -> str | None:
    return row["convention"].get("id") if row["task"] == "ood" else None


def _samples(row: Row) -> tuple[Any, Any]:
    return row["sample"], row["convention"].get("id_sample")


def _held(row: Row, id_set: str | None, table: Path) -> tuple[int, int] | None:
    """How many images the table has of the data set and of the ID set; None if it cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(readable(table))
        names, n = file.schema_arrow.names, file.metadata.num_rows
        if id_set is not None and "in_distribution" in names:
            inside = sum(file.read(["in_distribution"])["in_distribution"].to_pylist())
            return n - inside, inside
        if row["task"] == "calibration" and row["convention"].get("id") == row["dataset"] and n:
            # The table has only the test half.
            n += int(file.read(["calibration_images"])["calibration_images"][0].as_py())
    except (OSError, ValueError, TypeError, KeyError, pa.ArrowException):
        return None
    return n, 0


def _part(
    dataset: str | None, held: int, sample: Mapping[str, int] | None, skipped: int
) -> dict[str, int] | None:
    of = None if dataset is None else shipped_count(dataset)
    if sample is not None:
        held, skipped = sample["of"], 0
    if of is None or held <= of <= held + skipped:  # an old row does not record the side of skipped images
        return None
    return {"images": held + skipped if held < of else held, "of": of}

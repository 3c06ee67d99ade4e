"""The data set of each row, where several have one name. Imports no JAX.

    with_distinct_names(rows)    # rows of two folders `test` become those of `pets/test` and `birds/test`

A card's name is one data set. Without a card a data set is its images: rows of one name are of one data set
if they have one digest of images. A sample belongs to the data set of its folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from clipjax.data.cards import is_registered
from clipjax.results.completeness import share
from clipjax.results.row import AnyRow, Row

CARD, UNKNOWN = "card", "unknown"
SHORT = 8  # hexadecimal digits of a digest in a name

Key = tuple[str, str]
"""CARD, or "images" and a digest, or "folder" and its path, or UNKNOWN: the images of one data set."""


def images_of(row: AnyRow) -> str | None:
    """The digest of the images that were evaluated, with their labels; None if the recipe has none."""
    digest = row["recipe"].get("images")
    return digest if isinstance(digest, str) else None


def recorded_name(row: AnyRow) -> str:
    """The name of the data set when the row was written."""
    name = row["recipe"].get("dataset")
    return name if isinstance(name, str) else row["dataset"]


class _DistinctRows(list[Row]):
    """A list that `with_distinct_names` made; it returns such a list unchanged until its length changes."""

    def __init__(self, rows: Iterable[Row]) -> None:
        super().__init__(rows)
        self.size = len(self)


def with_distinct_names(rows: Iterable[Row]) -> list[Row]:
    """The rows, renamed so that each `dataset` names one data set. Its own results are returned as they are.

    A name of one data set stays. Data sets that share a name get that of their folder and its parents, and
    where these do not tell them apart also their sample or digest: "pets/test", "test (100 of 500 images)",
    "test (3f2a91c0)".
    """
    if isinstance(rows, _DistinctRows) and len(rows) == rows.size:
        return rows
    distinct = _DistinctRows(rows)
    seen: dict[str, set[tuple[str | None, str | None]]] = {}
    for row in distinct:
        seen.setdefault(row["dataset"], set()).add((row.get("folder", UNKNOWN), images_of(row)))
    unclear = {name for name, images in seen.items() if len(images) > 1 or _is_other(name, images)}
    if not unclear:
        return distinct
    by_name: dict[str, list[int]] = {}
    for k, row in enumerate(distinct):
        if row["dataset"] in unclear:
            by_name.setdefault(row["dataset"], []).append(k)
    taken = set(seen)
    for name, places in by_name.items():
        keys = _keys(name, [distinct[k] for k in places])
        groups: dict[Key, list[Row]] = {}
        for key, k in zip(keys, places):
            groups.setdefault(key, []).append(distinct[k])
        # Several digests may still be one data set: its samples, or folders without a digest.
        if len(groups) == 1 and not _is_other(name, seen[name]):
            continue
        names = _names(name, groups, taken)
        for key, k in zip(keys, places):
            if names[key] != name:
                distinct[k] = {**distinct[k], "dataset": names[key]}
    return distinct


def _is_other(name: str, images: set[tuple[str | None, str | None]]) -> bool:
    """Whether all images under a registered name are of folders without that card."""
    folders = [folder for folder, _ in images]
    return all(folder not in (None, UNKNOWN) for folder in folders) and is_registered(name)


def _keys(name: str, rows: Sequence[Row]) -> list[Key]:
    """The owner of each row's images, for rows of one name."""
    of_card = any(row.get("folder", UNKNOWN) is None for row in rows) or is_registered(name)
    own = [_own_key(row, of_card) for row in rows]
    digests = {images_of(row) for key, row in zip(own, rows) if key[0] == CARD}
    # The card's images are the card's also in rows that name another folder.
    own = [(CARD, "") if key[0] == "images" and key[1] in digests else key for key in own]
    whole = _homes((key, row) for key, row in zip(own, rows) if row["sample"] is None)
    drawn = _homes((key, row) for key, row in zip(own, rows) if row["sample"] is not None)
    return _guessed([_home(key, row, whole, drawn) for key, row in zip(own, rows)], rows)


def _guessed(keys: Sequence[Key], rows: Sequence[Row]) -> list[Key]:
    """A row without digest and folder belongs to the only data set; to any, if it has no number."""
    known = list(dict.fromkeys(key for key in keys if key[0] in (CARD, "images")))
    if not known:
        return list(keys)
    return [
        known[0] if key[0] == UNKNOWN and (len(known) == 1 or row["value"] is None) else key
        for key, row in zip(keys, rows)
    ]


def _own_key(row: Row, of_card: bool) -> Key:
    folder, images = row.get("folder", UNKNOWN), images_of(row)
    if folder is None or row["origin"] == "published" or (folder == UNKNOWN and of_card):
        return CARD, ""
    if images is not None:
        return "images", images
    return (UNKNOWN, "") if folder == UNKNOWN else ("folder", folder)


Homes = Mapping[str, set[Key]]
"""Folder -> the data sets that were in it; "": in any."""


def _homes(rows: Iterable[tuple[Key, Row]]) -> Homes:
    homes: dict[str, set[Key]] = {}
    for key, row in rows:
        if key[0] == "images":
            for folder in {"", row.get("folder") or ""}:
                homes.setdefault(folder, set()).add(key)
    return homes


def _home(key: Key, row: Row, whole: Homes, drawn: Homes) -> Key:
    """The only data set whose whole images were in the folder of a sample, or of a row without a digest.

    If the row records no folder: the only one with whole images. Without whole images, a row without a digest
    goes to the only sample.
    """
    if key[0] != "folder" and (key[0] != "images" or row["sample"] is None):
        return key
    folder = row.get("folder") or ""
    homes = whole.get(folder) or (drawn.get(folder) if key[0] == "folder" else None) or {key}
    return next(iter(homes)) if len(homes) == 1 else key


# Names.


class _Set(NamedTuple):
    """`parts`: of the folder's path, the last first; () if unknown."""

    key: Key
    parts: tuple[str, ...]
    sample: str


def _names(name: str, groups: Mapping[Key, Sequence[Row]], taken: set[str]) -> dict[Key, str]:
    """A name for each data set; adds them to `taken`. A card keeps its name."""
    sets = [_set(key, rows) for key, rows in groups.items()]
    names = {}
    for each in sets:
        if each.key[0] == CARD:
            names[each.key] = name
            continue
        others = [other for other in sets if other is not each]
        names[each.key] = next(one for one in _candidates(name, each, others) if one not in taken)
        taken.add(names[each.key])
    return names


def _set(key: Key, rows: Sequence[Row]) -> _Set:
    folder = next((folder for row in rows if (folder := row.get("folder"))), "")
    drawn = [row["sample"] for row in rows if row["sample"]]
    samples = {share(None, sample, sample.get("unit", "images")) for sample in drawn}
    sampled = len(samples) == 1 and len(drawn) == len(rows)
    return _Set(key, tuple(reversed(PurePosixPath(folder).parts)), next(iter(samples)) if sampled else "")


def _candidates(name: str, each: _Set, others: Sequence[_Set]) -> Iterator[str]:
    """The telling names of a data set, the shortest first; the last ones are of no other."""
    # /data/pets/test has the parts ("test", "pets", "data", "/"). Beside /data/cars/test the path
    # ("test", "pets") is telling, and so are the longer ones.
    elsewhere = [other.parts for other in others if other.parts != each.parts]
    paths = [each.parts[:k] for k in range(2, len(each.parts) + 1)]
    telling = [path for path in paths if all(parts[: len(path)] != path for parts in elsewhere)]
    # If another data set is of the same folder, no path tells them apart: a sample or digest must.
    if len(elsewhere) == len(others):
        yield from (_of_folder(name, path) for path in telling)
    path = (telling or paths[-1:] or [()])[0]
    named = _of_folder(name, path) if path else name
    if each.sample and all((other.parts, other.sample) != (each.parts, each.sample) for other in others):
        yield f"{named} ({each.sample})"
    if each.key[0] == "images":
        digest = each.key[1]
        yield from (f"{named} ({digest[:digits]})" for digits in (SHORT, 2 * SHORT, len(digest)))
    yield f"{named} (unknown images)"
    yield from (f"{named} (unknown images, {k})" for k in range(2, 1_000_000))


def _of_folder(name: str, parts: Sequence[str]) -> str:
    path = "/".join(reversed(parts))
    return path if name in (parts[0], PurePosixPath(parts[0]).stem) else f"{name} ({path})"

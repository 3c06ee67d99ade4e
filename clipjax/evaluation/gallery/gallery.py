"""The gallery: results and images -> one HTML page of the images that models get right and wrong.

write_gallery("results", Path("gallery.html"), ["vit_b_32-openai", "vit_b_16-openai"],
              datasets=["imagenet_r"], places=ImagePlaces(data=Path("/data/imagenet-r")))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clipjax.errors import DataError, UsageError
from clipjax.evaluation.comparison.run_pairs import RunFilter
from clipjax.evaluation.gallery.gallery_page import Shown, gallery_page
from clipjax.evaluation.gallery.image_choice import (
    Choosing,
    ImageGroup,
    check_shows,
    default_shows,
    groups_of,
)
from clipjax.evaluation.gallery.model_answers import AnsweredSet, answered_sets
from clipjax.evaluation.gallery.thumbnails import ImagePlaces, NotShownError, image_source, pictures_of
from clipjax.storage.writing import write_bytes


@dataclass(frozen=True)
class GallerySize:
    """The page's size in MB (1e6 bytes), the number of images and groups, and why data sets were left out."""

    megabytes: float
    images: int
    groups: int
    left_out: dict[str, str]


def write_gallery(
    results: str | Path,
    out: Path,
    names: Sequence[str] = (),
    *,
    title: str | None = None,
    shows: Sequence[str] = (),
    tasks: Sequence[str] = (),
    datasets: Sequence[str] = (),
    choice: RunFilter | None = None,
    choosing: Choosing | None = None,
    places: ImagePlaces | None = None,
) -> GallerySize:
    """Write the page, whole or not at all.

    Args:
        results: the folder of results.
        out: the file to write.
        names: models or runs, as in `answered_sets`.
        title: default: the names, else the folder's name.
        shows: names of `SHOWS`; none: `default_shows`. A column to group by adds "factor".
        tasks: as in `answered_sets`.
        datasets: as in `answered_sets`.
        choice: as in `answered_sets`.
        choosing: how images are chosen.
        places: where the images are.

    Raises:
        UsageError: an unknown name, or a kind of group that does not go with these models.
        DataError: a run has no answers, runs are on different images, the images are not those of the runs,
            or no image may be shown.
    """
    choosing, places = choosing or Choosing(), places or ImagePlaces()
    check_shows(shows)
    sets = answered_sets(results, names, tasks=tasks, datasets=datasets, choice=choice)
    if places.data is not None and len(sets) > 1:
        raise UsageError(
            f"--data is one data set's folder, and {len(sets)} data sets are shown: give --data-root"
        )
    left_out: dict[str, str] = {}
    shown = [each for own in sets if (each := _shown(own, shows, choosing, places, left_out)) is not None]
    if not shown:
        raise DataError("; ".join(left_out.values()))
    name = title or " and ".join(names[:2]) * (0 < len(names) < 3) or Path(results).name
    text = gallery_page(name, shown, left_out, places.side).encode()
    write_bytes(out, text)
    images = sum(len(each.pictures.thumbnails) for each in shown)
    return GallerySize(len(text) / 1e6, images, sum(len(each.groups) for each in shown), left_out)


def _shown(
    answered: AnsweredSet,
    shows: Sequence[str],
    choosing: Choosing,
    places: ImagePlaces,
    left_out: dict[str, str],
) -> Shown | None:
    """The groups and thumbnails of a data set. None if none may be shown; `left_out` gets the reason."""
    try:
        source = image_source(answered, places)
    except NotShownError as error:
        left_out[answered.dataset] = str(error)
        return None
    if source.dataset is not None and source.dataset.label_space is not None:
        answered = answered.named_by(list(source.dataset.label_space.classes))
    by = ["factor"] if choosing.by is not None and "factor" not in shows else []
    columns = source.columns(answered.ids)
    groups: list[ImageGroup] = []
    for show in [*(shows or ([] if by else default_shows(answered))), *by]:
        groups += groups_of(show, answered, choosing, columns)
    rows = sorted({row for group in groups for row in group.rows})
    return Shown(answered, groups, pictures_of(source, answered, rows))

"""Whether the numbers of a column were measured alike, so that one may be called the best.

unlike(cells)     # {"prompts": {"openai_80": ["a_1"], "single": ["b"]}}; {} if they were
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from clipjax.analysis.rows.cells import OF_QUESTIONS, WAYS, Cell, prompts_of, ways_of
from clipjax.errors import some_of
from clipjax.results.completeness import in_words
from clipjax.results.data_sets import SHORT, images_of
from clipjax.results.row import Row

ALL = "all images"
NAMED = 3  # at most this many models of a way are named

Ways = dict[str, dict[str, list[str]]]
"""What differs -> each way -> the models that were measured so."""


def unlike(cells: Mapping[str, Cell]) -> Ways:
    """Find the ways in which the numbers of one column were measured differently. `cells`: by model.

    A way that a row does not record agrees with any, and so do prompts that belong to a model. Images are
    compared by digest, where a row has one.
    """
    found: Ways = {}
    for rows in _by_term(cells):
        ways: Ways = {}
        for model, row in rows.items():
            for aspect, way in _ways(row):
                models = ways.setdefault(aspect, {}).setdefault(way, [])
                models.append(model)
        if len(ways.get("samples", ())) > 1:  # their digests differ, too
            ways.pop("images", None)
        for aspect, models in ways.items():
            if len(models) > 1:
                found.setdefault(aspect, models)
    return found


def unlike_in_words(ways: Ways) -> str:
    """ "prompts openai_80 (a_1) or single (b, c, d and 3 more)"."""
    return "; ".join(
        f"{aspect} {' or '.join(f'{way} ({some_of(models, NAMED)})' for way, models in of_way.items())}"
        for aspect, of_way in ways.items()
    )


def has_own_prompts(row: Row) -> bool:
    """Whether no prompt set was chosen for the row: a classifier, learned words, a file of predictions."""
    named = str(prompts_of(row) or "not applicable")
    return named.startswith("not applicable") or "adapter" in row["recipe"] or "predictions" in row["recipe"]


def _by_term(cells: Mapping[str, Cell]) -> Iterable[dict[str, Row]]:
    """The rows of each term by model, of cells with a value."""
    of_models = {model: cell.rows for model, cell in cells.items() if cell.value is not None}
    terms = max(map(len, of_models.values()), default=0)
    return [{model: rows[k] for model, rows in of_models.items()} for k in range(terms)]


def _ways(row: Row) -> Iterator[tuple[str, str]]:
    own = has_own_prompts(row)
    if not own:
        yield "prompts", str(prompts_of(row))
    for name, title in {**WAYS, **OF_QUESTIONS}.items():
        if not (own and name == "projection"):  # to the classes of its own head
            yield from ((title, " ".join(way.split())) for way in ways_of([row], name))
    yield "samples", in_words(row) or ALL
    if (images := images_of(row)) is not None:
        known = row["recipe"].get("id")
        of_id = known.get("images") if isinstance(known, Mapping) else None
        yield "images", " and ".join(each[:SHORT] for each in (images, of_id) if isinstance(each, str))

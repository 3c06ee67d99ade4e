"""Names in figures that nothing has: mistyped, they would only show as empty panels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from clipjax.errors import unknown_name

if TYPE_CHECKING:
    from clipjax.analysis.figures.spec import Spec
    from clipjax.analysis.rows.cells import RowIndex, Term


def unknown_names(specs: Sequence[Spec], index: RowIndex) -> list[str]:
    """A sentence for each task, data set and metric that neither a row nor clipjax has, with the nearest."""
    from clipjax.analysis.rows.cells import term_of

    lacking = {term: spec for spec in specs for term in spec.terms if not index.of(term)}
    if not lacking:
        return []
    known = _known({term_of(row) for row in index})
    found = ((spec, each) for term, spec in lacking.items() for each in _unknown(term, known))
    return list(dict.fromkeys(f"{spec.name}: {each}" for spec, each in found))


def _known(of_rows: Iterable[Term]) -> dict[str, set[str]]:
    from clipjax.analysis.rows.pivot import metric_ends
    from clipjax.data.cards import dataset_names
    from clipjax.tasks.task_names import TASKS

    terms = list(of_rows)
    return {
        "task": {*TASKS.names(), *(term.task for term in terms)},
        "data set": {*dataset_names(), *(term.dataset for term in terms)},
        "metric": {*(name.rstrip("*") for name in metric_ends()), *(term.metric for term in terms)},
    }


def _unknown(term: Term, known: dict[str, set[str]]) -> Iterator[str]:
    from clipjax.analysis.rows.pivot import UNKNOWN, better_end

    for kind, name in (("task", term.task), ("data set", term.dataset), ("metric", term.metric)):
        if name not in known[kind] and (kind != "metric" or better_end(name) == UNKNOWN):
            yield f"{unknown_name(kind, name, sorted(known[kind]))} (in the row {term})"

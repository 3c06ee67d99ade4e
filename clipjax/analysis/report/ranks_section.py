"""The report's ranks: for each model and data set the ranks that it may have, and who may be the best."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from clipjax.analysis.report.markup import Html, joined, tag
from clipjax.analysis.report.sections import Section, sortable
from clipjax.analysis.rows.model_ranking import ModelRanking, Place, RankedModel, rank_text

BEST = "*"  # of a model that cannot be told from the best


def ranks_section(rankings: Mapping[str, ModelRanking]) -> Section:
    """A table for each metric, with a column for each task and data set."""
    return Section("Ranks", joined(*(_table(metric, each) for metric, each in rankings.items())))


def _table(metric: str, ranking: ModelRanking) -> Html:
    absent = joined(*(tag("li", line) for line in _left_out(ranking)))
    fold = tag("details", tag("summary", "Models and data sets without ranks"), tag("ul", absent))
    if not ranking.places:
        return joined(tag("p", f"{metric}: no models can be ranked."), fold)
    several = len({place.task for place in ranking.places}) > 1
    titles = [f"{place.task} {place.dataset}" if several else place.dataset for place in ranking.places]
    models = dict.fromkeys(each.model for place in ranking.places for each in place.models)
    of = [{each.model: each for each in place.models} for place in ranking.places]
    lines = joined(*(_line(model, ranking, of) for model in models))
    tests = f"tests of pairs on the same images (max-t, {ranking.draws:,} draws)"
    family = f"{ranking.level:.0%} holds for {ranking.family}: {tests}."
    caption = f"{metric}: ranks that a model may have. {family} {BEST} cannot be told from the best."
    name = "ranks-" + "".join(each if each.isalnum() else "-" for each in metric)
    return joined(sortable(name, caption, ["model", *titles], lines), fold if absent else None)


def _line(model: str, ranking: ModelRanking, of: list[dict[str, RankedModel]]) -> Html:
    cells = (
        tag("td", "–") if model not in ranks else _cell(ranks[model], place)
        for place, ranks in zip(ranking.places, of)
    )
    return tag("tr", tag("td", model, class_="fact"), *cells)


def _cell(each: RankedModel, place: Place) -> Html:
    ranks = rank_text(each.best, each.worst).replace("-", "–")
    shown = tag("b", f"{ranks} {BEST}") if each.model in place.not_told_from_best else ranks
    # Sorted by the best rank, then by the worst.
    return tag(
        "td", shown, tag("small", f"{each.value:.3f}"), data_value=f"{each.best + each.worst / 1e6:.6f}"
    )


def _left_out(ranking: ModelRanking) -> Iterator[str]:
    for where, why in ranking.not_ranked.items():
        yield f"{where}: {why}"
    for place in ranking.places:
        models: dict[str, list[str]] = {}
        for model, why in place.left_out.items():
            models.setdefault(why, []).append(model)
        for why, names in models.items():
            yield f"{place.task} on {place.dataset}: {', '.join(names)}: {why}"

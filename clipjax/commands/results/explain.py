"""`clipjax explain`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipjax.commands.shared.options import JsonOption, ResultsOptions
from clipjax.commands.shared.output import print_table, say
from clipjax.commands.shared.records import with_options
from clipjax.commands.shared.result_folder import opened, run_in
from clipjax.errors import UsageError, unknown_name, visible

if TYPE_CHECKING:
    from clipjax.analysis.rows.expected_cells import ExpectedCell
    from clipjax.results.published.protocols import Match
    from clipjax.results.row import Row
    from clipjax.results.store import ResultStore


# Fields of a row that --json shows of a run.
KEYS = (
    *("run_id", "task", "dataset", "model", "recipe_hash", "recipe", "convention", "precision"),
    *("sample", "part", "id_part"),
)

Expected = Mapping[tuple[str, str], "ExpectedCell"]  # by run and data set


def register(app: typer.Typer) -> None:
    app.command("explain")(with_options(ExplainOptions, explain))


@dataclass(frozen=True, kw_only=True)
class ExplainOptions:
    where: ResultsOptions
    run: Annotated[
        str | None,
        typer.Option(
            help="Show everything about the recipe of this run: its id (`clipjax results list --runs`), or "
            "the beginning of one."
        ),
    ] = None
    against: Annotated[
        str | None, typer.Option(help="Only this protocol of configs/protocols.toml; default: the nearest.")
    ] = None
    as_json: JsonOption = False


def explain(options: ExplainOptions) -> None:
    """Show where results depart from the published way to measure them.

    Numbers can be compared only if they were measured alike: templates, class names, crop, precision, images.
    For each run, the nearest protocol of its task and data set is shown with every departure, the most severe
    first. The nearest is the one with the smallest sum of usual effects, in points (configs/departures.toml).
    Top-1 on ImageNet or V2 that does not agree with the model's other numbers is named below.

    Examples:

        clipjax explain results

        clipjax explain results --run 20261125T101020

        clipjax explain results --against clip_7
    """
    from clipjax.analysis.rows.expected_cells import expected_cells
    from clipjax.results.published.protocols import protocols

    known = [protocol.name for protocol in protocols()]
    if options.against is not None and options.against not in known:
        raise unknown_name("protocol", options.against, known)
    results = opened(options.where.path)
    expected = {(each.run, each.dataset): each for each in expected_cells(results.rows())}
    if options.run is None:
        _show_all(_measured(results), expected, options.against, options.as_json)
    else:
        rows = results.run(run_in(results, options.run))
        _show_run(rows, expected, options.against, options.as_json)


def _measured(results: ResultStore) -> list[list[Row]]:
    """The rows of each measured run. Raises UsageError if all rows are published."""
    runs: dict[str, list[Row]] = {}
    for row in results.rows():
        if row["origin"] == "measured":
            runs.setdefault(row["run_id"], []).append(row)
    if not runs:
        raise UsageError(f"{results.root} holds published numbers only: no recipe of ours can be explained")
    return list(runs.values())


def _match(row: Row, against: str | None) -> Match | None:
    from clipjax.results.published.protocols import matches

    return next((match for match in matches(row) if against in (None, match.protocol.name)), None)


def _show_all(runs: Sequence[Sequence[Row]], expected: Expected, against: str | None, as_json: bool) -> None:
    """A run's first row stands for all: they share what a protocol fixes."""
    from clipjax.results.completeness import in_words

    found = [(rows, _match(rows[0], against)) for rows in runs]
    if as_json:
        fields = ("run_id", "task", "dataset", "model")
        lines = [
            {field: rows[0][field] for field in fields} | _record(rows, match) | _agreement(rows, expected)
            for rows, match in found
        ]
        say(json.dumps(lines, indent=2))
        return
    cells = []
    for rows, match in found:
        names = [rows[0][field] for field in ("run_id", "model", "task", "dataset")]
        name = match.protocol.name if match else "none published" if against is None else "not covered"
        departs = in_words(rows[0]) or "" if match is None else _in_words(match)
        cells.append([*names, name, departs, _furthest(_published(rows))])
    titles = ["run", "model", "task", "data set", "nearest protocol", "departs in", "published numbers"]
    print_table(titles, cells)
    _show_beyond(expected.values())


def _agreement(rows: Sequence[Row], expected: Expected) -> dict[str, Any]:
    """`expected`: the number that the model's other numbers lead to; null where that is not known."""
    found = expected.get((rows[0]["run_id"], rows[0]["dataset"]))
    if found is None:
        return {"expected": None}
    numbers = {"value": found.expected, "half_width": found.half_width, "beyond": found.beyond}
    return {"expected": numbers | {"from": found.inputs}}


def _show_beyond(cells: Iterable[ExpectedCell]) -> None:
    from clipjax.analysis.rows.expected_cells import in_words

    for each in cells:
        if each.beyond:
            say(visible(in_words(each)))


def _record(rows: Sequence[Row], match: Match | None) -> dict[str, Any]:
    effects = [] if match is None else [(each.aspect, each.effect) for each in match.departures]
    records = [{"aspect": name, "points": each.points, "source": each.source} for name, each in effects]
    return {"protocol": match and match.field(), "effects": records, "published": _published(rows)}


def _published(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [
        {"metric": row["metric"], "slice": row["slice"], "ours": row["value"]}
        | {"published": known["value"], "difference": known["difference"]}
        | {"source": known["source"], "note": known["note"]}
        for row in rows
        for known in row["reference"] or []
    ]


def _furthest(published: Sequence[Mapping[str, Any]]) -> str:
    if not published:
        return ""
    one = max(published, key=lambda each: abs(each["difference"]))
    furthest = f"{one['metric']} {one['difference']:+.4f} ({one['source']})"
    return furthest if len(published) == 1 else f"{len(published)}, furthest {furthest}"


def _in_words(match: Match) -> str:
    return "; ".join(f"{d.aspect}: {d.ours} ({d.effect})" for d in match.departures) or "nothing"


def _show_run(rows: Sequence[Row], expected: Expected, against: str | None, as_json: bool) -> None:
    from clipjax.checkpoints.identity.facts import origin_in_words
    from clipjax.results.tables import model_name

    row, match = rows[0], _match(rows[0], against)
    if as_json:
        record = {key: row.get(key) for key in KEYS} | _record(rows, match) | _agreement(rows, expected)
        say(json.dumps(record, indent=2))
        return
    say(f"{model_name(row)}: {row['task']} on {row['dataset']}, recipe {row['recipe_hash'][:12]}")
    if words := origin_in_words(row["model_facts"]):
        say(words)
    if match is None and against is not None:
        say(f"{against} does not cover {row['task']} on {row['dataset']} with such a model")
    else:
        _show_match(match)
    _show_convention(row)
    _show_published(_published(rows))
    _show_beyond(each for (run, _), each in expected.items() if run == row["run_id"])


def _show_published(published: Sequence[Mapping[str, Any]]) -> None:
    if not published:
        say("\nnothing is published of these numbers under the same convention")
        return
    say("\nPublished numbers that were measured alike\n")
    numbers = ("ours", "published", "difference")
    cells = [
        [one["metric"], one["slice"], *(f"{one[name]:.4f}" for name in numbers), one["source"], one["note"]]
        for one in published
    ]
    print_table(["metric", "part", *numbers, "source", "note"], cells)


def _show_match(match: Match | None) -> None:
    if match is None:
        say("no published protocol covers this task on this data set")
        return
    protocol = match.protocol
    say(f"nearest protocol: {protocol.name} ({protocol.sha256[:12]}): {protocol.title}\n  {protocol.source}")
    if protocol.left_open:
        say(f"  left open there: {protocol.left_open}")
    if not match.departures:
        say("  followed in everything that it asks")
        return
    say()
    print_table(
        ["departs in", "published", "here", "usual effect", "source of the effect"],
        [[d.aspect, d.published, d.ours, str(d.effect), d.effect.source] for d in match.departures],
    )
    say(f"\nusual effects together: {match.points:g} points" + _and_unknown(match))


def _and_unknown(match: Match) -> str:
    return f", and unknown: {', '.join(dict.fromkeys(match.unknown))}" if match.unknown else ""


def _show_convention(row: Row) -> None:
    from clipjax.results.completeness import in_words

    say("\nHow the numbers were made\n")
    pixels: dict[str, Any] = row["recipe"].get("pixels") or {}
    images = in_words(row) or row["n"]
    words = {**row["convention"], "precision": row["precision"], "pixels": pixels, "images": images}
    words["logit scale"] = row["recipe"].get("logit_scale")
    cells = [[key, value if isinstance(value, str) else json.dumps(value)] for key, value in words.items()]
    print_table(["what", "how"], [cell for cell in cells if cell[1] != "null"])

"""The report page: page.html with its style, scripts and data in one file, without network.

A policy lets a browser run only this script and fetch nothing. Text from results is escaped here, or set as
text by the script.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from string import Template
from typing import Any

from clipjax.analysis.report.markup import Html, joined, tag
from clipjax.analysis.report.sections import Section
from clipjax.results.escaping import xml

SCRIPTS = (
    "data",
    "marks",
    "scales",
    "details",
    "table",
    "chooser",
    "scatter",
    "sortable",
    "saving",
    "address",
    "page",
)


def page(data: Mapping[str, Any], sections: Sequence[Section] = ()) -> str:
    """The page as text."""
    script = script_text()
    return Template(part("page.html")).substitute(
        head=head("report", f"Results: {data['name']}", _facts(data), script=script),
        origin=html.escape(xml(_origin(data))),
        links=joined(*_links(data, sections)),
        sections=joined(*map(_section, sections)),
        reading=part("reading.html"),
        data=embedded(data),
        script=script,
    )


def script_text() -> str:
    """All scripts in one function: no name is global."""
    parts = "\n".join(part(f"{name}.js") for name in SCRIPTS)
    return f'(() => {{\n"use strict";\n{parts}}})();\n'


def embedded(data: Mapping[str, Any]) -> str:
    """JSON for a script element: without `<`, nothing in it ends the element or opens a comment.

    A column of cells or runs with one value is {"every": value}.
    """
    data = {**data, **{name: _packed(data[name]) for name in ("cells", "runs")}}
    data = {key: value if key in ("cells", "runs") else _visible(value) for key, value in data.items()}
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c")


def _visible(value: Any) -> Any:
    if isinstance(value, str):
        return xml(value)
    if isinstance(value, Mapping):
        return {_visible(key): _visible(one) for key, one in value.items()}
    return [_visible(one) for one in value] if isinstance(value, list | tuple) else value


def _packed(columns: Mapping[str, list[Any]]) -> dict[str, Any]:
    count = len(next(iter(columns.values()), ()))
    short = {k: {"every": v[0]} if v.count(v[0]) == count > 1 else v for k, v in columns.items()}
    return {"count": count, "columns": short}


def part(name: str) -> str:
    return files("clipjax.analysis.report").joinpath(name).read_text(encoding="utf-8")


def head(command: str, title: str, facts: str, *, style: str = "", script: str | None = None) -> str:
    """The beginning of a page that loads nothing, up to the facts below its title.

    Args:
        command: of clipjax, which wrote the page.
        style: CSS beside that of all pages.
        script: the only one that the page may run; None: it runs none, so it is ready as it is loaded.
    """
    return Template(part("head.html")).substitute(
        attributes=" data-ready" if script is None else "",
        policy=html.escape(_policy(script)),
        title=html.escape(xml(title)),
        style=part("page.css") + style,
        command=command,
        facts=html.escape(xml(facts)),
    )


def _policy(script: str | None) -> str:
    allowed = ""
    if script is not None:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        allowed = f"script-src 'sha256-{digest}'; "
    return (
        f"default-src 'none'; {allowed}style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )


def _facts(data: Mapping[str, Any]) -> str:
    values = data["cells"].get("value", [])
    counts = {
        "model": len(data["models"]),
        "data set": len({column["dataset"] for column in data["columns"]}),
        "run": len(set(data["runs"].get("run_id", []))),
        "number": len(values),
    }
    return " · ".join(f"{count:,} {what}{'' if count == 1 else 's'}" for what, count in counts.items())


def _origin(data: Mapping[str, Any]) -> str:
    runs = data["runs"]
    interned = data["interned"]  # texts, which the columns of runs name by their number
    named = [interned[number] for number in runs.get("run_id", [])]
    days = sorted(f"{run[:4]}-{run[4:6]}-{run[6:8]}" for run in named)  # an id begins 20260131
    of_cells = [runs["origin"][run] for run in data["cells"].get("run", [])]
    origins = [interned[number] for number in of_cells]
    said = [f"{origins.count(one):,} {one}" for one in sorted(set(origins))]
    if days:
        said.insert(0, days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}")
    if data["left_out"]:
        said.append(f"{data['left_out']:,} rows of {data['left_out_what']} are left out")
    return " · ".join(said)


def _links(data: Mapping[str, Any], sections: Sequence[Section]) -> Iterator[Html]:
    for each in sections:
        yield tag("a", each.title, href=f"#{_anchor(each.title)}")
    for page in dict.fromkeys(each["page"].partition("#")[0] for each in data.get("gallery", ())):
        yield tag("a", "Images", href=page)


def _section(section: Section) -> Html:
    anchor = _anchor(section.title)
    return tag("section", tag("h2", section.title, id=anchor), section.body, aria_labelledby=anchor)


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-") + "-title"

"""What the report page holds: every number with how it was made, and no name that is read as markup."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from _report import (
    HOSTILE,
    NLL,
    OLD,
    POSE,
    PROTOCOL,
    REFERENCE,
    RUN,
    SHAPE,
    SKETCH,
    VAL,
    prompted_rows,
    report_rows,
)
from _rows import row
from typer.testing import CliRunner

from clipjax import cli
from clipjax.analysis.claims.claims import check
from clipjax.analysis.claims.ledger import ledger
from clipjax.analysis.figures.spec import load_spec
from clipjax.analysis.figures.style import new_figure, save_figure
from clipjax.analysis.report.axes import about, first_axes
from clipjax.analysis.report.data import report_data
from clipjax.analysis.report.page import page
from clipjax.analysis.report.svg import inline
from clipjax.analysis.report.write import Choices, write_report
from clipjax.analysis.rows.cells import Column, Term, cells_of
from clipjax.errors import DataError, UsageError
from clipjax.results.store import ResultStore, new_run_id
from clipjax.results.tables import model_name

ROWS = report_rows()
TERMS = (VAL, SKETCH, POSE, NLL, SHAPE)


class Elements(HTMLParser):
    """The elements of a page, as a browser that runs no script reads them: (name, attributes, text)."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), []))

    def handle_endtag(self, tag: str) -> None:
        self.found.append((f"/{tag}", {}, []))

    def handle_data(self, data: str) -> None:
        if self.found:
            self.found[-1][2].append(data)

    def named(self, *names: str) -> list[tuple[dict[str, str | None], str]]:
        return [(attributes, "".join(text)) for name, attributes, text in self.found if name in names]


def embedded(text: str) -> dict[str, Any]:
    [found] = [text for attributes, text in Elements(text).named("script") if attributes.get("id") == "data"]
    data = json.loads(found)
    for name in ("cells", "runs"):
        count, columns = data[name]["count"], data[name]["columns"]
        data[name] = {k: [v["every"]] * count if isinstance(v, dict) else v for k, v in columns.items()}
    return data


class Data:
    """The page's numbers, decoded without the page's script."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data, self.cells, self.runs = data, data["cells"], data["runs"]

    def interned(self, index: int) -> Any:
        return None if index < 0 else self.data["interned"][index]

    def record(self, index: int) -> dict[str, Any] | None:
        if index < 0:
            return None
        keys, *values = self.interned(index)
        return {key: self.interned(value) for key, value in zip(self.interned(keys), values)}

    def column(self, term: Term, *ways: tuple[str, str]) -> int:
        wanted = {**term._asdict(), "ways": [list(way) for way in ways]}
        [found] = [
            k
            for k, column in enumerate(self.data["columns"])
            if {key: column[key] for key in wanted} == wanted
        ]
        return found

    def cell(self, model: str, term: Term, *ways: tuple[str, str]) -> int | None:
        place = (self.data["models"].index(model), self.column(term, *ways))
        found = [k for k, at in enumerate(zip(self.cells["model"], self.cells["column"])) if at == place]
        assert len(found) < 2
        return found[0] if found else None


@pytest.fixture(scope="module")
def text() -> str:
    return page(report_data(ROWS, HOSTILE))


@pytest.fixture(scope="module")
def data(text: str) -> Data:
    return Data(embedded(text))


def test_every_number_is_there_with_how_it_was_made(data: Data) -> None:
    """Of each model and number the row that tables and figures take, whole."""
    of = [Column(str(term), str(term), "neither", None, (term,)) for term in TERMS]
    seen = 0
    for model, found in cells_of(ROWS, of).items():
        for term, cell in zip(TERMS, found):
            rows = [one for one in ROWS if model_name(one) == model and _names(one, term)]
            at = data.cell(model, term)
            assert (at is None) == (not rows)
            if at is None:
                continue
            [taken] = cell.rows or rows
            seen += 1
            assert _shown(data, at) == _stored(taken)
    numbers = {(model_name(one), *(one[name] for name in Term._fields)) for one in ROWS}
    assert (
        seen == len(data.cells["value"]) == len([part for *_, part in numbers if part in (None, POSE.slice)])
    )


def _names(one: dict[str, Any], term: Term) -> bool:
    return tuple(one[name] for name in Term._fields) == term


def _shown(data: Data, at: int) -> dict[str, Any]:
    cell = {name: column[at] for name, column in data.cells.items()}
    run = {name: column[cell["run"]] for name, column in data.runs.items()}
    level, method = data.interned(cell["interval"]) or (None, None)
    return {
        **{name: cell[name] for name in ("value", "lo", "hi", "n")},
        "level": level,
        "method": method,
        "facts": data.record(data.data["facts"][cell["model"]]),
        "recipe_hash": run["recipe_hash"],
        **{name: data.record(cell[name]) for name in ("convention",)},
        **{name: data.interned(cell[name]) for name in ("reference", "note", "aggregates")},
        **{name: data.record(run[name]) for name in ("recipe", "device", "versions")},
        **{
            name: data.interned(run[name]) for name in ("run_id", "origin", "sample", "precision", "protocol")
        },
    }


def _stored(one: Mapping[str, Any]) -> dict[str, Any]:
    limits = one["interval"] or dict.fromkeys(("lo", "hi", "level", "method"))
    plain = ("n", "convention", "reference", "note", "aggregates", "recipe", "device", "versions")
    return {
        **{name: one[name] for name in (*plain, "run_id", "origin", "sample", "precision")},
        "protocol": one.get("protocol"),
        "value": _six(one["value"]),
        "lo": _six(limits["lo"]),
        "hi": _six(limits["hi"]),
        "level": limits["level"],
        "method": limits["method"],
        "facts": one["model_facts"],
        "recipe_hash": one["recipe_hash"][:16],
    }


def _six(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def test_of_several_rows_the_measured_whole_newest(data: Data) -> None:
    at = data.cell("both", VAL)
    assert at is not None
    assert data.cells["value"][at] == 0.64
    at = data.cell(HOSTILE, VAL)
    assert at is not None
    assert data.interned(data.cells["reference"][at]) == [REFERENCE]
    assert data.interned(data.runs["protocol"][data.cells["run"][at]]) == PROTOCOL


def test_a_newer_row_without_a_value_hides_none() -> None:
    rows = [row(new_run_id(), model="a", value=value, interval=None) for value in (0.5, None)]
    found = Data(report_data(rows, "x"))
    at = found.cell("a", Term("zeroshot", "demo_world", "top1"))
    assert at is not None
    assert found.cells["value"][at] == 0.5


def test_single_classes_are_left_out_and_counted() -> None:
    found = report_data(ROWS, "x")
    assert (found["rows"], found["left_out"]) == (len(ROWS), 3)
    assert not [column for column in found["columns"] if "class:" in (column["slice"] or "")]
    few = report_data(ROWS, "x", parts=False)
    assert few["left_out"] == 3 + sum(one["slice"] == POSE.slice for one in ROWS)
    assert {column["slice"] for column in few["columns"]} == {None}


def test_several_ways_of_one_number_are_columns() -> None:
    data = Data(report_data(prompted_rows(), "x"))
    for prompts, value in (("openai_7", 0.5), ("openai_80", 0.6)):
        way = ("prompts", prompts)
        at = [data.cell(model, VAL, way) for model in ("a", "b", "c", "tuned")]
        found = [None if k is None else data.cells["value"][k] for k in at]
        assert found == [value, 0.7, 0.75 if prompts == "openai_7" else None, 0.8]
    assert len(data.data["columns"]) == 2


def test_the_papers_numbers_come_first() -> None:
    columns = report_data(ROWS, "x")["columns"]
    found = [Term(*(column[name] for name in Term._fields)) for column in columns]
    assert found == [VAL, SKETCH, NLL, POSE, SHAPE]
    assert [column["headline"] for column in columns] == [True, True, False, False, False]


def column(task: str, dataset: str, metric: str, part: str | None = None, **more: Any) -> dict[str, Any]:
    fields = {"task": task, "dataset": dataset, "metric": metric, "slice": part}
    return {**fields, "ways": [], "headline": False, **more}


def test_the_first_axes_are_held_out_accuracy_and_the_same_under_a_shift() -> None:
    found = report_data(ROWS, "x")
    of_axes = [[found["columns"][k][name] for name in Term._fields] for k in found["axes"]]
    assert of_axes == [list(VAL), list(SKETCH)]
    sets = about(["demo_r", "demo_train", "ninco", "imagenet_v2:threshold0.7", "my_own"])
    assert (sets.held_out, sets.training) == ({"demo_val", "imagenet_val"}, {"demo_train"})

    ece, top1 = ("calibration", "demo_val", "ece"), ("zeroshot", "demo_val", "top1")
    val, v2 = column(*top1), column("zeroshot", "demo_v2", "top1")
    several = [column(*ece), column("calibration", "demo_v2", "ece"), v2, val, column(*top1, "factor:pose")]
    cases: list[tuple[Any, list[set[int]], Any]] = [
        (several, [{0, 1}] * 5, (3, 2)),  # accuracy before others, though it has no more models
        (several, [{0, 1}, {0, 1}, {2}, {0}, {0}], (3, 4)),  # with a model in common: a part of the set
        (several, [{0, 1}, {1}, set(), {0}, set()], (0, 1)),
        ([v2, column("zeroshot", "sketch", "top1")], [{0}, {0, 1}], (1, 0)),  # none held out: most models
        (
            [val, column("zeroshot", "imagenet_val", "top1"), v2],
            [{0, 1, 2}, {3, 4}, {2, 3, 4}],
            (1, 2),
        ),  # in common
        ([v2, val, column("zeroshot", "sketch", "top1")], [{0, 1}, {0}, {0, 1}], (1, 0)),  # held out first
        ([val, {**v2, "ways": [["prompts", "p"]]}, {**v2, "ways": []}], [{0, 1}, {0, 1}, {0}], (0, 1)),
        ([val, column("zeroshot", "demo_train", "top1")], [{0}, {0}], None),  # of training images
        ([val, column(*ece)], [{0}, {0}], None),  # two metrics
        ([val, {**val, "ways": [["prompts", "p"]]}], [{0}, {0}], None),  # one number, measured twice
        ([val, v2], [{0}, {1}], None),
        ([], [], None),
    ]
    for some, measured, axes in cases:
        assert first_axes(some, measured, sets) == axes


def test_no_rows_no_numbers() -> None:
    found = report_data([], "empty")
    assert (found["models"], found["columns"], found["cells"]) == ([], [], {})
    assert embedded(page(found))["rows"] == 0


def test_no_name_is_markup(text: str) -> None:
    elements = Elements(text)
    assert HOSTILE in embedded(text)["models"]
    assert not elements.named("img", "iframe", "object", "embed", "form.action")
    assert len(elements.named("script")) == 2
    assert [title for _, title in elements.named("title")] == [f"Results: {HOSTILE}"]
    assert not [name for _, attributes, _ in elements.found for name in attributes if name.startswith("on")]


def test_the_page_loads_nothing(text: str) -> None:
    elements = Elements(text)
    links = [attributes.get(name) for _, attributes, _ in elements.found for name in ("src", "href")]
    assert all(link.startswith(("#", "data:")) for link in links if link)
    assert not re.search(r"@import|url\((?!#)", "".join(style for _, style in elements.named("style")))
    [policy] = [a["content"] for a, _ in elements.named("meta") if a.get("http-equiv")]
    [script] = [content for attributes, content in elements.named("script") if not attributes]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-" + digest + "'; ")


def test_each_label_names_a_control(text: str) -> None:
    """Every control has a name, every part of the page a heading, every id is there once."""
    elements = Elements(text)
    ids = [attributes["id"] for _, attributes, _ in elements.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    refers = ("aria-labelledby", "aria-describedby")
    pointed = [a[name] for _, a, _ in elements.found for name in refers if name in a]
    pointed += [(a.get("href") or "").removeprefix("#") for a, _ in elements.named("a")]
    assert set(pointed) - {"details-title"} <= set(ids)  # that one is the script's


# Written beforehand: figures, tables, claims.

STUDY = [
    *ROWS,
    *(
        row(RUN, model=f"<b>{k}", model_facts={"group": "standard"}, value=0.2 + k / 20, **VAL._asdict())
        for k in range(9)
    ),
    *(
        row(RUN, model=f"<b>{k}", model_facts={"group": "standard"}, value=0.1 + k / 20, **SKETCH._asdict())
        for k in range(9)
    ),
]
OWN_FIGURE = """
title = "Sketches <against> photographs"
paper = "Fig. 99"
kind = "scatter"
groups = "paper"
[panel]
title = "sketch"
[panel.x]
title = "val"
scale = "probit"
rows = [{ task = "zeroshot", dataset = "imagenet_val", metric = "top1" }]
[panel.y]
title = "sketch"
scale = "probit"
rows = [{ task = "zeroshot", dataset = "imagenet_sketch", metric = "top1" }]
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("report")
    (folder / "plot.toml").write_text(OWN_FIGURE)
    choices = Choices(figures=[str(folder / "plot.toml"), "fig4", "table4"])
    found = write_report(STUDY, folder / "deep" / "report.html", "study", choices)
    text = (folder / "deep" / "report.html").read_text(encoding="utf-8")
    assert found.megabytes == len(text.encode()) / 1e6
    data = embedded(text)
    assert (found.models, found.numbers) == (len(data["models"]), len(data["cells"]["value"]))
    return text


def test_figures_are_parts_of_the_page_whose_points_have_names(written: str) -> None:
    elements = Elements(written)
    [(figure, _)] = elements.named("figure")
    assert figure["id"] == "figure-plot"  # the page itself has an element "plot"
    names = [title for _, title in elements.named("title")]
    assert "<b>3: val 0.35, sketch 0.25" in names
    assert f"{HOSTILE}: val 0.5, sketch 0.25" in names
    assert not elements.named("b", "img") or all("data" not in a for a, _ in elements.named("b"))
    assert "Fig. 4: " in written.split("Not here", 1)[1]  # no row of NINCO: said, with what makes them


def test_claims_are_those_of_the_ledger(written: str) -> None:
    verdicts = check(ledger(), STUDY)
    elements = Elements(written)
    known = ("holds", "does not hold", "inconclusive", "not measured")
    words = [str(a["data-value"]) for a, _ in elements.named("td") if a.get("data-value") in known]
    there, absent = ([each for each in verdicts if each.absent is missing] for missing in (False, True))
    assert words == [each.word for each in there] + ["not measured"] * len(absent)
    ids = [a["id"] for a, _ in elements.named("tr") if (a.get("id") or "").startswith("claim-")]
    assert ids == [f"claim-{verdict.claim.key}" for verdict in (*there, *absent)]
    assert absent
    counts = [f"{words.count(word)} {word}" for word in known if word in words]
    assert f"{len(verdicts)} claims: {', '.join(counts)}." in written
    assert f"<summary>Not here: {len(absent)} claims</summary>" in written
    found = [each for verdict in verdicts for each in verdict.findings if each.value is not None]
    assert found
    for each in found:
        assert f"<b>{each.value:+.4f}</b> [{each.lo:+.4f}, {each.hi:+.4f}]" in written
        assert RUN in each.runs()


def test_prompts_that_are_not_chosen_are_said_in_the_figures_place(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(OWN_FIGURE)
    rows = [*prompted_rows(), *({**one, **SKETCH._asdict()} for one in prompted_rows())]
    out = tmp_path / "report.html"
    choices = Choices(figures=[str(tmp_path / "own.toml")])
    write_report(rows, out, "x", choices)  # the study's are among them
    assert "say which" not in out.read_text()
    others = json.loads(json.dumps(rows).replace("openai_80", "openai_30"))
    write_report(others, out, "x", choices)
    assert (
        "was measured with the prompts openai_30, openai_7, not with openai_80: say which" in out.read_text()
    )
    write_report(others, out, "x", dataclasses.replace(choices, prompts="openai_7"))
    assert "say which" not in out.read_text()


def test_an_svg_inside_a_page_borrows_nothing(tmp_path: Path) -> None:
    figure = new_figure(3, 2)
    area = figure.subplots()
    area.scatter([0, 1, 2], [2, 1, 0], gid="points")
    area.plot([0, 2], [0, 2], alpha=0.5)
    [path] = save_figure(figure, tmp_path / "f", ["svg"], {"points": ["<a>", "b & c", HOSTILE]})
    source = path.read_bytes()
    found = inline(source, "fig", 'a "title"')
    assert len(found) < len(source)
    elements = Elements(found)
    ids = [a["id"] for _, a, _ in elements.found if a.get("id")]
    used = re.findall(r"url\(#([^)]+)\)|href=\"#([^\"]+)\"", found)
    assert ids
    assert {one or other for one, other in used} == set(ids)
    assert all(str(one).startswith("fig-") for one in ids)
    assert [title for _, title in elements.named("title")] == ["<a>", "b & c", HOSTILE]
    assert not elements.named("style", "metadata", "img", "script")
    assert elements.named("svg")[0][0]["aria-label"] == 'a "title"'


def test_the_command_writes_one_file(tmp_path: Path) -> None:
    rows = prompted_rows()
    for k, one in enumerate(rows):
        one |= {"run_id": f"{RUN[:-1]}{k}", "recipe_hash": str(k) * 64}
        ResultStore(tmp_path / "results").add([one])
    out = tmp_path / "page.html"
    arguments = [
        "report",
        str(tmp_path / "results"),
        "--out",
        str(out),
        "-f",
        "fig1",
        "--prompts",
        "openai_7",
    ]
    done = CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert re.fullmatch(rf"{re.escape(str(out))}: 0\.\d MB, 4 models, 7 numbers\n", done.stdout)
    assert Elements(out.read_text()).named("h1")[0][1] == "Results: results"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "results"]
    refused = CliRunner().invoke(cli.app, [*arguments[:-1], "openai_8"])
    assert isinstance(refused.exception, UsageError)
    assert "unknown prompt set 'openai_8'" in str(refused.exception)


def test_bad_input_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown figure 'fig11'"):
        write_report(ROWS, tmp_path / "r.html", "x", Choices(figures=["fig11"]))
    (tmp_path / "claims.toml").write_text("level = 2\nclaims = []\n")
    with pytest.raises(DataError, match=r"claims\.toml: level = 2 must be above 0"):
        write_report(ROWS, tmp_path / "r.html", "x", Choices(figures=[], claims=tmp_path / "claims.toml"))
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file/r\.html cannot be written"):
        write_report([], tmp_path / "file" / "r.html", "x", Choices(figures=[]))
    assert load_spec("fig1").name == "fig1"
    assert OLD < RUN

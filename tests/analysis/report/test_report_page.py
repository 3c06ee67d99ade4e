"""The report page in a browser: what it shows is what the rows say, by mouse, by keys and on a phone."""

from __future__ import annotations

import csv
import io
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from _browser import LOW_CONTRAST, NAMELESS, TOO_WIDE, chromium, opened
from _long import mostly_long
from _report import FORMULA, HOSTILE, NLL, POSE, REFERENCE, SHAPE, SKETCH, VAL, report_rows
from PIL import Image
from scipy.optimize import linprog

from clipjax.analysis.figures.style import new_figure, save_figure
from clipjax.analysis.report.data import report_data
from clipjax.analysis.report.page import page
from clipjax.analysis.report.svg import inline
from clipjax.analysis.report.write import Choices, write_report
from clipjax.analysis.rows.cells import Cell, Column, Term, cells_of
from clipjax.analysis.rows.groups import group_of, groups
from clipjax.analysis.rows.points import points
from clipjax.analysis.rows.scales import transform
from clipjax.analysis.trends.trends import fit_points
from clipjax.errors import counted
from clipjax.results.escaping import csv_cell
from clipjax.results.tables import model_name

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROWS = report_rows()
FACTS = {model_name(row): row["model_facts"] for row in ROWS}
FIGURES = Path(__file__).parent / "report_figure.toml"
SPOTS = """() => [...document.querySelectorAll("#plot > g:nth-of-type(4) > path")].map((node) => {
  const at = /translate\\(([-\\d.]+),([-\\d.]+)\\)/.exec(node.getAttribute("transform"));
  return [Number(at[1]), Number(at[2])];
})"""
LINES = """() => [...document.querySelectorAll("#numbers tbody tr")].map((row) =>
  [...row.cells].map((cell) => cell.querySelector(".name")?.textContent ?? cell.firstChild?.data ?? ""))"""

SMALLEST = """() => Math.min(...[...document.querySelectorAll("p, td, th, button, select, dd")]
  .filter((node) => node.checkVisibility())
  .map((node) => parseFloat(getComputedStyle(node).fontSize)))"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    write_report(ROWS, folder / "report.html", HOSTILE, Choices(figures=[str(FIGURES), "table2"]))
    return folder / "report.html"


@pytest.fixture
def report(browser: Browser, file: Path) -> Iterator[Page]:
    """Opened, with no word on the console, no dialog and no request until the test ends."""
    with opened(browser, file) as found:
        yield found


def numbers(term: Term) -> dict[str, Cell]:
    """The cell of every model that has a value."""
    found = cells_of(ROWS, [column(term)])
    return {model: cell for model, [cell] in found.items() if cell.value is not None}


def column(term: Term) -> Column:
    return Column(str(term), str(term), "neither", None, (term,))


def short(value: float | None) -> str:
    """As the page writes numbers of this size."""
    assert value is None or abs(value) < 10
    return "–" if value is None else f"{value:.3f}"


def choose(page: Page, axis: str, term: Term) -> None:
    """Put a number on an axis: its task, then the number."""
    page.locator(f"#{axis}-task").select_option(term.task)
    label = " · ".join(filter(None, (term.metric, term.dataset, term.slice)))
    page.locator(f"#{axis}").select_option(label=label)


def columns_of(page: Page) -> list[str]:
    heads = page.locator("#numbers thead th").all()
    return [" ".join(head.locator("b, span").all_text_contents()) for head in heads]


def test_it_shows_every_model_and_runs_nothing_of_theirs(report: Page) -> None:
    assert report.title() == f"Results: {HOSTILE}"
    assert report.locator("#count").text_content() == f"{len(FACTS)} models"
    assert sorted(line[0] for line in report.evaluate(LINES)) == sorted(FACTS)
    assert report.locator("img, iframe, b b, main script").count() == 0
    report.locator(".name", has_text=HOSTILE).click()
    assert report.locator("#details-title").text_content() == HOSTILE
    assert report.locator("img").count() == 0


def test_sorting_goes_by_the_numbers_of_the_rows(report: Page) -> None:
    """Largest first, then smallest first; models without the number last, both times."""
    found = {model: cell.value for model, cell in numbers(VAL).items()}
    head = report.locator("#numbers thead button", has_text="imagenet_val")
    place = [title.startswith("imagenet_val") for title in columns_of(report)].index(True)
    for direction, sign in (("descending", -1), ("ascending", 1)):
        head.click()
        assert report.locator(f'#numbers th[aria-sort="{direction}"]').count() == 1
        lines = report.evaluate(LINES)
        shown = [(line[0], line[place]) for line in lines if line[place] not in ("", "–")]
        assert [value for _, value in shown] == [
            short(v) for v in sorted(found.values(), key=lambda v: sign * (v or 0))
        ]
        assert all(short(found[name]) == value for name, value in shown)
        assert {line[0] for line in lines[len(shown) :]} == set(FACTS) - set(found)


def test_the_licence_of_a_model_s_weights_is_a_column(report: Page) -> None:
    place = columns_of(report).index("licence")
    shown = {line[0]: line[place] for line in report.evaluate(LINES)}
    assert shown == {model: facts.get("licence") or "unknown" for model, facts in FACTS.items()}
    assert {"MIT", "unknown"} <= set(shown.values())
    report.locator("#numbers .name", has_text=HOSTILE).click()
    assert "licence\nunknown" in report.locator("#details").inner_text()


def test_filters_leave_the_models_that_they_name(report: Page) -> None:
    scheme = groups("paper")
    place = {model: group_of(facts, scheme) for model, facts in FACTS.items()}
    wit = {model for model, facts in FACTS.items() if facts.get("train_source") == "WIT"}
    standard = {model for model, group in place.items() if group and group.key == "standard"}
    assert wit
    assert standard
    report.locator("#source").select_option("WIT")
    assert {line[0] for line in report.evaluate(LINES)} == wit
    drawn = [model for model in wit if model in numbers(VAL) and model in numbers(SKETCH)]
    assert len(report.evaluate(SPOTS)) == len(drawn)
    assert report.locator("#count").text_content() == f"{len(wit)} of {len(FACTS)} models"
    report.locator("#source").select_option("")
    title = next(group.title for group in scheme if group.key == "standard")
    report.locator("#group").select_option(label=title)
    assert {line[0] for line in report.evaluate(LINES)} == standard
    report.locator("#group").select_option("")
    report.locator("#search").fill("vit laion")
    assert {line[0] for line in report.evaluate(LINES)} == {m for m in FACTS if "vit" in m and "laion" in m}
    report.locator("#search").fill(HOSTILE[:12])
    assert [line[0] for line in report.evaluate(LINES)] == [HOSTILE]
    report.locator("#search").fill("nobody")
    assert report.locator("#numbers tbody").text_content() == "no model passes the filters"
    assert report.evaluate(SPOTS) == []


def test_hovering_says_the_numbers_of_the_point(report: Page) -> None:
    choose(report, "x", VAL)
    choose(report, "y", SHAPE)
    across, up = numbers(VAL), numbers(SHAPE)
    both = {model for model in across if model in up}
    spots = report.evaluate(SPOTS)
    assert len(spots) == len(both)
    report.locator("#plot").scroll_into_view_if_needed()
    box = report.locator("#plot").bounding_box()
    assert box is not None
    seen = set()
    for px, py in spots[:: max(1, len(spots) // 8)]:
        report.mouse.move(box["x"] + px, box["y"] + py)
        said = report.locator("#tip").text_content() or ""
        name = report.locator("#tip .who").text_content() or ""
        assert name in both
        for cell in (across[name], up[name]):
            assert cell.interval is not None
            limits = f"[{short(cell.interval['lo'])}, {short(cell.interval['hi'])}]"
            assert f"{short(cell.value)} {limits}  n = {cell.n:,}" in said
        seen.add(name)
    assert len(seen) > 4
    report.mouse.move(1, 1)
    assert report.locator("#tip").is_hidden()


@pytest.mark.parametrize("scale", mostly_long(["probit", "logit", "linear", "log"], keep=["probit", "log"]))
def test_points_stand_where_their_numbers_are(report: Page, scale: str) -> None:
    """On every scale: a point's place is linear in the coordinate of its number; and so are the ticks."""
    choose(report, "x", VAL)
    choose(report, "y", POSE)
    for axis in ("x", "y"):
        report.locator(f"#{axis}-scale").select_option(scale)
    found = points(ROWS, column(VAL), column(POSE))
    scheme, names = groups("paper"), list(FACTS)
    order = sorted(found, key=lambda p: (group_of(p.facts, scheme) is not None, names.index(p.model)))
    spots = np.array(report.evaluate(SPOTS))
    assert len(spots) == len(order)
    for k, cells in enumerate(([point.x for point in order], [point.y for point in order])):
        values, n = (np.array([getattr(cell, name) for cell in cells], float) for name in ("value", "n"))
        at = np.log(values) if scale == "log" else transform(values, scale, n)
        slope, offset, farthest = nearest_line(at, spots[:, k])
        assert farthest < 0.051  # places have one decimal
        for value, place in ticks(report, k):
            tick = np.log(value) if scale == "log" else float(transform(np.array([value]), scale)[0])
            assert abs(place - offset - slope * tick) < 0.3


def nearest_line(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Slope, offset and largest distance of the line whose largest distance in y is smallest."""
    one = np.ones_like(x)
    sides = np.concatenate([np.stack([x, one, -one], axis=1), np.stack([-x, -one, -one], axis=1)])
    found = linprog([0, 0, 1], A_ub=sides, b_ub=np.concatenate([y, -y]), bounds=[(None, None)] * 3)
    assert found.x is not None, found.message
    slope, offset, farthest = found.x
    return slope, offset, farthest


def ticks(page: Page, axis: int) -> list[tuple[float, float]]:
    """(number, place in pixels) of the ticks of x (0) or y (1)."""
    anchor, where, less = [("middle", "x", 0), ("end", "y", 4)][axis]
    found = page.locator(f'#plot text[text-anchor="{anchor}"]:not(.title)').all()
    ticks = [(float(one.text_content() or ""), float(one.get_attribute(where) or 0) - less) for one in found]
    assert len(ticks) >= 5
    return ticks


def test_a_scale_that_values_cannot_have_is_linear_and_said(report: Page) -> None:
    choose(report, "y", NLL)
    if max(cell.value or 0 for cell in numbers(NLL).values()) > 1:
        note = report.locator("#plot-note").text_content() or ""
        assert "No probit scale for nll_before: its values are not fractions." in note


@pytest.mark.parametrize("method", mostly_long(["huber", "ols"], keep=["huber"]))
def test_trends_are_those_of_the_analysis(report: Page, method: str) -> None:
    choose(report, "x", VAL)
    choose(report, "y", SKETCH)
    report.locator("#fit").select_option(method)
    report.locator("#fits summary").click()
    shown = {}
    for line in report.locator("#fits tbody tr").all():
        n, slope, intercept = (float(text) for text in line.locator("td").all_text_contents())
        shown[line.locator("th").text_content()] = (n, slope, intercept)
    scheme, found = groups("paper"), points(ROWS, column(VAL), column(SKETCH))
    titles = {group.title: [p for p in found if group_of(p.facts, scheme) is group] for group in scheme}
    titles["others"] = [p for p in found if group_of(p.facts, scheme) is None]
    expected = {title: some for title, some in titles.items() if len(some) >= 3}
    assert len(expected) > 2
    assert shown.keys() == expected.keys()
    for title, some in expected.items():
        fit = fit_points(some, method=method, resamples=0)
        assert shown[title] == tuple(float(f"{v:.4g}") for v in (len(some), fit.slope, fit.intercept)), title
    assert report.locator("#plot .trend").count() == len(expected)


def test_groups_are_hidden_by_their_legend(report: Page) -> None:
    everyone = len(report.evaluate(SPOTS))
    button = report.locator("#legend button", has_text="Standard")
    count = int(button.locator("small").text_content() or 0)
    button.click()
    assert len(report.evaluate(SPOTS)) == everyone - count
    assert report.locator('#legend button[aria-pressed="false"]').count() == 1
    report.locator("#scheme").select_option(label="training data")
    assert len(report.evaluate(SPOTS)) == everyone
    sources = {str(facts["train_source"]) for facts in FACTS.values() if facts.get("train_source")}
    named = set(report.locator("#legend button span").all_text_contents())
    assert named - {"others"} == sources


def test_a_number_says_how_it_was_made(report: Page) -> None:
    """A click on it shows convention, recipe, interval, protocol with departures, and what is published."""
    line = report.locator("#numbers tbody tr", has=report.locator(".name", has_text=HOSTILE))
    line.locator("td.referenced").click()
    panel = report.locator("#details")
    said = panel.inner_text()
    for text in (
        "0.5",
        "[0.480, 0.520]",
        "95 %, wilson",
        "prompts",
        "openai_80",
        "aaaaaaaaaaaaaaaa…",
        "parity",
    ):
        assert text in said
    assert "limit: 500 of 1000 images" in said
    assert "<i>other</i>" in said
    published = panel.locator("table tbody td").all_inner_texts()
    assert published[:2] == ["0.4", "+0.100"]
    assert "as listed <b>there</b>" in published[2]
    assert REFERENCE["source"] not in said  # its title instead
    report.keyboard.press("Escape")
    assert panel.is_hidden()
    line.locator("td.referenced").hover()
    assert "open_clip: 0.400 (+0.100)" in (report.locator("#tip").text_content() or "")


def test_intervals_and_differences_stand_in_the_table(report: Page) -> None:
    cell = report.locator("#numbers td.referenced")
    report.locator("#intervals").check()
    assert cell.text_content() == "0.500[0.480, 0.520]"
    report.locator("#published").check()
    assert cell.text_content() == "0.500[0.480, 0.520]+0.100"


def test_columns_are_chosen(report: Page) -> None:
    report.locator("#chooser summary").click()
    report.locator("#find").fill("pose")
    report.locator("#choices input").check()
    titles = columns_of(report)
    assert any(POSE.slice is not None and POSE.slice in title for title in titles)
    report.keyboard.press("Escape")
    report.locator("#numbers thead button", has_text=POSE.slice or "").click()
    values = [line[-1] for line in report.evaluate(LINES)]
    found = sorted((cell.value or 0 for cell in numbers(POSE).values()), reverse=True)
    assert values[: len(found)] == [short(value) for value in found]


def test_all_of_it_works_by_keys(report: Page) -> None:
    """Arrows step from point to point and from number to number, Enter opens, Escape closes."""
    choose(report, "x", VAL)
    plot = report.locator("#plot")
    plot.focus()
    names = []
    for _ in range(4):
        report.keyboard.press("ArrowRight")
        names.append(report.locator("#tip .who").text_content())
    across = numbers(VAL)
    values = [across[name or ""].value or 0 for name in names]
    assert values == sorted(values)
    assert len(set(names)) == 4
    assert (report.locator("#spoken").text_content() or "").startswith(names[-1] or "none")
    report.keyboard.press("Enter")
    assert report.locator("#details-title").text_content() == names[-1]
    assert report.locator("#details").is_visible()
    report.keyboard.press("Escape")
    assert report.locator("#details").is_hidden()
    assert plot.evaluate("node => node === document.activeElement")

    report.locator("#search").fill("vit")  # models with every number
    report.locator("#numbers td[data-cell]").first.focus()
    place = "[document.activeElement.parentNode.rowIndex, document.activeElement.cellIndex]"
    for key, where in (
        ("ArrowDown", [2, 3]),
        ("ArrowRight", [2, 4]),
        ("ArrowUp", [1, 4]),
        ("ArrowLeft", [1, 3]),
    ):
        report.keyboard.press(key)
        assert report.evaluate(place) == where
    report.keyboard.press("Enter")
    assert report.locator("#details").is_visible()


def test_what_the_keys_are_at_is_seen(report: Page) -> None:
    """Tab reaches every control in turn, each with an outline."""
    seen = []
    for _ in range(14):
        report.keyboard.press("Tab")
        node = "document.activeElement"
        width = report.evaluate(f"parseFloat(getComputedStyle({node}).outlineWidth)")
        style = report.evaluate(f"getComputedStyle({node}).outlineStyle")
        seen.append(report.evaluate(f"{node}.id || {node}.textContent"))
        assert (width >= 1, style) == (True, "solid") or style == "auto", seen
    assert {"search", "scheme", "group", "source", "x-task", "x"} <= set(seen)


def test_written_tables_are_sorted_by_their_heads(report: Page) -> None:
    """Table II: sections of the paper that were written as HTML."""
    table = report.locator("#figure-table2")
    place = table.locator("thead button").all_text_contents().index("Shape bias")
    take = f"table => [...table.tBodies[0].rows].map((row) => row.cells[{place}].dataset.value ?? null)"
    before = table.evaluate(take)
    values = [float(value) for value in before if value is not None]
    assert len(values) > 1
    for reverse in (False, True):
        table.locator("thead button").nth(place).click()
        after = table.evaluate(take)
        assert [float(value) for value in after if value is not None] == sorted(values, reverse=reverse)
        assert after[len(values) :] == [None] * before.count(None)


def test_claims_open_to_their_statistics(report: Page) -> None:
    fold = report.locator("#claims details").first
    assert not fold.locator("table").is_visible()
    fold.locator("summary").click()
    assert fold.locator("table").is_visible()


@pytest.mark.parametrize("width", mostly_long([390, 320], keep=[320]))
def test_a_phone_scrolls_down_only(browser: Browser, file: Path, width: int) -> None:
    with opened(browser, file, width, 780) as report:
        assert report.evaluate("document.documentElement.scrollWidth") == width
        assert report.evaluate(TOO_WIDE) == []
        report.locator("#chooser summary").click()
        report.locator("#numbers td[data-cell]").first.click(force=True)
        assert report.evaluate("document.documentElement.scrollWidth") == width
        assert report.evaluate(TOO_WIDE) == []
        assert report.evaluate(SMALLEST) >= 12


@pytest.mark.parametrize("scheme", mostly_long(["light", "dark"], keep=["dark"]))
def test_text_stands_out_and_controls_have_names(browser: Browser, file: Path, scheme: str) -> None:
    with opened(browser, file, scheme=scheme) as report:
        for fold in report.locator("#claims details").all():
            fold.evaluate("node => (node.open = true)")
        assert report.evaluate(LOW_CONTRAST) == []
        assert report.evaluate(NAMELESS) == []
        report.locator("#plot").hover()
        report.locator("#numbers td.referenced").click()
        assert report.evaluate(LOW_CONTRAST) == []


def test_an_inline_figure_looks_as_its_file(browser: Browser, tmp_path: Path) -> None:
    figure = new_figure(4, 3)
    area = figure.subplots()
    rng = np.random.default_rng(0)
    area.scatter(*rng.uniform(size=(2, 40)), gid="points", s=30, edgecolors="white")
    area.plot([0, 1], [0, 1], alpha=0.4, linestyle="--", label="trend")
    area.errorbar([0.2, 0.5], [0.5, 0.2], yerr=0.1, fmt="s", alpha=0.5)
    area.legend()
    [path] = save_figure(figure, tmp_path / "figure", ["svg"], {"points": [f"model {k}" for k in range(40)]})
    style = "<!doctype html><style>body { margin: 0 } svg, img { display: block; width: 800px }</style>"
    shots: list[Any] = []
    for body in (inline(path.read_bytes(), "f", "figure"), '<img src="figure.svg">'):
        (tmp_path / "page.html").write_text(style + body)
        shown = browser.new_page(viewport={"width": 800, "height": 600})
        shown.goto((tmp_path / "page.html").as_uri())
        shots.append(np.asarray(Image.open(io.BytesIO(shown.screenshot())).convert("L"), float))
        shown.close()
    assert shots[0].std() > 10  # there is something to see
    away = np.abs(shots[0] - shots[1])
    assert away.mean() < 0.05  # coordinates are rounded to 1/100 point: edges differ by a shade
    assert np.mean(away > 24) < 1e-3


@pytest.mark.parametrize("rows", [[], [row for row in ROWS if row["model"] == "absent"]])
def test_nothing_to_show_is_no_error(browser: Browser, tmp_path: Path, rows: list[Any]) -> None:
    (tmp_path / "empty.html").write_text(page(report_data(rows, "empty")))
    with opened(browser, tmp_path / "empty.html") as report:
        assert report.locator("#count").text_content() == counted(len(rows), "model")
        assert report.evaluate(SPOTS) == []
        assert report.locator("#numbers td[data-cell]").all_text_contents() == ["–"] * len(rows)


def test_one_model_is_one_and_the_legend_has_no_other_group(browser: Browser, tmp_path: Path) -> None:
    name = model_name(ROWS[0])
    rows = [row for row in ROWS if model_name(row) == name]
    (tmp_path / "one.html").write_text(page(report_data(rows, "one")))
    with opened(browser, tmp_path / "one.html") as report:
        assert report.locator("#count").text_content() == "1 model"
        choose(report, "x", VAL)
        choose(report, "y", SKETCH)
        assert report.locator("#plot-note").text_content() == "1 model has both numbers."
        assert (report.locator("#plot").get_attribute("aria-label") or "").endswith(", 1 model")
        assert [len(ticks(report, k)) >= 5 for k in (0, 1)] == [True, True]
        assert report.locator("#legend button small").all_text_contents() == ["1"]


def test_numbers_without_a_pair_are_not_drawn_unasked(browser: Browser, tmp_path: Path) -> None:
    rows = [row for row in ROWS if row["metric"] in (NLL.metric, SHAPE.metric)]
    (tmp_path / "page.html").write_text(page(report_data(rows, "two")))
    with opened(browser, tmp_path / "page.html") as report:
        assert (report.locator("#plot-note").text_content() or "").startswith("No model has one metric on")
        assert report.evaluate(SPOTS) == []
        assert report.locator("#save-plot").is_disabled()
        choose(report, "x", NLL)
        assert report.locator("#plot-note").text_content() == "Choose a number for each axis."
        choose(report, "y", SHAPE)
        assert len(report.evaluate(SPOTS)) == len(rows) / 2


STATE = """() => [...document.querySelectorAll("select, #search, .tick > input")].map((node) =>
  node.type === "checkbox" ? node.checked : node.selectedOptions?.[0]?.text ?? node.value)"""
ORDER = """() => [...document.querySelectorAll("#figure-table2 tbody tr")].map((row) => row.textContent)"""


def seen(page: Page) -> list[Any]:
    return [page.evaluate(each) for each in (STATE, LINES, SPOTS, ORDER)]


def test_the_address_has_the_view(report: Page, browser: Browser, file: Path) -> None:
    """A link shows the same again: axes, scales, filters, columns, order. What it cannot read it leaves."""
    first = seen(report)
    choose(report, "y", POSE)
    report.locator("#y-scale").select_option("linear")
    report.locator("#fit").select_option("ols")
    report.locator("#scheme").select_option(label="training data")
    report.locator("#legend button").first.click()
    report.locator("#search").fill("vit")
    report.locator("#intervals").check()
    report.locator("#bars").uncheck()
    report.locator("#numbers thead button", has_text="imagenet_sketch").click()
    report.locator("#figure-table2 thead button", has_text="Shape bias").click()
    report.wait_for_url(lambda url: "tables=figure-table2" in url)
    view = report.evaluate("location.hash")
    changed = seen(report)
    assert all(one != other for one, other in zip(first, changed))
    report.locator("nav a").first.click()
    report.wait_for_timeout(50)
    assert report.evaluate("location.hash") == view
    unknown = "#x=a|b&sort=-zz&source=none&scheme=no&group=%3Cb%3E&columns=no&tables=claims+99+up&more=1"
    with opened(browser, file, view=unknown) as other:
        assert other.locator("#x option:checked").text_content() == "top1 · imagenet_val"
        other.evaluate("view => { location.hash = view; }", view)
        other.locator("#count", has_text=" of ").wait_for()
        assert seen(other) == changed
        other.evaluate("() => { location.hash = ''; }")
        other.get_by_text(f"{len(FACTS)} models", exact=True).wait_for()
        assert seen(other) == first


def saved(page: Page, button: str) -> str:
    with page.expect_download() as download:
        page.locator(button).click()
    return download.value.path().read_text(encoding="utf-8")


def test_tables_are_saved_as_csv_and_the_plot_as_svg(report: Page) -> None:
    report.locator("#numbers thead button", has_text="imagenet_val").click()
    report.locator("#intervals").check()
    head, *lines = csv.reader(io.StringIO(saved(report, "#save-numbers")))
    shown = [line[0] for line in report.evaluate(LINES)]
    assert [line[0] for line in lines] == [csv_cell(name) for name in shown]
    assert f"'{FORMULA}" in [line[0] for line in lines]
    place = head.index("imagenet_val top1")
    assert head[place + 1 : place + 3] == ["imagenet_val top1 lo", "imagenet_val top1 hi"]
    across = numbers(VAL)
    for name, line in zip(shown, lines):
        cell = across.get(name)
        expected = [cell.value, cell.interval["lo"]] if cell and cell.interval else []
        assert [float(f"{value:.6g}") for value in expected if value is not None] == [
            float(text) for text in line[place : place + 2] if text
        ]

    head, *lines = csv.reader(io.StringIO(saved(report, ".scroll:has(#figure-table2) + .save button")))
    place = head.index("Shape bias")
    written = report.locator(f"#figure-table2 td:nth-child({place + 1})[data-value]").all()
    values = [float(cell.get_attribute("data-value") or "") for cell in written]
    assert [float(line[place]) for line in lines if line[place]] == values

    drawing = ET.fromstring(saved(report, "#save-plot"))
    svg = "{http://www.w3.org/2000/svg}"
    names = [title.text for title in drawing.iter(f"{svg}title")]
    assert sorted(filter(None, names)) == sorted(set(across) & set(numbers(SKETCH)))
    texts = {text.text for text in drawing.iter(f"{svg}text")}
    assert "top1 · imagenet_val (probit)" in texts
    assert {group.title for group in groups("paper")} & texts
    assert not [each for each in drawing.iter() if "var(" in str(each.attrib) or each.get("class")]
    assert report.locator("#plot title").count() == 0  # the page's own plot stays as it was


def test_a_published_number_names_its_source(report: Page) -> None:
    line = report.locator("#numbers tbody tr", has=report.locator(".name", has_text="published_only"))
    line.locator("td[data-cell]").first.click()
    said = report.locator("#details").inner_text()
    assert "source\na table <of> theirs" in said
    assert "Nothing is published" not in said

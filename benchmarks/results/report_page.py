"""The report page for 255 models by 40 metrics: seconds until it can be used, and its size.

    python benchmarks/results/report_page.py

The rows are the tests' synthetic study (tests/_study.py): first the 40 numbers that the paper's figures need.
Each row has its own run and recipe, the largest content of a page. The page has figures, tables and claims. A
headless Chromium opens it, each round in a fresh context. Measured are seconds from the request until the
script has drawn table and plot, until the browser's load event, and of the page's thread on the processor,
which neighbours stretch less. There is no other page to compare with, so these are plain seconds; the claim
is two seconds and five megabytes.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from benchmarks import common
from clipjax.analysis.figures.spec import load_spec, spec_names
from clipjax.analysis.report.write import Choices, write_report
from clipjax.results.row import Row

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from _browser import chromium
from _study import models, study_rows, tuned


def study(n_models: int, n_metrics: int) -> list[Row]:
    """A row for each model and metric."""
    terms = dict.fromkeys(term for name in spec_names() for term in load_spec(name).terms)
    known = dict(list({**models(), **tuned()}.items())[:n_models])
    return list(study_rows(list(terms)[:n_metrics], known))


class Times(NamedTuple):
    """Seconds until the page is ready, until its load event, and of its thread; and its elements."""

    ready: list[float]
    loaded: list[float]
    thread: list[float]
    elements: int


def load_times(file: Path, rounds: int) -> Times:
    times = Times([], [], [], 0)
    with chromium() as browser:
        for _ in range(rounds):
            page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
            session = page.context.new_cdp_session(page)
            session.send("Performance.enable", {"timeDomain": "threadTicks"})
            start = time.perf_counter()
            page.goto(file.as_uri())
            page.wait_for_selector("html[data-ready]")
            times.ready.append(time.perf_counter() - start)
            times.loaded.append(
                page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd") / 1000
            )
            metrics = session.send("Performance.getMetrics")["metrics"]
            times.thread.append(next(one["value"] for one in metrics if one["name"] == "ThreadTime"))
            times = times._replace(elements=page.evaluate("document.querySelectorAll('*').length"))
            page.context.close()
    return times


def main(
    n_models: Annotated[int, typer.Option("--models")] = 255,
    n_metrics: Annotated[int, typer.Option("--metrics")] = 40,
    rounds: int = 7,
    json: common.Json = None,
) -> None:
    rows = study(n_models, n_metrics)
    with common.reported("report_page", json) as results, tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "report.html"
        start = time.perf_counter()
        written = write_report(rows, file, "study", Choices())
        results["write_seconds"] = time.perf_counter() - start
        times = load_times(file, rounds)
        results |= times._asdict()
        results |= {"models": written.models, "numbers": written.numbers, "megabytes": written.megabytes}
        common.table(
            [
                ("models, numbers", f"{written.models}, {written.numbers:,}"),
                ("page", f"{written.megabytes:.2f} MB, {times.elements:,} elements"),
                ("written in", f"{results['write_seconds']:.0f} s"),
                ("table and plot drawn", _spread(times.ready)),
                ("load event", _spread(times.loaded)),
                ("the page's thread", _spread(times.thread)),
            ]
        )


def _spread(times: list[float]) -> str:
    return f"{common.median(times):.2f} s [{min(times):.2f}-{max(times):.2f}]"


if __name__ == "__main__":
    typer.run(main)

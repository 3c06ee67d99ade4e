"""`clipjax study`: from data sets at an address to the report, in one command."""

from __future__ import annotations

import hashlib
import importlib
import io
import re
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from _events import scalars
from _figures import undrawn
from _file_server import Content, FileServer
from _sweep_world import rows_of
from typer.testing import CliRunner, Result

from clipjax.analysis.figures import style
from clipjax.cli import app
from clipjax.errors import DataError, Interrupted, UsageError
from clipjax.evaluation import data_folder
from clipjax.results.store import ResultStore
from clipjax.sweep import data_sets

FIGURE = """
title = "Two sets of colours"
paper = "mine"
kind = "scatter"

[[panels]]
title = "few over many"
x = { title = "many", scale = "linear", rows = [{ task = "zeroshot", dataset = "many", metric = "top1" }] }
y = { title = "few", scale = "linear", rows = [{ task = "zeroshot", dataset = "few", metric = "top1" }] }

[[groups]]
key = "demo"
title = "tiny models"
colour = "#000000"
marker = "o"
where = { group = "demo" }
"""
CLAIMS = """
level = 0.95
margin = 0.01

[columns]
few = "zeroshot few top1"
odd = "ood odd score:msp auroc"

[groups]
demo = { group = "demo" }
none = { group = "clip" }

[[claims]]
key = "colours"
section = "1"
statement = "Tiny models know colours"
parts = [{ statistic = "group_difference", y = ["few"], group = "demo", against = "none", side = "above" }]

[[claims]]
key = "odd_ones"
section = "2"
statement = "Tiny models see what is odd"
parts = [{ statistic = "group_difference", y = ["odd"], group = "demo", against = "none", side = "above" }]
"""
RUNS = """
title = "Colours"
models = ["{models}/one", "{models}/two"]

[options]
batch_size = 4
resamples = 100

[[runs]]
task = "zeroshot"
datasets = ["many", "few"]

[[runs]]
task = "ood"
datasets = ["odd"]
"""


FILES = """
licence = "ours"

[[files]]
name = "{name}.tar"
addresses = ["{url}/{name}.tar"]
bytes = {size}
sha256 = "{sha256}"
kind = "tar"
into = "{name}"
"""
BY_HAND = """
licence = "ours"

[[files]]
name = "odd.tar"
pages = ["https://example.org"]
kind = "tar"
into = "odd"
needs = "account"
how = "Ask for odd.tar."
"""


@pytest.fixture
def quick_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every figure is an empty one: drawing takes two thirds of a study's time."""
    monkeypatch.setattr(style, "_rendered", undrawn)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer({}) as server:
        yield server


@pytest.fixture
def place(suite: Path, tmp_path: Path, server: FileServer) -> Path:
    """A folder with a suite, figures, claims, and cards of data sets that the server has as tars."""
    models = suite.parent / "models"
    (tmp_path / "colours.toml").write_text(RUNS.format(models=models))
    (tmp_path / "mine.toml").write_text(FIGURE)
    (tmp_path / "claims.toml").write_text(CLAIMS)
    (cards := tmp_path / "configs" / "datasets").mkdir(parents=True)
    data = suite.parent / "data"
    (cards / "colours.csv").write_bytes((data / "colours.csv").read_bytes())
    for name in ("many", "few", "odd"):
        packed = tarred(data / name)
        server.files[f"/{name}.tar"] = Content(packed)
        about = {"name": name, "url": server.url, "size": len(packed)}
        files = FILES.format(**about, sha256=hashlib.sha256(packed).hexdigest())
        (cards / f"{name}.toml").write_text((data / f"{name}.toml").read_text() + files)
    return tmp_path


def tarred(folder: Path) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for path in sorted(folder.rglob("*.png")):
            archive.add(path, str(path.relative_to(folder)))
    return data.getvalue()


def clipjax(place: Path, command: str, out: str, *arguments: object) -> Result:
    """Run a command on the suite, with everything in `place` / `out`."""
    places = ["--data-root", place / "data", "--store", place / f"store of {out}", "--workers", 0]
    parts = ["--configs", place / "configs", command, place / "colours.toml", *places, *arguments]
    return CliRunner().invoke(app, [str(each) for each in [*parts, "--no-pixel-store"]])


def study(place: Path, *arguments: object) -> Result:
    drawn = ["--figure", place / "mine.toml", "--claims", place / "claims.toml", "--prompts", "single"]
    return clipjax(place, "study", "study", "--out", place / "study", *drawn, *arguments)


def top1(events: Path) -> list[float]:
    return [value for (tag, _), value in scalars(events).items() if tag.endswith("/top1")]


def failure(result: Result) -> str:
    assert isinstance(result.exception, DataError | UsageError), result.output
    return str(result.exception)


@pytest.mark.usefixtures("quick_figures")
def test_from_an_empty_folder_to_the_report(place: Path, server: FileServer) -> None:
    part = ("--models", "one", "--limit", "12")
    done = study(place, *part, "--track", "tensorboard")
    assert done.exit_code == 0, done.output
    assert "3 runs done now, 0 before" in done.output
    assert sorted(each.path for each in server.requests) == ["/few.tar", "/many.tar", "/odd.tar"]
    out = place / "study"
    assert {path.name for path in out.iterdir()} == {"results", "figures", "claims.md", "report.html"}
    assert {"mine.png", "mine.svg", "mine_points.csv"} <= {path.name for path in (out / "figures").iterdir()}
    assert "Tiny models know colours" in (out / "claims.md").read_text()
    assert "Two sets of colours" in (out / "report.html").read_text()
    # Its rows are those of a sweep of the data sets that it fetched.
    results = place / "swept" / "results"
    assert clipjax(place, "sweep", "swept", *part, "--results", results).exit_code == 0
    assert rows_of(place / "swept") == rows_of(out)
    compared = [str(out / "results"), str(results)]
    assert CliRunner().invoke(app, ["results", "diff", *compared, "--check"]).exit_code == 0
    # TensorBoard keeps numbers in single precision.
    assert {value for file in (out / "results").glob(".tracked/*/*/events.*") for value in top1(file)} == {
        float(np.float32(row["value"]))
        for row in ResultStore(out / "results").rows()
        if row["metric"] == "top1"
    }
    # The same command again finds everything there.
    server.requests.clear()
    again = study(place, *part)
    assert (again.exit_code, "0 runs done now, 3 before" in again.output) == (0, True), again.output
    assert not server.requests


@pytest.mark.usefixtures("quick_figures")
def test_what_cannot_be_got_is_named_and_the_rest_is_run(place: Path, server: FileServer) -> None:
    few, server.files["/few.tar"] = server.files["/few.tar"], Content(statuses=[403] * 9)
    card = place / "configs" / "datasets" / "odd.toml"
    card.write_text(card.read_text().partition("\nlicence")[0] + BY_HAND)
    options = ("--models", "one", "--limit", "6")
    said = study(place, *options)
    assert "not done: 2 parts of the sweep; the first: a data set is not there: few" in failure(said)
    _, _, table = said.output.partition("so these are left out or not whole:")
    lines = [line.split() for line in table.splitlines()]
    assert ["few", "failed", "zeroshot", "mine", "colours"] in lines
    assert ["odd", "by", "hand", "ood", "odd_ones"] in lines
    assert "Ask for odd.tar." in said.output
    assert "1 run done now, 0 before" in said.output
    assert (place / "study" / "report.html").exists()
    # Once there is an answer, and the user's file, the same command does what is left.
    server.files["/few.tar"] = few
    (place / "mine").mkdir()
    (place / "mine" / "odd.tar").write_bytes(server.files["/odd.tar"].data)
    done = study(place, *options, "--from", place / "mine")
    assert (done.exit_code, "2 runs done now, 1 before" in done.output) == (0, True), done.output
    assert "not there" not in done.output


@pytest.mark.usefixtures("quick_figures")
def test_runs_that_failed_are_left_alone(place: Path) -> None:
    options = ("--models", "one", "--limit", "6")
    assert study(place, *options).exit_code == 0
    for image in (place / "data" / "few").rglob("*.png"):
        image.write_bytes(b"no image")
    for more, times in (((), 0), (("--no-retry",), 1)):
        result = study(place, *options, *more)
        assert "the first: one: zeroshot on few: " in failure(result)
        assert result.output.count(" (not tried again)\n") == times


@pytest.mark.usefixtures("quick_figures")
@pytest.mark.parametrize(
    "where",
    [
        "clipjax.downloads.fetch.complete",
        "clipjax.evaluation.plans.execute.measured",
    ],
    ids=["fetch", "sweep"],
)
def test_an_interrupted_study_goes_on(place: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    module, _, name = where.rpartition(".")
    work, calls = getattr(importlib.import_module(module), name), list[int]()

    def cut_off(*arguments: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise Interrupted("stop")
        return work(*arguments, **options)

    options = ("--models", "one", "--limit", "6")
    with monkeypatch.context() as patch:
        patch.setattr(where, cut_off)
        with pytest.raises(Interrupted):
            study(place, *options)
    assert not (place / "study" / "report.html").exists()
    done = study(place, *options)
    assert done.exit_code == 0, done.output
    assert "1 of 1" in done.output
    assert (place / "study" / "report.html").exists()


def test_a_dry_run_says_what_it_would_take(place: Path, server: FileServer) -> None:
    said = study(place, "--dry-run")
    assert said.exit_code == 0, said.output
    assert not server.requests
    assert sorted(path.name for path in place.iterdir()) == [
        "claims.toml",
        "colours.toml",
        "configs",
        "mine.toml",
    ]
    assert "the data of 6 more runs are not there" in said.output
    assert "3 files to download" in said.output
    assert f"{server.url}/odd.tar" in said.output
    assert "v5e-8 " in said.output
    assert f"are free for {place / 'data'}" in said.output


def test_the_suite_is_planned_once_before_anything_is_fetched(
    place: Path, suite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the prompt sets, the data sets to fetch and the sweep; a data set that is there is read once."""
    shutil.copytree(suite.parent / "data", place / "data")
    planned, read = list[str](), list[str]()
    plan, load = data_sets.plan_jobs, data_folder.load_dataset
    monkeypatch.setattr(data_sets, "plan_jobs", lambda *a, **k: planned.append(a[0]) or plan(*a, **k))
    monkeypatch.setattr(data_folder, "load_dataset", lambda *a: read.append(a[0].name) or load(*a))
    done = study(place, "--dry-run", "--no-fetch")
    assert done.exit_code == 0, done.output
    assert planned == ["zeroshot", "ood"]
    assert sorted(read) == sorted({*read})
    assert {"many", "few", "odd"} <= {*read}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--no-fetch", "--accept", "few"], "--no-fetch and --accept do not go together"),
        (["--accept", "fewer"], "unknown data set in --accept 'fewer'; did you mean few"),
        (["--from", "nowhere"], "nowhere is not a folder: --from is the folder"),
        (["--models", "three"], "unknown model of colours 'three'"),
        (["--figure", "fig33"], "unknown figure 'fig33'"),
        (["--track", "wandbb"], "unknown tracker 'wandbb'; did you mean wandb"),
        (["--dry-run", "--track", "tensorboard"], "--dry-run and --track do not go together"),
        (["--dry-run", "--no-retry"], "--dry-run and --no-retry do not go together"),
        (["--claims", "nowhere.toml"], "nowhere.toml"),
        (["--prompts", "nope"], "unknown prompt set of colours 'nope'; known: single"),
        (["--prompts", "openai_80"], "unknown prompt set of colours 'openai_80'; known: single"),
        (["--data-root", "memory://data"], "memory://data: what is fetched is written to a disk"),
    ],
)
def test_mistakes_cost_nothing(place: Path, server: FileServer, arguments: list[str], message: str) -> None:
    assert message in failure(study(place, *arguments))
    assert not server.requests
    assert not (place / "data").exists()
    assert not (place / "study").exists()


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ("study", "study is a file, not a folder of results"),
        ("study/results", "results is a file, not a folder of results"),
        ("study/figures", "figures is a file, not a folder for figures"),
        ("study/claims.md/", "claims.md is a folder, and a page is written there; choose another --out"),
        ("study/report.html/", "report.html is a folder, and a page is written there; choose another --out"),
    ],
)
def test_a_wrong_place_for_results_costs_nothing(
    place: Path, server: FileServer, made: str, message: str
) -> None:
    path = place / made
    path.parent.mkdir(exist_ok=True)
    path.mkdir() if made.endswith("/") else path.write_text("precious")
    assert message in failure(study(place))
    assert not server.requests
    assert not (place / "data").exists()


def test_figures_that_lack_rows_are_no_failure(place: Path) -> None:
    """A figure may ask for data sets that the suite does not name."""
    (place / "mine.toml").write_text(FIGURE.replace('dataset = "many"', 'dataset = "imagenet_val"'))
    done = study(place, "--models", "one", "--limit", "6")
    assert done.exit_code == 0, done.output
    assert "no figure can be drawn" in done.output
    assert "no model has all rows of a figure" in done.output
    assert (place / "study" / "report.html").exists()


@pytest.mark.parametrize("error", [DataError, UsageError])
def test_no_failure_hides_another(
    place: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    def fail(message: str) -> object:
        def step(_: object) -> None:
            raise error(message)

        return step

    server.files["/few.tar"] = Content(statuses=[403] * 9)
    for name in ("drawn", "claims", "report"):
        monkeypatch.setattr(f"clipjax.commands.runs.study.{name}", fail(f"{name} failed"))
    said = study(place, "--models", "one", "--limit", "6")
    message = failure(said)
    assert "a data set is not there: few" in message
    assert "; also drawn failed; also claims failed; also report failed" in message
    assert isinstance(said.exception, DataError)  # exit code 1


@pytest.mark.parametrize("by_suite", [False, True], ids=["--data-root", "data_root of the suite"])
def test_a_dry_run_names_what_is_not_fetched_and_why(place: Path, by_suite: bool) -> None:
    cards = place / "configs" / "datasets"
    (few, odd) = (cards / "few.toml", cards / "odd.toml")
    few.write_text(few.read_text().partition("\nlicence")[0])
    odd.write_text(odd.read_text().partition("\nlicence")[0] + BY_HAND)
    if by_suite:
        suite = place / "colours.toml"
        suite.write_text(f'data_root = "{place / "data"}"\n{suite.read_text()}')
    said = study(place, "--dry-run")
    assert said.exit_code == 0, said.output
    assert f"on 3 data sets: there is no folder {place / 'data'}" in said.output
    assert "give their folder with --data-root" not in said.output
    assert left_out(said) == {"few": "its card names no files to fetch", "odd": "by hand"}
    said = study(place, "--dry-run", "--from", place)
    assert left_out(said)["odd"] == f"by hand, unless {place} has it"
    said = study(place, "--dry-run", "--no-fetch")
    assert "to fetch: nothing" in said.output
    assert left_out(said) == {
        "many": "--no-fetch",
        "few": "its card names no files to fetch",
        "odd": "--no-fetch",
    }


def left_out(said: Result) -> dict[str, str]:
    """Data set -> why it is not there."""
    _, _, table = said.output.partition("so these are left out or not whole:")
    lines = [re.split(r"  +", line.strip()) for line in table.splitlines()]
    return {line[0]: line[1] for line in lines if line[0] in ("many", "few", "odd")}


def test_without_a_folder_of_data_sets() -> None:
    with_none = CliRunner().invoke(app, ["study", "--dry-run"])
    assert "say where the data sets of suite:study are, or go" in failure(with_none)

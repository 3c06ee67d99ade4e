"""An option is a field of `Request` or `Compute`: the rest is made from it; a new one touches one file."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import _keywords
import pytest
import typer
from typer.testing import CliRunner

import clipjax
from clipjax import cli
from clipjax.data.pixels.preprocess import Decode
from clipjax.data.questions import ROTATIONS
from clipjax.embeddings.compute import Compute
from clipjax.embeddings.placements import placements
from clipjax.errors import UsageError
from clipjax.evaluation.request import Request
from clipjax.metrics.uncertainty.bootstrap import RESAMPLES
from clipjax.models.dense import PROBE3D, DenseRecipe
from clipjax.models.precision import Precision
from clipjax.options import Option, by_field, keywords_of, option, options_of
from clipjax.sweep.suite import OPTIONS

WRITTEN = [each for of in (Request, Compute) for each in options_of(of).values() if each.kind is not None]


def test_editors_see_the_keywords_that_there_are() -> None:
    stub = _keywords.FILE.read_text(encoding="utf-8")
    assert stub == _keywords.stub(), ".venv/bin/python tests/records.py keywords"


def test_each_keyword_is_described_and_has_the_type_of_its_field() -> None:
    parameters = inspect.signature(clipjax.evaluate).parameters
    description = inspect.getdoc(clipjax.evaluate) or ""
    for record in (Request, Compute):
        for field in dataclasses.fields(record):
            about = options_of(record)[field.name]
            assert f"\n    {field.name}: " in description
            assert parameters[field.name].annotation == (about.accepts or field.type)
    assert "--" not in description, "flags are keywords in Python"
    assert "Name of the `root` images" in description


def test_another_keyword_is_refused_as_python_does() -> None:
    with pytest.raises(TypeError, match=r"^evaluate\(\) got an unexpected keyword argument 'limt'$"):
        clipjax.evaluate("vit_b_32-openai", limt=3)  # pyright: ignore[reportCallIssue]
    with pytest.raises(TypeError, match="colour"):
        keywords_of(test_another_keyword_is_refused_as_python_does, {"colour": 1}, Request)


def test_the_command_line_takes_every_option_with_its_bounds() -> None:
    group: Any = typer.main.get_command(cli.app)
    parameters = {each.name: each for each in group.commands["eval"].params}
    for about in WRITTEN:
        parameter = parameters[about.name]
        assert about.flag in parameter.opts
        assert getattr(parameter, "help", "").startswith(about.help)
        if about.least is not None and not about.auto:
            done = CliRunner().invoke(cli.app, ["eval", "zeroshot", about.flag, str(about.least - 1)])
            assert done.exit_code == 2
            assert f"'{about.flag}'" in done.stderr


def test_a_suite_takes_what_neither_names_data_nor_belongs_to_the_machine() -> None:
    left_out = {each.name for each in WRITTEN} - set(OPTIONS)
    data = {"data", "dataset", "data_name", "id_data", "id_dataset", "labels", "prompts"}
    assert left_out == data | {"workers", "keep_maps"}


def test_the_choices_are_those_of_what_runs() -> None:
    options = options_of(Request)
    assert options["precision"].choices == get_args(Precision)
    assert options["decode"].choices == get_args(Decode)
    assert sorted(options["rotations"].choices) == sorted(ROTATIONS)
    assert set(options_of(Compute)["params"].choices) == {"auto", *placements("auto")}
    assert Request().resamples == RESAMPLES
    for name in ("layers", "attention", "positions"):
        for choice in options[name].choices:
            dataclasses.replace(PROBE3D, **{name: choice})
    assert {each.name for each in dataclasses.fields(DenseRecipe)} == {"layers", "attention", "positions"}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"limit": 0}, "the limit must be at least 1 image, not 0"),
        ({"limit": "3"}, "the limit must be at least 1 image, not '3'"),
        ({"steps": 0}, "an answer needs 1 step or more, not 0"),
        ({"precision": "fst"}, r"unknown precision 'fst'; did you mean fast\?"),
        ({"precision": None}, "unknown precision 'None'"),
        ({"layers": "first"}, "unknown layers 'first'"),
        ({"rotations": "some"}, "unknown order of options 'some'"),
        ({"decode": "half"}, "unknown way to decode 'half'"),
    ],
)
def test_a_value_out_of_bounds_is_refused_when_the_record_is_made(values: dict, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Request(**values)


def test_none_passes_where_it_is_the_default() -> None:
    assert Request(limit=None, layers=None).limit is None
    assert Compute(per_device_batch="auto", workers="auto").workers == "auto"


def test_values_are_found_by_the_names_that_a_user_writes() -> None:
    written = {"batch_size": 8, "data": "photos", "seed": 3}
    assert by_field(Request, written) == {"root": "photos", "seed": 3}
    assert by_field(Compute, written) == {"per_device_batch": 8}


def test_a_field_without_option_is_none() -> None:
    @dataclasses.dataclass(frozen=True)
    class Mixed:
        plain: int = 0
        sides: int = option(3, "Sides of a shape.", kind=int, minimum=3, bound="a shape has 3 sides or more")

    assert list(options_of(Mixed)) == ["sides"]
    assert Mixed().sides == 3


@pytest.mark.parametrize(("sides", "fits"), [(-7, True), (8, True), (9, False), (8.0, False)])
def test_an_option_with_a_greatest_number_alone(sides: Any, fits: bool) -> None:
    most = Option(help="", kind=int, maximum=8, bound="a shape has at most 8 sides")
    with contextlib.nullcontext() if fits else pytest.raises(UsageError, match="at most 8 sides, not"):
        most.check(sides)


# The text of one file is another: the rest of clipjax is as it is.
WITH_A_FIELD = '''
import importlib.util, inspect, sys, types
from pathlib import Path

spec = importlib.util.find_spec("clipjax.evaluation.request")
text = Path(spec.origin).read_text(encoding="utf-8")
field = """shade: int | None = option(
        None, "Darken images by this much.", kind=int, minimum=2, bound="a shade is at least 2",
        panel="Measurement")
    def __post_init__"""
assert text.count("def __post_init__") == 1
module = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = module
exec(compile(text.replace("def __post_init__", field), spec.origin, "exec"), vars(module))

import typer
from typer.testing import CliRunner
from clipjax import cli
from clipjax.commands.runs.evaluate_options import EvaluateOptions
from clipjax.commands.shared.records import with_options

help = CliRunner().invoke(cli.app, ["eval", "--help"]).stdout
assert "--shade" in help and "[x>=2]" in help and "Darken images" in help, help

seen, app = [], typer.Typer(add_completion=False)
app.command()(with_options(EvaluateOptions, seen.append))
line = ["zeroshot", "--model", "vit_b_32-openai", "--data", "."]
assert CliRunner().invoke(app, [*line, "--shade", "5"]).exit_code == 0
assert seen[0].one_run().shade == 5
assert CliRunner().invoke(app, [*line, "--shade", "1"]).exit_code == 2
done = CliRunner().invoke(cli.app, ["eval", "zeroshot", "--predictions", "x.csv", "--shade", "5"])
assert "--predictions and --shade do not go together" in str(done.exception), done

import clipjax
from clipjax.errors import UsageError
from clipjax.evaluation import evaluate
ran = []
evaluate.run = lambda model, task, request, compute, results: ran.append(request)
clipjax.evaluate("vit_b_32-openai", shade=7)
assert ran[0].shade == 7
assert inspect.signature(clipjax.evaluate).parameters["shade"].annotation == "int | None"
assert "shade: Darken images by this much." in clipjax.evaluate.__doc__
try:
    clipjax.evaluate("vit_b_32-openai", shade=1)
except UsageError as error:
    assert str(error) == "a shade is at least 2, not 1"
else:
    raise AssertionError("not refused")

from clipjax.errors import DataError
from clipjax.sweep import plan
from clipjax.sweep.suite import load_suite
def suite(value):
    Path("mine.toml").write_text(f"""title = "Mine"
models = ["vit_b_32-openai"]
[[runs]]
task = "zeroshot"
shade = {value}
""")
    return load_suite("mine.toml").runs[0]
plan.distinct = lambda jobs, own_head: jobs
[item] = plan._items(types.SimpleNamespace(own_head=False), suite(4), ["a job"])
assert item.request.shade == 4
for value, says in (("1", "shade = 1 must be at least 2"), ('"dark"', "shade = 'dark' must be")):
    try:
        suite(value)
    except DataError as error:
        assert says in str(error), error
    else:
        raise AssertionError("not refused")
'''


def test_a_new_option_is_one_field(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITH_A_FIELD]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_number_that_is_no_number_is_refused_by_its_flag() -> None:
    for flag, of in (("--batch-size", "images"), ("--workers", "processes")):
        line = ["eval", "zeroshot", "--model", "vit_b_32-openai", "--data", ".", flag, "many"]
        done = CliRunner().invoke(cli.app, line)
        assert str(done.exception) == f"{flag}: a number of {of}, or auto, not 'many'"

"""What a newcomer sees: the start, help texts and tables on a terminal of 80 columns, levels of notes."""

from __future__ import annotations

import logging
import re
import unicodedata
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from clipjax import __version__, cli, progress
from clipjax.commands.shared import completion
from clipjax.commands.shared.columns import fitted
from clipjax.commands.shared.help import shaped
from clipjax.commands.shared.notes import logs_as_notes
from clipjax.commands.shared.output import announce, print_table, say

MOST = 12  # options of a panel
WIDTH = 76  # columns of an example, with its indent


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not (inner := getattr(command, "commands", {})):
        yield path, command
    for name, each in inner.items():
        yield from commands(each, (*path, name))


ALL = dict(commands(typer.main.get_command(cli.app)))


@pytest.fixture(autouse=True)
def level() -> Iterator[None]:
    yield
    progress.set_level("info")


def test_clipjax_alone_says_where_to_start() -> None:
    done = CliRunner().invoke(cli.app, [])
    assert done.exit_code == 0
    for words in re.findall(r"^  clipjax (.*?)(?:   .*)?$", done.stdout, re.MULTILINE):
        assert tuple(words.split()[:1]) in ALL or tuple(words.split()[:2]) in ALL, words
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_the_version() -> None:
    done = CliRunner().invoke(cli.app, ["--version"])
    assert done.stdout.startswith(f"clipjax {__version__} (Python 3.")


def test_every_option_names_its_value_in_words() -> None:
    """And not by typer's types, such as <list[str]>."""
    for path, command in ALL.items():
        for option in (each for each in command.params if each.param_type_name == "option"):
            assert option.metavar is not None or option.name == "help", (path, option.name)


def test_examples_survive_80_columns_and_can_be_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for path, command in ALL.items():
        paragraphs = (command.help or "").split("\n\n")
        examples = [each for each in paragraphs if each.startswith("    ")]
        assert not [each for each in paragraphs if each.startswith("Example") and "clipjax " in each], path
        if not examples:
            continue
        screen = [line.strip() for line in CliRunner().invoke(cli.app, [*path, "-h"]).stdout.splitlines()]
        for example in examples:
            assert example.startswith("    clipjax "), path
            ends = [line.endswith(" \\") for line in example.splitlines()]
            assert ends == [True] * (len(ends) - 1) + [False], (path, example)
        for line in "\n".join(examples).splitlines():
            assert len(line) <= WIDTH, (path, line)
            assert line.strip() in screen, (path, line)


def test_paragraphs_flow_and_examples_do_not() -> None:
    example = "    clipjax do this \\\n        --with that"
    assert shaped(f"Do it.\n\nOne line\nand another.\n\nExample:\n\n{example}") == (
        f"Do it.\n\nOne line and another.\n\nExample:\n\n{example}"
    )


def test_many_options_are_in_named_panels() -> None:
    """A new option of such a command states its panel, or is in `PANELS` of the command's record."""
    for path, command in ALL.items():
        options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
        panels = [option.rich_help_panel for option in options]
        if len(options) > MOST - 2:
            lost = [option.name for option in options if option.rich_help_panel is None]
            assert not lost, f"clipjax {' '.join(path)}: no panel of {lost}"
            assert max(map(panels.count, panels)) <= MOST, path


def test_a_wide_table_fits(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    titles = ["model", "task", "value", "note"]
    rows = [[f"a_model_{n}", "zeroshot", n / 7, "words " * 12] for n in range(3)]
    print_table(titles, rows)
    piped = capsys.readouterr().out.splitlines()
    assert len(piped) == 5, "a file or a pipe gets one line per row"
    monkeypatch.setenv("COLUMNS", "60")
    print_table(titles, rows)
    out = capsys.readouterr().out
    assert out.startswith("task zeroshot\n\nmodel ")
    assert max(map(len, out.splitlines())) <= 60
    assert out.count("words") == 3 * 12
    assert out.count("zeroshot") == 1


def on_screen(text: str) -> str:
    """A character for each of the terminal's columns, by Unicode's own tables."""
    letters = [letter for letter in text if not unicodedata.combining(letter)]
    return "".join(each * (2 if unicodedata.east_asian_width(each) in "WF" else 1) for each in letters)


@pytest.mark.parametrize("width", [None, 100, 60, 40])
def test_letters_that_take_two_columns(width: int | None) -> None:
    words = "これは長い文章です " * 4
    titles = ["image", "言葉", "n", "text"]
    cells = [
        ["犬と鳥", "cafe\u0301", "0.5", words],
        ["cat", "猫", "12.25", "words " * 9],
        ["x", "y", "3", "z"],
    ]
    titles_line, rule, *rows = (on_screen(line.text) for line in fitted(titles, cells, width))
    assert len(rule) <= (width or 140)
    for line in (titles_line, *rows):
        assert len(line) <= len(rule)
        assert all(line[gap.start() : gap.end()].strip() == "" for gap in re.finditer(" +", rule)), line
    shown = "".join(line.text for line in fitted(titles, cells, width)).replace(" ", "")
    assert (shown.count("これ"), shown.count("words")) == (4, 9)


def test_a_headline_of_wide_letters() -> None:
    cells = [["x", "猫" * 30, "word " * 9], ["y", "猫" * 30, "word"]]
    assert max(len(on_screen(line.text)) for line in fitted(["a", "b", "c"], cells, 30)) == 30


def test_columns_that_do_not_fit_follow_below() -> None:
    titles = ["model", *(f"number_{n}" for n in range(12))]
    cells = [[f"m{row}", *(f"{10 * row + n / 10:.4f}" for n in range(12))] for row in range(2)]
    lines = list(fitted(titles, cells, 50))
    assert max(len(line.text) for line in lines) <= 50
    shown = " ".join(line.text for line in lines)
    assert all(shown.split().count(cell) == 1 for row in cells for cell in row[1:])
    assert [line.row for line in lines[:4]] == [None, None, 0, 1]
    assert sum(line.text.startswith("model") for line in lines) == 3
    names = [line.text for line in fitted(["model", "b"], [["x" * 40, "y y " * 20]], 60)]
    assert f"{'x' * 40}  " in names[2], "a name is not broken: it is copied"


def test_the_log_level(capsys: pytest.CaptureFixture[str]) -> None:
    def shown(level: str) -> str:
        progress.set_level(level)
        say("result")
        say("note", err=True)
        announce("progress")
        progress.progress_bar(1, "bar", "step").update()
        return "".join(capsys.readouterr())

    assert shown("error") == "result\n"
    assert shown("warning") == "result\nnote\n"
    assert "progress\nbar: 1/1" in shown("info")
    done = CliRunner().invoke(cli.app, ["--log-level", "wanting", "tasks"])
    assert "unknown log level 'wanting'; did you mean warning?" in str(done.exception)


def test_logs_and_warnings_are_notes_without_level_and_module(capsys: pytest.CaptureFixture[str]) -> None:
    def shown(level: str) -> str:
        progress.set_level(level)
        with warnings.catch_warnings(), logs_as_notes():
            warnings.simplefilter("always")
            logging.getLogger("clipjax.checkpoints").warning("%s are logged", "weights")
            warnings.warn("texts were cut", stacklevel=1)
        return capsys.readouterr().err

    logger = logging.getLogger("clipjax")
    before = list(logger.handlers), logger.propagate, logging.root.manager.disable
    assert shown("warning") == "weights are logged\ntexts were cut\n"
    assert shown("error") == ""
    assert (logger.handlers, logger.propagate, logging.root.manager.disable) == before


def test_names_are_completed() -> None:
    assert completion.tasks("zero") == ["zeroshot"]
    assert "vit_b_32-openai" in completion.models("vit_b_32-o")
    assert completion.datasets("imagenet_v") == sorted(completion.datasets("imagenet_v"))

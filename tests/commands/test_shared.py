"""What commands share: options declared once, exclusions refused in one way, no command in another."""

from __future__ import annotations

import ast
import io
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

import clipjax.commands
from clipjax import cli
from clipjax.commands.shared import output
from clipjax.commands.shared.exclusions import refuse_beside, refuse_without
from clipjax.commands.shared.output import announce, answering
from clipjax.commands.shared.processes import say_slow
from clipjax.commands.shared.records import fields_of, with_options
from clipjax.config import config_dir
from clipjax.errors import UsageError
from clipjax.evaluation.request import LABEL_SPACES

COMMANDS = Path(clipjax.commands.__file__).parent


def trees() -> dict[str, ast.Module]:
    files = COMMANDS.rglob("*.py")
    return {str(file.relative_to(COMMANDS)): ast.parse(file.read_text(encoding="utf-8")) for file in files}


def test_no_command_imports_another() -> None:
    commands = set(cli.command_modules())
    for name, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                assert node.module not in commands, f"{name}: {node.module}"


def test_commands_are_found_and_each_has_a_name_of_its_own() -> None:
    names = [module.rpartition(".")[2] for module in cli.command_modules()]
    assert not set(cli.ORDER) - set(names)
    root = cli.app.registered_commands, cli.app.registered_groups
    titles = [each.name or getattr(each.callback, "__name__", "") for part in root for each in part]
    assert len(titles) == len(set(titles))


def test_an_option_is_declared_once() -> None:
    """Two declarations with one help text would be one option, written twice."""
    texts: dict[str, str] = {}
    for name, tree in trees().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "typer.Option":
                helps = [ast.unparse(word.value) for word in node.keywords if word.arg == "help"]
                text = helps[0] if helps else f"{name} {node.lineno}"
                assert text not in texts, f"{name} and {texts[text]}: {text}"
                texts[text] = name


def test_what_does_not_go_together_is_named() -> None:
    refuse_beside("--all", {"--card": None, "--json": False, "--fact": []})
    refuse_without("--all", {"--card": None, "--json": False, "--fact": []})
    with pytest.raises(UsageError, match=r"^--all and --card, --n do not go together: leave one of"):
        refuse_beside("--all", {"--card": "x", "--n": 0, "--json": False})
    with pytest.raises(UsageError, match=r"^--n has no effect without --all: give both or neither$"):
        refuse_without("--all", {"--n": 0})


@dataclass(frozen=True, kw_only=True)
class _Inside:
    colours: Annotated[list[str] | None, typer.Option("--colour")] = None


@dataclass(frozen=True, kw_only=True)
class _Outside:
    context: typer.Context
    name: Annotated[str, typer.Argument()]
    inside: _Inside
    size: Annotated[int, typer.Option(min=1)] = 3


def test_options_become_a_record_and_those_of_a_record_inside_keep_their_place() -> None:
    seen: list[_Outside] = []

    def paint(options: _Outside) -> None:
        """Paint it."""
        seen.append(options)

    app = typer.Typer(add_completion=False)
    app.command()(with_options(_Outside, paint))
    assert CliRunner().invoke(app, ["x", "--colour", "red", "--colour", "blue"]).exit_code == 0
    assert (seen[0].name, seen[0].size, seen[0].inside) == ("x", 3, _Inside(colours=["red", "blue"]))
    assert seen[0].context.params["size"] == 3
    assert CliRunner().invoke(app, ["x", "--size", "0"]).exit_code == 2
    command = typer.main.get_command(app)
    assert command.help == "Paint it."
    assert [each.name for each in command.params] == ["name", "colours", "size"]
    assert fields_of(_Inside, seen[0], colours=["green"]) == _Inside(colours=["green"])


def test_help_lists_the_label_spaces() -> None:
    shipped = {
        file.stem for file in (config_dir() / "labels").glob("*.csv") if not file.stem.startswith("demo_")
    }
    assert set(LABEL_SPACES.split(", ")) == shipped


@pytest.mark.parametrize(("line", "says"), [(None, "starting ...\n"), ("loading b32", "loading b32\n")])
def test_a_command_tells_soon_that_it_has_started(
    line: str | None, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, on a terminal, unless it has printed something itself."""
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr(output, "SOON", 0.05)
    end = time.monotonic() + (10 if line is None else 0.2)
    with answering():
        if line is not None:
            announce(line)
        while time.monotonic() < end and (line is not None or not terminal.getvalue()):
            time.sleep(0.01)
    assert terminal.getvalue().replace("\x1b[0m", "") == says


def test_fast_on_a_cpu_is_said_to_be_slow(capsys: pytest.CaptureFixture[str]) -> None:
    say_slow("parity")
    assert not capsys.readouterr().err
    say_slow("fast")
    assert "parity is faster here" in capsys.readouterr().err


@pytest.mark.usefixtures("with_bfloat16")
def test_fast_is_not_slow_on_a_cpu_that_multiplies_bfloat16(capsys: pytest.CaptureFixture[str]) -> None:
    say_slow("fast")
    assert not capsys.readouterr().err

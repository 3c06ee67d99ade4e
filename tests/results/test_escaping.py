"""Names from data are text wherever they are written: CSV, Markdown, LaTeX, a terminal, the report."""

from __future__ import annotations

import ast
import csv
import io
import re
import subprocess
import sys
from pathlib import Path

import pytest
from _rows import row
from typer.testing import CliRunner

from clipjax.cli import app
from clipjax.commands.shared.output import print_table
from clipjax.errors import visible
from clipjax.results.escaping import csv_cell, markdown, terminal, tex_row
from clipjax.results.exports import text_parts
from clipjax.results.store import ResultStore, new_run_id
from clipjax.results.tables import as_csv, as_latex, as_markdown

HOSTILE = [
    "=cmd|' /C calc'!A0",
    "+1+1",
    "-2+3+cmd",
    "@SUM(1)",
    "\t=1",
    "\x1b[31mred\x1b]0;title\x07",
    "[x](javascript:1)",
    "![x](http://a.b/c.png)",
    "<img src=x onerror=1>",
    "<http://a.b>",
    "http://a.b and www.a.b",
    "`code` *a* _b_ ~~c~~ &lt;",
    "a\rb",
    "a\nb",
    r"a\\[1ex]",
    "[1ex] b",
    r"\input{/etc/passwd} $x$ 100% #1 ^^M ~",
    "\u202egnp.exe",
    "a\u2028b\x00\x85",
]
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e]")


def hostile_rows():
    run_id = new_run_id()
    return [
        row(run_id, model=f"{name}", note=name, slice=f"{name} {k}", recipe_hash=f"{k:064x}")
        for k, name in enumerate(HOSTILE)
    ]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_cell_of_a_spreadsheet_is_a_formula(text):
    [[cell], *_] = csv.reader(io.StringIO(as_csv([text], [])))
    assert not cell.lstrip().startswith(("=", "+", "-", "@"))
    assert not CONTROL.search(cell)
    assert cell.lstrip("'").strip() == visible(text.replace("\r", "\n"), "\n\t").strip()


@pytest.mark.parametrize("value", [-0.5, "-0.5", "+0.0312", "-0.1332; 0.03", 3, None, True, "-inf", "a-b"])
def test_numbers_stay_numbers_in_a_spreadsheet(value):
    assert csv_cell(value) == value


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_in_a_markdown_table_is_markup(text):
    markdown_it = pytest.importorskip("markdown_it")
    table = as_markdown(["a", "b"], [[text, "x"], ["[0.40, 0.60]", "y"]])
    assert len(table.splitlines()) == 4
    html = markdown_it.MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(table)
    assert not re.search(r"<(a|img|code|em|strong|s|del|h[1-6]|script)\b", html)
    assert html.count("<td") == 4


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("[x](javascript:1)", r"\[x\](javascript\:1)"),
        ("<img src=x>", r"\<img src=x\>"),
        ("a|b `c` *d* _e_ f_g", r"a\|b \`c\` \*d\* \_e\_ f_g"),
        ("a\rb\x1b", r"a b\\x1b"),
        ("http://a.b www.c.d", r"http\://a.b www\.c.d"),
        ("&lt; & x", "&amp;lt; & x"),
        ("0.51 [0.40, 0.60]", "0.51 [0.40, 0.60]"),
        ("[0.40, 0.60](x)", r"\[0.40, 0.60\](x)"),
        ("vit_b_32-openai@336px", "vit_b_32-openai@336px"),
    ],
)
def test_markdown_of_names(text, written):
    assert markdown(text) == written


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_in_a_latex_table_is_a_command(text):
    table = as_latex([text, "b"], [[text, "x"]])
    body = [line for line in table.splitlines() if line.endswith(r" \\")]
    assert len(body) == 2
    assert not CONTROL.search(table)
    for line in body:
        assert not line.startswith(("[", "*"))
        bare = re.sub(r"\\text[a-z]+\{\}|\\[&%$#_{}]", "", line.removesuffix(r" \\")).removeprefix("{}")
        assert not re.search(r"[\\%$#_{}~^]", bare)
        assert bare.count("&") == 1


def test_a_line_of_latex_begins_with_no_argument():
    assert tex_row(["[1ex]", "[b]"]) == r"{}[1ex] & [b] \\"
    assert tex_row(["*", ""]) == r"{}* &  \\"


def test_a_terminal_is_not_obeyed(capsys):
    print_table(["name"], [[name] for name in HOSTILE])
    shown = capsys.readouterr().out
    assert not CONTROL.search(shown.replace("\n", ""))
    assert r"\x1b[31mred\x1b]0;title\x07" in shown
    assert r"\u202egnp.exe" in shown
    assert len(shown.splitlines()) == len(HOSTILE) + 2
    assert terminal("a\nb\tc\rd\udc80") == "a\nb\tc\\rd\\udc80"


def test_titles_of_a_table_are_not_obeyed_and_fit(capsys, monkeypatch):
    """Names of data sets are titles: of folders, which may be called anything."""
    long = "0123456789abcdef" * 4
    print_table(HOSTILE, [["0.5"] * len(HOSTILE)])
    shown = capsys.readouterr().out
    assert not CONTROL.search(shown.replace("\n", ""))
    assert len(shown.splitlines()) == 3
    assert r"\x1b[31mred\x1b]0;title\x07" in shown
    monkeypatch.setenv("COLUMNS", "80")
    print_table(
        ["model", long, f"pets/{long}", "r"], [["a", "0.5000", "0.5000", "1"], ["b", "0.6000", "", "2"]]
    )
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert not any(line.startswith(" " * 80) for line in lines)
    assert "".join("".join(lines[:3]).split()).count("0123456789") >= 4  # nothing of a name is cut off
    print_table(["model", "top1", long], [["a", "0.5000", "0.5000"], ["b", "0.6000", ""]])
    assert capsys.readouterr().out.splitlines()[-1].split() == ["b", "0.6000"]


def test_an_error_message_is_not_obeyed(tmp_path):
    code = f"import sys; sys.argv = ['clipjax', 'results', 'list', {str(tmp_path)!r} + '/\\x1b[31m']\n"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}from clipjax.cli import main; main()"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert r"/\x1b[31m does not exist" in done.stderr
    assert "\x1b" not in done.stderr


def test_every_export_of_hostile_rows_is_text(tmp_path):
    rows = hostile_rows()
    for form in ("csv", "markdown", "latex"):
        assert not CONTROL.search("".join(text_parts(rows, form)))
    ResultStore(tmp_path).add(rows)
    done = CliRunner().invoke(app, ["results", "list", "--slices", str(tmp_path)])
    assert done.exit_code == 0
    assert not CONTROL.search(done.stdout)


def test_a_report_of_hostile_names_is_written(tmp_path):
    run_id = new_run_id()
    rows = [
        row(run_id, model=name, note=name, dataset=dataset, recipe_hash=f"{k}{n}".rjust(64, "0"))
        for k, name in enumerate(HOSTILE)
        for n, dataset in enumerate(("imagenet_val", "imagenet_v2:matched-frequency", "imagenet_a"))
    ]
    ResultStore(tmp_path / "\x1bresults").add(rows)
    words = ["report", str(tmp_path / "\x1bresults"), "--out", str(tmp_path / "page.html")]
    done = CliRunner().invoke(app, words)
    assert done.exception is None
    page = (tmp_path / "page.html").read_text()
    assert not CONTROL.search(page)
    assert "<img src=x" not in page
    assert "\\u001b" not in page


def test_commands_print_through_one_function():
    folder = Path(__file__).resolve().parents[2] / "clipjax" / "commands"
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and path.name != "output.py":
                name = ast.unparse(node.func)
                assert name not in ("print", "typer.echo", "typer.secho"), f"{path}:{node.lineno}: use say"

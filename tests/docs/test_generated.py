"""What the site generates: complete, and readable as Markdown."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields, replace
from fnmatch import fnmatch
from pathlib import Path

import pytest
from _pages import MADE_ONCE
from typer.testing import CliRunner

import clipjax
from clipjax.analysis.rows.curation import columns
from clipjax.checkpoints.identity.registry_rows import model_ids
from clipjax.cli import app
from clipjax.data.cards import registered_cards
from clipjax.evaluation.request import Request
from clipjax.models.modules.forms import ALWAYS, FORMS, When
from clipjax.results.row import Row
from clipjax.tasks.task import all_tasks
from docs.generate.commands import commands
from docs.generate.config_files import RECORDS
from docs.generate.forms import MEANINGS, taken
from docs.generate.markdown import attributes, code, text
from docs.generate.parts import PARTS
from docs.generate.python import metric_modules
from docs.generate.samples import FOLDER, LIKE, WITHOUT, cards_with_sample, sample_of
from docs.generate.stage import DOCS, MARKER, pages, place_of, stage, with_links, with_parts

TOCTREE = re.compile(r"^```\{toctree\}\n(?::.*\n)*\n(.*?)^```", re.DOTALL | re.MULTILINE)
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")


def made(part: str) -> str:
    return MADE_ONCE[part]()


@pytest.mark.parametrize("command", ["eval", "results list", "finetune", "datasets fetch"])
def test_a_command_s_options_are_those_of_its_help(command: str) -> None:
    shown = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "200"}).stdout
    section = made("commands").partition(f"## clipjax {command}\n")[2].partition("\n## ")[0]
    listed = set(re.findall(r"^\W*(--[a-z][a-z-]+)", shown, re.MULTILINE)) - {"--help"}
    assert len(listed) > 3
    assert listed - set(FLAG.findall(section)) == set()


def test_every_command_has_a_section() -> None:
    names = [name for name, _ in commands()]
    assert len(names) == len(set(names)) > 40
    assert re.findall(r"^## (clipjax .*)", made("commands"), re.MULTILINE) == names


def test_every_model_data_set_field_and_headline_is_there() -> None:
    compared = {name: task for name, task in all_tasks().items() if task.paired}
    headlines = {
        *compared,
        *(each for task in compared.values() for names in task.headlines for each in names),
    }
    assert len(compared) > 10
    missing = {
        "models": {f"`{name}`" for name in model_ids()},
        "data_sets": {card.name.partition(":")[0] for card in registered_cards()},
        "comparisons": {f"`{name}`" for name in headlines},
        "result_row": {f"`{name}`" for name in Row.__annotations__},
        "config_files": {f"`{each.name}`" for each in fields(Request)},
        "python": {f":: clipjax.{name}\n" for name in clipjax.__all__ if not name.startswith("_")},
        "metrics": {f".. automodule:: {each.__name__}\n" for each in metric_modules().values()},
    }
    for part, names in missing.items():
        text_of_part = made(part)
        assert {name for name in names if name not in text_of_part} == set(), part


def test_a_line_has_the_files_of_a_family_and_of_data_sets_that_share_them() -> None:
    assert "| `imagenet_c:*` (95) | 5 files | about 62.0 GB | MD5 |" in made("files")
    line = "| `mscoco`, `mscoco_5captions` | val2014.zip, caption\\_datasets.zip | 6.7 GB | SHA-256 |"
    assert line in made("files")
    with_files = {card.name.partition(":")[0] for card in registered_cards() if card.files}
    assert set(re.findall(r"`(\w+)(?::\*)?`", made("files"))) == with_files


def test_a_place_is_the_folder_of_every_card_of_its_family() -> None:
    lines = dict(re.findall(r"^\| `([^`]+)`[^|]*\| `([^`]+)` \|", made("places"), re.MULTILINE))
    assert lines["imagenet_c:CORRUPTION:SEVERITY"] == "ImageNet-C/CORRUPTION/SEVERITY"
    assert lines["imagenet_r"] == "imagenet-r"
    published = [card for card in registered_cards() if not card.demo and card.source]
    by_name = {name.partition(":")[0]: place for name, place in lines.items()}
    assert by_name.keys() == {card.name.partition(":")[0] for card in published}
    for card in published:
        place = by_name[card.name.partition(":")[0]]
        for axis, value in card.variant.items():
            place = place.replace(axis.upper(), str(value))
        assert place == (card.place or card.name)


def test_every_file_of_predictions_and_every_column_of_the_curation_table_is_there() -> None:
    assert "| `imagenet_x` | `.npz` | `logits`, `ids` | `labels` |" in made("predictions")
    takes = [task.predictions for task in all_tasks().values()]
    forms = sum(bool(each.arrays) + (each.csv is not None) for each in takes)
    assert len(re.findall(r"^\| `", made("predictions"), re.MULTILINE)) == forms > 5
    terms = [f"`{term}`" for column in columns() for term in column.terms]
    assert re.findall(r"`[^`]+`", made("curation")) == terms


def test_every_published_data_set_has_a_licence_and_a_way_to_it() -> None:
    published = [card for card in registered_cards() if not card.demo and card.name != "folder"]
    assert len(published) > 100
    assert [card.name for card in published if not card.licence or not (card.files or card.source)] == []


def test_every_published_data_set_has_a_sample_or_a_reason() -> None:
    """A sample is the demo's: a card of `LIKE` with `demo = true` is one that clipjax renders."""
    published = {card.name.partition(":")[0] for card in registered_cards() if not card.demo}
    assert LIKE.keys() | WITHOUT.keys() == published
    assert not LIKE.keys() & WITHOUT.keys()
    demo = {card.name.partition(":")[0] for card in cards_with_sample()}
    assert demo == {*LIKE.values()}
    assert {path.name for path in FOLDER.iterdir()} == {f"{name}.png" for name in demo}
    assert [path.name for path in FOLDER.iterdir() if path.stat().st_size > 100_000] == []
    text_of_part = made("data_sets")
    assert [name for name in published if sample_of(name) not in text_of_part] == []


def test_every_refusal_of_the_list_is_there() -> None:
    listed = (Path(__file__).parents[1] / "refusals.txt").read_text(encoding="utf-8").splitlines()
    errors = [line.partition(": ")[2] for line in listed if line.startswith(("DataError", "UsageError"))]
    text_of_part = made("refusals")
    assert len(errors) > 500
    assert [each for each in errors if code(each.replace("{}", "...")) not in text_of_part] == []


def test_every_form_has_its_sentence() -> None:
    """If a form is new or gone: `MEANINGS` in docs/generate/forms.py."""
    assert {layer: {*meanings} for layer, (_, meanings) in MEANINGS.items()} == {
        layer: {*forms} for layer, forms in FORMS.items()
    }


def test_where_a_form_is_taken_is_told_whole() -> None:
    """Each field of `When` has its words; which of them the compiler decides is no matter of a reader."""
    others = {"platform": "gpu", "dtype": "bfloat16", "training": False, "compiler": True}
    others["float32_products"] = True
    assert {field.name for field in fields(When)} == {*others}
    assert taken(When("gpu", "bfloat16", training=False)) == "`fast` on a GPU, not in training"
    told = {name: taken(replace(ALWAYS, **{name: other})) for name, other in others.items()}
    assert [name for name, words in told.items() if words == taken(ALWAYS)] == ["compiler"]


@pytest.mark.parametrize("part", [name for name in PARTS if name not in ("python", "metrics")])
def test_every_row_has_as_many_cells_as_its_head(part: str) -> None:
    width = 0
    for line in made(part).splitlines():
        cells = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else 0
        assert not width or not cells or cells == width, line
        width = cells


def test_the_fields_that_a_record_describes_are_its_fields() -> None:
    """A name in "Attributes:" that no field has was joined to another, or is gone."""
    for each in RECORDS:
        assert set(attributes(each.record.__doc__)) <= {field.name for field in fields(each.record)}, (
            each.title
        )


def test_a_text_shows_what_it_contains() -> None:
    assert text("a|b *c* <d> --limit N, `x|y`") == "a\\|b \\*c\\* \\<d\\> `--limit` N, `x\\|y`"
    assert code("a|b") == "`a\\|b`"


def test_every_marker_has_its_part() -> None:
    found = [name for path in pages().values() for name in MARKER.findall(path.read_text(encoding="utf-8"))]
    assert set(found) == set(PARTS)
    with pytest.raises(ValueError, match=r"p\.md: nothing generates gone; a are generated"):
        with_parts("<!-- generated: gone -->\n", {"a": str}, "p.md")
    whole = with_parts("# T\n\n<!-- generated: a -->\nelsewhere\n\nend\n", {"a": lambda: "made\n"}, "p.md")
    assert whole == "# T\n\nmade\n\nend\n"


def test_links_into_the_checkout_lead_to_copies() -> None:
    page = DOCS / "page.md"
    page_text, linked = with_links(
        "[a](../README.md#x) [`b`](../pyproject.toml) [c](../configs) `[d](e.md)`\n```\n[f](g.md)\n```\n",
        page,
        Path("page.md"),
    )
    assert page_text == ("[a](README.md#x) [`b`](files/pyproject.toml) c `[d](e.md)`\n```\n[f](g.md)\n```\n")
    assert linked == {"files/pyproject.toml": DOCS.parent / "pyproject.toml"}
    assert place_of(DOCS / "examples" / "x.py") == "examples/x.py"
    with pytest.raises(ValueError, match=r"docs/page\.md: the link to gone\.md leads nowhere"):
        with_links("[a](gone.md)", page, Path("page.md"))


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources of the site, with a sample for all that is generated, in a folder that had another page."""
    folder = tmp_path_factory.mktemp("sources")
    (folder / "gone.md").write_text("gone")
    parts: dict[str, Callable[[], str]] = dict.fromkeys(PARTS, str)
    stage(folder, parts | {"data_sets": lambda: sample_of("navi")})
    return folder


def test_pictures_of_generated_parts_are_copied(sources: Path) -> None:
    """A part's links are those of its page."""
    assert (sources / "pictures" / "samples" / "demo_navi.png").is_file()


def test_a_page_that_is_gone_leaves_the_sources(sources: Path) -> None:
    assert not (sources / "gone.md").exists()
    assert set(pages()) <= {path.relative_to(sources).as_posix() for path in sources.rglob("*.md")}


def test_every_page_is_in_a_table_of_contents() -> None:
    """Without Sphinx, which refuses a page that no toctree names."""
    named = {"index.md"}
    for name, path in pages().items():
        for block in TOCTREE.findall(path.read_text(encoding="utf-8")):
            entries = [line.partition("<")[2].rstrip(">") or line for line in block.splitlines()]
            wanted = {f"{(Path(name).parent / entry).as_posix()}.md" for entry in entries}
            named |= {page for page in pages() if any(fnmatch(page, each) for each in wanted)}
    assert set(pages()) - named == set()

"""The coverage table: statuses from the parity record, and its tables."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from typer.testing import CliRunner

from clipjax.checkpoints.identity.registry import RegisteredArch, model_card, subjects
from clipjax.checkpoints.identity.registry_rows import registry
from clipjax.cli import app
from clipjax.errors import UsageError
from clipjax.estimates.aot import Executable, TowerRow
from clipjax.models.arch import family_of
from clipjax.models.parity_record import read_record
from clipjax.models.version import FORWARD_VERSION
from clipjax.verification import coverage, parity
from clipjax.verification.coverage import counts, family_table, markdown, table

NAME, ARCH = "vit_b_32-openai", "ViT-B-32-quickgelu"
RECORD = {
    "format": 1,
    "libraries": {"open_clip": "3.3.0", "torch": "2.13.0"},
    "archs": {
        ARCH: {
            "library": "open_clip",
            "library_arch": ARCH,
            "keys": 302,
            "params": 151277313,
            "full_size": "equal",
            "narrow": {"passed": True, "problem": None, "worst_stage": ["vision.blocks.1", 2.5e-7]},
            "arch_hash": next(subject.digest for subject in subjects() if subject.arch == ARCH),
            "forward_version": FORWARD_VERSION,
            "date": "2026-11-24",
        }
    },
    "rows": {NAME: ARCH},
}


def test_every_row_has_a_record_and_is_verified() -> None:
    """A row without a record, or with one of another forward pass, is not shown to be the same model."""
    found = {row.id: f"{row.status}: {row.why}" for row in coverage.coverage() if row.status != "verified"}
    assert found == {}
    record = read_record()
    stale = [subject.arch for subject in subjects() if not parity.up_to_date(record, subject)]
    assert stale == [], "run `clipjax verify --all --random-init`: an architecture or its rows changed"


def test_rows_are_those_of_the_registry_with_their_families() -> None:
    rows = coverage.coverage()
    assert [row.id for row in rows] == list(registry())
    for row in rows:
        arch = model_card(row.id).arch
        assert row.vision == family_of(arch.vision).name
        reader = "decoder" if arch.language is not None else None
        assert row.text == (family_of(arch.text).name if arch.text is not None else reader)
        assert row.image_size == arch.vision.image_size
        assert (row.tokenizer is None) == (arch.text is arch.language is None)
        assert row.licence == model_card(row.id).facts["licence"]
    of_the_repo = {row.id for row in rows if row.tokenizer == "needs files from the repo"}
    decoders = {row.id for row in rows if row.text == "decoder"}
    assert len(decoders) == 6
    assert of_the_repo == {
        "roberta_vit_b_32-laion2b_s12b_b32k",
        "vit_so400m_14_siglip_384-webli",
        *(name for name in registry() if "siglip2" in name or "metaclip2" in name),
        *decoders,
    }


def status(monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], record: Any = None) -> tuple[str, str]:
    record = copy.deepcopy(record or RECORD)
    for path, value in change.items():
        *parents, last = path.split("/")
        entry = record
        for key in parents:
            entry = entry[key]
        entry[last] = value
    monkeypatch.setattr(coverage, "read_record", lambda: record)
    (row,) = [row for row in coverage.coverage("clip") if row.id == NAME]
    return row.status, row.why


@pytest.mark.parametrize(
    ("change", "expected", "why"),
    [
        ({}, "verified", ""),
        ({"archs": {}}, "unverified", "no parity record"),
        ({"rows": {}}, "unverified", "no parity record"),
        ({f"rows/{NAME}": "ViT-B-32"}, "unverified", "no parity record"),
        ({f"archs/{ARCH}/forward_version": 0}, "unverified", "recorded for forward pass 0"),
        ({f"archs/{ARCH}/arch_hash": "of another record"}, "unverified", "have changed since"),
        ({f"archs/{ARCH}/full_size": "2 keys unused"}, "unverified", "2 keys unused"),
        (
            {f"archs/{ARCH}/narrow": {"passed": False, "problem": "differs first at vision.embed"}},
            "shapes only",
            "differs first at vision.embed",
        ),
    ],
)
def test_status(change: dict[str, Any], expected: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found, said = status(monkeypatch, change)
    assert found == expected
    assert why in said
    assert bool(why) == bool(said)


def test_an_architecture_without_a_file_is_not_supported(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {**registry()[NAME], "arch": "ViT-Z-99"}
    monkeypatch.setattr(coverage, "registry", lambda: {NAME: row})
    monkeypatch.setattr(
        coverage, "subjects", lambda: [RegisteredArch("ViT-Z-99", "open_clip", {NAME: "ViT-Z-99"})]
    )
    (found,) = coverage.coverage()
    assert found.status == "not supported"
    assert "configs/archs/ViT-Z-99.toml" in found.why


def test_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage, "read_record", lambda: RECORD)
    rows = coverage.coverage()
    titles, cells = table(rows)
    assert len(cells) == len(rows)
    assert {len(line) for line in cells} == {len(titles)}
    licences = {line[0]: line[titles.index("licence")] for line in cells}
    assert (licences["rn50-openai"], licences["vit_b_32-openai"]) == ("MIT", "unknown")
    titles, cells = family_table(rows)
    models, verified = titles.index("models"), titles.index("verified")
    assert sum(int(line[models]) for line in cells) == len(rows)
    assert sum(int(line[verified]) for line in cells) == counts(rows)["verified"] == 1
    text = markdown("families", rows)
    assert text.startswith("| image tower | text tower |")
    said = f"{len(rows)} models: 1 verified, {len(rows) - 1} unverified"
    assert text.endswith(f"{said}, against open_clip 3.3.0, torch 2.13.0.")
    written = coverage.to_dict(rows)
    assert written["counts"] == {"verified": 1, "unverified": len(rows) - 1}
    assert json.loads(json.dumps(written))["models"][0]["id"] == rows[0].id


def test_unknown_group_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="clip_ft"):
        coverage.coverage("clip_fit")


def test_the_command_prints_the_table_in_every_form(monkeypatch: pytest.MonkeyPatch) -> None:
    def printed(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["models", *arguments])
        assert result.exit_code == 0, result.output
        return result.stdout

    monkeypatch.setattr(coverage, "read_record", lambda: RECORD)
    lines = printed().splitlines()
    assert len(lines) == 2 + len(coverage.coverage()) + 2
    assert lines[-1].startswith(f"{len(coverage.coverage())} models: 1 verified, ")
    assert printed("--group", "curated").splitlines()[-1].startswith("5 models: ")
    assert printed("--group", "clip_ft", "--by-family").splitlines()[-1].startswith("32 models: ")
    assert printed("--markdown") == markdown("models", coverage.coverage()) + "\n"
    assert printed("--markdown", "--by-family") == markdown("families", coverage.coverage()) + "\n"
    assert json.loads(printed("--json")) == coverage.to_dict(coverage.coverage())


def test_ahead_of_time_compilation_takes_one_model_or_a_group(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[list[str], list[str]]] = []
    program = Executable(
        batch=8, argument_bytes=1, temporary_bytes=1, collectives={}, products=2, highest=2, seconds=1.0
    )

    def table(ids: list[str], chips: list[str], **_: object) -> list[TowerRow]:
        asked.append((ids, chips))
        return [TowerRow(ids[0], "vision", "parity", chips[0], 1.0, program)]

    monkeypatch.setattr("clipjax.estimates.aot.aot_table", table)
    shown = CliRunner().invoke(app, ["models", NAME, "--aot", "v5e,v4"])
    assert shown.exit_code == 0
    assert "2 of 2" in shown.stdout
    rows = CliRunner().invoke(app, ["models", "--group", "curated", "--aot", "v4", "--json"])
    assert json.loads(rows.stdout)["chip"] == "v4"
    assert asked[0] == ([NAME], ["v5e", "v4"])
    assert (len(asked[1][0]), asked[1][1]) == (5, ["v4"])

"""`clipjax claims`: what it prints and writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _claims import HEAD, claim, group_rows, rows_of
from typer.testing import CliRunner, Result

from clipjax.analysis.claims.claims import RULE
from clipjax.analysis.claims.ledger import ledger
from clipjax.cli import app
from clipjax.errors import DataError, UsageError
from clipjax.results.store import ResultStore

MEANS = 'statistic = "group_difference", y = "y", group = "ours", against = "others", side = "above"'
PAIRS = 'statistic = "paired_mean", y = "x", group = "ours", pairs = "parent", side = "above"'
NOISE = np.random.default_rng(0).normal(size=12)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A folder with results and with claims on them: one holds, one does not, and two are inconclusive."""
    rows = group_rows("ours", {"y": 0.6 + 0.01 * NOISE}) + group_rows("others", {"y": 0.5 + 0.02 * NOISE})
    ResultStore(tmp_path / "results").add(rows)
    claims = [
        claim(MEANS, "better", beware="Other recipes."),
        claim(MEANS.replace("above", "below"), "worse"),
        claim(PAIRS, "paired"),
        claim(PAIRS, "unheard", no_task="asking models"),
    ]
    (tmp_path / "mine.toml").write_text("\n".join([HEAD, *claims]))
    return tmp_path


def run(study: Path, *words: str) -> Result:
    command = ["claims", *words] if "--list" in words else ["claims", str(study / "results"), *words]
    return CliRunner().invoke(app, [*command, "--claims", str(study / "mine.toml")])


def lines(text: str, start: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(start)]


def test_a_line_a_claim_and_a_line_a_part(study: Path) -> None:
    found = run(study)
    assert found.exit_code == 0
    verdicts = {line.split("  ")[0]: line for line in found.stdout.splitlines()[2:6]}
    assert list(verdicts) == ["holds", "does not hold", "inconclusive"]
    assert "not measured: 1" in found.stdout
    assert "no task yet: 1" in found.stdout
    [part] = lines(found.stdout, "better ")
    value = 0.1 - 0.01 * NOISE.mean()
    assert f"{value:+.4f}" in part
    assert "  12 and 12  12 and 12 runs  0.005 (200 splits)" in part
    assert lines(found.stdout, "paired") == []  # what is missing is said of claims asked for by name
    assert "4 claims, holds: 1, does not hold: 1, inconclusive: 2" in found.stderr


def test_a_claim_by_name_says_what_is_missing(study: Path) -> None:
    found = run(study, "--claim", "paired", "-c", "better")
    [missing] = lines(found.stdout, "paired ")
    assert missing.endswith("no pairs of ours by parent")
    assert "better: Other recipes." in found.stdout
    assert "worse" not in found.stdout


def test_every_row_used(study: Path) -> None:
    found = run(study, "--claim", "better", "--rows")
    shown = [line for line in lines(found.stdout, "better ") if "zeroshot imagenet_a top1" in line]
    [run_id] = ResultStore(study / "results").run_ids()
    assert len(shown) == 24
    assert all(line.endswith(run_id) for line in shown)


def test_json_has_everything(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "claims.json"
    assert run(study, "--format", "json", "--out", str(out), "--level", "0.9").exit_code == 0
    found: dict[str, Any] = json.loads(out.read_text())
    assert found["rule"] == RULE
    better, worse, paired, unheard = found["claims"]
    assert [one["verdict"] for one in found["claims"]] == ["holds", "does not hold", *["inconclusive"] * 2]
    assert (better["beware"], unheard["no_task"], better["needs"]) == ("Other recipes.", "asking models", 1)
    [part] = better["parts"]
    assert (part["must_be"], part["n"], part["rows"], part["why"]) == ("above 0", [12, 12], 24, None)
    assert part["interval"]["lo"] < part["value"] < part["interval"]["hi"]
    assert (part["interval"]["level"], part["interval"]["method"]) == (0.9, "welch_t")
    assert part["runs"] == ResultStore(study / "results").run_ids()
    assert paired["parts"][0]["interval"] is None
    assert "rows_used" not in part
    full = json.loads(run(study, "--format", "json", "--rows").stdout)
    used = full["claims"][0]["parts"][0]["rows_used"]
    assert len(used) == 24
    assert (used[0]["row"], used[0]["value"]) == ("zeroshot imagenet_a top1", 0.6 + 0.01 * NOISE[0])
    assert worse["parts"][0]["value"] == part["value"]


def test_markdown(study: Path) -> None:
    text = run(study, "--format", "markdown").stdout
    assert text.startswith(RULE)
    assert "| holds | better | I | holds: 1 | S |" in text
    assert text.count("| group_difference | y: ours, against others |") == 2


def test_the_list_reads_no_results(study: Path) -> None:
    found = run(study, "--list")
    assert found.exit_code == 0
    assert "group_difference of y: ours, against others, above 0" in found.stdout
    assert "beware: Other recipes." in found.stdout
    assert "no task yet: asking models" in found.stdout
    one = json.loads(run(study, "--list", "--claim", "worse", "--format", "json").stdout)
    assert [each["key"] for each in one] == ["worse"]
    assert one[0]["parts"][0]["terms"] == ["zeroshot imagenet_a top1"]


def test_the_shipped_ledger_is_listed_whole() -> None:
    found = CliRunner().invoke(app, ["claims", "--list"])
    assert all(f"{one.key} ({one.section})" in found.stdout for one in ledger().claims)


def test_any_results_can_be_held_against_the_shipped_ledger(tmp_path: Path) -> None:
    """A results folder of one model: nothing can be told, and nothing fails."""
    ResultStore(tmp_path).add(rows_of("m", {"x": 0.5}, {"group": "clip", "fine_tune": "none"}))
    found = CliRunner().invoke(app, ["claims", str(tmp_path)])
    assert found.exit_code == 0
    assert f"{len(ledger().claims)} claims, inconclusive: {len(ledger().claims)}" in found.stderr


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        (["--claim", "bettr"], UsageError, "unknown claim 'bettr'"),
        (["--format", "yaml"], UsageError, "unknown format 'yaml'"),
        (["--out", "x"], UsageError, "--format table and --out do not go together"),
        (["--prompts", "opnai_80"], UsageError, "unknown prompt set 'opnai_80'"),
        (["--precision", "fats"], UsageError, "unknown precision 'fats'"),
        (["--level", "95"], UsageError, "the level is 95, not between 0 and 1"),
        (["--correct", "bonferroni"], UsageError, "unknown correction 'bonferroni'; known: none, holm"),
        (["--list", "--rows"], UsageError, "--list and --rows do not go together"),
        (["--list", "--format", "markdown"], UsageError, "--list and --format markdown do not go together"),
    ],
)
def test_what_is_refused(study: Path, words: list[str], error: type[Exception], said: str) -> None:
    found = run(study, *words)
    assert isinstance(found.exception, error)
    assert said in str(found.exception)


def test_a_folder_without_results_and_a_wrong_file(study: Path) -> None:
    (study / "mine.toml").write_text("level = 0.9\n[[claim]]\n")
    found = run(study)
    assert isinstance(found.exception, DataError)
    assert "mine.toml: unknown key 'claim'; did you mean claims" in str(found.exception)
    empty = CliRunner().invoke(app, ["claims", str(study / "gone")])
    assert isinstance(empty.exception, DataError)

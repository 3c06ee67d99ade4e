"""A served model in a suite, beside other models, in figures, and with tasks that it cannot do."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from _asked_world import write_world
from _fake_model import Served
from _fake_server import FakeServer
from typer.testing import CliRunner

from clipjax.analysis.figures.spec import load_spec
from clipjax.analysis.figures.yours import YOURS, look_of
from clipjax.cli import app
from clipjax.results.store import ResultStore

N = 4


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """data/ with a data set, and the working directory."""
    world = write_world(tmp_path / "world", N)
    data = tmp_path / "data"
    shutil.move(world / "data", data / "patches")
    shutil.move(world / "patches.toml", data / "patches.toml")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ran(*words: str) -> Any:
    return CliRunner().invoke(app, [*words])


def suite(*names: str, task: str = "multiple_choice") -> str:
    text = f'title = "Served"\nmodels = {list(names)}\ndata_root = "data"\noptions = {{ resamples = 100 }}\n'
    Path("served.toml").write_text(f'{text}[[runs]]\ntask = "{task}"\ndatasets = ["patches"]\n')
    return "served.toml"


def test_a_suite_counts_requests_asks_and_compares(folder: Path) -> None:
    with FakeServer("sglang") as one, FakeServer("sglang", Served(id="other", seed=1)) as two:
        file = suite(one.name, two.name)
        shown = ran("sweep", file, "--dry-run", "--store", "store", "--results", "rows").output
        assert shown.count(f"{4 * N} requests to its server") == 2
        assert not one.chats  # it was asked which models it has, and no question
        done = ran("sweep", file, "--store", "store", "--results", "rows")
        assert done.exit_code == 0, done.output
        asked = len(one.chats)
        assert ran("sweep", file, "--store", "store", "--results", "rows").exit_code == 0
        again = ran("sweep", file, "--dry-run", "--store", "store", "--results", "rows").output
        assert "requests to its server" not in again
        assert len(one.chats) == asked
    models = ["server:sglang:narrow-vl", "server:sglang:other"]
    rows = ResultStore("rows").rows()
    assert {row["model"] for row in rows} == set(models)
    assert "127.0.0.1" not in "".join(map(str, rows))
    compared = ran("compare", *models, "--results", "rows")
    assert compared.exit_code == 0, compared.output
    assert "top1_debiased@parsed" in compared.output
    facts = rows[0]["model_facts"]
    assert look_of(load_spec("fig1"), models[0], facts) == (YOURS, None)  # as models of `torch:`


def test_other_tasks_are_not_applicable_and_ask_nothing(folder: Path) -> None:
    with FakeServer("sglang") as server:
        options = ("--data", "data/patches", "--dataset", "data/patches.toml", "--results", "rows")
        done = ran("eval", "zeroshot", "--model", server.name, *options, "--store", "store")
        assert done.exit_code == 0, done.output
        assert not server.chats
    [row] = ResultStore("rows").rows()
    assert row["value"] is None
    assert str(row["note"]).startswith("not applicable: server:sglang:narrow-vl is a vision-language model")


def test_a_suite_with_a_secret_in_an_address_is_refused_without_it(folder: Path) -> None:
    for secret in ("http://me:sk-secret@127.0.0.1:1/v1", "http://127.0.0.1:1/v1?key=sk-secret"):
        done = ran("sweep", suite(f"server:{secret}#m"), "--store", "store", "--results", "rows", "--dry-run")
        assert done.exit_code != 0
        assert "CLIPJAX_SERVER_KEY" in str(done.exception) + done.output
        assert "sk-secret" not in str(done.exception) + done.output

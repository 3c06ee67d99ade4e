"""No path of a machine enters a result row."""

from __future__ import annotations

import json

import pytest
from _rows import as_older, row

from clipjax.devices.flags import public_flags
from clipjax.results.exports import text_parts
from clipjax.results.provenance import provenance
from clipjax.results.store import ResultStore, new_run_id


@pytest.mark.parametrize(
    ("flags", "public"),
    [
        (None, None),
        ("", ""),
        ("--xla_force_host_platform_device_count=8", "--xla_force_host_platform_device_count=8"),
        ("--xla_dump_to=/home/me/x  --xla_cpu_use_mkl=true", "--xla_dump_to=PATH --xla_cpu_use_mkl=true"),
        ("--xla_dump_to=dump", "--xla_dump_to=PATH"),
        ("--xla_dump_to='/home/me/my dir' --a", "--xla_dump_to=PATH --a"),
        ("--xla_x=~/me --xla_y=C:\\\\me", "--xla_x=PATH --xla_y=PATH"),
        ("--xla_dump_hlo_pass_re=.*", "--xla_dump_hlo_pass_re=.*"),
        ("/home/me/flags.txt", "PATH"),
        ("--xla_dump_to='/home/me/never closed", "--xla_dump_to PATH"),
    ],
)
def test_values_that_are_paths_are_one_word(flags, public):
    assert public_flags(flags) == public


def test_rows_carry_no_path(monkeypatch, tmp_path):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=/home/me/dump")
    assert provenance()["xla_flags"] == "--xla_dump_to=PATH"


def test_rows_of_older_versions_are_shown_without_their_paths(tmp_path):
    run = as_older(ResultStore(tmp_path).add([row(new_run_id(), xla_flags="--xla_dump_to=/home/me/dump")]))
    assert "/home/me" in (run / "run.json").read_text()
    rows = ResultStore(tmp_path).rows()
    assert rows[0]["xla_flags"] == "--xla_dump_to=PATH"
    assert "/home/me" not in "".join(text_parts(rows, "csv")) + json.dumps(rows)

"""Rebuilds everything in this checkout that is made from the rest of it, and names what could not be.

    make records
    .venv/bin/python tests/records.py [NAME ...]     # only these

    open_clip         configs/open_clip.json: the library's configs of its architectures
    timm              configs/timm_archs.json: the options of its architectures of our families
    parity            configs/parity.json: architectures that are new or have changed, against their library
    open_clip_parity  configs/open_clip_parity.json: likewise open_clip's that no registered model has
    flops             configs/flops.json: operations and params of new or changed architectures
    tpu               the tables of docs/hardware/tpu.md and configs/tower_rates.csv; a family that has no row
                      is compiled where .venv-tpu is there
    gpu_aot           the table of programs for GPUs in docs/hardware/gpu.md; programs whose forward pass has
                      another version today are compiled where .venv-gpu-aot is there
    estimated_rates   configs/estimated_rates.csv: images a second of registered image towers on TPUs, from
                      configs/tower_rates.csv
    cost              the tables of docs/hardware/cost.md
    tested_versions   configs/tested_versions.toml: the versions installed in .venv and .venv-newest, where
                      clipjax requires others than those that its tests ran with
    published         configs/reference_scores.csv, where CLIPJAX_TEST_DATA has the published tables
    published_page    the tables of docs/study/published_numbers.md, likewise
    expected_cells    configs/expected_cells.json, likewise: a model's number from its other ones; prints the
                      errors and coverage of architecture families that are left out of the fits
    row_schema        configs/result_row.schema.json: the JSON Schema of a result row
    refusals          tests/refusals.txt
    keywords          clipjax/evaluation/evaluate.pyi: the keywords of clipjax.evaluate
    forms             tests/models/forms.csv: the form that each layer takes in every pass
    house             docs/developers/architecture.svg and the layers in docs/developers/architecture.md

A record that is as it should be is not written. Exits with 1 where one could not be rebuilt.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs"
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]


class NotRebuiltError(Exception):
    """Why a record could not be rebuilt here."""


def write(path: Path, text: str) -> None:
    if path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
        print(f"{path.relative_to(ROOT)} written")


def open_clip() -> None:
    try:
        import open_clip
    except ImportError:
        raise NotRebuiltError("open_clip is not installed: pip install -e '.[reference]'") from None
    from converters.golden import model_config

    names = sorted(open_clip.list_models())
    lines = [f" {json.dumps(name)}: {json.dumps(model_config(name))}" for name in names]
    write(CONFIGS / "open_clip.json", "{\n" + ",\n".join(lines) + "\n}\n")


def timm() -> None:
    try:
        from converters.golden.timm_archs import text
    except ImportError:
        raise NotRebuiltError("timm is not installed: pip install -e '.[reference]'") from None
    write(CONFIGS / "timm_archs.json", text())


def parity() -> None:
    from clipjax.verification.parity import problem_of, sweep

    swept = sweep(CONFIGS / "parity.json")
    for arch in swept.done:
        print(f"{arch}: {problem_of(swept.entries[arch]) or 'equal to the reference'}")
    if swept.problems:
        raise NotRebuiltError(f"{', '.join(swept.problems)} differ from the reference")


def open_clip_parity() -> None:
    from clipjax.verification.open_clip_archs import record_file, subjects
    from clipjax.verification.parity import problem_of, sweep

    swept = sweep(record_file(), among=subjects())
    for name in swept.done:
        print(f"{name}: {problem_of(swept.entries[name]) or 'equal to open_clip'}")
    if swept.problems:
        raise NotRebuiltError(f"{', '.join(swept.problems)} differ from open_clip")


def flops() -> None:
    from clipjax.analysis.cost.arch_costs import record_digest, recorded
    from clipjax.estimates.flops import arch_digest, counted_params, traced_flops
    from clipjax.models.arch import arch_records, load_arch

    entries = {}
    for name in arch_records():
        arch = load_arch(name)
        digests = {"arch": arch_digest(arch), "record": record_digest(arch_records()[name])}
        old = recorded().get(name, {})
        if digests.items() <= old.items():
            entries[name] = old
        else:
            entries[name] = {**digests, "towers": traced_flops(arch), "params": counted_params(arch)}
    lines = [f" {json.dumps(name)}: {json.dumps(entry)}" for name, entry in sorted(entries.items())]
    write(CONFIGS / "flops.json", "{\n" + ",\n".join(lines) + "\n}\n")


def tpu() -> None:
    from benchmarks.models import aot_table, weak_scaling
    from clipjax.checkpoints.identity.registry import model_card
    from clipjax.checkpoints.identity.registry_rows import registry
    from clipjax.models.arch import families, family_of

    def compiled() -> set[str]:
        rows = json.loads(aot_table.RECORD.read_text())
        towers = [
            getattr(model_card(row["model"]).arch, row["tower"])
            for row in rows
            if row["tower"] in ("vision", "text")
        ]
        return {family_of(tower).name for tower in towers}

    compiler = ROOT / ".venv-tpu" / "bin" / "python"
    for family in sorted(set(families()) - compiled()):
        if not compiler.exists():
            raise NotRebuiltError(f"no TPU row of the family {family}: `make tpu-env` installs the compiler")
        found = [
            (name, tower)
            for name in registry()
            for tower in ("vision", "text")
            if getattr(getattr(model_card(name).arch, tower), "family", None) == family
        ]
        if not found:  # no registered model has it
            continue
        one, tower = found[0]
        command = [compiler, ROOT / "benchmarks" / "models" / "aot_table.py", "v5e", one, "--part", tower]
        subprocess.run(command, check=True, cwd=ROOT)
    write(aot_table.PAGE, aot_table.page(json.loads(aot_table.RECORD.read_text())))
    write(aot_table.RATES, aot_table.rates(json.loads(aot_table.RECORD.read_text())))
    write(aot_table.PAGE, weak_scaling.page(json.loads(weak_scaling.RECORD.read_text())))


def gpu_aot() -> None:
    from benchmarks.models import aot_table

    compiler = ROOT / ".venv-gpu-aot" / "bin" / "python"
    for row in aot_table.older(json.loads(aot_table.GPU_RECORD.read_text())):
        if not compiler.exists():
            raise NotRebuiltError(
                f"{row['model']} is older than the code: `make gpu-aot-env` installs the compiler"
            )
        what = [row["chip"], row["model"], "--part", row["tower"], "--precision", row["precision"]]
        subprocess.run(
            [compiler, ROOT / "benchmarks" / "models" / "aot_table.py", *what], check=True, cwd=ROOT
        )
    write(aot_table.GPU_PAGE, aot_table.gpu_page(json.loads(aot_table.GPU_RECORD.read_text())))


def estimated_rates() -> None:
    import _cost

    write(CONFIGS / "estimated_rates.csv", _cost.estimated_rates())


def cost() -> None:
    import _cost

    from clipjax.sweep.plan import make_plan
    from clipjax.sweep.suite import load_suite

    plan = make_plan(load_suite("suite:study"), None, absent=True)
    write(_cost.PAGE, _cost.page(plan.absent))


def tested_versions() -> None:
    """The stack of this environment, and that of .venv-newest or the recorded one."""
    from clipjax.doctor.machine import this_machine
    from clipjax.doctor.versions import installed_stack, stacks_text

    path = CONFIGS / "tested_versions.toml"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    dependencies, reference = project["dependencies"], project["optional-dependencies"]["reference"]
    recorded = tomllib.loads(path.read_text(encoding="utf-8"))["stacks"]

    def suits(stack: dict[str, Any], texts: list[str]) -> bool:
        versions = stack["packages"]
        required = {canonicalize_name(one.name): one.specifier for one in map(Requirement, texts)}
        return required.keys() <= versions.keys() and all(
            needed.contains(versions[name], prereleases=True) for name, needed in required.items()
        )

    first, newest = recorded
    if not suits(first, [*dependencies, *reference]):
        first = installed_stack(this_machine())
        if not suits(first, [*dependencies, *reference]):
            raise NotRebuiltError("this environment lacks requirements: pip install -e '.[reference]'")
    if not suits(newest, dependencies):
        python = ROOT / ".venv-newest" / "bin" / "python"
        if not python.exists():
            raise NotRebuiltError("no .venv-newest: `make test-newest` makes it")
        command = [python, "-m", "clipjax.doctor"]
        printed = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True).stdout
        [newest] = tomllib.loads(printed)["stacks"]
    write(path, stacks_text([first, newest]))


def published() -> None:
    from clipjax.results.published.numbers import as_csv, updated

    tables = Path(os.environ.get("CLIPJAX_TEST_DATA", "")) / "published"
    folders = [tables / "openclip", tables / "timm"]
    if not all(map(Path.is_dir, folders)):
        raise NotRebuiltError("CLIPJAX_TEST_DATA has no folders published/openclip and published/timm")
    write(CONFIGS / "reference_scores.csv", as_csv(updated(folders)))


def published_page() -> None:
    import _published_page

    tables = Path(os.environ.get("CLIPJAX_TEST_DATA", "")) / "published"
    if not all((tables / folder).is_dir() for folder in _published_page.FOLDERS.values()):
        names = ", ".join(f"published/{folder}" for folder in _published_page.FOLDERS.values())
        raise NotRebuiltError(f"CLIPJAX_TEST_DATA lacks one of the folders {names}")
    write(_published_page.PAGE, _published_page.page(tables))


def expected_cells() -> None:
    import _expected_cells

    tables = Path(os.environ.get("CLIPJAX_TEST_DATA", "")) / "published"
    if not all((tables / folder).is_dir() for _, folder in _expected_cells.FOLDERS.values()):
        raise NotRebuiltError("CLIPJAX_TEST_DATA has no folders published/openclip and published/timm")
    write(_expected_cells.RECORD, _expected_cells.text(tables))


def row_schema() -> None:
    write(CONFIGS / "result_row.schema.json", row_schema_text())


def row_schema_text() -> str:
    from clipjax.results.row import Row
    from clipjax.storage.records import json_schema

    return json.dumps(json_schema(Row, "clipjax result row"), indent=2, ensure_ascii=False) + "\n"


def refusals() -> None:
    """Adds new ones. One that is gone stays in the list, so that a person looks for its successor."""
    import _refusals

    listed, raised = _refusals.listed(), set(_refusals.refusals(ROOT))
    write(_refusals.LIST, "".join(f"{line}\n" for line in sorted(listed | raised)))
    if gone := sorted(listed - raised):
        lines = "".join(f"\n    {line}" for line in gone)
        raise NotRebuiltError(f"{_refusals.GONE}:{lines}")


def keywords() -> None:
    import _keywords

    write(_keywords.FILE, _keywords.stub())


def forms() -> None:
    import pytest

    from tests.models import _forms

    rows = [row for name in _forms.ARCHS for row in _forms.rows(name, pytest.MonkeyPatch())]
    write(_forms.RECORD, _forms.text_of(rows))


def house() -> None:
    import _house

    write(_house.PICTURE, _house.picture())
    write(_house.PAGE, _house.page())


# In an order in which each has what it is made from.
RECORDS: dict[str, Callable[[], None]] = {
    record.__name__: record
    for record in (
        *(open_clip, timm, parity, open_clip_parity, flops),
        *(tpu, gpu_aot, estimated_rates, cost, tested_versions, published, published_page, expected_cells),
        *(row_schema, refusals, keywords, forms, house),
    )
}


def main(names: list[str]) -> int:
    """The exit code: 1 where a record could not be rebuilt."""
    from clipjax.errors import ClipjaxError

    if unknown := set(names) - RECORDS.keys():
        print(f"no record is called {min(unknown)!r}; these are: {', '.join(RECORDS)}", file=sys.stderr)
        return 2
    code = 0
    for name in names or RECORDS:
        try:
            RECORDS[name]()
        except (NotRebuiltError, ClipjaxError, subprocess.CalledProcessError) as error:
            print(f"{name} not rebuilt: {error}", file=sys.stderr)
            code = 1
    return code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

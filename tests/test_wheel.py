"""The wheel, unpacked elsewhere, works without the checkout: it carries configs/ and both packages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from _rows import row
from safetensors.numpy import save_file

from clipjax.analysis.report.page import script_text
from clipjax.checkpoints.identity.registry_rows import model_ids
from clipjax.results.store import ResultStore, new_run_id

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's contents in a folder of their own, as pip would lay them out."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(site: Path, cwd: Path, *arguments: str) -> str:
    """Run the wheel's command line from `cwd`, where only the wheel is on the path."""
    code = "import sys; from clipjax.cli import main; sys.argv[0] = 'clipjax'; main()"
    environment = {**os.environ, "PYTHONPATH": str(site), "CLIPJAX_CACHE": str(cwd / "cache")}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_models_convert_and_load_from_another_folder(installed: Path, tmp_path: Path) -> None:
    where = run(installed, tmp_path, "models", "--json")
    assert [model["id"] for model in json.loads(where)["models"]] == model_ids()
    code = "import clipjax; print(clipjax.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    home = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert home.stdout.startswith(str(installed))

    weights = tmp_path / "lite0.safetensors"
    save_file(lite0_state_dict(), weights, metadata={"format": "pt"})
    out = run(
        installed,
        tmp_path,
        "convert",
        str(weights),
        "--model",
        "tf_efficientnet_lite0-in1k",
        "--out",
        "lite0",
    )
    assert "4.7 M parameters" in out
    code = "import clipjax; print(clipjax.load_model('lite0').card.kind)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert loaded.stdout.strip() == "classifier", loaded.stderr


def test_the_report_page_travels_with_its_parts(installed: Path, tmp_path: Path) -> None:
    """Template, style and scripts are package data."""
    ResultStore(tmp_path / "results").add([row(new_run_id())])
    assert "1 model, 1 number" in run(installed, tmp_path, "report", "results", "--figure", "fig4")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert script_text() in text
    assert text.rstrip().endswith("</html>")


def lite0_state_dict() -> dict[str, np.ndarray]:
    """timm's tf_efficientnet_lite0 with random weights."""
    import timm

    return {
        key: value.numpy() for key, value in timm.create_model("tf_efficientnet_lite0").state_dict().items()
    }

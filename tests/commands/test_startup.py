"""A command loads only the libraries that it needs (time: benchmarks/startup.py).

Commands that run no model start without those that compute; a run with everything stored, without those that
decode, train and convert.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from _rows import row
from PIL import Image
from typer.testing import CliRunner

from clipjax.cli import app
from clipjax.results.store import ResultStore, new_run_id
from tests.finetune._small import small_model, write_colours

SCRIPT = """
import sys
from clipjax.cli import main
for command in sys.argv[1].splitlines():
    heavy, sys.argv[1:] = command.split(": ")[0].split(), command.split(": ")[1].split()
    try:
        main()
    except SystemExit as end:
        assert not end.code, command
    loaded = sorted(set(heavy) & set(sys.modules))
    assert not loaded, (command, loaded)
"""
PHOTOS = "photos"
ROW = """id,arch,library,mean_std,interpolation,resize_mode,resize_size,crop_size,tokenizer
mine,ViT-B-32,open_clip,openai,bicubic,shortest,224,224,openai_bpe
"""
COMPUTE = "jax scipy pyarrow torch tensorflow"


LIGHT = {  # each may load more than the one before
    "--help": f"{COMPUTE} numpy PIL etils",
    "tasks": f"{COMPUTE} numpy PIL",
    "datasets list": COMPUTE,
    "--configs mine models": COMPUTE,
    f"datasets check folder {PHOTOS}": "jax pyarrow torch tensorflow",
}


def test_what_runs_no_model_loads_nothing_that_computes(tmp_path: Path) -> None:
    (tmp_path / PHOTOS / "dog").mkdir(parents=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "models.csv").write_text(ROW)
    Image.new("RGB", (8, 8)).save(tmp_path / PHOTOS / "dog" / "0.png")
    done = run(SCRIPT, "\n".join(f"{heavy}: {command}" for command, heavy in LIGHT.items()), folder=tmp_path)
    assert done.returncode == 0, done.stderr


def run(script: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)


MISTYPED = """
import sys
from clipjax.cli import main
for command in sys.argv[1].splitlines():
    sys.argv[1:] = command.split()
    try:
        main()
    except SystemExit as end:
        assert end.code in (1, 2), command
    heavy = {"jax", "torch", "tensorflow"} | (set() if command.startswith("sweep") else {"scipy"})
    reads_paths = "nope" in command or command.startswith(("compare", "sweep"))
    # Those are last, and may load pyarrow.
    heavy |= set() if reads_paths else {"pyarrow"}
    loaded = heavy & set(sys.modules)
    assert not loaded, (command, loaded)
"""
WRONG = {
    "eval zeroshot -m vit_b_32-opena --data .": "unknown model 'vit_b_32-opena'; did you mean",
    "verify vit_b_32-openai --against timmm": "unknown reference 'timmm'; did you mean timm?",
    "verify mine:build": "mine:build is not run by clipjax's networks: only evaluation takes it",
    "finetune flypp --data . --out x": "unknown method 'flypp'; did you mean flyp?",
    "finetune suite:robustnes --data . --out x": "unknown suite 'robustnes'; did you mean robustness",
    "finetune flyp --data . --out x --evaluate robustnes --data-root .": "unknown suite 'robustnes'",
    "finetune flyp --data . --out x --recipe flyp_imagnet": "unknown recipe 'flyp_imagnet'; did you mean",
    "eval zeroshot -m ./nope --data .": "./nope does not exist",
    "eval zeroshot -m vit_b_32-openai --data nope": "nope does not exist",
    "eval zeroshot --predictions nope.csv": "nope.csv does not exist; give a .parquet, .csv",
    "convert nope.pt": "nope.pt does not exist",
    "compare tiny_1 tiny_2": "unknown run or model 'tiny_2'; did you mean tiny_1?",
    "sweep nope.toml": "nope.toml does not exist",  # a suite's tasks need scipy, so these are last
    "sweep suite:effective_robustness --models rn5": "unknown model of effective_robustness 'rn5'",
}


def test_a_mistyped_name_is_refused_before_what_computes_is_loaded(tmp_path: Path) -> None:
    ResultStore(tmp_path / "results").add([row(new_run_id())])
    done = run(MISTYPED, "\n".join(WRONG), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    said = done.stderr.splitlines()
    assert len(said) == len(WRONG)
    assert all(wanted in line for wanted, line in zip(WRONG.values(), said)), said


# Decoding, training, converting; parts of SciPy and pyarrow that take as long to load.
UNUSED = "grain orbax.checkpoint pandas pyarrow.dataset scipy.stats scipy.optimize gguf ftfy jinja2 torch"
NETWORKS = "flax optax scipy.sparse clipjax.models.network"


def test_a_run_with_everything_stored_loads_nothing_that_it_does_not_need(
    tmp_path: Path, one_device: None
) -> None:
    small_model(tmp_path / "first", quick=True)
    write_colours(tmp_path)
    places = f"--store {tmp_path}/store --results {tmp_path}/results"
    evaluate = (
        f"eval zeroshot --model {tmp_path}/first --data {tmp_path}/colours_val --prompts single {places}"
    )
    for seed in (0, 1):
        done = CliRunner().invoke(app, [*evaluate.split(), "--seed", str(seed)])
        assert done.exit_code == 0, done.output
    one, other = sorted((tmp_path / "results").iterdir())
    predictions = f"--predictions {one}/images.parquet --data {tmp_path}/colours_val"
    commands = {  # each may load more than the one before
        f"report {tmp_path}/results --out {tmp_path}/report.html": f"jax {NETWORKS} {UNUSED}",
        f"compare {one} {other}": f"{NETWORKS} {UNUSED}",
        f"eval zeroshot {predictions}": f"{NETWORKS} {UNUSED}",
        evaluate: UNUSED,
    }
    lines = "\n".join(f"{heavy}: {command}" for command, heavy in commands.items())
    done = run(SCRIPT, lines, folder=tmp_path)
    assert done.returncode == 0, done.stderr

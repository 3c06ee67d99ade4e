"""The whole path on small files, from a checkpoint to a report; its rows are those of tests/golden/rows.json.

    CLIPJAX_WRITE_ROWS=1 python -m pytest tests/results/test_same_rows.py     # writes that file

Every tested stack of versions compares with the same file, written on the oldest one.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from clipjax.cli import app
from clipjax.results.row import Row
from clipjax.results.store import ResultStore
from tests.finetune._small import write_colours

GOLDEN = Path(__file__).parents[1] / "golden"
# A part of a number above one. Embeddings and logits are float32, whose last bits depend on the order in
# which a processor's vector units add: 3e-7 of the temperature of 32 images, between two processors.
TOLERANCE = 1e-6
WORDS = 49408  # of OpenAI's tokenizer; the tiny CLIP has 64
PROMPT = (49406, 320, 1125, 539, 269, 49407)  # start, "a", "photo", "of", ".", end


def checkpoint(folder: Path) -> Path:
    """An open_clip folder: tests/golden/tiny_vit with the embeddings of a whole vocabulary."""
    folder.mkdir()
    config = json.loads((GOLDEN / "tiny_vit" / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["vocab_size"] = WORDS
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    tensors = load_file(GOLDEN / "tiny_vit" / "open_clip_model.safetensors")
    width = tensors["token_embedding.weight"].shape[1]
    # No generator of random numbers: those of another version may draw others.
    grid = np.arange(WORDS)[:, None] * 9213 + np.arange(width) * 104729
    tensors["token_embedding.weight"] = ((grid * grid % 2003) / 1001 - 1).astype(np.float32)
    # The pixels and the name of the class decide the features: rounding must not decide an order.
    tensors["token_embedding.weight"][list(PROMPT)] *= 0.05
    for key in ("visual.positional_embedding", "visual.class_embedding", "positional_embedding"):
        tensors[key] *= 0.05
    for layer in range(config["model_cfg"]["text_cfg"]["layers"]):
        tensors[f"transformer.resblocks.{layer}.attn.out_proj.weight"] *= 5
    save_file(tensors, folder / "open_clip_model.safetensors")
    return folder


def clipjax(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `results` and `report.html`."""
    folder = tmp_path_factory.mktemp("path")
    data = write_colours(folder / "data", each=16)
    clipjax("convert", checkpoint(folder / "open_clip"), "--out", folder / "tiny")
    places = ["--store", folder / "store", "--results", folder / "results"]
    clipjax("eval", "all", "--model", folder / "tiny", "--data-root", data, *places)
    clipjax("report", folder / "results", "--out", folder / "report.html")
    return folder


def numbers(rows: list[Row]) -> dict[str, list[float | None]]:
    """Value and interval of each row, by what it measures."""
    named = {}
    for row in rows:
        convention = json.dumps(row["convention"], sort_keys=True).encode()
        key = f"{row['dataset']} {row['task']} {row['metric']} {row['slice']} n={row['n']}"
        key += f" {hashlib.sha256(convention).hexdigest()[:8]}"
        assert key not in named
        limits = row["interval"] or {"lo": None, "hi": None}
        named[key] = [row["value"], limits["lo"], limits["hi"]]
    return named


def _near(ours: list[float | None], theirs: list[float | None]) -> bool:
    """Within TOLERANCE, and absent in both or in none."""
    return all(
        a == b if a is None or b is None else abs(a - b) <= TOLERANCE * max(1, abs(b))
        for a, b in zip(ours, theirs, strict=True)
    )


def test_the_rows_are_those_of_the_oldest_stack(made: Path, record_property: Any) -> None:
    ours = numbers(ResultStore(made / "results").rows())
    if os.environ.get("CLIPJAX_WRITE_ROWS"):
        lines = (f"{json.dumps(key)}: {json.dumps(ours[key])}" for key in sorted(ours))
        (GOLDEN / "rows.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    theirs = json.loads((GOLDEN / "rows.json").read_text())
    assert ours.keys() == theirs.keys()
    others = {key for key in ours if ours[key] != theirs[key]}
    far = {key: (ours[key], theirs[key]) for key in others if not _near(ours[key], theirs[key])}
    names = sorted({" ".join(key.split()[:3]) for key in others})
    says = f"{len(others)} of {len(ours)} rows have other bits than tests/golden/rows.json"
    record_property("says", f"{says}: {', '.join(names)}" if names else says)
    assert not far


def test_the_report_shows_the_model(made: Path) -> None:
    page = (made / "report.html").read_text()
    assert "tiny" in page
    assert "top1" in page

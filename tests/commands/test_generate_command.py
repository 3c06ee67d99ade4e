"""`clipjax generate` on a narrow decoder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from _ggml import llama_metadata, llama_tensors, write_gguf
from _language import PIECES, gguf_vocabulary, sentencepiece_model
from typer.testing import CliRunner, Result

from clipjax.checkpoints.language import load_language_model
from clipjax.cli import app


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    tensors = llama_tensors(np.random.default_rng(0), PIECES)
    record = llama_metadata() | gguf_vocabulary(sentencepiece_model())
    return str(write_gguf(tmp_path_factory.mktemp("gguf") / "small.gguf", tensors, record))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["generate", *arguments])


def test_texts_are_continued(file: str, tmp_path: Path) -> None:
    model = load_language_model(file)
    first, second = model.generate(["a photo of", "12"], steps=4)
    one = run(file, "a photo of", "--steps", "4")
    assert (one.exit_code, one.stdout) == (0, f"a photo of{first}\n")
    (tmp_path / "prompts.txt").write_text("12\n\n")
    both = run(file, "a photo of", "--file", str(tmp_path / "prompts.txt"), "--steps", "4", "--json")
    expected = [{"prompt": "a photo of", "answer": first}, {"prompt": "12", "answer": second}]
    assert json.loads(both.stdout) == expected
    shown = run(file, "a photo of", "12", "--steps", "4").stdout
    assert shown == f"> a photo of\n{first}\n> 12\n{second}\n"


def test_messages_draws_and_bfloat16(file: str) -> None:
    model = load_language_model(file)
    (answer,) = model.generate([[{"role": "user", "content": "12"}]], steps=4)
    assert run(file, "12", "--chat", "--steps", "4").stdout == f"{answer.strip()}\n"
    (drawn,) = model.generate(["12"], steps=4, temperature=2.0, seed=7)
    assert run(file, "12", "--steps", "4", "--temperature", "2", "--seed", "7").stdout == f"12{drawn}\n"
    half = load_language_model(file, dtype="bfloat16").generate(["12"], steps=4)
    assert run(file, "12", "--steps", "4", "--precision", "fast").stdout == f"12{half[0]}\n"


def test_refusals(file: str, tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("\n")
    for arguments, message in (
        ([file], "there is nothing to continue"),
        ([file, "--file", str(empty)], "has no prompt: write one per line"),
        ([file, "a", "--steps", "1000"], "do not fit the context of small, 128 tokens"),
        ([str(empty), "a"], "is not a checkpoint|is missing"),
    ):
        done = run(*arguments)
        assert done.exit_code != 0
        assert any(part in str(done.exception) for part in message.split("|")), done.exception

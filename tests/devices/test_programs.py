"""Compiled programs on disk: none runs in another's place, and a broken one is compiled again."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from _kept_programs import programs_kept
from etils import epath
from jax.experimental.compilation_cache import compilation_cache

from clipjax.devices.programs import enable_compile_cache, keep_programs

X = np.arange(777.0, dtype=np.float32)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path))
    with programs_kept():
        enable_compile_cache()
        yield tmp_path / "xla"


def results() -> tuple[float, float]:
    """Of two new functions: JAX keeps no program of theirs in memory."""

    def twice(x: Any) -> Any:
        return (x * 2).sum()

    def thrice(x: Any) -> Any:
        return (x * 3).sum()

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # JAX warns of what it cannot read
        return float(jax.jit(twice)(X)), float(jax.jit(thrice)(X))


def files(folder: Path) -> tuple[Path, Path]:
    [twice], [thrice] = folder.glob("jit_twice-*-cache"), folder.glob("jit_thrice-*-cache")
    return twice, thrice


def stored_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the programs that are read from the disk, from now on."""
    reads: list[str] = []
    kind = type(epath.Path(str(jax.config.jax_compilation_cache_dir)))  # pyright: ignore[reportAttributeAccessIssue]
    read = kind.read_bytes

    def counted(self: Any) -> bytes:
        contents = read(self)
        reads.append(Path(str(self)).name.split("-")[0])
        return contents

    monkeypatch.setattr(kind, "read_bytes", counted)
    return reads


def test_a_whole_program_is_not_compiled_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = results()
    reads = stored_reads(monkeypatch)
    assert results() == first == (2 * X.sum(), 3 * X.sum())
    assert {"jit_twice", "jit_thrice"} <= set(reads)


def test_two_swapped_programs_are_compiled_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = results()
    twice, thrice = files(folder)
    contents = twice.read_bytes(), thrice.read_bytes()
    thrice.write_bytes(contents[0])
    twice.write_bytes(contents[1])
    reads = stored_reads(monkeypatch)
    assert results() == first
    assert not {"jit_twice", "jit_thrice"} & set(reads)
    assert files(folder) == (twice, thrice)
    assert twice.read_bytes()[:18] == contents[0][:18]
    assert results() == first
    assert {"jit_twice", "jit_thrice"} <= set(reads)  # whole again


@pytest.mark.parametrize("broken", [b"", b"clipjax", None, "changed"], ids=["empty", "front", "short", "bit"])
def test_a_broken_program_is_compiled_again(
    folder: Path, broken: bytes | str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = results()
    [twice, _] = files(folder)
    data = bytearray(twice.read_bytes())
    if broken == "changed":
        data[-5] ^= 1
    twice.write_bytes(broken if isinstance(broken, bytes) else data if broken else data[:-7])
    reads = stored_reads(monkeypatch)
    assert results() == first
    assert "jit_twice" not in reads
    assert results() == first
    assert "jit_twice" in reads


def test_a_setting_of_jax_stays(folder: Path) -> None:
    jax.config.update("jax_compilation_cache_dir", str(folder.parent / "own"))
    assert not keep_programs(folder)
    compilation_cache.reset_cache()
    results()
    assert list((folder.parent / "own").glob("jit_twice-*"))
    assert not folder.exists()


def test_files_of_xla_itself_have_a_path_of_this_disk(folder: Path) -> None:
    """XLA writes beside the programs (a GPU's autotuning), and knows no scheme of ours."""
    path = epath.Path(jax.config.jax_compilation_cache_dir)  # pyright: ignore[reportAttributeAccessIssue]
    assert str(path / "autotuning") == str(folder / "autotuning")


def test_a_folder_with_a_limit_drops_the_oldest(folder: Path) -> None:
    pytest.importorskip("filelock")
    limit = jax.config.jax_compilation_cache_max_size  # pyright: ignore[reportAttributeAccessIssue]
    try:
        results()
        size = max(path.stat().st_size for path in files(folder))
        for path in folder.iterdir():
            path.unlink()
        jax.config.update("jax_compilation_cache_max_size", size * 3 // 2)
        compilation_cache.reset_cache()
        results()
        assert [path.name.split("-")[0] for path in folder.glob("*-cache")] == ["jit_thrice"]
    finally:
        jax.config.update("jax_compilation_cache_max_size", limit)

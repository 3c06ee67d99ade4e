"""Subjects of the fuzzer: what corruptions read beside the images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from _subject import Read, plain, subject
from etils import epath

SIZE = (12, 9)  # width, height


def depth(kind: str) -> Read:
    def read(folder: Path) -> Any:
        from clipjax.data.corrupted.depth import prepared_depth

        return plain(prepared_depth(folder / "w.png", "an image", SIZE, kind))

    return read


def reshading(folder: Path) -> Any:
    from clipjax.data.corrupted.depth import prepared_reshading

    return plain(prepared_reshading(folder / "w.png", "an image", SIZE))


def frost(folder: Path) -> Any:
    from clipjax.data.corrupted.frost import frost_pictures

    return plain(list(frost_pictures(folder, 8)))


def making(folder: Path) -> Any:
    from clipjax.data.corrupted.record import making_of

    return making_of(epath.Path(folder))


def card(folder: Path) -> Any:
    from clipjax.data.cards import load_dataset, read_card

    read = read_card(folder / "w.toml")
    return [load_dataset(read, folder / "images").made, str(read.corruption)]


def _depth(folder: Path) -> None:
    values = np.arange(1, 109, dtype=np.uint16).reshape(SIZE[::-1]) * 70
    PIL.Image.fromarray(values).save(folder / "w.png")


def _picture(folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*SIZE[::-1], 3), np.uint8)
    PIL.Image.fromarray(pixels).save(folder / "w.png")


def _record(folder: Path) -> None:
    record = {"corruption": "fog_3d", "severity": 3, "version": 1, "seed": 0, "format": "PNG"}
    record |= {"inputs": {"depth": "inverse"}, "convention": "its own mean", "approximate": ""}
    (folder / "corruption.json").write_text(json.dumps(record, indent=1))


def _card(folder: Path) -> None:
    (folder / "images").mkdir()
    _picture(folder / "images")
    table = ["[corruption]", 'kind = "fog_3d"', "severity = 3", 'depth = "images"']
    (folder / "w.toml").write_text("\n".join(['name = "w"', 'title = "W"', 'reader = "flat"', *table]))


def register_corruptions() -> None:
    for kind in ("metric", "inverse"):
        subject("w.png", "bytes", depth(kind), name=f"depth of corruptions, {kind}")(_depth)
    subject("w.png", "bytes", reshading, name="reshading of corruptions")(_picture)
    subject("w.png", "bytes", frost, name="picture of frost")(_picture)
    subject("corruption.json", "text", making, name="record of corrupted copies")(_record)
    subject("w.toml", "text", card, name="card that corrupts")(_card)

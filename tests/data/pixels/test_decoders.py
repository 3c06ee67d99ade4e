"""Which setting decodes: the fastest, measured once for such images, and never another pixel."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _embed_tools import TinyModel
from _records import embed_images
from PIL import Image

from clipjax.data.manifest import Manifest
from clipjax.data.pixels import decoders
from clipjax.data.pixels.decoders import Decoders, choose, images_per_second
from clipjax.errors import UsageError
from tests.data._images import RECIPE, MemoryOpener, memory_manifest

pytestmark = pytest.mark.usefixtures("one_device")

N = 1200


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLIPJAX_CACHE", str(tmp_path))
    monkeypatch.setattr(decoders, "usable_cores", lambda: 6)
    return tmp_path / "decoders"


class Rates:
    """Made-up rates; `asked` lists the settings that were measured."""

    def __init__(self, rates: dict[Decoders, float]) -> None:
        self.rates, self.asked = rates, []

    def __call__(self, manifest: Any, recipe: Any, rows: Any, setting: Decoders) -> float:
        self.asked.append(setting)
        return self.rates[setting]


def threads(n: int) -> Decoders:
    return Decoders(0, n)


ROWS = np.arange(N)


def test_the_simplest_of_the_fastest_is_chosen_and_remembered(cache: Path):
    settings = [threads(1), threads(2), threads(4), threads(6), Decoders(2), Decoders(4), Decoders(6)]
    rates = Rates(dict(zip(settings, (100, 190, 330, 345, 180, 300, 350))))
    manifest = memory_manifest(N)
    assert choose(manifest, RECIPE, ROWS, rate=rates) == threads(6)  # 350 is hardly more than 345
    assert rates.asked == settings
    # Remembered for such images, of whatever data set, however few are to be decoded.
    again = Rates({})
    assert choose(memory_manifest(N + 1), RECIPE, ROWS[:200], rate=again) == threads(6)
    [path] = cache.iterdir()
    assert '"4 worker processes": 300' in path.read_text()
    # Not for another recipe, larger images, or a damaged note.
    workers = Rates(dict.fromkeys(settings, 1.0) | {Decoders(2): 9.0, Decoders(4): 7.0})
    assert choose(manifest, dataclasses.replace(RECIPE, rgb="last"), ROWS, rate=workers) == Decoders(2)
    assert workers.asked == settings[:6]  # 4 workers are slower than 2: 6 are not tried
    large = io.BytesIO()
    Image.new("RGB", (64, 64)).save(large, "PNG")
    whole = Manifest(manifest.ids, MemoryOpener((large.getvalue(),) * N))
    assert choose(whole, RECIPE, ROWS, rate=Rates(dict.fromkeys(settings, 1.0))) == threads(1)
    path.write_text("{")
    assert choose(manifest, RECIPE, ROWS, rate=Rates(dict.fromkeys(settings, 1.0))) == threads(1)


def test_few_or_unreadable_images_are_not_measured(cache: Path):
    never = Rates({})
    assert choose(memory_manifest(N), RECIPE, ROWS[: decoders.WORTH - 1], rate=never) == Decoders()
    broken = Manifest(memory_manifest(N).ids, MemoryOpener((b"no image",) * N))
    assert choose(broken, RECIPE, ROWS, rate=never) == Decoders()
    assert not cache.exists()


@pytest.mark.parametrize("setting", [threads(1), threads(2), Decoders(1)])
def test_a_rate_is_measured(setting: Decoders, forked_workers: None):
    manifest = memory_manifest(40, broken=[3])
    assert images_per_second(manifest, RECIPE, range(40), setting) > 0


def test_embeddings_do_not_depend_on_it(cache: Path, monkeypatch: pytest.MonkeyPatch, forked_workers: None):
    monkeypatch.setattr(decoders, "usable_cores", lambda: 2)
    monkeypatch.setattr(decoders, "WORTH", 100)
    model, manifest = TinyModel(), memory_manifest(120)
    expected = embed_images(model, manifest, per_device_batch=4, progress=False)
    assert expected.stats.decoders == ""
    monkeypatch.setattr(decoders, "images_per_second", lambda *a: 2.0 if a[3].workers else 1.0)
    found = embed_images(model, manifest, per_device_batch=4, progress=False, workers="auto")
    assert found.stats.decoders == "2 worker processes"
    np.testing.assert_array_equal(found.array, expected.array)
    with pytest.raises(UsageError, match="at least 0, or 'auto', not 'many'"):
        embed_images(model, manifest, workers="many")


def test_settings_in_words():
    words = [str(each) for each in (Decoders(), threads(1), threads(4), Decoders(1), Decoders(3))]
    assert words == ["one thread a core", "1 thread", "4 threads", "1 worker process", "3 worker processes"]

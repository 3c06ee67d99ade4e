"""`clipjax.corrupt`: corrupted copies of a data set, on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clipjax.data.corrupted.depth import PREPARATION
from clipjax.data.corrupted.frost import frost_pictures
from clipjax.data.corrupted.inputs import CorruptionInputs
from clipjax.data.corrupted.write import CorruptedFolder, write_corrupted
from clipjax.data.pack import refuse_within
from clipjax.evaluation.data_set import dataset_of
from clipjax.evaluation.request import Request


def corrupt(
    data: str | Path,
    out: str | Path,
    kinds: Sequence[str],
    *,
    severities: Sequence[int] = (1, 2, 3, 4, 5),
    dataset: str | None = None,
    depth: str | Path | None = None,
    depth_kind: str = "inverse",
    reshading: str | Path | None = None,
    frost: str | Path | None = None,
    jpeg_quality: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    on_error: str = "raise",
    progress: bool = False,
) -> list[CorruptedFolder]:
    """Write corrupted copies of a data set's images as OUT/<kind>/<severity>/<id>, 224 x 224.

    Args:
        data: the images, as `clipjax eval --data` takes them.
        kinds: e.g. ["fog_3d", "near_focus"].
        dataset: data set card; default: the folder decides the layout.
        depth: folder of 16-bit PNG files, <id> with the ending .png.
        depth_kind: "inverse", or "metric" in 1/8000.
        reshading: folder of reshading files, for flash. Default: a substitute from the depth.
        frost: folder of pictures of frost, larger than 224 pixels on both sides, for frost.
        jpeg_quality: write JPEG instead of PNG.
        limit: only a random sample of this many images.
        seed: of the sample and of the random draws.
        on_error: "raise", or "skip" to leave an image out of each kind that needs an unusable file, named and
            counted.

    Returns: one entry per folder; its corruption.json records how it was made.

    Raises:
        UsageError, DataError: as `write_corrupted`.
    """
    refuse_within(data, out)
    manifest = dataset_of(Request(dataset=dataset, root=data)).manifest
    inputs = CorruptionInputs(_path(depth), depth_kind, _path(reshading), _shared(_path(frost)))
    return write_corrupted(
        manifest if limit is None else manifest.sample(limit, seed),
        Path(out).expanduser(),
        kinds,
        severities,
        inputs,
        jpeg_quality=jpeg_quality,
        seed=seed,
        on_error=on_error,
        progress=progress,
    )


def _shared(frost: Path | None) -> dict[str, Any]:
    return {} if frost is None else {"frost": frost_pictures(frost, PREPARATION.image_size)}


def _path(folder: str | Path | None) -> Path | None:
    return None if folder is None else Path(folder).expanduser()

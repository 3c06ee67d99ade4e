"""Write corrupted copies of a data set in the layout of ImageNet-3DCC.

OUT/fog_3d/3/n01440764/ILSVRC2012_val_00000293.png
OUT/fog_3d/3/corruption.json     how they were made, and what is approximate
OUT/fog_3d/.3.part/              a severity until it is complete; the same run continues it
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import PIL.Image
from etils import epath

from clipjax.corruptions.corruption import Corruption, find_corruption
from clipjax.corruptions.runner import PER_DEVICE
from clipjax.data.corrupted.batches import corrupt_sources, runner_of, software
from clipjax.data.corrupted.inputs import CorruptionInputs, DecodedImage, needed_of
from clipjax.data.corrupted.opener import refuse_corrupted
from clipjax.data.corrupted.record import RECORD, record_of
from clipjax.data.manifest import Manifest
from clipjax.devices.sharding import local_mesh
from clipjax.errors import DataError, UsageError, some_of
from clipjax.progress import Bar, progress_bar
from clipjax.storage.local_files import LocalFiles
from clipjax.storage.reading import exists, is_file, read_json
from clipjax.storage.writing import put_bytes, writing

_FIRST = "first_files"
_JPEG = (".jpg", ".jpeg")


@dataclasses.dataclass(frozen=True)
class CorruptedFolder:
    """One kind at one severity; `skipped` has a sentence for each image left out."""

    folder: Path
    images: int
    kept: int
    skipped: tuple[str, ...]


def write_corrupted(
    manifest: Manifest,
    out: Path,
    kinds: Sequence[str],
    severities: Sequence[int],
    inputs: CorruptionInputs,
    *,
    jpeg_quality: int | None = None,
    seed: int = 0,
    on_error: str = "raise",
    progress: bool = False,
) -> list[CorruptedFolder]:
    """Corrupt every image with every kind at every severity.

    Finished folders are kept, begun ones continued. The bytes do not depend on the number of devices, on the
    other images or on interruptions.

    Args:
        jpeg_quality: write JPEG files of this quality instead of PNG files.
        on_error: "raise", or "skip" to leave an image out of each kind that needs an unusable file.

    Raises:
        UsageError: no kind or severity, or an unknown one; a missing input, other options that do not exist.
        DataError: an unusable file; a folder that another run made; two images of one name; a full disk.
    """
    if on_error not in ("raise", "skip"):
        raise UsageError(f"on_error must be 'raise' or 'skip', not {on_error!r}")
    if jpeg_quality is not None and not 1 <= jpeg_quality <= 100:
        raise UsageError(f"a JPEG quality is 1 to 100, not {jpeg_quality}")
    refuse_corrupted(manifest)
    if not kinds or not severities:
        raise UsageError("name at least one kind and one severity")
    corruptions = [find_corruption(kind) for kind in dict.fromkeys(kinds)]
    inputs.check(corruptions)
    names = _names(manifest, jpeg_quality is not None)
    first = inputs.first_files(manifest, needed_of(corruptions))
    targets = [
        _Target(
            each, severity, out, names, _record(manifest, each, severity, inputs, first, jpeg_quality, seed)
        )
        for each in corruptions
        for severity in dict.fromkeys(severities)
    ]
    for target in targets:
        target.begin()
    missing = [target.missing() for target in targets]
    with _left_clean(targets):
        with progress_bar(sum(map(len, missing)), "corrupt", "image", shown=progress) as bar:
            skipped = _fill(manifest, targets, missing, inputs, jpeg_quality, seed, on_error == "skip", bar)
        return [target.finish(len(rows), reasons) for target, rows, reasons in zip(targets, missing, skipped)]


@contextlib.contextmanager
def _left_clean(targets: Sequence[_Target]) -> Iterator[None]:
    """Remove begun folders without images after an error; a refusal names one of the others."""
    try:
        yield
    except BaseException as error:
        begun = [target.begun for target in targets if target.keeps_images()]
        if not begun or not isinstance(error, DataError):
            raise
        raise DataError(
            f"{error}; finished images are kept in {some_of([*map(str, begun)], 1)}: the same command "
            "continues there, or remove it"
        ) from None


@dataclasses.dataclass(frozen=True)
class _Target:
    """One kind at one severity: its folder, and the begun one beside it."""

    corruption: Corruption
    severity: int
    out: Path
    names: tuple[str, ...]
    record: dict[str, Any]

    @property
    def folder(self) -> Path:
        return self.out / self.corruption.name / str(self.severity)

    @property
    def begun(self) -> Path:
        return self.folder.with_name(f".{self.severity}.part")

    def begin(self) -> None:
        """Make the draft of a folder, or go on with one that has the same record.

        Raises:
            DataError: the folder or its draft is of another corruption or other images.
        """
        for folder in (self.folder, self.begun):
            if not exists(folder):
                continue
            path = folder / RECORD
            made = read_json(path) if is_file(path) else {}
            if others := _different(made, json.loads(json.dumps(self.record))):
                why = f"{RECORD} differs in {', '.join(others)}" if made else f"it has no {RECORD}"
                raise DataError(
                    f"{folder} holds another corruption or other images ({why}); choose another folder"
                )
            return
        with writing(self.begun):
            put_bytes(self.begun / RECORD, _json(self.record))

    def missing(self) -> list[int]:
        if exists(self.folder):
            return []
        LocalFiles().clean(epath.Path(self.begun))
        return [row for row, name in enumerate(self.names) if not is_file(self.begun / name)]

    def keeps_images(self) -> bool:
        """Return whether the begun folder has images; remove it if it has none."""
        if not exists(self.begun):
            return False
        if any(is_file(self.begun / name) for name in self.names):
            return True
        shutil.rmtree(self.begun, ignore_errors=True)
        with contextlib.suppress(OSError):  # other severities are there
            self.begun.parent.rmdir()
        return False

    def put(self, row: int, data: bytes) -> None:
        LocalFiles().create(epath.Path(self.begun / self.names[row]), data, replace=True)

    def finish(self, rows: int, skipped: dict[int, str]) -> CorruptedFolder:
        """Makes the folder visible."""
        if exists(self.folder):
            made = read_json(self.folder / RECORD)
            return CorruptedFolder(self.folder, made["images"], made["images"], tuple(made["skipped"]))
        reasons = [skipped[row] for row in self.missing()]
        images = len(self.names) - len(reasons)
        if not images:
            raise DataError(f"{self.folder}: not one image can be corrupted; the first: {reasons[0]}")
        done = {**self.record, "software": software(), "images": images, "skipped": reasons}
        with writing(self.folder):
            put_bytes(self.begun / RECORD, _json(done))
            os.rename(self.begun, self.folder)
        return CorruptedFolder(self.folder, images, len(self.names) - rows, tuple(reasons))


def _fill(
    manifest: Manifest,
    targets: Sequence[_Target],
    missing: Sequence[Sequence[int]],
    inputs: CorruptionInputs,
    jpeg_quality: int | None,
    seed: int,
    skip: bool,
    bar: Bar,
) -> list[dict[int, str]]:
    """Reads each image once for all targets. Returns each target's rows left out, with the reason."""
    mesh = local_mesh()
    runners = [runner_of(each.corruption.name, each.severity, seed, mesh) for each in targets]
    needed = needed_of([target.corruption for target, rows in zip(targets, missing) if rows])
    wanted = [set(rows) for rows in missing]
    rows = sorted(set().union(*wanted))
    skipped: list[dict[int, str]] = [{} for _ in targets]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for chunk, sources in _chunks(manifest, rows, PER_DEVICE * mesh.size, inputs, needed, pool):
            for target, runner, own, reasons in zip(targets, runners, wanted, skipped):
                usable: dict[int, DecodedImage] = {}
                for row, source in zip(chunk, sources):
                    if row not in own:
                        continue
                    source = _usable(source, needed_of([target.corruption]))
                    if isinstance(source, DecodedImage):
                        usable[row] = source
                    elif not skip:
                        raise source
                    else:
                        reasons[row] = str(source)
                ids = [manifest.ids[row] for row in usable]
                out = corrupt_sources(runner, ids, list(usable.values()), inputs)
                files = pool.map(lambda pixels: _encoded(pixels, jpeg_quality), out)
                list(pool.map(target.put, usable, files))
                bar.update(sum(row in own for row in chunk))
    return skipped


def _usable(source: DecodedImage | DataError, needed: Sequence[str]) -> DecodedImage | DataError:
    """The error of the image or of a needed entry, if there is one."""
    if isinstance(source, DataError):
        return source
    return next((each for name in needed if isinstance(each := source.extra[name], DataError)), source)


def _chunks(
    manifest: Manifest,
    rows: Sequence[int],
    size: int,
    inputs: CorruptionInputs,
    needed: Sequence[str],
    pool: ThreadPoolExecutor,
) -> Iterator[tuple[Sequence[int], list[DecodedImage | DataError]]]:
    """Rows with what was read of each; the next ones are read meanwhile."""

    def read(row: int) -> DecodedImage | DataError:
        try:
            return inputs.read(manifest.opener, row, manifest.ids[row], needed)
        except DataError as error:
            return error

    parts = [rows[at : at + size] for at in range(0, len(rows), size)]
    ahead = [pool.submit(read, row) for row in parts[0]] if parts else []
    for number, part in enumerate(parts):
        now, after = ahead, parts[number + 1] if number + 1 < len(parts) else []
        ahead = [pool.submit(read, row) for row in after]
        yield part, [each.result() for each in now]


def _encoded(pixels: np.ndarray, jpeg_quality: int | None) -> bytes:
    """A PNG file, or a JPEG file of this quality."""
    file = io.BytesIO()
    image = PIL.Image.fromarray(pixels)
    if jpeg_quality is None:
        image.save(file, "PNG")
    else:
        image.save(file, "JPEG", quality=jpeg_quality, optimize=True)
    return file.getvalue()


def _names(manifest: Manifest, jpeg: bool) -> tuple[str, ...]:
    """The ids with the ending of what is written; a JPEG keeps its own name."""
    names, first = [], {}
    for image_id in manifest.ids:
        path = PurePosixPath(image_id)
        if not jpeg or path.suffix.lower() not in _JPEG:
            path = path.with_suffix(".jpg" if jpeg else ".png")
        name = str(path)
        if name in first:
            raise DataError(f"{first[name]} and {image_id} would both be written as {name}; rename one")
        first[name] = image_id
        names.append(name)
    return tuple(names)


def _record(
    manifest: Manifest,
    corruption: Corruption,
    severity: int,
    inputs: CorruptionInputs,
    first: Mapping[str, str | None],
    jpeg_quality: int | None,
    seed: int,
) -> dict[str, Any]:
    """Everything that decides the images, and what to know about them."""
    return {
        **record_of(corruption, severity, seed, inputs),
        _FIRST: {name: first[name] for name in ("image", *inputs.folders(corruption.needs))},
        "format": "PNG" if jpeg_quality is None else f"JPEG, quality {jpeg_quality}",
        "data_set": {"name": manifest.name, "images": len(manifest), "order": manifest.order_digest},
    }


def _different(made: Mapping[str, Any], record: Mapping[str, Any]) -> list[str]:
    """Entries of `record` that differ in the one on disk. A first file that was unusable may be any file."""
    others = [name for name in record if name != _FIRST and made.get(name) != record[name]]
    before, now = made.get(_FIRST, {}), record[_FIRST]
    if any(now[name] and before.get(name) not in (None, now[name]) for name in now):
        others.append(_FIRST)
    return others


def _json(record: dict[str, Any]) -> bytes:
    return json.dumps(record, indent=1, ensure_ascii=False).encode() + b"\n"

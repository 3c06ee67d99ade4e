"""The contact sheet, an image per row: ours, the reference's, and their difference."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from clipjax.evaluation.kinds.images.image_subject import ImageSubject
from clipjax.verification.crosscheck.side import SideOutputs
from clipjax.verification.crosscheck.stages import Flip, StageComparison

SIDE, GAP, TEXT, LINE = 112, 6, 300, 15  # pixels: an image, between two, texts beside it, a line of text
INK = "#222222"


def draw_sheet(
    subject: ImageSubject,
    ours: SideOutputs,
    theirs: SideOutputs,
    stages: Sequence[StageComparison],
    flips: Sequence[Flip],
) -> bytes:
    """A PNG: flipped images first, then the worst of the first stage that differs, else of the logits."""
    stage = worst_stage(stages)
    ids = list(dict.fromkeys([*(flip.id for flip in flips), *(name for name, _ in stage.worst)]))
    ids = ids[:8] or list(subject.data.manifest.ids[:4])
    row_of = {name: row for row, name in enumerate(subject.data.manifest.ids)}
    width = 3 * (SIDE + GAP) + TEXT
    sheet = Image.new("RGB", (width, LINE + 2 * GAP + len(ids) * (SIDE + GAP)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for column, title in enumerate(("clipjax", str(theirs.facts["library"]), "difference")):
        draw.text((column * (SIDE + GAP) + GAP, GAP), title, INK, font)
    for line, name in enumerate(ids):
        top = LINE + 2 * GAP + line * (SIDE + GAP)
        _draw_tiles(sheet, top, ours.pixels[row_of[name]], theirs.pixels[row_of[name]])
        lines = _lines(subject, ours, theirs, stage, name, row_of[name])
        for number, line in enumerate(lines):
            draw.text((3 * (SIDE + GAP) + GAP, top + number * LINE), line, INK, font)
    file = io.BytesIO()
    sheet.save(file, "PNG", optimize=True)
    return file.getvalue()


def worst_stage(stages: Sequence[StageComparison]) -> StageComparison:
    of_images = [stage for stage in stages if stage.of == "images"]
    wrong = (stage for stage in of_images if not stage.passed)
    return next(wrong, next(stage for stage in of_images if stage.name == "logits"))


def _draw_tiles(sheet: Image.Image, top: int, ours: np.ndarray, theirs: np.ndarray) -> None:
    for column, tile in enumerate((ours, theirs)):
        image = Image.fromarray(np.ascontiguousarray(tile)).resize((SIDE, SIDE))
        sheet.paste(image, (column * (SIDE + GAP), top))
    if ours.shape == theirs.shape:
        apart = np.abs(ours.astype(np.float32) - theirs).max(axis=2)
        shrunk = np.asarray(Image.fromarray(apart).resize((SIDE, SIDE), Image.Resampling.BOX))
        grey = (255 * shrunk / max(float(shrunk.max()), 1e-9)).astype(np.uint8)
        sheet.paste(Image.fromarray(grey), (2 * (SIDE + GAP), top))


def _lines(
    subject: ImageSubject, ours: SideOutputs, theirs: SideOutputs, stage: StageComparison, name: str, row: int
) -> list[str]:
    space = subject.data.label_space
    assert space is not None
    mine, other = (space.classes[int(side.prediction[row])] for side in (ours, theirs))
    error = dict(stage.worst).get(name)
    lines = [name[-44:], mine if mine == other else f"{mine} | {other}"]
    if error is not None:
        lines.append(f"{stage.name}: {error:.3g} (allowed {stage.tolerance:.3g})")
    if stage.name != "pixels" and ours.pixels[row].shape == theirs.pixels[row].shape:
        apart = int(np.abs(ours.pixels[row].astype(np.int16) - theirs.pixels[row]).max())
        lines.append(f"pixels: {apart} grey levels" if apart else "pixels: equal")
    return lines

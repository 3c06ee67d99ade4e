"""One crosscheck of a run resolved as by `clipjax eval`."""

from __future__ import annotations

import datetime
import shutil
import tempfile
from pathlib import Path
from typing import Any

from clipjax.checkpoints.export import refuse_adapter
from clipjax.checkpoints.load import load_model
from clipjax.checkpoints.model import Model
from clipjax.embeddings.compute import Compute
from clipjax.errors import DataError
from clipjax.evaluation.kinds.images.image_subject import ImageSubject
from clipjax.evaluation.request import Request
from clipjax.evaluation.run import resolved_run
from clipjax.guards import at_least
from clipjax.results.provenance import provenance
from clipjax.storage.digests import sha256_json
from clipjax.verification.crosscheck.ours import our_side
from clipjax.verification.crosscheck.record import Crosscheck
from clipjax.verification.crosscheck.reference import check_installed, make_job, their_side
from clipjax.verification.crosscheck.sheet import draw_sheet
from clipjax.verification.crosscheck.side import SideOutputs
from clipjax.verification.crosscheck.stages import compare
from clipjax.verification.verify import chosen_library

BATCH = 32
TASK = "zeroshot"  # what both sides compute


def crosscheck(
    model: Model | str | Path,
    request: Request,
    against: str | None = None,
    *,
    checkpoint: str | Path | None = None,
    batch: int = BATCH,
    progress: bool = True,
) -> Crosscheck:
    """Run both frameworks on the same images and prompts and compare them stage by stage.

    Args:
        against: "open_clip", "timm" or "transformers"; default the card's library.
        checkpoint: weights for the reference; default: the safetensors file that the model was read from if
            the library reads it, else the weights in its format.
        batch: images at once, on both sides.

    Raises:
        UsageError, DataError: as `clipjax.evaluate`; a batch size below 1, or no counterpart in the library.
        ClipjaxError: the reference libraries are not installed, or could not be run.
    """
    at_least("the batch size must be at least 1", batch, 1)
    check_installed()
    if not isinstance(model, Model):
        model = load_model(str(model))
    refuse_adapter(model, "crosscheck")
    library = chosen_library(model, against, "crosscheck")
    subject = resolved_run(model, TASK, request, Compute()).subject
    assert isinstance(subject, ImageSubject)
    _ = model.card.fingerprint  # a damaged checkpoint is a DataError, not a difference
    with tempfile.TemporaryDirectory(prefix="clipjax-crosscheck-") as temporary:
        check_room(subject, Path(temporary))
        folders = [Path(temporary) / name for name in ("reference", "ours")]
        for folder in folders:
            folder.mkdir()
        batch = min(batch, len(subject.data.manifest))
        job = make_job(subject, library, folders[0], checkpoint, batch)  # first: refuses before any work
        # Ours before theirs: our error names an image that cannot be decoded.
        ours = our_side(subject, folders[1], batch=batch, progress=progress)
        theirs = their_side(job, folders[0], progress=progress)
        return judge(subject, ours, theirs)


def check_room(subject: ImageSubject, folder: Path) -> None:
    """Raises DataError if the images of both sides would fill the disk."""
    pixels = len(subject.data.manifest) * subject.data.pixels.image_size**2 * 3
    needed, free = 2 * 5 * pixels, shutil.disk_usage(folder).free  # a byte and a float32, twice
    if needed > free:
        raise DataError(
            f"{folder.parent} has {free / 1e9:.1f} GB left, both sides take {needed / 1e9:.1f} GB: "
            "compare fewer (--limit), or set TMPDIR to a larger disk"
        )


def judge(subject: ImageSubject, ours: SideOutputs, theirs: SideOutputs) -> Crosscheck:
    stages, flips = compare(subject, ours, theirs)
    top1 = None if ours.top1 is None or theirs.top1 is None else (ours.top1, theirs.top1)
    sheet = draw_sheet(subject, ours, theirs, stages, flips)
    return Crosscheck(_about(subject, theirs), stages, flips, top1, sheet)


def _about(subject: ImageSubject, theirs: SideOutputs) -> dict[str, Any]:
    data, recipe = subject.data, subject.recipe("parity", ())
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "model": subject.model.card.id,
        "fingerprint": subject.model.card.fingerprint,
        "against": theirs.facts["library"],
        "data": {"name": data.name, "digest": data.manifest.digest, "n": len(data.manifest)},
        "sample": data.sample,
        "recipe_hash": sha256_json(recipe),
        "recipe": recipe,
        "convention": subject.convention(),
        "reference": dict(theirs.facts),
        **provenance(),
    }

"""`clipjax corrupt`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from clipjax.commands.shared.names import check_names
from clipjax.commands.shared.options import DatasetOption
from clipjax.commands.shared.output import say
from clipjax.commands.shared.records import with_options
from clipjax.errors import UsageError, counted
from clipjax.guards import known_name


def register(root: typer.Typer) -> None:
    root.command("corrupt")(with_options(CorruptOptions, corrupt))


@dataclass(frozen=True, kw_only=True)
class CorruptOptions:
    PANELS: ClassVar = {
        "Corruptions": ("kind", "severity", "depth", "depth_kind", "reshading", "frost"),
        "Images": ("dataset", "limit", "seed", "on_error"),
        "Output": ("out", "jpeg"),
    }
    data: Annotated[
        Path, typer.Argument(metavar="SRC", help="The images, as `clipjax eval --data` takes them.")
    ]
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write KIND/SEVERITY/... to.")]
    kind: Annotated[str, typer.Option("--kind", "-k", help="Kinds, e.g. fog_3d,near_focus,flash.")]
    severity: Annotated[str, typer.Option(help="Severities, e.g. 3 or 1,3,5 or 1-5.")] = "1-5"
    depth: Annotated[
        Path | None,
        typer.Option(help="Folder of depths: 16-bit PNGs named as the images. For kinds that use depth."),
    ] = None
    depth_kind: Annotated[
        str, typer.Option(help="What a depth file holds: inverse (1/512), or metric (1/8000).")
    ] = "inverse"
    reshading: Annotated[
        Path | None,
        typer.Option(help="Folder of reshadings, for flash. Default: a substitute from the depth."),
    ] = None
    frost: Annotated[
        Path | None,
        typer.Option(
            help="Folder of pictures of frost, for frost (ImageNet-C's: hendrycks/robustness, create_c)."
        ),
    ] = None
    dataset: DatasetOption = None
    jpeg: Annotated[
        int | None, typer.Option(metavar="QUALITY", help="Write JPEGs of this quality (ImageNet-C: 85).")
    ] = None
    limit: Annotated[int | None, typer.Option(help="Only a random sample of this many images.")] = None
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sample and of the random draws.")] = 0
    on_error: Annotated[
        str, typer.Option(help="What to do with an unusable file: raise, or skip (named and counted).")
    ] = "raise"


def corrupt(options: CorruptOptions) -> None:
    r"""Write corrupted copies of images, in the layout of ImageNet-3DCC and ImageNet-C.

    The cards imagenet_3dcc and imagenet_c read them. Each folder's corruption.json records how it was made
    and what is approximate. A folder is OUT/KIND/.N.part until it is complete. Run an interrupted command
    again: finished images are kept.

    Example:

        clipjax corrupt /data/imagenet/val --depth /data/depth -k fog_3d,flash \
            -o /data/ImageNet-3DCC
    """
    from clipjax.corruptions.corruption import kind_names

    check_names(datasets=(options.dataset,), roots=(options.data,))
    kinds = [name.strip() for name in options.kind.split(",") if name.strip()]
    for kind in kinds:
        known_name("corruption", kind, kind_names())
    from clipjax.evaluation import corrupted

    named = ("dataset", "depth", "depth_kind", "reshading", "frost", "limit", "seed", "on_error")
    written = corrupted.corrupt(
        options.data,
        options.out,
        kinds,
        severities=severities_of(options.severity),
        jpeg_quality=options.jpeg,
        progress=True,
        **{name: getattr(options, name) for name in named},
    )
    for each in written:
        left_out = f", {len(each.skipped)} left out" if each.skipped else ""
        say(f"{each.folder}: {counted(each.images, 'image')}, {each.kept} of them kept{left_out}")
    for reason in dict.fromkeys(reason for each in written for reason in each.skipped):
        say(f"left out: {reason}")


def severities_of(text: str) -> list[int]:
    """ "1-3" and "1,2,3" are [1, 2, 3]. Raises UsageError for anything else."""
    severities: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([1-5])(?:-([1-5]))?\s*", part)
        if match is None or int(match[2] or 5) < int(match[1]):
            raise UsageError(f"--severity: 1 to 5, a list 1,3,5 or a range 1-5, not {text!r}")
        severities += range(int(match[1]), int(match[2] or match[1]) + 1)
    return severities

"""`clipjax gallery`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from clipjax.commands.shared.options import OnlyLabelsOption, OnlyPrecisionOption, OnlyPromptsOption
from clipjax.commands.shared.output import say
from clipjax.commands.shared.records import with_options
from clipjax.commands.shared.result_folder import checked
from clipjax.commands.shared.stores import cached_pixels
from clipjax.errors import counted, visible


def register(app: typer.Typer) -> None:
    app.command("gallery")(with_options(GalleryOptions, gallery))


@dataclass(frozen=True, kw_only=True)
class GalleryOptions:
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL_OR_RUN", help="Models, or runs of one task on one data set. Default: all models."
        ),
    ] = None
    results: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("results")
    out: Annotated[Path, typer.Option("--out", "-o", help="The gallery to write.")] = Path("gallery.html")
    title: Annotated[
        str | None,
        typer.Option(help="Title of the page. Default: the names of the models, or of the folder."),
    ] = None
    show: Annotated[
        list[str] | None,
        typer.Option(
            "--show",
            help="disagree, changed (of two: before and after), hardest, confident (wrong and sure of it) or "
            "factor (with --by); may be repeated. Default: those that fit these models, except changed.",
        ),
    ] = None
    by: Annotated[
        str | None,
        typer.Option(help="Group images by this column of the per-image table, e.g. top_factors."),
    ] = None
    dataset: Annotated[
        list[str] | None,
        typer.Option("--dataset", "-d", help="Images of this data set; may be repeated."),
    ] = None
    task: Annotated[
        list[str] | None,
        typer.Option("--task", "-t", help="Answers of this task. Default: the first on the data set's card."),
    ] = None
    prompts: OnlyPromptsOption = None
    precision: OnlyPrecisionOption = None
    labels: OnlyLabelsOption = None
    images: Annotated[int, typer.Option(min=1, max=200, help="At most this many images of a group.")] = 24
    seed: Annotated[int, typer.Option(min=0, help="Seed of the samples of images.")] = 0
    data: Annotated[Path | None, typer.Option(help="Folder of the images, of one data set.")] = None
    data_root: Annotated[
        Path | None,
        typer.Option(help="Folder of several data sets, in the subfolders that their cards name."),
    ] = None
    card: Annotated[Path | None, typer.Option(help="The data set's card, if it is a file of your own.")] = (
        None
    )
    pixel_store: Annotated[
        Path | None,
        typer.Option(
            help="Take thumbnails from this pixel store. Default: without a folder, that of the user's cache."
        ),
    ] = None
    side: Annotated[
        int, typer.Option(min=16, max=512, help="Pixels of a thumbnail's longer side, at most.")
    ] = 96
    private: Annotated[
        bool,
        typer.Option(
            "--private",
            help="Also show images that you may look at but not pass on; the page names their data sets.",
        ),
    ] = False
    PANELS: ClassVar = {
        "What is shown": ("show", "by", "dataset", "task", "images", "seed"),
        "Which runs": ("results", "prompts", "precision", "labels"),
        "Where the images are": ("data", "data_root", "card", "pixel_store", "side", "private"),
        "The page": ("out", "title"),
    }


def gallery(options: GalleryOptions) -> None:
    r"""Write one HTML page of images: where models disagree, and what all of them find hard.

    The page states how its images were chosen. It leaves out data sets whose terms forbid showing them. It is
    one file and needs no network.

    Examples:

        clipjax gallery vit_b_32-openai vit_b_16-openai \
            --dataset imagenet_r --data /data/imagenet-r

        clipjax gallery --show hardest --dataset my_photos \
            --data photos --card my_photos.toml

        clipjax gallery --dataset imagenet_x --by top_factors \
            --data-root /data --private
    """
    checked(options.results)
    from clipjax.data.cards import read_card
    from clipjax.evaluation.comparison.run_pairs import RunFilter
    from clipjax.evaluation.gallery.gallery import write_gallery
    from clipjax.evaluation.gallery.image_choice import Choosing
    from clipjax.evaluation.gallery.thumbnails import ImagePlaces

    cached, folder = cached_pixels(), options.data or options.data_root
    spare = cached if folder is None and cached.is_dir() else None
    written = write_gallery(
        options.results,
        options.out,
        options.names or (),
        title=options.title,
        shows=options.show or (),
        tasks=options.task or (),
        datasets=options.dataset or (),
        choice=RunFilter(options.prompts, options.precision, options.labels),
        choosing=Choosing(options.images, options.seed, options.by),
        places=ImagePlaces(
            data=options.data,
            data_root=options.data_root,
            pixel_store=options.pixel_store or spare,
            card=None if options.card is None else read_card(options.card),
            private=options.private,
            side=options.side,
        ),
    )
    for why in written.left_out.values():
        say(visible(f"left out: {why}"), err=True)
    images, groups = counted(written.images, "image"), counted(written.groups, "group")
    say(f"{options.out}: {written.megabytes:.1f} MB, {images} in {groups}")

"""`clipjax embed`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from clipjax.commands.shared.exclusions import on_command_line, refuse_without
from clipjax.commands.shared.facts import FactOptions
from clipjax.commands.shared.names import check_names
from clipjax.commands.shared.options import AnyModelOption, CardOption, NameOption, OutFolderOption
from clipjax.commands.shared.output import announce, say
from clipjax.commands.shared.processes import say_slow
from clipjax.commands.shared.records import FieldsOf, with_options
from clipjax.commands.shared.stores import StoreOptions
from clipjax.embeddings.compute import Compute
from clipjax.errors import UsageError
from clipjax.evaluation.request import Request


def register(app: typer.Typer) -> None:
    app.command("embed")(with_options(EmbedOptions, embed))


@dataclass(frozen=True, kw_only=True)
class EmbedOptions:
    PANELS: ClassVar = {
        "Model": ("model", "card", "name", "facts_of", "fact", "facts"),
        "Data": ("texts",),
        "Measurement": (),
        "Speed and storage": ("store", "pixel_store", "pixel_budget"),
        "Output": ("out", "form"),
    }
    context: typer.Context
    model: AnyModelOption = None
    card: CardOption = None
    name: NameOption = None
    facts: FactOptions
    request: Annotated[
        dict[str, Any],
        FieldsOf(Request, "root", "dataset", "data_name", "limit", "seed", "precision", "decode"),
    ]
    texts: Annotated[Path | None, typer.Option(help="Texts to embed: a file with one on each line.")] = None
    how: Annotated[
        dict[str, Any],
        FieldsOf(Compute, "per_device_batch", "workers", "params", "on_error", per_device_batch=64),
    ]
    stores: StoreOptions
    out: OutFolderOption
    form: Annotated[
        str, typer.Option("--format", "-f", help="npy (arrays, and ids as JSON), or parquet.")
    ] = "npy"


def embed(options: EmbedOptions) -> None:
    r"""Write the embeddings of images and texts to a folder, for other programs.

    They are those that `clipjax eval` computes, from the same store: what is stored is not computed again.

    Examples:

        clipjax embed --model vit_b_32-openai --data imagenet/val \
            --dataset imagenet_val --out val_vectors

        clipjax embed --model vit_b_32-openai --data photos --texts texts.txt \
            --format parquet --out photo_vectors
    """
    if options.model is None:
        raise UsageError("say which model embeds: --model MODEL")
    request = options.request
    if request["dataset"] is None and request["root"] is None:
        of_images = ("limit", "seed", "decode", "on_error")
        refuse_without("--data", on_command_line(options.context, of_images))
    datasets, roots = (request["dataset"],), (request["root"],)
    check_names(evaluated=(options.model,), card=options.card, datasets=datasets, roots=roots)
    from clipjax.embeddings.exported_files import check_target

    check_target(options.out, options.form)
    say_slow(request["precision"])
    announce(f"loading {options.model}")
    from clipjax.evaluation.embed import embed as write
    from clipjax.storage.reading import read_lines

    sets = write(
        options.model,
        options.out,
        Request(**request),
        options.stores.compute(**options.how),
        texts=read_lines(options.texts) if options.texts is not None else (),
        form=options.form,
        card=options.card,
        **options.facts.stated(options.name),
    )
    for name, rows in sets.items():
        say(f"{options.out}: {rows.array.shape[0]:,} {name}, {rows.array.shape[1]} numbers each")

"""`clipjax store`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from clipjax.commands.shared.exclusions import refuse_beside
from clipjax.commands.shared.options import OutFolderOption, StoreOption
from clipjax.commands.shared.output import print_table, say
from clipjax.commands.shared.stores import cached_pixels, parse_size, store_root
from clipjax.errors import DataError

app = typer.Typer(
    help="The stores of embeddings and of decoded pixels: list their contents, free space.",
    no_args_is_help=True,
)


def register(root: typer.Typer) -> None:
    root.add_typer(app, name="store")


PixelsOption = Annotated[
    bool,
    typer.Option("--pixels", help="Use the pixel store of the user's cache, not the store of embeddings."),
]


@app.command("list")
@app.command("ls", hidden=True)  # the name in version 0.1.0
def list_entries(store: StoreOption = None, pixels: PixelsOption = False) -> None:
    """List the stored arrays, the most recently used first."""
    from clipjax.storage.store import Store

    rows, root = [], _existing(store, pixels)
    for info in Store(root).ls():
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(info.last_used))
        shards = f"{info.shards_present}/{info.shards}"
        kind = info.key.get("kind") or info.key.get("output", "")
        how = info.about.get("pixels") or info.key.get("precision", "")
        about = [info.about.get("model", ""), info.about.get("data", "")]
        rows.append([info.name[:12], kind, *about, how, info.rows, shards, f"{info.bytes / 1e6:.1f}", used])
    if not rows:
        say(f"the store {root} is empty")
        return
    print_table(["entry", "kind", "model", "data", "how", "rows", "shards", "MB", "last used"], rows)


@app.command("gc")
def gc(
    budget: Annotated[str, typer.Argument(help="Size to shrink the store to, e.g. 20GB or 500MB.")],
    store: StoreOption = None,
    pixels: PixelsOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be removed, and remove nothing.")
    ] = False,
) -> None:
    """Remove whole entries, the longest unused first, until the store fits the budget.

    Pixels that a run is reading stay.
    """
    from clipjax.storage.store import Store

    removed = Store(_existing(store, pixels)).gc(parse_size(budget), dry_run=dry_run)
    freed = sum(info.bytes for info in removed) / 1e6
    verb = "would remove" if dry_run else "removed"
    say(f"{verb} {len(removed)} entries, {freed:.1f} MB")


@app.command("export")
def export(
    entry: Annotated[str, typer.Argument(metavar="ENTRY", help="An entry of `clipjax store list`.")],
    out: OutFolderOption,
    form: Annotated[
        str, typer.Option("--format", "-f", help="npy (an array, and ids as JSON), or parquet.")
    ] = "npy",
    store: StoreOption = None,
    pixels: PixelsOption = False,
) -> None:
    """Write a stored array to a folder, for other programs.

    Texts have the numbers of their rows as ids: the store does not keep texts.

    Example:

        clipjax store export 3f2a91c0 --format parquet --out embeddings
    """
    from clipjax.embeddings.exported_files import NamedRows, check_target, write_embeddings
    from clipjax.storage.entry import read_entry
    from clipjax.storage.store import Store

    check_target(out, form)
    opened = Store(_existing(store, pixels))
    name = opened.named(entry)
    record, ids, array = read_entry(opened.root / name, opened.files)
    about = {"entry": name, **record.about, "key": record.key}
    write_embeddings(out, {"rows": NamedRows(ids, array)}, about, form)
    say(f"{out}: {len(ids):,} rows of {list(array.shape[1:])}")


def _existing(store: Path | None, pixels: bool) -> Path:
    """The store in a folder. Only the user's cache may be missing: it then counts as empty."""
    from clipjax.storage.reading import exists
    from clipjax.storage.remote.buckets import as_path

    if pixels:
        refuse_beside("--pixels", {"--store": store})
        return cached_pixels()
    if store is not None and not exists(as_path(store).expanduser()):
        raise DataError(f"{store} does not exist; give the folder that `clipjax eval --store` wrote to")
    return store_root(store)

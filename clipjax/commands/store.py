"""Commands about the embedding store: `store ls`, `store gc`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from clipjax.commands.output import print_table
from clipjax.errors import DataError, UsageError

app = typer.Typer(help="The store of embeddings: what is in it, and freeing space.", no_args_is_help=True)

StoreOption = Annotated[
    Path | None, typer.Option("--store", help="Folder of the store; default: the user's cache.")
]
_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


@app.command("ls")
def ls(store: StoreOption = None) -> None:
    """List the stored arrays, the most recently used first."""
    from clipjax.store import Store

    rows = []
    for info in Store(_existing(store)).ls():
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(info.last_used))
        shards = f"{info.shards_present}/{info.shards}"
        about = [info.about.get("model", ""), info.about.get("data", "")]
        what = [info.key.get("output", ""), info.key.get("precision", "")]
        rows.append([info.name[:12], *about, *what, info.rows, shards, f"{info.bytes / 1e6:.1f}", used])
    print_table(["entry", "model", "data", "output", "precision", "rows", "shards", "MB", "last used"], rows)


@app.command("gc")
def gc(
    budget: Annotated[str, typer.Argument(help="Size to shrink the store to, e.g. 20GB or 500MB.")],
    store: StoreOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
) -> None:
    """Remove whole entries, the longest unused first, until the store fits the budget."""
    from clipjax.store import Store

    removed = Store(_existing(store)).gc(parse_size(budget), dry_run=dry_run)
    freed = sum(info.bytes for info in removed) / 1e6
    verb = "would remove" if dry_run else "removed"
    typer.echo(f"{verb} {len(removed)} entries, {freed:.1f} MB")


def _existing(store: Path | None) -> Path:
    """Only the default store may not be there yet: then it is empty."""
    if store is not None and not store.expanduser().exists():
        raise DataError(f"{store} does not exist; give the folder that `clipjax eval --store` wrote to")
    return store_root(store)


def store_root(store: Path | None) -> Path:
    """The store a command uses: --store, else the user's cache."""
    from clipjax.digests import cache_dir

    return store if store is not None else cache_dir() / "store"


def parse_size(text: str) -> int:
    """'20GB' -> 20 000 000 000; units B, KB, MB, GB, TB (powers of ten)."""
    upper = text.strip().upper()
    unit = next((unit for unit in sorted(_UNITS, key=len, reverse=True) if upper.endswith(unit)), None)
    try:
        size = float(upper[: -len(unit)] if unit else upper) * (_UNITS[unit] if unit else 1)
    except ValueError:
        size = -1.0
    if not 0 <= size < float("inf"):
        raise UsageError(f"{text!r} is not a size; write for example 20GB or 500MB")
    return int(size)

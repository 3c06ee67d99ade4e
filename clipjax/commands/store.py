"""Commands about the stores of embeddings and of decoded pixels: `store ls`, `store gc`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from clipjax.commands.shared.output import print_table, say
from clipjax.errors import DataError, UsageError
from clipjax.storage.buckets import place
from clipjax.storage.reading import exists

app = typer.Typer(
    help="The stores of embeddings and of decoded pixels: what is in them, and freeing space.",
    no_args_is_help=True,
)

StoreOption = Annotated[
    Path | None, typer.Option("--store", help="Folder of the store, or its URL; default: the user's cache.")
]
PixelsOption = Annotated[
    bool, typer.Option("--pixels", help="The pixel store of the user's cache, not the embeddings.")
]
# Of the commands that embed images.
PixelStoreOption = Annotated[
    Path | None,
    typer.Option(
        "--pixel-store",
        help="Keep decoded pixels in this folder ('cache': the user's cache), for models that share them.",
    ),
]
PixelBudgetOption = Annotated[
    str | None, typer.Option("--pixel-budget", help="What the pixel store may take; default 100GB.")
]
_CACHE = Path("cache")
_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


@app.command("ls")
def ls(store: StoreOption = None, pixels: PixelsOption = False) -> None:
    """List the stored arrays, the most recently used first."""
    from clipjax.storage.store import Store

    rows = []
    for info in Store(_existing(store, pixels)).ls():
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(info.last_used))
        shards = f"{info.shards_present}/{info.shards}"
        kind = info.key.get("kind") or info.key.get("output", "")
        how = info.about.get("pixels") or info.key.get("precision", "")
        about = [info.about.get("model", ""), info.about.get("data", "")]
        rows.append([info.name[:12], kind, *about, how, info.rows, shards, f"{info.bytes / 1e6:.1f}", used])
    print_table(["entry", "kind", "model", "data", "how", "rows", "shards", "MB", "last used"], rows)


@app.command("gc")
def gc(
    budget: Annotated[str, typer.Argument(help="Size to shrink the store to, e.g. 20GB or 500MB.")],
    store: StoreOption = None,
    pixels: PixelsOption = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
) -> None:
    """Remove whole entries, the longest unused first, until the store fits the budget.

    Pixels that a run reads at the moment stay.
    """
    from clipjax.storage.store import Store

    removed = Store(_existing(store, pixels)).gc(parse_size(budget), dry_run=dry_run)
    freed = sum(info.bytes for info in removed) / 1e6
    verb = "would remove" if dry_run else "removed"
    say(f"{verb} {len(removed)} entries, {freed:.1f} MB")


def _existing(store: Path | None, pixels: bool) -> Path:
    """Only the default stores may not be there yet: then they are empty."""
    if store is not None and pixels:
        raise UsageError("--pixels is the pixel store of the user's cache: give it or --store, not both")
    if store is not None and not exists(place(store).expanduser()):
        raise DataError(f"{store} does not exist; give the folder that `clipjax eval --store` wrote to")
    return _cached_pixels() if pixels else store_root(store)


def store_root(store: Path | None) -> Path:
    """The store a command uses: --store, else the user's cache."""
    from clipjax.config import cache_dir

    return store if store is not None else cache_dir() / "store"


def _cached_pixels() -> Path:
    """Apart from the embeddings: those are small and cost more to make, so each has a budget of its own."""
    from clipjax.config import cache_dir

    return cache_dir() / "pixels"


def pixels_in(root: Path | None, budget: str | None) -> Any:
    """The `PixelStore` that --pixel-store and --pixel-budget ask for, None where none is."""
    if root is None and budget is not None:
        raise UsageError("--pixel-budget has no effect without --pixel-store: give both or neither")
    if root is None:
        return None
    from clipjax.data.pixels.pixel_store import BUDGET, PixelStore

    size = BUDGET if budget is None else parse_size(budget)
    return PixelStore(_cached_pixels() if root == _CACHE else root, size)


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

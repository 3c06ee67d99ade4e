"""Options and helpers of the commands that read results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from clipjax.commands.shared.exclusions import refuse_beside
from clipjax.commands.shared.output import say
from clipjax.errors import UsageError, unknown_name
from clipjax.guards import known_name

if TYPE_CHECKING:
    from clipjax.results.row import Row
    from clipjax.results.store import ResultStore

DEFAULT = "parity"  # of --precision


def opened(folder: Path) -> ResultStore:
    """The results in a folder; folders in it that are not runs are named on stderr. Raises as `checked`."""
    warn_left_out(found := checked(folder))
    return found


def checked(folder: Path) -> ResultStore:
    """A folder of results that has runs. Call this first: loading JAX takes seconds.

    Raises:
        DataError: the folder is missing or holds no run.
    """
    from clipjax.results.store import ResultStore

    found = ResultStore(folder)
    found.check_root(exists=True)
    if not found.run_ids():
        warn_left_out(found)
        found.check_runs()
    return found


def warn_left_out(found: ResultStore) -> None:
    if names := found.left_out():
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        listed = f"{', '.join(names[:5])}{more}"
        say(f"{found.root}: left out, as they hold no run.json: {listed}", err=True)


def run_in(store: ResultStore, name: str) -> str:
    """The run of this id, or whose id alone begins so.

    Raises UsageError if none or several do.
    """
    runs = store.run_ids()
    matching = [name] if name in (*runs, *store.left_out()) else [run for run in runs if run.startswith(name)]
    if len(matching) > 1:
        raise UsageError(
            f"{len(matching)} runs begin with {name!r}, such as {matching[0]}: give more of one (`clipjax "
            "results list --runs`)"
        )
    if not matching:
        raise unknown_name("run", name, runs)
    return matching[0]


def selected(rows: list[Row], wanted: Mapping[str, Sequence[str] | None]) -> list[Row]:
    """The rows that have one of the wanted names in each field; `*` in a name matches anything.

    A data set also has its recorded name, which several may share.

    Args:
        wanted: field of a row -> names; None or empty for any.

    Raises:
        UsageError: no row has a name, or no row has all of them together.
    """
    found = rows
    for field, names in wanted.items():
        if names:
            known = {one for row in rows for one in _names(row, field)}
            some = {one for name in names for one in _fitting(field, name, known)}
            found = [row for row in found if not some.isdisjoint(_names(row, field))]
    if not found:
        asked = " and ".join(f"{field} {' or '.join(names)}" for field, names in wanted.items() if names)
        raise UsageError(f"there is no row of {asked}")
    return found


def _names(row: Row, field: str) -> tuple[str, ...]:
    from clipjax.results.data_sets import recorded_name

    return (row[field], recorded_name(row)) if field == "dataset" else (row[field],)


def _fitting(field: str, name: str, known: set[str]) -> list[str]:
    pattern = name.replace("[", "[[]").replace("?", "[?]")
    if not (fits := [one for one in known if fnmatchcase(one, pattern)]):
        raise unknown_name(_WORDS.get(field, field), name, sorted(known))
    return fits


_WORDS = {"dataset": "data set"}


def check_choice(rows: Iterable[Row], *, prompts: str | None, precision: str = DEFAULT) -> None:
    """Refuse what no row has: a mistyped name would silently choose nothing.

    Raises:
        UsageError: no row has it; the default precision always passes.
    """
    sets, precisions = set[str | None](), set[str | None]((DEFAULT,))
    for row in rows:
        sets.add(row["convention"].get("prompts"))
        precisions.add(row["precision"])
    for kind, asked, known in (("prompt set", prompts, sets), ("precision", precision, precisions)):
        if asked in SHIPPED[kind]() and asked not in known:
            have = ", ".join(sorted(each for each in known if each)) or "none"
            raise UsageError(f"no row was measured with the {kind} {asked!r}; rows have: {have}")
        if asked is not None and asked not in known:
            raise unknown_name(kind, asked, sorted(each for each in known if each) or ["none"])


def check_models(known: Iterable[str], asked: Iterable[str]) -> None:
    """Raises UsageError, with near names, for a model that the results lack."""
    models = list(dict.fromkeys(known))
    for name in asked:
        known_name("model", name, models)


def _shipped_prompts() -> list[str]:
    from clipjax.config import ConfigFolder, config_files

    return list(config_files(ConfigFolder.PROMPTS, ".txt"))


SHIPPED: dict[str, Callable[[], Sequence[str]]] = {
    "prompt set": _shipped_prompts,
    "precision": lambda: ("parity", "fast"),
}
"""Kind of a name -> its known names: one that no row has may still be spelled right."""


def check_form(form: str, out: Path | None, known: Sequence[str] | None = None) -> None:
    """Raises UsageError for an unknown form of the output, and for --out with a table."""
    if known is not None and form not in known:
        raise unknown_name("format", form, list(known))
    refuse_beside("--format table", {"--out": out if form == "table" else None})


def emit(text: str, out: Path | None) -> None:
    """Write a text to a file and name it on stderr, or print it."""
    if out is None:
        say(text, nl=False)
        return
    from clipjax.storage.writing import write_bytes

    write_bytes(out, text.encode())
    say(str(out), err=True)

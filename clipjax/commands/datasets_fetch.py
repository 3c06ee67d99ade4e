"""`clipjax datasets fetch`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipjax.commands.shared.exclusions import refuse_beside, refuse_without
from clipjax.commands.shared.options import AcceptOption, JsonOption, SourceOption
from clipjax.commands.shared.output import announce, print_table, say
from clipjax.errors import DataError, UsageError, counted
from clipjax.guards import known_name

if TYPE_CHECKING:
    from clipjax.data.card_files import CardFile
    from clipjax.data.cards import DatasetCard
    from clipjax.downloads.bundles import Bundle
    from clipjax.downloads.fetch import FetchReport

SUITE = "suite:"
DONE = ("there", "fetched")


@dataclass(frozen=True, kw_only=True)
class FetchOptions:
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="NAME...",
            help="Data sets, families, `all`, the data sets of a suite (suite:study), or a card's file.",
        ),
    ]
    to: Annotated[
        Path, typer.Option("--to", metavar="DATA_ROOT", help="The folder of data sets, as for --data-root.")
    ]
    source: SourceOption = None
    accept: AcceptOption = None
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the downloaded files after they are unpacked.")
    ] = False
    plan: Annotated[
        bool,
        typer.Option(
            "--plan", help="Download nothing: print addresses, sizes, checksums, licences and folders."
        ),
    ] = False
    as_json: JsonOption = False

    def check(self) -> None:
        if self.plan:
            refuse_beside("--plan", {"--keep": self.keep})
        else:
            refuse_without("--plan", {"--json": self.as_json})
        check_source(self.source)


def check_source(folder: Path | None) -> None:
    """Raises DataError if --from is not a folder."""
    if folder is not None and not folder.is_dir():
        raise DataError(f"{folder} is not a folder: --from is the folder of the files that you have")


def fetch(options: FetchOptions) -> None:
    """Download data sets, verify them, unpack them and put them below the data root.

    A data set that is there already is only verified. Run an interrupted command again: it goes on where it
    was cut off. A data set that needs an account says how to get it; then --from takes your files.

    Examples:

        clipjax datasets fetch imagenet_r imagenet_sketch --to /data

        clipjax datasets fetch suite:study --to /data --plan

        clipjax datasets fetch imagenet_val --from ~/Downloads --to /data
    """
    options.check()
    from clipjax.downloads.bundles import bundles_of

    bundles = bundles_of(cards_of(options.names, options.to), options.to)
    check_accepted(options.accept or (), bundles)
    if options.plan:
        print_plan(bundles, options.to, as_json=options.as_json)
        return
    reports = run_fetch(bundles, options.to, options.source, options.accept or (), keep=options.keep)
    show(reports, options.to)
    if undone := [each for each in reports if each.state not in DONE]:
        raise DataError(
            f"{len(undone)} of {counted(len(reports), 'fetch', 'fetches')} not done, as the table says; the "
            "same command goes on"
        )


def cards_of(names: Sequence[str], root: Path) -> list[DatasetCard]:
    """The cards of data sets, families and suites. Raises as `cards_named` and `load_suite`."""
    from clipjax.downloads.bundles import cards_named

    plain = [name for name in names if not name.startswith(SUITE)]
    cards = {card.name: card for card in cards_named(plain, root)}
    for name in names:
        if name.startswith(SUITE):
            cards |= suite_cards(name, root)
    return list(cards.values())


def run_fetch(
    bundles: Sequence[Bundle],
    root: Path,
    source: Path | None,
    accepted: Sequence[str],
    *,
    keep: bool = False,
) -> list[FetchReport]:
    """Fetch the bundles, with what the user accepts and types. Raises as `Fetch.run`."""
    from clipjax.downloads.fetch import Fetch

    run = Fetch(
        root=root,
        source=source,
        keep=keep,
        accepts=lambda bundle: _accepts(bundle, accepted),
        password=_password,
        tell=announce,
    )
    reports = []
    for report in run.run(bundles):
        reports.append(report)
        if report.state == "fetched":  # the table comes when all have ended
            announce(f"{report.bundle.title}: {report.line}")
    return reports


def suite_cards(name: str, root: Path) -> dict[str, DatasetCard]:
    """Data set -> card, as `cards_to_fetch`. Raises UsageError or DataError as `load_suite`."""
    from clipjax.sweep.data_sets import cards_to_fetch, data_sets_of, jobs_of
    from clipjax.sweep.suite import load_suite

    suite = load_suite(name, data_root=root)
    return cards_to_fetch(suite, data_sets_of(suite, jobs_of(suite)))


def check_accepted(accepted: Sequence[str], bundles: Sequence[Bundle]) -> None:
    """Raises UsageError if `--accept` names a data set that is not fetched."""
    known = {"all"}.union(*(_names(bundle) for bundle in bundles))
    for name in accepted:
        known_name("data set in --accept", name, sorted(known))


def _names(bundle: Bundle) -> set[str]:
    """The names under which the bundle's terms are accepted."""
    return {name for card in bundle.cards for name in (card.name, card.name.partition(":")[0])}


def _accepts(bundle: Bundle, accepted: Sequence[str]) -> bool:
    """Whether the user accepts the bundle's terms: by `--accept`, or typed on a terminal."""
    if (_names(bundle) | {"all"}) & {*accepted}:
        return True
    if not sys.stdin.isatty():
        return False
    return all(
        typer.confirm(f"{bundle.title}: {sentence} Do you accept?", err=True) for sentence in bundle.asks
    )


def _password(file: CardFile) -> str:
    """Raises UsageError where nobody can type it."""
    if not sys.stdin.isatty():
        raise UsageError(
            f"{file.name} is encrypted: run this command on a terminal, where you can type its password"
        )
    say(file.how or "", err=True)
    return typer.prompt(f"password of {file.name}", hide_input=True, err=True)


def show(reports: Sequence[FetchReport], root: Path) -> None:
    """Print how each bundle ended; then what the user must do for those that are not done."""
    from clipjax.data.file_words import way_lines

    lines = [[each.bundle.title, each.state, each.line] for each in reports]
    print_table(["data sets", "state", "where, or why not"], lines)
    for bundle in (each.bundle for each in reports if each.state == "by hand"):
        say(f"\n{bundle.title}:")
        for line in way_lines(bundle.cards[0].name, bundle.files, root):
            say(f"  {line}")
    if refused := [each.bundle for each in reports if each.state == "not accepted"]:
        families = dict.fromkeys(bundle.cards[0].name.partition(":")[0] for bundle in refused)
        flags = " ".join(f"--accept {name}" for name in families)
        say(f"\nRead the terms above. If you accept them, run the same command with {flags}")


def print_plan(bundles: Sequence[Bundle], root: Path, *, as_json: bool) -> None:
    """Print what a fetch would download, without a network."""
    if as_json:
        say(json.dumps([_bundle_record(bundle, root) for bundle in bundles], indent=2))
        return
    for bundle in bundles:
        for line in _plan_lines(bundle, root):
            say(line)
        say()
    say(_total_line(bundles))


def _plan_lines(bundle: Bundle, root: Path) -> Iterator[str]:
    from clipjax.data.file_words import file_lines, way_lines

    first, *others = dict.fromkeys(str(folder) for _, folder in bundle.folders(root))
    yield f"{bundle.title} -> {first}{', ...' if others else ''}"
    yield f"  licence: {bundle.cards[0].licence}"
    if not bundle.downloadable:
        yield from (f"  {line}" for line in way_lines(bundle.cards[0].name, bundle.files, root))
    for file in bundle.files:
        yield from (f"  {line}" for line in file_lines(file))


def _total_line(bundles: Sequence[Bundle]) -> str:
    from clipjax.data.file_words import total_words

    files = list({file.name: file for bundle in bundles for file in bundle.files}.values())
    wanted = [file for file in files if file.downloadable]
    by_hand = len(files) - len(wanted)
    others = f"; {counted(by_hand, 'file')} by hand" if by_hand else ""
    return f"{counted(len(wanted), 'file')} to download, {total_words(wanted) or '0 B'}{others}"


def _bundle_record(bundle: Bundle, root: Path) -> dict[str, Any]:
    return {
        "data_sets": {card.name: str(folder) for card, folder in bundle.folders(root)},
        "licence": bundle.cards[0].licence,
        "files": [_stated(file) for file in bundle.files],
    }


def _stated(file: CardFile) -> dict[str, Any]:
    return {key: value for key, value in asdict(file).items() if value not in (None, ())}

"""`clipjax datasets`."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipjax.commands.datasets_fetch import FetchOptions, fetch
from clipjax.commands.shared.exclusions import refuse_beside, refuse_without
from clipjax.commands.shared.options import DatasetOption, JsonOption
from clipjax.commands.shared.output import print_table, say
from clipjax.commands.shared.records import with_options
from clipjax.errors import DataError, UsageError, counted

if TYPE_CHECKING:
    from clipjax.data.card_files import CardFile
    from clipjax.data.cards import DatasetCard

app = typer.Typer(
    help="Data sets: list the known cards, check a folder before a run, pack images into shards.",
    no_args_is_help=True,
)
USAGE = "clipjax datasets check NAME PATH"


def register(root: typer.Typer) -> None:
    app.command("fetch")(with_options(FetchOptions, fetch))
    root.add_typer(app, name="datasets")


@app.command("list")
def list_cards(
    task: Annotated[str | None, typer.Option("--task", "-t", help="Only the data sets of this task.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the data set cards that ship with clipjax; a family is one line.

    The column "get" has what a data set takes: fetch (`clipjax datasets fetch`), an account, a form, ...
    `clipjax datasets show NAME` tells how, and has licences, checksums, sources and TFDS names.
    """
    cards = _shipped()
    if task is not None:
        from clipjax.tasks.task_names import TASKS

        TASKS.check(task)
        cards = [card for card in cards if task in card.tasks]
    if as_json:
        say(json.dumps([_record(card) for card in cards], indent=2))
        return
    titles = ["data set", "title", "tasks", "images", "size", "get", "place"]
    print_table(titles, [_row(list(family)) for _, family in groupby(cards, _family)])


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A card, a family of cards, or a card's file.")],
    data: Annotated[Path | None, typer.Option(help="Folder of the data set, for --picture.")] = None,
    picture: Annotated[
        Path | None,
        typer.Option(help="Draw eight images with their labels here: .png, .jpg, .pdf or .svg."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show everything that a card records, or some of the images.

    Examples:

        clipjax datasets show imagenet_r

        clipjax datasets show imagenet_r --data /data/imagenet-r --picture r.png
    """
    from clipjax.data.cards import read_card

    if picture is not None:
        refuse_beside("--picture", {"--json": as_json})
        _draw(name, data, picture)
        return
    refuse_without("--picture", {"--data": data})
    shipped = _shipped()
    family = [card for card in shipped if _family(card) == name]
    cards = family if len(family) > 1 else [read_card(name)]
    if as_json:
        say(json.dumps([_record(card) for card in cards], indent=2))
        return
    for line in [*_family_lines(name, cards), *_key_lines(cards[0], shipped), *_get_lines(name, cards)]:
        say(line)


@app.command("check")
def check(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Card to check against; `folder` for class folders.")
    ] = None,
    path: Annotated[
        Path | None, typer.Argument(metavar="PATH", help="The data set's root folder or manifest file.")
    ] = None,
    data_root: Annotated[
        Path | None, typer.Option("--all", metavar="DATA_ROOT", help="Check every card, below this folder.")
    ] = None,
    decode: Annotated[
        bool | None,
        typer.Option(
            "--decode/--no-decode", help="Read every image. Default: yes for one data set, no with --all."
        ),
    ] = None,
    dataset: Annotated[str | None, typer.Option("--dataset", "-d", hidden=True)] = None,
) -> None:
    """Find what is missing, extra or in the wrong order in a data set.

    Checks the layout, the number of images, the order of the classes, prompts and annotations.

    Examples:

        clipjax datasets check imagenet_val /data/imagenet/val

        clipjax datasets check --all /data
    """
    if data_root is not None:
        refuse_beside("--all", {"NAME": name, "PATH": path, "--dataset": dataset})
        _check_all(data_root, bool(decode))
        return
    _check_one(*_name_and_path(name, path, dataset), decode is not False)


@app.command("pack")
def pack(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="The images, as `clipjax eval --data` takes them.")
    ],
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT", help="Folder or URL to write: a new one, or that of an earlier run to complete."
        ),
    ],
    kind: Annotated[
        str, typer.Option("--format", help="Format of the shards: webdataset or array_record.")
    ] = "webdataset",
    dataset: DatasetOption = None,
    images_per_shard: Annotated[int, typer.Option(help="Images in a shard.")] = 1000,
) -> None:
    r"""Pack many small files into a few large ones, and read them back to verify them.

    OUT has the digest of DATA, and every command takes it with the same card. Run an interrupted command
    again: finished shards are kept, damaged ones rewritten.

    Example:

        clipjax datasets pack /data/imagenet/val /data/packed/val \
            --dataset imagenet_val
    """
    from clipjax.data.corrupted.record import files_of_record
    from clipjax.data.pack import pack, refuse_within
    from clipjax.evaluation.data_set import dataset_of
    from clipjax.evaluation.request import Request
    from clipjax.progress import progress_bar
    from clipjax.storage.remote.buckets import as_path

    refuse_within(data, out)
    manifest = dataset_of(Request(dataset=dataset, root=data)).manifest
    with progress_bar(len(manifest), "pack", "image") as bar:
        done = pack(
            manifest,
            out,
            kind,
            images_per_shard=images_per_shard,
            beside=files_of_record(as_path(data).expanduser()),
            progress=bar.update,
        )
    shards = counted(done.shards, "shard")
    say(f"{done.folder}: {counted(done.images, 'image')} in {shards}, {done.kept} of them kept")
    say(f"digest {done.digest}")


def _draw(name: str, data: Path | None, picture: Path) -> None:
    """Draw examples of a data set. Raises as `load_dataset`, `check_picture` and `examples_of`."""
    from clipjax.analysis.figures.examples import examples_figure
    from clipjax.analysis.figures.style import check_picture
    from clipjax.data.cards import load_dataset
    from clipjax.data.examples import examples_of

    if data is None:
        raise UsageError("--picture needs --data, the folder of the data set")
    check_picture(picture)
    dataset = load_dataset(name, data)
    examples, pairs = examples_of(dataset), dataset.manifest.pairs
    what = counted(len(dataset.manifest), "image") if pairs is None else counted(len(pairs), "pair")
    title = f"{dataset.card.title}: {len(examples)} of {what}"
    examples_figure(examples, title, dataset.card.licence, picture)
    say(f"{picture}: {title}")


def _check_one(name: str, path: Path, decode: bool) -> None:
    from clipjax.data.cards import read_card
    from clipjax.data.check import check_dataset
    from clipjax.evaluation.data_folder import card_problems
    from clipjax.progress import progress_bar

    card = read_card(name)
    known = card.images is not None or sys.stderr.isatty()

    def step(_: int) -> None:
        bar.update()

    with progress_bar(card.images or 0, "check", "image", shown=decode and known, delay=1) as bar:
        problems = check_dataset(path, card, step, decode=decode)
    problems += card_problems(card)
    for problem in problems:
        say(problem)
    if problems:
        raise DataError(f"{path}: {counted(len(problems), 'problem')} for data set {name!r}")
    say(f"{path}: fine for data set {name!r}")


def _check_all(data_root: Path, decode: bool) -> None:
    from clipjax.evaluation.data_folder import survey

    found = [
        (
            located.card,
            located.root,
            "missing" if problems is None else "problem" if problems else "found",
            problems,
        )
        for located, problems in survey(data_root, decode=decode)
    ]
    rows = []
    for (_, status), group in groupby(found, lambda entry: (_family(entry[0]), entry[2])):
        members = list(group)
        if status == "problem":
            rows += [[card.name, status, card.images, _first(problems)] for card, _, _, problems in members]
        else:
            card, root = members[0][:2]
            rows.append([_name([card for card, *_ in members]), status, card.images, root])
    print_table(["data set", "status", "images", "where, or what is wrong"], rows)
    if wrong := [card.name for card, _, status, _ in found if status == "problem"]:
        have = counted(len(wrong), "data set has", "data sets have")
        raise DataError(f"{data_root}: {have} problems: {', '.join(wrong)}")


def _name_and_path(name: str | None, path: Path | None, dataset: str | None) -> tuple[str, Path]:
    """Raises UsageError, with the right order, for the former order and for missing arguments."""
    from clipjax.storage.reading import exists

    if dataset is not None:
        where = name if path is None else path
        raise UsageError(f"write the card's name first: clipjax datasets check {dataset} {where or 'PATH'}")
    if name is None or path is None:
        raise UsageError(f"give a card's name and the folder of its data: {USAGE}")
    if str(path) in {card.name for card in _shipped()} and not exists(path):
        raise UsageError(f"write the card's name first: clipjax datasets check {path} {name}")
    return name, path


def _shipped() -> list[DatasetCard]:
    from clipjax.data.cards import registered_cards

    return sorted(registered_cards(), key=lambda card: (_family(card), card.path))


def _family(card: DatasetCard) -> str:
    return card.name.partition(":")[0]


def _name(family: list[DatasetCard]) -> str:
    """A card's name; for several members of a family, the family's."""
    return family[0].name if len(family) == 1 else f"{_family(family[0])}:* ({len(family)})"


def _row(family: list[DatasetCard]) -> list[object]:
    from clipjax.data.file_words import total_words, way

    card = family[0]
    images = card.images if len({each.images for each in family}) == 1 else None
    title, files = card.title if len(family) == 1 else f"{card.title}, ...", _files(family)
    tasks, place = " ".join(card.tasks), card.place or card.name
    return [_name(family), title, tasks, images, total_words(files), way(files), place]


def _files(cards: Iterable[DatasetCard]) -> list[CardFile]:
    """The files of all cards, each once."""
    return list(dict.fromkeys(file for card in cards for file in card.files))


def _family_lines(name: str, cards: Sequence[DatasetCard]) -> Iterator[str]:
    """The members of a family by their axes; nothing for one card."""
    if len(cards) > 1:
        axes = cards[0].variant
        yield f"{name} stands for {len(cards)} data sets, {':'.join([name, *map(str.upper, axes)])}"
        for axis in axes:
            yield f"  {axis}: {', '.join(map(str, dict.fromkeys(card.variant[axis] for card in cards)))}"
        yield ""


def _key_lines(card: DatasetCard, shipped: Iterable[DatasetCard]) -> Iterator[str]:
    """The card's keys without its files; then the data sets that it is the in-distribution set of."""
    for key, value in _record(card).items():
        if isinstance(value, list) and all(isinstance(each, str) for each in value):
            value = ", ".join(value)
        if key != "files":
            yield f"{key}: {value if isinstance(value, str | int) else json.dumps(value)}"
    if others := [other.name for other in shipped if other.id == card.name != other.name]:
        yield f"in-distribution images of: {', '.join(others)}"


def _get_lines(name: str, cards: Sequence[DatasetCard]) -> Iterator[str]:
    """How to get the data, and the files that they are distributed in."""
    from clipjax.data.file_words import file_lines, total_words, way, way_lines

    files = _files(cards)
    if not files:
        return
    yield f"size: {total_words(files)}"
    yield f"get: {way(files)}"
    yield from (f"  {line}" for line in way_lines(name, files))
    for file in files:
        if file.needs != "made":
            yield from ("", *file_lines(file))


def _record(card: DatasetCard) -> dict[str, Any]:
    return _stated(dataclasses.asdict(card) | {"path": card.path and str(card.path)})


def _stated(value: Any) -> Any:
    """A record without keys that are not set."""
    if isinstance(value, dict):
        return {key: _stated(each) for key, each in value.items() if each not in (None, {}, ())}
    return [_stated(each) for each in value] if isinstance(value, list | tuple) else value


def _first(problems: Iterable[str] | None) -> str:
    first, *others = problems or [""]
    return f"{first} (and {len(others)} more)" if others else first
